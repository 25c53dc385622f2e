"""What people wrote, encrypted in the ledger's columns if there is a key.

What is read from a sealed column is opened on the way; what is written was closed before, since an
event names the digest of what is stored: so the chain can be verified by who has no key.
"""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Text
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.types import TypeDecorator

from bayeslora_tool.desk.store import LedgerError

KEY_VARIABLE = "BAYESLORA_DESK_KEY"
_MARK = "fernet:"  # no JSON text begins so


class Seal:
    """Closes and opens texts; without a key it closes nothing.

    Args:
        keys: Fernet keys, separated by commas; the first closes, all of them open. None: those of
            ``BAYESLORA_DESK_KEY``, if it is set.

    Raises:
        ValueError: One of them is no key.
    """

    def __init__(self, keys: str | None = None) -> None:
        name = "`key`" if keys is not None else KEY_VARIABLE
        given = (os.environ.get(KEY_VARIABLE, "") if keys is None else keys).split(",")
        self._fernet: Any = None
        if not any(one.strip() for one in given):
            return
        fernet = _fernet()
        try:
            self._fernet = fernet.MultiFernet([fernet.Fernet(one.strip()) for one in given])
        except ValueError:  # which quotes the key
            raise ValueError(
                f"{name} must hold keys as `bayeslora desk new-key` prints them, separated by "
                f"commas; got {len(given)}, one of which is none"
            ) from None

    def close(self, text: str) -> str:
        """The text as it is stored."""
        if self._fernet is None:
            return text
        return _MARK + str(self._fernet.encrypt(text.encode()).decode())

    def open(self, stored: str) -> str:
        """The text that is stored, encrypted or not.

        Raises:
            LedgerError: No key that opens it; nothing is lost.
        """
        if not stored.startswith(_MARK):
            return stored
        if self._fernet is None:
            raise LedgerError(
                f"what people wrote is encrypted in this ledger: set {KEY_VARIABLE} to its key. "
                f"`verify` needs none"
            )
        try:
            return str(self._fernet.decrypt(stored.removeprefix(_MARK).encode()).decode())
        except _fernet().InvalidToken:
            raise LedgerError(
                f"the key does not open what is stored in this ledger: it was closed with another "
                f"one. Add that to {KEY_VARIABLE}, behind a comma; the first of them closes. If it "
                f"was the right one, the row was changed: see `verify`"
            ) from None


class Sealed(TypeDecorator[str]):
    """A column of text that is opened when it is read, by the seal of its database."""

    impl = Text
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Open what was stored."""
        return None if value is None else _of_databases[dialect].open(value)


_of_databases: WeakKeyDictionary[Dialect, Seal] = WeakKeyDictionary()


def seal_of(connection: Connection) -> Seal:
    """The seal of a connection's database."""
    return _of_databases[connection.dialect]


def use(seal: Seal, dialect: Dialect) -> None:
    """Let ``seal`` open what is read from a database."""
    _of_databases[dialect] = seal


def new_key() -> str:
    """A key, which only who keeps it knows."""
    return str(_fernet().Fernet.generate_key().decode())


def _fernet() -> Any:
    try:
        from cryptography import fernet
    except ImportError as error:
        raise ValueError(f'{error}; pip install "bayeslora-tool[desk]"') from None
    return fernet
