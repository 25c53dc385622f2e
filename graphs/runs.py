"""Start, answer, carry on and give up the runs of a thread, without LangGraph's silent accidents.

Left to itself, LangGraph takes an answer without an id for whatever waits, ignores an answer whose
question is gone, starts an unknown thread from nothing, lets a new input replace a run that waits
for a person, and lets a machine whose clock is behind write a new state that counts as an old one.
Each of these is a :class:`ThreadError` here, raised before anything changes, or cannot happen.

What holds, and what cannot:

- Every node's result is saved before the next node runs (``durability="sync"``). A process killed
  in a node loses that node's work alone; :func:`recover` runs it again. A node, and a gated tool,
  thus runs *at least* once; ``act`` must recognise ``outcome["key"]``, a tool its own arguments.
- Of several answers to one interrupt, one is taken, and it is final: it is kept in the checkpointer
  before the graph hears it (see ``thread.py``), so that it is neither lost nor changed when the run
  then breaks off. The checkpointer must keep the first write of a name, as the savers for memory,
  SQLite and Postgres do; one that overwrites gives no such promise.
- One call at a time works on a thread, in whatever process: each takes a turn in the thread's
  record first (see ``record.py``), any other is refused as busy. Whether the process of a turn that
  is not over still lives is known on the same machine; of another one the caller must know, and
  says so with ``takeover=True``.
- A thread belongs to one graph. What another graph, or an earlier version of this one, asked there
  and this one cannot answer is not thrown away without a word: :func:`abandon` does that.
- Which of many people decides, and which machine carries that out where the other's life cannot
  be known, the checkpointer cannot promise: that rests on the ledger of the room ``desk``.
- Calls that go round this module (``graph.invoke``) are not seen by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast
from uuid import uuid4

from bayeslora_tool.graphs.script import Script, arun, call, run
from bayeslora_tool.graphs.state import OPEN, EscalationInput
from bayeslora_tool.graphs.thread import NO_ANSWER, Claim, ThreadView, claim, claims_in
from bayeslora_tool.graphs.turn import Graph, check_config, in_turn, saver_of, view_of
from bayeslora_tool.graphs.workflow import WorkflowInput
from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import NULL_TASK_ID
from langgraph.graph import END
from langgraph.types import Command

State = dict[str, Any]
_MOST_QUESTIONS = 100  # of one task, that were answered before


def start(graph: Graph, value: Any, config: RunnableConfig, **options: Any) -> State:
    """Begin a run on a new thread or on one whose last run is over.

    Args:
        graph: Compiled with a checkpointer.
        value: The run's input, for example ``{"text": "..."}``.
        config: With ``configurable.thread_id``, without ``checkpoint_id``; so for all functions.
        options: For ``graph.invoke``, for example ``context``; not ``durability``.

    Returns:
        The state; ``"__interrupt__"`` is in it if the run waits for people.

    Raises:
        ThreadError: ``pending``, ``unfinished``, ``foreign`` or ``busy``.
        ValueError: No checkpointer, a config that names no thread or an old checkpoint, or a value
            that no checkpoint can hold.
        TypeError: ``value`` is None or a Command: that is no new run; or has no text for a graph of
            this package; or ``durability`` is given.
    """
    return run(_start(graph, value, config, options))


async def astart(graph: Graph, value: Any, config: RunnableConfig, **options: Any) -> State:
    """:func:`start` for ``ainvoke``."""
    return await arun(_start(graph, value, config, options))


def _start(
    graph: Graph, value: Any, config: RunnableConfig, options: dict[str, Any]
) -> Script[State]:
    def check(view: ThreadView) -> None:
        _check_storable(graph, "`value`", value)
        view.check_start(value)
        _check_input(graph, value)

    def work(view: ThreadView) -> Script[State]:
        return (yield from _invoke(graph, value, config, options))

    return (yield from in_turn(graph, config, "start", check, work, options))


def pending(graph: Graph, config: RunnableConfig) -> dict[str, Any]:
    """What the thread waits for: a request for each interrupt id; empty if for nothing.

    Raises:
        ThreadError: ``unknown`` or ``foreign``.
        ValueError: As for :func:`start`.
    """
    return run(_pending(graph, config))


async def apending(graph: Graph, config: RunnableConfig) -> dict[str, Any]:
    """:func:`pending` for async checkpointers."""
    return await arun(_pending(graph, config))


def _pending(graph: Graph, config: RunnableConfig) -> Script[dict[str, Any]]:
    check_config(graph, config)
    view = yield from view_of(graph, config)
    view.check_known()
    view.check_own()
    return view.waiting


def heard(graph: Graph, config: RunnableConfig, interrupt_id: str) -> Claim | None:
    """The answer that was taken to an interrupt, however far its thread has come since.

    None: it has none, or was answered by somebody who went round this module.

    Raises:
        ValueError: As for :func:`start`.
    """
    thread = check_config(graph, config)
    where: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    for saved in saver_of(graph).list(where):  # newest first
        if (claims := claims_in(saved)) and interrupt_id in claims:
            return claims[interrupt_id]
    return None


def resume(
    graph: Graph,
    config: RunnableConfig,
    answers: Mapping[str, Any],
    *,
    takeover: bool = False,
    **options: Any,
) -> State:
    """Answer one or more of the pending interrupts.

    Args:
        graph: As for :func:`start`, like ``config`` and ``options``.
        config: Of the thread.
        answers: An answer for each interrupt id, as :func:`pending` names them; those left out go
            on waiting.
        takeover: The process that works on the thread is gone for good: you know, on another
            machine nobody can find out.
        options: For ``graph.invoke``.

    Returns:
        The state. Arguments that a reviewer gives a tool and that it does not accept are asked for
        again, under a new id. Tools that broke off beside the one that waited run again, too.

    Raises:
        ThreadError: ``unknown``, ``not pending``, ``foreign`` or ``busy``; then no answer was
            taken, unless the message says so.
        ValueError: As for :func:`start`, or ``answers`` is empty or holds one that makes no sense
            to its question; again, none was taken.
        TypeError: ``answers`` is not a mapping, or ``durability`` is given.
    """
    return run(_resume(graph, config, answers, options, takeover))


async def aresume(
    graph: Graph,
    config: RunnableConfig,
    answers: Mapping[str, Any],
    *,
    takeover: bool = False,
    **options: Any,
) -> State:
    """:func:`resume` for ``ainvoke``."""
    return await arun(_resume(graph, config, answers, options, takeover))


def _resume(
    graph: Graph,
    config: RunnableConfig,
    answers: Mapping[str, Any],
    options: dict[str, Any],
    takeover: bool,
) -> Script[State]:
    def check(view: ThreadView) -> None:
        view.check_answers(answers)
        for name, answer in answers.items():
            # As it will be written: what wraps it may be the one level too many.
            _check_storable(graph, f"the answer to {name}", claim(answer, ""))
        view.check_sense(answers)

    def work(view: ThreadView) -> Script[State]:
        by, final = uuid4().hex, view.to_claim(answers)
        for name, answer in final.items():
            where = view.snapshot.config
            yield from call(saver_of(graph), "put_writes", where, claim(answer, by), name)
        (yield from view_of(graph, config)).check_taken(final, by)
        return (yield from _invoke(graph, Command(resume=dict(answers)), config, options))

    return (yield from in_turn(graph, config, "resume", check, work, options, takeover))


def recover(
    graph: Graph, config: RunnableConfig, *, takeover: bool = False, **options: Any
) -> State:
    """Carry on with a run that broke off: its process died, or a node raised.

    Finished nodes keep their results; the one that broke off runs again, with the answers it had.

    Args:
        graph: As for :func:`start`, like ``config`` and ``options``.
        config: Of the thread.
        takeover: As for :func:`resume`.
        options: For ``graph.invoke``.

    Raises:
        ThreadError: ``unknown``, ``pending``, ``finished``, ``foreign`` or ``busy``.
        ValueError: As for :func:`start`.
    """
    return run(_recover(graph, config, options, takeover))


async def arecover(
    graph: Graph, config: RunnableConfig, *, takeover: bool = False, **options: Any
) -> State:
    """:func:`recover` for ``ainvoke``."""
    return await arun(_recover(graph, config, options, takeover))


def _recover(
    graph: Graph, config: RunnableConfig, options: dict[str, Any], takeover: bool
) -> Script[State]:
    def work(view: ThreadView) -> Script[State]:
        if view.has_old_answer:
            where = view.snapshot.config
            yield from call(saver_of(graph), "put_writes", where, [NO_ANSWER], NULL_TASK_ID)
        state = yield from _invoke(graph, None, config, options)
        for _ in range(_MOST_QUESTIONS):
            owed = (yield from view_of(graph, config)).owed(state)
            if not owed:
                return state
            state = yield from _invoke(graph, Command(resume=owed), config, options)
        raise RuntimeError("the graph asks the same questions again and again")

    check = ThreadView.check_recover
    return (yield from in_turn(graph, config, "recover", check, work, options, takeover))


def abandon(graph: Graph, config: RunnableConfig, *, takeover: bool = False) -> None:
    """Give up a thread's pending or unfinished run, so that another can start; its state stays.

    Raises:
        ThreadError: ``unknown``, ``finished`` or ``busy``.
        ValueError: As for :func:`start`.
    """
    run(_abandon(graph, config, takeover))


async def aabandon(graph: Graph, config: RunnableConfig, *, takeover: bool = False) -> None:
    """:func:`abandon` for async checkpointers."""
    await arun(_abandon(graph, config, takeover))


def _abandon(graph: Graph, config: RunnableConfig, takeover: bool) -> Script[None]:
    def work(view: ThreadView) -> Script[None]:
        # What must be settled first is given up with the run.
        if OPEN in graph.channels:
            where = view.snapshot.config
            yield from call(saver_of(graph), "put_writes", where, [(OPEN, None)], NULL_TASK_ID)
        # Again, for what was done already calls for what comes next.
        while view.unfinished:
            yield from call(graph, "update_state", config, None, as_node=END)
            view = yield from view_of(graph, config)

    check = ThreadView.check_unfinished
    yield from in_turn(graph, config, "abandon", check, work, takeover=takeover)


def _invoke(
    graph: Graph, value: Any, config: RunnableConfig, options: dict[str, Any]
) -> Script[State]:
    output = yield from call(graph, "invoke", value, config, durability="sync", **options)
    return cast(State, output)


def _check_input(graph: Graph, value: Any) -> None:
    # LangGraph leaves out what it does not know, and a thread that was used before would then act
    # on its last text again.
    schema = getattr(getattr(graph, "builder", None), "input_schema", None)
    if schema in (EscalationInput, WorkflowInput):
        (key,) = schema.__annotations__
        if not isinstance(value, Mapping) or not isinstance(value.get(key), str):
            raise TypeError(f'`value` must be {{"{key}": "..."}}, got {value!r:.80}')


def _check_storable(graph: Graph, name: str, value: object) -> None:
    # LangGraph would find out in the middle of the run, and leave the thread there.
    try:
        saver_of(graph).serde.dumps_typed(value)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be kept in a checkpoint ({type(error).__name__}: {error}); give plain "
            f"data: str, float, int of 64 bits, list, dict"
        ) from error
