"""Which of several answers to an interrupt counts, kept where every process sees it.

An answer is claimed before the graph hears it: written under the interrupt's id beside the thread's
newest checkpoint, where LangGraph reads no such write. The checkpointer keeps the first write of a
name, so of several claimants one finds its own. LangGraph would save the answer only when the node
ends; the claim lets it outlive a process that dies in the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.types import StateSnapshot

CHANNEL = "__bayeslora_claim__"


class Claim(TypedDict):
    """An answer that counts."""

    by: str
    """The call that gave it."""

    answer: Any


class View:
    """A thread's newest state, with the answers that its questions have.

    Attributes:
        snapshot: Of the whole thread, subgraphs included.
        claims: By interrupt id.
        waiting: The request of each interrupt that has no answer.
        broken: Whether something else than an answer is missing.
    """

    def __init__(self, snapshot: StateSnapshot, saved: CheckpointTuple | None) -> None:
        """``saved`` is what the checkpointer has of the same state."""
        writes = (saved.pending_writes if saved else None) or []
        self.snapshot = snapshot
        self.claims: Mapping[str, Claim] = {
            name: value for name, channel, value in writes if channel == CHANNEL
        }
        self.waiting: dict[str, Any] = {}
        self.broken = False
        self._look(snapshot)

    def _look(self, place: StateSnapshot) -> None:
        unfinished = [task for task in place.tasks if task.result is None]
        # All done, and yet no next checkpoint: the process died between the two.
        self.broken |= bool(place.tasks) and not unfinished
        for task in unfinished:
            # A parent lists its subgraph's question until the subgraph is through, also when that
            # has the answer already and broke off later; so the subgraph itself is asked.
            if isinstance(task.state, StateSnapshot) and task.state.tasks:
                self._look(task.state)
                continue
            waiting = {i.id: i.value for i in task.interrupts if i.id not in self.claims}
            self.waiting |= waiting
            self.broken |= not waiting
