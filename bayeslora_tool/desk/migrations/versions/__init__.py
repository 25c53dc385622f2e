"""A file a version of the ledger."""
