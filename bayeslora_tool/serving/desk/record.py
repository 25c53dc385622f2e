"""What one reviewer has decided lately, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.span import span


class Record(NamedTuple):
    """Of the reviews that were looked at."""

    decided: int
    labelled: int
    """Those in which a label was named, or the model's approved."""

    agreed: int
    """With the model, of these."""

    waited: str
    """Median time from filing to deciding; empty where nothing was decided."""


def record_of(reviews: Sequence[FiledReview]) -> Record:
    """The numbers of some decided reviews."""
    labelled = agreed = 0
    waits = []
    for review in reviews:
        if review.decided_at is not None:
            waits.append((review.decided_at - review.created).total_seconds())
        if review.reviewer_label is not None and review.label is not None:
            labelled += 1
            agreed += review.reviewer_label == review.label
    return Record(len(reviews), labelled, agreed, span(median(waits)) if waits else "")
