"""Whether the ledger is what its events add up to.

Whoever can write to the database can write a new chain; so note a head now and then where they
cannot, and ask whether the chain still has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.chain import Head, event_hash, sealed
from bayeslora_tool.desk.people import told_of
from bayeslora_tool.desk.states import TRANSITIONS
from bayeslora_tool.desk.tables import EVENTS, HEAD, REVIEWERS, REVIEWS, STORED, TALLIES

_AT_ONCE = 1000  # rows in memory
_EVENTFUL = tuple(c.name for c in REVIEWS.columns if c.name != "salt" and c.computed is None)


class Damage(NamedTuple):
    """Something in the ledger that nobody did through it."""

    where: str
    """``event 12``, ``review 3f2a...``, ``reviewer ann``, ``tallies`` or ``head``."""

    what: str


class _Sum:
    """What the events so far add up to."""

    def __init__(self) -> None:
        self.reviews: dict[str, dict[str, Any]] = {}
        self.people: dict[str, dict[str, Any]] = {}

    def add(self, event: Any) -> str | None:
        """Take one more event in; gives what is wrong with it."""
        try:
            changes = json.loads(event.changes)
        except ValueError:
            changes = None
        if not isinstance(changes, dict):
            return "its changes cannot be read"
        if event.step in TRANSITIONS:
            return self._review(event, changes)
        if event.step in ("joined", "left"):
            return self._person(event, changes)
        return f"{event.step!r} is no step of a review, nor of a reviewer"

    def _review(self, event: Any, changes: dict[str, Any]) -> str | None:
        if not changes.keys() <= set(_EVENTFUL):
            return "its changes cannot be read"
        before = self.reviews.get(event.subject)
        if event.step == "filed":
            if before is not None:
                return "files a review a second time"
            self.reviews[event.subject] = dict.fromkeys(_EVENTFUL) | changes
            return None
        if before is None:
            return "changes a review that was never filed"
        allowed, to = TRANSITIONS[event.step]
        was = before["state"]
        before.update(changes)
        if was not in allowed or changes.get("state") != (to or was):
            return f"{event.step!r} after {was!r} is not allowed"
        return None

    def _person(self, event: Any, changes: dict[str, Any]) -> str | None:
        joins, there = event.step == "joined", event.subject in self.people
        if joins == there:
            return f"{event.step!r} of a reviewer who is {'' if there else 'not '}there"
        if joins:
            self.people[event.subject] = changes
        else:
            del self.people[event.subject]
        return None


def damages(connection: Connection, known: str | None = None) -> Iterator[Damage]:
    """All that is wrong with a ledger.

    Args:
        connection: Which sees one moment of it.
        known: Hash of a head noted before, which the chain must have.
    """
    end, total = Head(0, "", 0), _Sum()
    seen = known is None
    told = connection.execution_options(yield_per=_AT_ONCE)
    for event in told.execute(sa.select(EVENTS).order_by(EVENTS.c.seq)):
        place = f"event {event.seq}"
        if event.seq != end.seq + 1:
            yield Damage(place, f"follows event {end.seq}: those between are missing")
        body = (event.seq, event.subject, event.step, event.at, event.by, event.changes)
        if event.hash != event_hash(end.hash, *body):
            yield Damage(place, "is not what was written, or does not follow the one before")
        if event.at < end.at:
            yield Damage(place, "is earlier than the one before")
        end = Head(event.seq, event.hash, event.at)
        seen |= event.hash == known
        why = total.add(event)
        if why is not None:
            yield Damage(place, why)
    head = connection.execute(sa.select(HEAD)).one_or_none()
    if head is None or (head.seq, head.hash) != (end.seq, end.hash):
        yield Damage("head", f"is not event {end.seq}: the last events are missing, or it changed")
    if not seen:
        yield Damage("head", f"{known} is nowhere in the chain: it was written anew")
    for row in told.execute(STORED).mappings():
        found = {column: sealed(column, row[column], row["salt"]) for column in _EVENTFUL}
        expected = total.reviews.pop(row["id"], None)
        yield from _compared(f"review {row['id']}", found, expected, "filed")
    for row in told.execute(sa.select(REVIEWERS)).mappings():
        expected = total.people.pop(row["name"], None)
        yield from _compared(f"reviewer {row['name']}", told_of(row), expected, "added")
    kinds = (REVIEWS.c.state, REVIEWS.c.audit, REVIEWS.c.audience)
    counted = {tuple(row[:3]): row.n for row in told.execute(sa.select(TALLIES)) if row.n}
    there = sa.select(*kinds, sa.func.count()).group_by(*kinds)
    if counted != {tuple(row[:3]): row[3] for row in told.execute(there)}:
        yield Damage("tallies", "are not how many reviews there are")
    for review in total.reviews:
        yield Damage(f"review {review}", "is missing")
    for name in total.people:
        yield Damage(f"reviewer {name}", "is missing")


def _compared(
    where: str, found: Mapping[str, Any], expected: Mapping[str, Any] | None, how: str
) -> Iterator[Damage]:
    if expected is None:
        yield Damage(where, f"was never {how}")
        return
    wrong = [column for column in found if found[column] != expected.get(column)]
    if wrong:
        yield Damage(where, f"{', '.join(wrong)}: not what the events say")
