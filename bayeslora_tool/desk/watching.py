"""Hears from LangGraph that a run has stopped to ask, when what it asks is saved already."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent

logger = logging.getLogger(__name__)


class Watcher(GraphCallbackHandler):
    """Calls ``look`` with each thread that begins to wait.

    What goes wrong then is logged, and no error of the run: the question is safe in the
    checkpointer, and ``Desk.sync`` files it.
    """

    def __init__(self, look: Callable[[str], object]) -> None:
        self._look = look
        self._threads: dict[UUID, str] = {}

    def on_chain_start(
        self,
        serialized: Any,
        inputs: Any,
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Remember which thread a run is on: an interrupt tells the run alone."""
        thread = (metadata or {}).get("thread_id")
        if thread is not None:
            self._threads[run_id] = str(thread)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        """Forget the run."""
        self._threads.pop(run_id, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Forget the run."""
        self._threads.pop(run_id, None)

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        """Look at the thread of a whole graph that waits; its subgraphs say the same before."""
        thread = self._threads.get(event.run_id) if event.run_id else None
        if event.checkpoint_ns or thread is None:
            return
        try:
            self._look(thread)
        except Exception:  # whatever a database raises, the run that is watched goes on
            logger.exception(
                "what thread %r asks was not filed; it waits all the same, and `sync` files it",
                thread,
            )
