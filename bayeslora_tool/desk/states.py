"""The states of a review, and the steps between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

State = Literal["open", "claimed", "decided", "applied", "expired", "withdrawn"]
"""Where a review is. ``open``: waits for anybody. ``claimed``: somebody is at it. ``decided``: an
answer counts. ``expired``: nobody answered in time, and the safe answer counts. ``applied``: the
answer was carried out. ``withdrawn``: its thread no longer asks."""

Step = Literal[
    "filed",
    "claimed",
    "returned",
    "passed on",
    "voted",
    "decided",
    "undone",
    "expired",
    "applied",
    "withdrawn",
    "asked again",
    "erased",
]
"""What an event says has happened to a review. ``passed on``: to the next group, when it was due.
``voted``: answered by one of two. ``undone``: who answered last has taken it back. ``erased``: what
people wrote is gone."""

PersonStep = Literal["joined", "left"]
"""What an event says has happened to a person's right to sign in."""

TRANSITIONS: Final[Mapping[Step, tuple[frozenset[State], State | None]]] = {
    "filed": (frozenset(), "open"),
    "claimed": (frozenset({"open", "claimed"}), "claimed"),
    "returned": (frozenset({"claimed"}), "open"),
    "passed on": (frozenset({"open", "claimed"}), "open"),
    "voted": (frozenset({"open", "claimed"}), "open"),
    "decided": (frozenset({"open", "claimed"}), "decided"),
    "undone": (frozenset({"open", "decided"}), "claimed"),
    "expired": (frozenset({"open", "claimed"}), "expired"),
    "applied": (frozenset({"decided", "expired"}), "applied"),
    "withdrawn": (frozenset({"open", "claimed", "decided", "expired"}), "withdrawn"),
    "asked again": (frozenset({"withdrawn"}), "open"),
    "erased": (frozenset({"decided", "applied", "expired", "withdrawn"}), None),
}
"""For each step, from which states it may be taken, and to which it leads; None: it stays."""

STATES: Final[tuple[State, ...]] = get_args(State)
UNDECIDED: Final[tuple[State, ...]] = ("open", "claimed")
TO_APPLY: Final[tuple[State, ...]] = ("decided", "expired")
