"""The reviews that somebody wants to see, a page at a time.

A page is read from an index in its order, from where the last one ended, so what it costs does not
depend on how many reviews there are. The reviews in one state, for one group, audits or not, are a
stretch of that index; a page is the beginning of all its stretches together.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Final, Literal, NamedTuple, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.review import FiledReview, storable
from bayeslora_tool.desk.states import STATES, State
from bayeslora_tool.desk.steps import JOINED, read_joined
from bayeslora_tool.desk.tables import KEYS, REVIEWS, TALLIES

Order = Literal["urgency", "doubt", "age", "recent"]
"""``urgency``: by priority, then by when it is due, then by age. ``doubt``: the least confidence
first, and before it what has no score. ``age``: the oldest first. ``recent``: the newest first."""

ORDERS: Final[tuple[Order, ...]] = get_args(Order)

_COLUMNS: Final[dict[str, tuple[str, ...]]] = {**KEYS, "recent": KEYS["age"]}
_WIDEST = {"rank": 2**31}  # of its column; others 2**62
_MOST_STRETCHES = 20  # of one kind
_MOST = 1000  # reviews on a page
_AT_ONCE = 50  # reviews in memory where a text is looked for
_LOOKED_AT = 1000  # reviews in which a text is looked for, for one page


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which reviews somebody wants to see: those for which all that is given holds.

    Attributes:
        states: One of them; none given: any.
        groups: What is for one of them, or for everybody; None: for anybody.
        graph: Filed under that name.
        tool: About that action.
        label: The model's.
        assignee: Who has claimed it.
        decided_by: Who has decided it.
        audit: Whether it is an audit.
        text: In what was scored, asked or answered, in upper or lower case.
    """

    states: Sequence[State] = ()
    groups: frozenset[str] | None = None
    graph: str | None = None
    tool: str | None = None
    label: str | None = None
    assignee: str | None = None
    decided_by: str | None = None
    audit: bool | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        for state in self.states:
            if state not in STATES:
                raise ValueError(f"unknown state {state!r:.40}; one of {', '.join(STATES)}")
        names = ("graph", "tool", "label", "assignee", "decided_by")
        for value in [getattr(self, name) for name in names] + [*(self.groups or ())]:
            if value is not None and not storable(value):
                raise ValueError(f"{value!r:.60} is nowhere in a ledger: it has a zero byte in it")

    @property
    def audiences(self) -> list[str] | None:
        """Whom they are for, as ``audience`` says it; None: anybody."""
        return None if self.groups is None else sorted({"", *self.groups})

    @property
    def where(self) -> dict[str, Any]:
        """What a row must have beside being in one of the stretches; the text aside."""
        names = ("graph", "tool", "label", "assignee", "decided_by")
        wanted = {name: getattr(self, name) for name in names}
        return {name: value for name, value in wanted.items() if value is not None}

    def has_text(self, review: FiledReview) -> bool:
        """Whether the text that is looked for is in it."""
        if self.text is None:
            return True
        plain = json.dumps([review.request, review.answer], ensure_ascii=False)
        words = [review.id, review.thread, review.text or "", review.reason or "", plain]
        return any(self.text.casefold() in word.casefold() for word in words)


class Inbox(NamedTuple):
    """A page of reviews."""

    reviews: list[FiledReview]
    next: str | None
    """Where the next page begins; None: there is none. A page may be short, or empty, and have a
    next one, where a text is looked for in many reviews."""


def page(c: Connection, wanted: Filter, order: Order, after: str | None, limit: int) -> Inbox:
    """One page.

    Args:
        c: In a transaction.
        wanted: Which reviews.
        order: In which order.
        after: ``next`` of the page before; None: the first.
        limit: Reviews on it, from 1 to 1000.

    Raises:
        ValueError: An argument will not do.
    """
    if order not in ORDERS:
        raise ValueError(f"`order` (={order!r:.40}) must be one of {', '.join(ORDERS)}")
    if not 1 <= limit <= _MOST:
        raise ValueError(f"`limit` (={limit!r:.40}) must be from 1 to {_MOST}")
    key = None if after is None else _read_cursor(after, order)
    at_once = limit + 1 if wanted.text is None else _AT_ONCE
    found: list[FiledReview] = []
    looked_at = 0
    while looked_at < _LOOKED_AT or wanted.text is None:
        keys = {one[-1]: tuple(one) for one in c.execute(*_keys(wanted, order, key, at_once))}
        rows = {row["id"]: row for row in c.execute(_rows(keys)).mappings()}
        for name, its_key in keys.items():
            if len(found) == limit:
                return Inbox(found, _cursor(order, key))
            key = its_key
            review = read_joined(rows[name])
            if wanted.has_text(review):
                found.append(review)
        looked_at += len(keys)
        if len(keys) < at_once:
            return Inbox(found, None)
    return Inbox(found, _cursor(order, key))


