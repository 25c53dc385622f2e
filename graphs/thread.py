"""What a thread waits for, which answers count there, and what may be done with it.

An answer is claimed before the graph hears it: written under the interrupt's id beside the thread's
newest checkpoint, where LangGraph reads no such write. The checkpointer keeps the first write of a
name, so of several claimants one finds its own. LangGraph would save the answer only when the node
ends; the claim lets it outlive a process that dies in the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypedDict

from langgraph._internal._constants import NULL_TASK_ID
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import INTERRUPT, RESUME
from langgraph.types import Command, StateSnapshot

from bayeslora_tool.review.answer_types import check_answer, judged_elsewhere

Problem = Literal["unknown", "pending", "not pending", "unfinished", "finished", "foreign", "busy"]
_CHANNEL = "__bayeslora_claim__"


class ThreadError(RuntimeError):
    """The thread is not in a state for this; nothing was changed.

    Attributes:
        problem: ``unknown``: nothing ever ran there. ``pending``: people must answer first.
            ``not pending``: no such question waits (a stale id, a second answer). ``unfinished``:
            a run broke off, or another process is at it. ``finished``: there is nothing to carry
            on with. ``foreign``: another graph, or an earlier version of this one, asked or broke
            off there in a step that this one does not have. ``busy``: another call works on the
            thread.
    """

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem: Problem = problem


class Claim(TypedDict):
    """An answer that counts."""

    by: str
    """The call that gave it."""

    answer: Any


NO_ANSWER = (RESUME, None)
"""To be written for the task ``NULL_TASK_ID``, in place of an answer that came without an id."""


def claim(answer: Any, by: str) -> list[tuple[str, Claim]]:
    """What to write under the interrupt's id, beside the thread's newest checkpoint."""
    return [(_CHANNEL, Claim(by=by, answer=answer))]


def claims_in(saved: CheckpointTuple | None) -> Mapping[str, Claim]:
    """The answers that count beside one checkpoint, by interrupt id."""
    writes = (saved.pending_writes if saved else None) or []
    return {name: value for name, channel, value in writes if channel == _CHANNEL}


class ThreadView:
    """A thread's newest state, with the answers that its questions have.

    Attributes:
        snapshot: Of the whole thread, subgraphs included.
        claims: By interrupt id.
        waiting: The request of each interrupt that has no answer.
        schemas: The JSON schema of the answers to each interrupt, if its node gave one.
        broken: Whether something else than an answer is missing.
        has_old_answer: Whether somebody has answered without an id, by ``graph.invoke``. LangGraph
            keeps that, heard or not, and would hand it to the next question.
        foreign: The ids of interrupts that the checkpointer holds and the graph does not know.
        broke_off_elsewhere: Whether the last run broke off in a graph with other steps.
    """

    def __init__(
        self,
        snapshot: StateSnapshot,
        saved: CheckpointTuple | None,
        *,
        broke_off_elsewhere: bool = False,
    ) -> None:
        """``saved`` is what the checkpointer has of the same state."""
        self.broke_off_elsewhere = broke_off_elsewhere
        writes = (saved.pending_writes if saved else None) or []
        self.snapshot = snapshot
        self.claims = claims_in(saved)
        self.has_old_answer = any(
            task == NULL_TASK_ID and channel == RESUME for task, channel, _ in writes
        )
        self.waiting: dict[str, Any] = {}
        self.schemas: dict[str, Any] = {}
        self.broken = False
        self._look(snapshot)
        known = {task.id for task in snapshot.tasks}
        self.foreign = [
            interrupt.id
            for task, channel, value in writes
            if channel == INTERRUPT and task not in known
            for interrupt in value
        ]

    @property
    def unfinished(self) -> bool:
        """Whether the last run waits for people, or broke off."""
        # Not `next`: that leaves out what is done, though the thread may not have moved on.
        return bool(self.snapshot.tasks or self.foreign or self.broke_off_elsewhere)

    def checkpoint_ids(self, place: StateSnapshot | None = None) -> Iterator[str]:
        """Of the newest state and those of its subgraphs."""
        place = place or self.snapshot
        if found := place.config["configurable"].get("checkpoint_id"):
            yield found
        for task in place.tasks:
            if isinstance(task.state, StateSnapshot):
                yield from self.checkpoint_ids(task.state)

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
            self.schemas |= {i.id: i.response_schema for i in task.interrupts}
            self.broken |= not waiting

    def owed(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The answers to what a run, by the state it gave, has asked though it was answered."""
        asked = [interrupt.id for interrupt in state.get("__interrupt__", ())]
        return {name: self.claims[name]["answer"] for name in asked if name in self.claims}

    def check_known(self) -> None:
        """Refuse a thread on which nothing ever ran."""
        if self.snapshot.metadata is None:
            thread = self.snapshot.config["configurable"]["thread_id"]
            raise ThreadError("unknown", f"nothing ever ran on thread {thread!r}; start it first")

    def check_start(self, value: object) -> None:
        """Refuse what is no input, or would throw a run away."""
        if value is None or isinstance(value, Command):
            raise TypeError(f"`value` must be a new run's input, got {value!r:.60}; see `resume`")
        if self.waiting:
            raise ThreadError(
                "pending",
                f"the thread waits for an answer to {', '.join(self.waiting)}, which a new run "
                f"would throw away; `resume` it, `abandon` it, or take another thread_id",
            )
        self.check_own()
        if self.snapshot.tasks:
            names = ", ".join(task.name for task in self.snapshot.tasks)
            raise ThreadError(
                "unfinished",
                f"the thread's last run is not over: it broke off in {names}, or goes on "
                f"elsewhere. A new run would throw it away; `recover` it, `abandon` it, or take "
                f"another thread_id",
            )

    def check_answers(self, answers: object) -> None:
        """Refuse answers to what does not wait."""
        if not isinstance(answers, Mapping):
            raise TypeError(f"`answers` must be {{interrupt id: answer}}, got {answers!r:.80}")
        if not answers:
            raise ValueError("`answers` is empty; give {interrupt id: answer}")
        self.check_known()
        self.check_own()
        for name in answers:
            if name not in self.waiting:
                raise ThreadError(
                    "not pending",
                    f"no interrupt {name!r:.60} waits for an answer: it was answered already or "
                    f"never asked; pending are: {', '.join(self.waiting) or 'none'}",
                )

    def check_sense(self, answers: Mapping[str, Any]) -> None:
        """Refuse what is no answer to its question, as far as the question is one of ours."""
        for name, answer in answers.items():
            try:
                check_answer(self.waiting[name], self.schemas[name], answer)
            except ValueError as error:
                raise ValueError(f"the answer to {name} was not taken: {error}") from None

    def to_claim(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """The answers that may be final; another's typed question may yet refuse its own."""
        return {n: a for n, a in answers.items() if not judged_elsewhere(self.schemas[n])}

    def check_taken(self, answers: Mapping[str, Any], by: str) -> None:
        """Refuse to go on unless every claim is the caller's own."""
        taken = [n for n in answers if n in self.claims and self.claims[n]["by"] == by]
        lost = [name for name in answers if name not in taken]
        if lost:
            rest = (
                f"; those to {', '.join(taken)} count, `recover` carries them out" if taken else ""
            )
            raise ThreadError(
                "not pending", f"somebody else has just answered {', '.join(lost)}{rest}"
            )

    def check_recover(self) -> None:
        """Refuse where people must answer, or there is nothing to carry on with."""
        self.check_unfinished()
        self.check_own()
        if self.waiting and not self.broken:
            raise ThreadError(
                "pending",
                f"the thread waits for an answer to {', '.join(self.waiting)}; `resume` it",
            )

    def check_unfinished(self) -> None:
        """Refuse a thread whose last run is over."""
        self.check_known()
        if not self.unfinished:
            raise ThreadError("finished", "the thread's last run is over; `start` another")

    def check_own(self) -> None:
        """Refuse where all that is left to do is another graph's."""
        if self.unfinished and not self.snapshot.tasks:
            what = f"asked {', '.join(self.foreign)}" if self.foreign else "broke off"
            raise ThreadError(
                "foreign",
                f"the thread's last run {what} in a step that this graph does not have: another "
                f"graph ran there, or an earlier version of this one. Carry on with that one, or "
                f"`abandon` the run, or take another thread_id",
            )
