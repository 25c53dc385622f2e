"""Who gets which reviews, and what becomes of those that nobody decides in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import inf

from bayeslora_tool.desk.names import check_name
from bayeslora_tool.desk.review import Question

_LONGEST = 100 * 366 * 86_400.0  # seconds: a later date could be read by nobody


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where reviews go to which all its conditions apply; a condition that is None always does.

    Attributes:
        tool: Condition: a call of that name is asked about; a pattern, as ``freeze_*``.
        label: Condition: the model took the text for that; a pattern.
        novelty: Condition: the text is that far from the training texts, or farther.
        group: Who gets them; None: everybody.
        priority: The higher, the sooner they are worked off; None: as the graph's others.
        due: Seconds until they go to ``next_group``, or else are rejected, > 0; None: as the
            graph's others.
        next_group: Who gets them then, for as long again.
        needed: People who have to agree, 1 or 2; where two differ, a third decides.
    """

    tool: str | None = None
    label: str | None = None
    novelty: float | None = None
    group: str | None = None
    priority: int | None = None
    due: float | None = None
    next_group: str | None = None
    needed: int = 1

    def __post_init__(self) -> None:
        for argument in ("group", "next_group"):
            if getattr(self, argument) is not None:
                check_name(argument, getattr(self, argument))
        check_due(self.due)
        if self.needed not in (1, 2):
            raise ValueError(f"`needed` (={self.needed!r}) must be 1 or 2 people")
        if self.next_group is not None and self.next_group == self.group:
            raise ValueError(f"`next_group` (={self.next_group!r}) must be another than `group`")
        if self.novelty is not None and not -inf < self.novelty < inf:
            raise ValueError(f"`novelty` (={self.novelty!r}) must be a finite number, or None")

    def fits(self, question: Question) -> bool:
        """Whether its conditions apply."""
        scores = question.prediction or {}
        if self.tool is not None:
            tools = question.tool.split(", ")
            if not any(fnmatchcase(tool, self.tool) for tool in tools):
                return False
        if self.label is not None and not fnmatchcase(str(scores.get("label") or ""), self.label):
            return False
        if self.novelty is None:
            return True
        novelty = scores.get("novelty")
        return novelty is not None and not novelty < self.novelty  # NaN is as far as can be


def route_of(
    question: Question, routes: Sequence[Route], *, due: float | None, priority: int
) -> Route:
    """The first route that fits, or the one for all others, with what it leaves open.

    Audits go to the same group, after what somebody waits for, and are never due.

    Args:
        question: What is asked.
        routes: Of the graph.
        due: Of the graph's reviews, in seconds.
        priority: Of the graph's reviews.
    """
    found = next((route for route in routes if route.fits(question)), Route())
    if question.audit:  # holds nothing up, so that nothing becomes of it by itself
        least = priority if found.priority is None else found.priority
        return replace(found, due=None, next_group=None, needed=1, priority=least - 1)
    return replace(
        found,
        due=due if found.due is None else found.due,
        priority=priority if found.priority is None else found.priority,
    )


def check_due(due: float | None) -> None:
    """Refuse what is no time to wait.

    Raises:
        ValueError: It is no number of seconds > 0.
    """
    if due is not None and not 0 < due <= _LONGEST:
        raise ValueError(
            f"`due` (={due!r}) must be a number of seconds > 0, a hundred years at most, or None"
        )


def check_routes(routes: Sequence[Route], due: float | None) -> None:
    """Refuse routes that lead nowhere.

    Raises:
        ValueError: One has a next group, and nothing is ever due.
    """
    for route in routes:
        if route.next_group is not None and route.due is None and due is None:
            raise ValueError(
                f"`next_group` (={route.next_group!r}) gets what was due, and nothing ever is: "
                f"give `due`"
            )
