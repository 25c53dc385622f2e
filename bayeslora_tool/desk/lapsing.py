"""What time does to reviews: claims lapse, and what is due goes to the next group or expires.

Nobody has to be awake for it: whoever looks at a review, or at all of them, does what is overdue.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from bayeslora_tool.desk.answer import rejection
from bayeslora_tool.desk.chain import Writer
from bayeslora_tool.desk.names import THE_DESK
from bayeslora_tool.desk.review import canonical, read_row
from bayeslora_tool.desk.states import UNDECIDED
from bayeslora_tool.desk.steps import find, move
from bayeslora_tool.desk.store import Store
from bayeslora_tool.desk.tables import REVIEWS

_AT_ONCE = 100  # in one transaction: others wait for it


def keep_time(store: Store) -> bool:
    """Do what is overdue, at most for some, as who reads must not wait for all.

    Returns:
        Whether there may be more.
    """
    if not store.read(lambda c: _late(c, store.now(c))):
        return False

    def work(c: Connection) -> bool:
        change = Writer(c, store.now)
        names = _late(c, change.now)
        for name in names:
            in_time(change, find(c, name))
        return len(names) == _AT_ONCE

    return store.write(work)


def in_time(change: Writer, row: RowMapping) -> RowMapping:
    """The row after what time has done to it."""
    if row["state"] not in UNDECIDED:
        return row
    over = row["due"] is not None and row["due"] <= change.now
    if over and row["next_group"] is not None:
        move(
            change,
            row,
            "passed on",
            THE_DESK,
            group=row["next_group"],
            next_group=None,
            due=change.now + row["term"],
            assignee=None,
            lease=None,
        )
    elif over:
        asked = read_row(row)
        answer = rejection(asked.request)
        given = None if answer is None else canonical(answer)
        move(
            change,
            row,
            "expired",
            THE_DESK,
            answer=given,
            decided_at=change.now,
            assignee=None,
            lease=None,
        )
    elif row["state"] == "claimed" and row["lease"] <= change.now:
        move(change, row, "returned", THE_DESK, assignee=None, lease=None)
    else:
        return row
    return find(change.connection, row["id"])


def _late(c: Connection, now: int) -> list[str]:
    """The ids of some undecided reviews that time has overtaken."""
    lapsed = sa.select(REVIEWS.c.id).where(REVIEWS.c.lease <= now, REVIEWS.c.state == "claimed")
    due = sa.select(REVIEWS.c.id).where(REVIEWS.c.state.in_(UNDECIDED), REVIEWS.c.due <= now)
    return list(c.execute(sa.union(lapsed, due).limit(_AT_ONCE)).scalars())
