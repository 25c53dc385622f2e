"""The chain of events: each is hashed with the one before, and together they make the reviews.

Whoever can write to the database can write a new chain; so note a head now and then where they
cannot, and ask whether the chain still has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.review import canonical
from bayeslora_tool.desk.states import TRANSITIONS, Step
from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.desk.tables import EVENTS, HEAD, REVIEWS, SEALED

_AT_ONCE = 1000  # rows in memory


class Head(NamedTuple):
    """The end of the chain."""

    seq: int
    hash: str
    at: int


class Damage(NamedTuple):
    """Something in the ledger that nobody did through it."""

    where: str
    """``event 12``, ``review 3f2a...`` or ``head``."""

    what: str


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

    def add(self, row: Mapping[Any, Any], step: Step, by: str, changes: dict[str, Any]) -> None:
        """Note one change.

        Args:
            row: Of the review, for its id and its salt.
            step: What happened.
            by: Who did it.
            changes: New values of columns.
        """
        told = canonical({k: sealed(k, v, row["salt"]) for k, v in changes.items()})
        seq = self.head.seq + 1
        digest = _hash(self.head.hash, seq, row["id"], step, self.now, by, told)
        self.connection.execute(
            sa.insert(EVENTS).values(
                seq=seq, review=row["id"], step=step, at=self.now, by=by, changes=told, hash=digest
            )
        )
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


def damages(connection: Connection, known: str | None = None) -> Iterator[Damage]:
    """All that is wrong with a ledger.

    Args:
        connection: Which sees one moment of it.
        known: Hash of a head noted before, which the chain must have.
    """
    end = Head(0, "", 0)
    rows: dict[str, dict[str, Any]] = {}
    seen = known is None
    told = connection.execution_options(yield_per=_AT_ONCE)
    for event in told.execute(sa.select(EVENTS).order_by(EVENTS.c.seq)):
        place = f"event {event.seq}"
        if event.seq != end.seq + 1:
            yield Damage(place, f"follows event {end.seq}: those between are missing")
        body = (event.seq, event.review, event.step, event.at, event.by, event.changes)
        if event.hash != _hash(end.hash, *body):
            yield Damage(place, "is not what was written, or does not follow the one before")
        if event.at < end.at:
            yield Damage(place, "is earlier than the one before")
        end = Head(event.seq, event.hash, event.at)
        seen |= event.hash == known
        why = _add_up(rows, event)
        if why is not None:
            yield Damage(place, why)
    head = connection.execute(sa.select(HEAD)).one_or_none()
    if head is None or (head.seq, head.hash) != (end.seq, end.hash):
        yield Damage("head", f"is not event {end.seq}: the last events are missing, or it changed")
    if not seen:
        yield Damage("head", f"{known} is nowhere in the chain: it was written anew")
    for row in told.execute(sa.select(REVIEWS)).mappings():
        expected = rows.pop(row["id"], None)
        if expected is None:
            yield Damage(f"review {row['id']}", "was never filed")
            continue
        wrong = [
            column
            for column in expected
            if sealed(column, row[column], row["salt"]) != expected[column]
        ]
        if wrong:
            yield Damage(f"review {row['id']}", f"{', '.join(wrong)}: not what the events say")
    for missing in rows:
        yield Damage(f"review {missing}", "is missing")


def _add_up(rows: dict[str, dict[str, Any]], event: Any) -> str | None:
    """Take one more event into the rows; gives what is wrong with it."""
    try:
        changes = json.loads(event.changes)
    except ValueError:
        changes = None
    if not isinstance(changes, dict) or not changes.keys() <= set(_EVENTFUL):
        return "its changes cannot be read"
    before, step = rows.get(event.review), TRANSITIONS.get(event.step)
    if step is None:
        return f"{event.step!r} is no step of a review"
    if event.step == "filed":
        if before is not None:
            return "files a review a second time"
        rows[event.review] = dict.fromkeys(_EVENTFUL) | changes
        return None
    if before is None:
        return "changes a review that was never filed"
    allowed, to = step
    was = before["state"]
    before.update(changes)
    if was not in allowed or changes.get("state") != to:
        return f"{event.step!r} after {was!r} is not allowed"
    return None


_EVENTFUL = tuple(column.name for column in REVIEWS.columns if column.name != "salt")


def _hash(before: str, *body: object) -> str:
    return sha256(canonical([before, *body]).encode()).hexdigest()
