"""What somebody hears whose answer or claim was not taken."""

from __future__ import annotations

from typing import Literal

from bayeslora_tool.desk.review import FiledReview

Problem = Literal["unknown", "claimed", "decided", "voted", "over", "late", "forbidden"]


class ReviewError(ValueError):
    """The review is not to be had like this; nothing was changed.

    Attributes:
        problem: ``unknown``: no such review. ``claimed``: somebody else is at it. ``decided``: an
            answer counts already. ``voted``: they have answered, and another has to. ``over``: it
            expired, or its thread no longer asks. ``late``: the answer can no longer be taken back.
            ``forbidden``: they may not do that.
        review: As it is now, with who decided; None if there is none.
    """

    def __init__(self, problem: Problem, message: str, review: FiledReview | None = None) -> None:
        super().__init__(message)
        self.problem: Problem = problem
        self.review = review


def changed(review: FiledReview) -> ReviewError:
    """The error for a review whose request is not the one that was filed."""
    message = f"what review {review.id} asks was changed in the ledger; see `verify`"
    return ReviewError("over", message, review)


def has_voted(review: FiledReview, by: str) -> ReviewError:
    """The error for a second answer of the same person."""
    message = f"review {review.id} has the answer of {by} already; somebody else has to give theirs"
    return ReviewError("voted", message, review)


def too_late(review: FiledReview) -> ReviewError:
    """The error for an answer that can no longer be taken back."""
    message = f"the answer to review {review.id} counts, and can no longer be taken back"
    return ReviewError("late", message, review)


def not_to_be_had(review: FiledReview) -> ReviewError:
    """The error for a review that is claimed by another, decided or over."""
    name = f"review {review.id}"
    if review.state == "claimed" and review.lease is not None:
        until = review.lease.strftime("%H:%M:%S UTC")
        message = f"{name} is claimed by {review.assignee} until {until}; take another"
        return ReviewError("claimed", message, review)
    if review.decided_by is not None and review.state in ("decided", "applied"):
        at = f"{review.decided_at:%Y-%m-%d %H:%M:%S} UTC"
        message = f"{name} was decided by {review.decided_by} at {at}; nothing else counts"
        return ReviewError("decided", message, review)
    if review.state == "withdrawn":
        message = (
            f"{name} was withdrawn: its thread no longer asks this; see `list` for what it asks"
        )
        return ReviewError("over", message, review)
    if review.state == "open":
        return ReviewError("over", f"{name} is open: there is no answer of yours", review)
    return ReviewError("over", f"{name} has expired: it was due at {review.due}", review)
