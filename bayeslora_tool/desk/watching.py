"""Hears from LangGraph what a run has come to, when its state is saved already."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent, GraphResumeEvent

from bayeslora_tool.graphs.decision_event import EVENT

logger = logging.getLogger(__name__)


class Watcher(GraphCallbackHandler):
    """Calls ``look`` with each thread that begins to wait or goes on, and ``audited`` for audits.

    What goes wrong then is logged, and no error of the run: the question is safe in the
    checkpointer, and ``Desk.sync`` files it.

    Args:
        look: Called with the thread.
        audited: Called with the thread and the keys of audits, when its run is over.
    """

    def __init__(
        self, look: Callable[[str], object], audited: Callable[[str, set[str]], object]
    ) -> None:
        self._look = look
        self._audited = audited
        self._threads: dict[UUID, str] = {}
        self._outermost: set[UUID] = set()
        self._resumed: set[UUID] = set()
        self._audits: dict[str, set[str]] = {}

    def on_chain_start(
        self,
        serialized: Any,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Remember which thread a run is on: an interrupt tells the run alone."""
        thread = (metadata or {}).get("thread_id")
        if thread is not None:
            self._threads[run_id] = str(thread)
            if parent_run_id not in self._threads:
                self._outermost.add(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        """Remember the audits: what is asked about them is not saved yet."""
        if name == EVENT and data["audit"] and data["key"] and data["thread"]:
            self._audits.setdefault(data["thread"], set()).add(data["key"])

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        """Forget the run; of the outermost, look at what it left behind."""
        self._over(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Forget the run; of the outermost, look at what it left behind."""
        self._over(run_id)

    def on_resume(self, event: GraphResumeEvent) -> None:
        """Remember that a run goes on: whoever answered, something waits no more."""
        if not event.checkpoint_ns and event.run_id is not None:
            self._resumed.add(event.run_id)

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        """Look at the thread of a whole graph that waits; its subgraphs say the same before."""
        thread = self._threads.get(event.run_id) if event.run_id else None
        if event.checkpoint_ns or thread is None:
            return
        self._resumed.discard(event.run_id)
        self._safely(thread, lambda: self._look(thread))

    def _over(self, run: UUID) -> None:
        thread = self._threads.pop(run, None)
        resumed, outermost = run in self._resumed, run in self._outermost
        self._resumed.discard(run)
        self._outermost.discard(run)
        if thread is None or not outermost:
            return
        if keys := self._audits.pop(thread, None):
            self._safely(thread, lambda: self._audited(thread, keys))
        if resumed:
            self._safely(thread, lambda: self._look(thread))

    def _safely(self, thread: str, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:  # whatever a database raises, the run that is watched goes on
            logger.exception(
                "what thread %r asks was not filed; it waits all the same, and `sync` files it",
                thread,
            )