def count(c: Connection, wanted: Filter) -> dict[State, int]:
    """How many reviews there are in each state; the text that is looked for counts for nothing."""
    rows = REVIEWS if wanted.where else TALLIES
    n = sa.func.count() if wanted.where else sa.func.sum(TALLIES.c.n)
    query = sa.select(rows.c.state, n)
    query = query.where(*(rows.c[name] == value for name, value in wanted.where.items()))
    if wanted.states:
        query = query.where(rows.c.state.in_(wanted.states))
    if wanted.audiences is not None:
        query = query.where(rows.c.audience.in_(wanted.audiences))
    if wanted.audit is not None:
        query = query.where(rows.c.audit == wanted.audit)
    found = {state: int(n) for state, n in c.execute(query.group_by(rows.c.state))}
    return {state: found.get(state, 0) for state in STATES}


def _keys(wanted: Filter, order: Order, after: tuple[Any, ...] | None, limit: int) -> list[Any]:
    """What to execute for the keys of reviews in their order; a key ends with a review's id."""
    where = wanted.where
    audiences: Sequence[str | None] = wanted.audiences or [None]
    if len(audiences) > _MOST_STRETCHES:  # who has that many sees most of what there is
        where["audience"], audiences = audiences, [None]
    stretches = [
        {"state": state, "audit": audit} | ({} if audience is None else {"audience": audience})
        for state, audit, audience in product(
            dict.fromkeys(wanted.states or STATES),
            (False, True) if wanted.audit is None else (wanted.audit,),
            audiences,
        )
    ]
    values = {f"{name}_{i}": v for i, one in enumerate(stretches) for name, v in one.items()}
    values |= {f"after_{i}": value for i, value in enumerate(after or ())} | where
    query = _query(order, len(stretches), tuple(stretches[0]), tuple(where), after is not None)
    return [query, values | {"most": limit}]


@lru_cache
def _query(
    order: Order, n: int, stretch: tuple[str, ...], where: tuple[str, ...], goes_on: bool
) -> Any:
    """Of the beginnings of so many stretches, the beginning."""
    columns = [REVIEWS.c[name] for name in _COLUMNS[order]]
    down = order == "recent"
    most = sa.bindparam("most", type_=sa.Integer)

    def beginning(rows: Any) -> Any:
        by = [column.desc() if down else column for column in rows.selected_columns]
        return rows.order_by(*by).limit(most)

    beginnings = []
    for i in range(n):
        query = sa.select(*columns)
        query = query.where(*(REVIEWS.c[name] == sa.bindparam(f"{name}_{i}") for name in stretch))
        query = query.where(*map(_fulfilled, where))
        if goes_on:
            last = [sa.bindparam(f"after_{k}", type_=c.type) for k, c in enumerate(columns)]
            here, there = sa.tuple_(*columns), sa.tuple_(*last)
            query = query.where(here < there if down else here > there)
        beginnings.append(sa.select(beginning(query).subquery()))
    return beginning(sa.select(sa.union_all(*beginnings).subquery()))


def _fulfilled(name: str) -> Any:
    column = REVIEWS.c[name]
    if name == "audience":
        return column.in_(sa.bindparam(name, expanding=True))
    return column == sa.bindparam(name)


def _rows(names: Any) -> Any:
    return JOINED.where(REVIEWS.c.id.in_([*names]))


def _cursor(order: Order, key: tuple[Any, ...] | None) -> str:
    return urlsafe_b64encode(json.dumps([order, *(key or ())]).encode()).decode()


def _read_cursor(cursor: str, order: Order) -> tuple[Any, ...]:
    try:
        read_order, *key = json.loads(urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError):
        read_order, key = None, []
    fits = [
        isinstance(value, str) and value.isalnum() and len(value) <= 16
        if name == "id"
        else isinstance(value, int | float) and abs(value) < _WIDEST.get(name, 2**62)
        for name, value in zip(_COLUMNS[order], key, strict=False)
    ]
    if read_order != order or len(key) != len(_COLUMNS[order]) or not all(fits):
        raise ValueError(f"`after` (={cursor!r:.60}) is no `next` of a page in this order")
    return tuple(key)
