"""The decision on a review, and how it is taken back; each within the chain's lock."""

from __future__ import annotations

import json
from typing import Any, Final

import sqlalchemy as sa

from bayeslora_tool.desk.answer import signed
from bayeslora_tool.desk.chain import Writer
from bayeslora_tool.desk.refusal import changed, not_to_be_had, too_late
from bayeslora_tool.desk.review import FiledReview, canonical, read_row
from bayeslora_tool.desk.steps import find, in_time, move, read_again, to_be_had
from bayeslora_tool.desk.tables import WORK
from bayeslora_tool.review.answer_types import check_answer

LEASE: Final = 600.0  # seconds


def decide(change: Writer, name: str, answer: Any, by: str, undo: float) -> FiledReview:
    """Let an answer count; see :meth:`Ledger.decide`."""
    row = find(change.connection, name)
    asked = read_row(row)
    given = canonical(signed(answer, by, asked.schema))
    # Also where this is tried again, and was through the first time.
    if (row["decided_by"], row["answer"]) == (by, given) and row["state"] != "withdrawn":
        return read_again(change.connection, row)
    row = to_be_had(change, name, by)
    if asked.digest != asked.shown:
        raise changed(asked)
    check_answer(asked.request, asked.schema, json.loads(given))  # as it will be sent
    return move(
        change,
        row,
        "decided",
        by,
        answer=given,
        decided_by=by,
        decided_at=change.now,
        undo_until=change.now + round(1000 * undo) if undo else None,
        assignee=None,
        lease=None,
    )


def undo(change: Writer, name: str, by: str) -> FiledReview:
    """Take the last answer back; see :meth:`Ledger.undo`."""
    c = change.connection
    row = in_time(change, find(c, name))
    review = read_again(c, row)
    if review.state == "claimed" and review.assignee == by:  # tried again, and was through before
        return review
    if review.decided_by != by:
        raise not_to_be_had(review)
    # The database's clock may have been ahead when a worker began: so one looks at its work, too.
    begun = c.execute(sa.select(WORK.c.review).where(WORK.c.review == row["id"])).first()
    over = row["undo_until"] is None or row["undo_until"] <= change.now
    if review.state != "decided" or over or begun is not None:
        raise too_late(review)
    return move(
        change,
        row,
        "undone",
        by,
        answer=None,
        decided_by=None,
        decided_at=None,
        undo_until=None,
        assignee=by,
        lease=change.now + round(1000 * LEASE),
    )
