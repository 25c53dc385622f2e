"""The chain of events: each is hashed with the one before, and together they make the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.outbox import announce
from bayeslora_tool.desk.review import canonical
from bayeslora_tool.desk.states import PersonStep, Step
from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.desk.tables import EVENTS, HEAD, SEALED


class Head(NamedTuple):
    """The end of the chain."""

    seq: int
    hash: str
    at: int


def head_of(connection: Connection, *, lock: bool = False) -> Head:
    """The end of the chain, which nobody else moves while it is locked."""
    query = sa.select(HEAD.c.seq, HEAD.c.hash, HEAD.c.at)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise LedgerError("the ledger has lost the head of its chain; `verify` says what else")
    return Head(*row)


class Writer:
    """The one who may change the ledger, within a transaction: has locked the head.

    Args:
        connection: In a transaction.
        clock: Gives the database's time; in the ledger it never goes back.
    """

    def __init__(self, connection: Connection, clock: Callable[[Connection], int]) -> None:
        self.connection = connection
        self.head = head_of(connection, lock=True)
        self.now = max(clock(connection), self.head.at)  # read under the lock

    def add(
        self, row: Mapping[Any, Any], step: Step | PersonStep, by: str, changes: dict[str, Any]
    ) -> None:
        """Note one change.

        Args:
            row: Of the review, for its id and its salt; of a person, whose id is their name.
            step: What happened.
            by: Who did it.
            changes: New values of columns.
        """
        told = canonical({k: sealed(k, v, row["salt"]) for k, v in changes.items()})
        seq = self.head.seq + 1
        digest = event_hash(self.head.hash, seq, row["id"], step, self.now, by, told)
        self.connection.execute(
            sa.insert(EVENTS).values(
                seq=seq, subject=row["id"], step=step, at=self.now, by=by, changes=told, hash=digest
            )
        )
        announce(self.connection, {**row, **changes}, step, self.now, seq)
        self.head = Head(seq, digest, self.now)
        self.connection.execute(
            sa.update(HEAD).values(seq=seq, hash=digest, at=self.now).where(HEAD.c.seq == seq - 1)
        )


def sealed(column: str, value: Any, salt: str) -> Any:
    """What an event says of a column's value."""
    if column not in SEALED or value is None:
        return value
    # The salt goes with what it hides, so that a short text cannot be guessed afterwards.
    return "sha256:" + sha256(f"{salt} {value}".encode()).hexdigest()


def event_hash(before: str, *body: object) -> str:
    """Hash of an event with the one before."""
    return sha256(canonical([before, *body]).encode()).hexdigest()
