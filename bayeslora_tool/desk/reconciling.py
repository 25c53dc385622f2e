"""What threads ask is filed, each question once, and what they no longer ask is withdrawn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.chain import Writer
from bayeslora_tool.desk.names import THE_DESK
from bayeslora_tool.desk.review import Question
from bayeslora_tool.desk.routing import Route
from bayeslora_tool.desk.states import UNDECIDED
from bayeslora_tool.desk.steps import file, find, move
from bayeslora_tool.desk.store import Store
from bayeslora_tool.desk.tables import REVIEWS


class Reconciled(NamedTuple):
    """What a look at threads has changed."""

    filed: int
    withdrawn: int

    def __add__(self, other: Any) -> Reconciled:
        return Reconciled(self.filed + other.filed, self.withdrawn + other.withdrawn)


def reconcile(
    store: Store,
    asked: Sequence[Question],
    seen: Collection[str],
    routes: Callable[[Question], Route],
) -> Reconciled:
    """File and withdraw; see :meth:`Ledger.reconcile`."""
    ids = {question.id for question in asked}
    gone = [one for one in seen if one not in ids]
    if not store.read(lambda c: _news(c, ids, gone)):
        return Reconciled(0, 0)

    def work(c: Connection) -> Reconciled:
        change, filed, withdrawn = Writer(c, store.now), 0, 0
        for question in asked:
            filed += file(change, question, routes(question))
        for name in gone:
            row = find(c, name)
            if row["state"] in UNDECIDED:
                move(change, row, "withdrawn", THE_DESK, assignee=None, lease=None)
                withdrawn += 1
        return Reconciled(filed, withdrawn)

    return store.write(work)


def _news(c: Connection, ids: Collection[str], gone: Collection[str]) -> bool:
    """Whether there is anything to change: to look takes no lock."""
    query = sa.select(REVIEWS.c.id, REVIEWS.c.state).where(REVIEWS.c.id.in_([*ids, *gone]))
    states = {row.id: row.state for row in c.execute(query)}
    return any(states.get(one, "withdrawn") == "withdrawn" for one in ids) or any(
        states.get(one) in UNDECIDED for one in gone
    )
