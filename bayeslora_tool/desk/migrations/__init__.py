"""How a ledger of any version becomes one of this; a new one is made in the same way."""
