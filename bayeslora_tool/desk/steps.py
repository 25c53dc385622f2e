"""The steps of reviews, each within a transaction that holds the chain's lock."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from bayeslora_tool.desk.answer import columns_of, shown_scores
from bayeslora_tool.desk.chain import Writer
from bayeslora_tool.desk.names import THE_DESK
from bayeslora_tool.desk.refusal import ReviewError, not_to_be_had
from bayeslora_tool.desk.review import (
    FiledReview,
    Question,
    canonical,
    check_storable,
    read_row,
    storable,
)
from bayeslora_tool.desk.routing import Route
from bayeslora_tool.desk.seal import seal_of
from bayeslora_tool.desk.states import TRANSITIONS, Step
from bayeslora_tool.desk.tables import REVIEWS, SEALED, TALLIES, WORK
from bayeslora_tool.quoting import visible

JOINED = (
    sa.select(REVIEWS, WORK.c.problem)
    .outerjoin(WORK, WORK.c.review == REVIEWS.c.id)
    .order_by(
        REVIEWS.c.priority.desc(), REVIEWS.c.due.asc().nulls_last(), REVIEWS.c.created, REVIEWS.c.id
    )
)
"""Reviews with what hinders them, in the order in which they are worked off."""


def read_joined(row: RowMapping) -> FiledReview:
    """The review of a row of :data:`JOINED`."""
    return read_row(row, row["problem"])


def find(c: Connection, name: str) -> RowMapping:
    """The row of a review, by its whole id."""
    row = c.execute(sa.select(REVIEWS).where(REVIEWS.c.id == name)).mappings().one_or_none()
    if row is None:
        raise ReviewError("unknown", f"there is no review {name!r:.40}; `list` shows their ids")
    return row


def read_again(c: Connection, row: RowMapping) -> FiledReview:
    """The review of a row, as it is now."""
    return read_joined(c.execute(JOINED.where(REVIEWS.c.id == row["id"])).mappings().one())


def move(change: Writer, row: RowMapping, step: Step, by: str, **changes: Any) -> FiledReview:
    """Take one step with a review, and note it."""
    allowed, to = TRANSITIONS[step]
    if row["state"] not in allowed:
        raise not_to_be_had(read_again(change.connection, row))
    if "answer" in changes and step != "erased":
        changes |= columns_of(row["request"], changes["answer"])
    changes = {k: v for k, v in changes.items() if v != row[k]}
    changes = {"state": to or row["state"]} | closed(change.connection, changes)
    still = sa.and_(REVIEWS.c.id == row["id"], REVIEWS.c.state == row["state"])
    done = change.connection.execute(sa.update(REVIEWS).where(still).values(**changes))
    assert done.rowcount == 1, "the chain's lock keeps others out"
    _tally(change, row, -1)
    _tally(change, {**row, **changes}, 1)
    change.add(row, step, by, changes)
    return read_again(change.connection, row)


def file(change: Writer, question: Question, route: Route) -> bool:
    """File a question, unless it is there."""
    c = change.connection
    for name in ("graph", "thread", "interrupt", "key", "policy"):
        check_storable(name, getattr(question, name))
    row = c.execute(sa.select(REVIEWS).where(REVIEWS.c.id == question.id)).mappings().one_or_none()
    term = None if route.due is None else round(1000 * route.due)
    placed: dict[str, Any] = {
        "priority": route.priority,
        "group": route.group,
        "next_group": route.next_group,
        "needed": route.needed,
        "term": term,
        "due": None if term is None else change.now + term,
    }
    if row is not None:
        if row["state"] != "withdrawn":
            return False
        anew: dict[str, Any] = {}
        if row["erased_at"] is not None:
            row, anew = _filled(c, row, question)
        gone = ("votes", "answer", "decided_by", "decided_at", "undo_until")
        move(change, row, "asked again", THE_DESK, **dict.fromkeys(gone), **placed, **anew)
        return True
    values: dict[str, Any] = {c.name: None for c in REVIEWS.columns if c.computed is None}
    values |= _written(question) | {
        "id": question.id,
        "graph": question.graph,
        "thread": question.thread,
        "interrupt": question.interrupt,
        "key": question.key,
        "tool": question.tool if storable(question.tool) else visible(question.tool),
        "digest": question.digest,
        "policy": question.policy,
        "audit": question.audit,
        "inclusion": question.inclusion,
        **placed,
        "created": change.now,
        "state": "open",
        "salt": token_hex(16),
    }
    if question.prediction is not None:
        values["prediction"] = canonical(question.prediction)
    values |= _scores(question.prediction or shown_scores(question.request))
    values = closed(c, values)
    c.execute(sa.insert(REVIEWS).values(**values))
    _tally(change, values, 1)
    change.add(values, "filed", THE_DESK, {k: v for k, v in values.items() if k != "salt"})
    return True


def _tally(change: Writer, row: Mapping[Any, Any], by: int) -> None:
    """Count a review among those of its kind, or no longer."""
    kind = {"state": row["state"], "audit": row["audit"], "audience": row["group"] or ""}
    mine = [TALLIES.c[name] == value for name, value in kind.items()]
    counted = sa.update(TALLIES).where(*mine).values(n=TALLIES.c.n + by)
    if not change.connection.execute(counted).rowcount:
        change.connection.execute(sa.insert(TALLIES).values(**kind, n=by))


def _written(question: Question) -> dict[str, Any]:
    """What people may have written, of a question."""
    values: dict[str, Any] = {"request": canonical(question.request)}
    for column in ("schema", "text", "reason"):
        value = getattr(question, column)
        values[column] = None if value is None else canonical(value)
    values["conversation"] = canonical(question.conversation) if question.conversation else None
    return values


def _filled(
    c: Connection, row: RowMapping, question: Question
) -> tuple[RowMapping, dict[str, Any]]:
    """An erased review's row with a new salt, and what it asks again."""
    c.execute(sa.update(REVIEWS).where(REVIEWS.c.id == row["id"]).values(salt=token_hex(16)))
    return find(c, row["id"]), {**_written(question), "erased_at": None}


def closed(c: Connection, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of columns as they are stored."""
    close = seal_of(c).close
    return {k: close(v) if k in SEALED and v is not None else v for k, v in values.items()}


def _scores(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """What of a prediction has columns of its own, as far as a database can hold it."""
    values: dict[str, Any] = {}
    for column in ("scored_by", "label"):
        text = prediction.get(column)
        values[column] = text if storable(text) else None
    for column in ("confidence", "variance"):
        number = prediction.get(column)
        finite = isinstance(number, int | float) and isfinite(number)
        values[column] = number if finite else None
    return values
