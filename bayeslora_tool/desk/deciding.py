"""What people do to reviews: claim, answer, take back; each within the chain's lock.

Where two people are needed, the first answer is a vote: it counts when another agrees. Where two
differ, the third decides.
"""

from __future__ import annotations

import json
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from bayeslora_tool.desk.answer import check_plain, meaning, signed
from bayeslora_tool.desk.chain import Writer
from bayeslora_tool.desk.lapsing import in_time
from bayeslora_tool.desk.refusal import (
    ReviewError,
    changed,
    has_voted,
    not_to_be_had,
    too_late,
)
from bayeslora_tool.desk.review import FiledReview, canonical, read_row, votes_of
from bayeslora_tool.desk.roles import Person, permitted
from bayeslora_tool.desk.states import UNDECIDED
from bayeslora_tool.desk.steps import find, move, read_again
from bayeslora_tool.desk.tables import WORK
from bayeslora_tool.review.answer_types import check_answer

LEASE: Final = 600.0  # seconds


def claim(change: Writer, name: str, by: str | Person, lease: float) -> FiledReview:
    """Let somebody have a review; see :meth:`Ledger.claim`."""
    row = in_time(change, find(change.connection, name))
    who = permitted(change.connection, by, row, "claim")
    _check_to_be_had(change, row, who)
    until = change.now + round(1000 * lease)
    return move(change, row, "claimed", who, assignee=who, lease=until)


def release(change: Writer, name: str, by: str | Person) -> FiledReview:
    """Take a review back from somebody; see :meth:`Ledger.release`."""
    row = in_time(change, find(change.connection, name))
    who = permitted(change.connection, by, row, "claim")
    _check_to_be_had(change, row, who)
    if row["state"] != "claimed":
        review = read_again(change.connection, row)
        raise ReviewError("over", f"review {row['id']} is not claimed", review)
    return move(change, row, "returned", who, assignee=None, lease=None)


def decide(change: Writer, name: str, answer: Any, by: str | Person, undo: float) -> FiledReview:
    """Let an answer count, or be one of two; see :meth:`Ledger.decide`."""
    c = change.connection
    row = in_time(change, find(c, name))
    who = permitted(c, by, row, "decide")
    asked = read_row(row)
    check_plain(answer)
    given = canonical(signed(answer, who, asked.schema))
    votes = votes_of(row)
    # Also where this is tried again, and was through the first time.
    before = [(row["decided_by"], row["answer"])]
    before += [(vote["by"], canonical(vote["answer"])) for vote in votes]
    if (who, given) in before and row["state"] != "withdrawn":
        return read_again(c, row)
    _check_to_be_had(change, row, who)
    if asked.digest != asked.shown:
        raise changed(asked)
    parsed = json.loads(given)
    check_answer(asked.request, asked.schema, parsed)  # as it will be sent
    mine = {"by": who, "answer": parsed, "at": change.now}
    agree = [one for one in votes if _same(asked.request, one["answer"], parsed)]
    both = canonical([*votes, mine]) if row["needed"] > 1 else None
    until = change.now + round(1000 * undo) if undo else None
    over: dict[str, Any] = {"assignee": None, "lease": None, "votes": both, "undo_until": until}
    if len(votes) < row["needed"] and len(agree) + 1 < row["needed"]:
        return move(change, row, "voted", who, **over)
    over |= {"answer": given, "decided_by": who, "decided_at": change.now}
    return move(change, row, "decided", who, **over)


def undo(change: Writer, name: str, by: str | Person) -> FiledReview:
    """Take the last answer back; see :meth:`Ledger.undo`."""
    c = change.connection
    row = in_time(change, find(c, name))
    who = permitted(c, by, row, "decide")
    review, votes = read_again(c, row), votes_of(row)
    if review.state == "claimed" and review.assignee == who:  # tried again, and was through before
        return review
    last = votes[-1]["by"] if review.state == "open" and votes else review.decided_by
    if last != who or review.state in ("claimed", "expired", "withdrawn"):
        raise not_to_be_had(review)
    # The database's clock may have been ahead when a worker began: so one looks at its work, too.
    begun = c.execute(sa.select(WORK.c.review).where(WORK.c.review == row["id"])).first()
    over = row["undo_until"] is None or row["undo_until"] <= change.now
    if review.state == "applied" or over or begun is not None:
        raise too_late(review)
    return move(
        change,
        row,
        "undone",
        who,
        votes=canonical(votes[:-1]) if votes[:-1] else None,
        answer=None,
        decided_by=None,
        decided_at=None,
        undo_until=None,
        assignee=who,
        lease=change.now + round(1000 * LEASE),
    )


def _check_to_be_had(change: Writer, row: RowMapping, by: str) -> None:
    """Refuse a review that ``by`` may not claim or decide now."""
    held = row["state"] == "claimed" and row["assignee"] != by
    if row["state"] not in UNDECIDED or held:
        raise not_to_be_had(read_again(change.connection, row))
    if by in (vote["by"] for vote in votes_of(row)):
        raise has_voted(read_again(change.connection, row), by)


def _same(request: Any, one: Any, other: Any) -> bool:
    return meaning(request, one) == meaning(request, other)
