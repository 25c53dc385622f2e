"""Which of several answers to an interrupt counts, kept where every process sees it.

An answer is claimed before the graph hears it: written under the interrupt's id beside the
checkpoint that waits, where LangGraph reads no such write. The checkpointer keeps the first write
of a name, so of several claimants one finds its own. LangGraph would save the answer only when the
node ends; the claim lets it outlive a process that dies in the node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import RESUME
from langgraph.types import StateSnapshot

CHANNEL = "__bayeslora_claim__"


class Claim(TypedDict):
    """An answer that counts."""

    by: str
    """The call that gave it."""

    answer: Any
    earlier: int
    """How many answers its task had before."""


class View:
    """A thread's newest state, with the answers that its questions have.

    Attributes:
        snapshot: Of the whole thread, subgraphs included.
        waiting: The request of each interrupt that has no answer.
        owed: The answers, by interrupt id, that the graph has not kept: their run broke off.
        answered: Whether any interrupt that is still there has an answer.
    """

    def __init__(
        self,
        snapshot: StateSnapshot,
        places: Sequence[StateSnapshot],
        saved: Sequence[CheckpointTuple | None],
    ) -> None:
        """``saved`` holds what the checkpointer has of each of the :func:`places`."""
        self.snapshot = snapshot
        self.waiting: dict[str, Any] = {}
        self.owed: dict[str, Any] = {}
        self._earlier: dict[str, int] = {}
        claims = {name: value for name, channel, value in _writes(saved[0]) if channel == CHANNEL}
        for place, kept in zip(places, saved, strict=True):
            answers = {task: value for task, channel, value in _writes(kept) if channel == RESUME}
            for task in place.tasks:
                if _opened(task):
                    continue
                given = answers.get(task.id, [])
                earlier = len(given) if isinstance(given, list) else 1
                for question in task.interrupts:
                    self._earlier[question.id] = earlier
                    claim = claims.get(question.id)
                    if claim is None:
                        self.waiting[question.id] = question.value
                    elif claim["earlier"] == earlier:
                        self.owed[question.id] = claim["answer"]
        self.answered = any(name in claims for name in self._earlier)
        self.claims: Mapping[str, Claim] = claims

    def claim(self, interrupt_id: str, answer: Any, by: str) -> list[tuple[str, Claim]]:
        """What to write under the interrupt's id, beside ``snapshot``."""
        return [(CHANNEL, Claim(by=by, answer=answer, earlier=self._earlier[interrupt_id]))]


def places(snapshot: StateSnapshot) -> list[StateSnapshot]:
    """Where questions may lie: the state itself and those of subgraphs that are not through."""
    found = [snapshot]
    for task in snapshot.tasks:
        if (inner := _opened(task)) is not None:
            found += places(inner)
    return found


def _opened(task: Any) -> StateSnapshot | None:
    # A parent lists its subgraph's question until the subgraph is through, also when that has the
    # answer already and broke off later; so the subgraph itself is asked.
    state = task.state
    return state if isinstance(state, StateSnapshot) and state.next else None


def _writes(saved: CheckpointTuple | None) -> list[Any]:
    return (saved.pending_writes if saved else None) or []
