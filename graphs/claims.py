"""Who may answer an interrupt, settled between processes by what the checkpointer keeps.

A claim is a write under a name of its own beside the checkpoint that waits; LangGraph reads no such
write. The checkpointer keeps the first write of a name, so of several claimants one finds its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from langgraph.checkpoint.base import CheckpointTuple

CLAIM_SECONDS = 10.0
"""After which a claim lapses; LangGraph saves the answer within milliseconds of it."""

_CHANNEL = "__bayeslora_claim__"


class Claims:
    """One caller's attempt to claim several interrupts of a thread.

    Attributes:
        names: Under each of which to put ``write``; known once :meth:`held` has looked.
        write: The claim.
    """

    def __init__(self, interrupt_ids: Iterable[str]) -> None:
        self._ids = sorted(interrupt_ids)
        self._mine = {"by": uuid4().hex, "at": time.time()}
        self.write = [(_CHANNEL, self._mine)]
        self.names: list[str] = []

    def held(self, saved: CheckpointTuple | None) -> str | None:
        """An interrupt that somebody else has claimed and may still answer, or None."""
        claims = _claims(saved)
        for interrupt_id in self._ids:
            # A lapsed claim stays where it is; the next one takes the next number.
            number = 0
            while (claim := claims.get(f"{interrupt_id}:{number}")) is not None:
                if time.time() - claim["at"] < CLAIM_SECONDS:
                    return interrupt_id
                number += 1
            self.names.append(f"{interrupt_id}:{number}")
        return None

    def lost(self, saved: CheckpointTuple | None) -> str | None:
        """An interrupt whose claim somebody else put first, or None."""
        claims = _claims(saved)
        for interrupt_id, name in zip(self._ids, self.names, strict=True):
            if claims.get(name) != self._mine:
                return interrupt_id
        return None


def _claims(saved: CheckpointTuple | None) -> dict[str, Any]:
    writes = (saved.pending_writes if saved else None) or []
    return {task: value for task, channel, value in writes if channel == _CHANNEL}
