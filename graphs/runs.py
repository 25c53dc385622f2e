"""Start, answer, carry on and give up the runs of a thread, without LangGraph's silent accidents.

Left to itself, LangGraph takes an answer without an id for whatever waits, ignores an answer whose
question is gone, starts an unknown thread from nothing, and lets a new input replace a run that
waits for a person. Each of these is a :class:`ThreadError` here, raised before anything changes.

What holds, and what cannot:

- Every node's result is saved before the next node runs (``durability="sync"``). A process killed
  in a node loses that node's work alone; :func:`recover` runs it again. A node, and a gated tool,
  thus runs *at least* once; ``act`` must recognise ``outcome["key"]``, a tool its own arguments.
- Of several answers to one interrupt, one is taken, and it is final: it is kept in the checkpointer
  before the graph hears it (see ``thread.py``), so that it is neither lost nor changed when the run
  then breaks off. The checkpointer must keep the first write of a name, as the savers for memory,
  SQLite and Postgres do; one that overwrites gives no such promise. In a process, one call at a
  time works on a thread, any other is refused as busy.
- Two processes whose runs of one thread overlap are not kept apart, whichever function began them:
  no checkpointer can tell a run that is under way from one that broke off, and :func:`pending`
  lists a question as soon as it is saved, though other tools of the run may still be at work. Let
  one process own a thread, or lock it yourself.
- A thread belongs to one graph: another graph on the same checkpointer does not see its questions.
- Calls that go round this module (``graph.invoke``) are not seen by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, cast
from uuid import uuid4

from bayeslora_tool.graphs.state import EscalationInput
from bayeslora_tool.graphs.thread import ThreadError, ThreadView, claim
from bayeslora_tool.graphs.workflow import WorkflowInput
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END
from langgraph.pregel import Pregel
from langgraph.types import Command

Graph = Pregel[Any, Any, Any, Any]
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
        ThreadError: ``pending``, ``unfinished`` or ``busy``.
        ValueError: No checkpointer, a config that names no thread or an old checkpoint, or a value
            that no checkpoint can hold.
        TypeError: ``value`` is None or a Command: that is no new run; or has no text for a graph of
            this package; or ``durability`` is given.
    """
    with _alone(graph, config, options):
        _check_storable(graph, "`value`", value)
        _view(graph, config).check_start(value)
        _check_input(graph, value)
        return _invoke(graph, value, config, options)


async def astart(graph: Graph, value: Any, config: RunnableConfig, **options: Any) -> State:
    """:func:`start` for ``ainvoke``."""
    with _alone(graph, config, options):
        _check_storable(graph, "`value`", value)
        (await _aview(graph, config)).check_start(value)
        _check_input(graph, value)
        return await _ainvoke(graph, value, config, options)


def pending(graph: Graph, config: RunnableConfig) -> dict[str, Any]:
    """What the thread waits for: a request for each interrupt id; empty if for nothing.

    Raises:
        ThreadError: ``unknown``.
        ValueError: As for :func:`start`.
    """
    _check(graph, config)
    view = _view(graph, config)
    view.check_known()
    return view.waiting


async def apending(graph: Graph, config: RunnableConfig) -> dict[str, Any]:
    """:func:`pending` for async checkpointers."""
    _check(graph, config)
    view = await _aview(graph, config)
    view.check_known()
    return view.waiting


def resume(
    graph: Graph, config: RunnableConfig, answers: Mapping[str, Any], **options: Any
) -> State:
    """Answer one or more of the pending interrupts.

    Args:
        graph: As for :func:`start`, like ``config`` and ``options``.
        config: Of the thread.
        answers: An answer for each interrupt id, as :func:`pending` names them; those left out go
            on waiting.
        options: For ``graph.invoke``.

    Returns:
        The state. An answer that the graph does not understand is asked for again, under a new id.
        Tools that broke off beside the one that waited run again, too.

    Raises:
        ThreadError: ``unknown``, ``not pending`` or ``busy``; then no answer was taken, unless the
            message says so.
        ValueError: As for :func:`start`, or ``answers`` is empty; again, none was taken.
        TypeError: ``answers`` is not a mapping, or ``durability`` is given.
    """
    with _alone(graph, config, options):
        view, by = _view(graph, config), uuid4().hex
        view.check_answers(answers)
        for name, answer in answers.items():
            _check_storable(graph, f"the answer to {name}", answer)
        for name, answer in answers.items():
            _saver(graph).put_writes(view.snapshot.config, claim(answer, by), name)
        _view(graph, config).check_taken(answers, by)
        return _invoke(graph, Command(resume=dict(answers)), config, options)


async def aresume(
    graph: Graph, config: RunnableConfig, answers: Mapping[str, Any], **options: Any
) -> State:
    """:func:`resume` for ``ainvoke``."""
    with _alone(graph, config, options):
        view, by = await _aview(graph, config), uuid4().hex
        view.check_answers(answers)
        for name, answer in answers.items():
            _check_storable(graph, f"the answer to {name}", answer)
        for name, answer in answers.items():
            await _saver(graph).aput_writes(view.snapshot.config, claim(answer, by), name)
        (await _aview(graph, config)).check_taken(answers, by)
        return await _ainvoke(graph, Command(resume=dict(answers)), config, options)


def recover(graph: Graph, config: RunnableConfig, **options: Any) -> State:
    """Carry on with a run that broke off: its process died, or a node raised.

    Finished nodes keep their results; the one that broke off runs again, with the answers it had.
    Make sure first that the run's process is gone.

    Raises:
        ThreadError: ``unknown``, ``pending``, ``finished`` or ``busy``.
        ValueError: As for :func:`start`.
    """
    with _alone(graph, config, options):
        _view(graph, config).check_recover()
        state = _invoke(graph, None, config, options)
        for _ in range(_MOST_QUESTIONS):
            owed = _view(graph, config).owed(state)
            if not owed:
                return state
            state = _invoke(graph, Command(resume=owed), config, options)
        raise RuntimeError("the graph asks the same questions again and again")


async def arecover(graph: Graph, config: RunnableConfig, **options: Any) -> State:
    """:func:`recover` for ``ainvoke``."""
    with _alone(graph, config, options):
        (await _aview(graph, config)).check_recover()
        state = await _ainvoke(graph, None, config, options)
        for _ in range(_MOST_QUESTIONS):
            owed = (await _aview(graph, config)).owed(state)
            if not owed:
                return state
            state = await _ainvoke(graph, Command(resume=owed), config, options)
        raise RuntimeError("the graph asks the same questions again and again")


def abandon(graph: Graph, config: RunnableConfig) -> None:
    """Give up a thread's pending or unfinished run, so that another can start; its state stays.

    Raises:
        ThreadError: ``unknown``, ``finished`` or ``busy``.
        ValueError: As for :func:`start`.
    """
    with _alone(graph, config):
        view = _view(graph, config)
        view.check_unfinished()
        # Again, for what was done already calls for what comes next.
        while view.snapshot.tasks:
            graph.update_state(config, None, as_node=END)
            view = _view(graph, config)


async def aabandon(graph: Graph, config: RunnableConfig) -> None:
    """:func:`abandon` for async checkpointers."""
    with _alone(graph, config):
        view = await _aview(graph, config)
        view.check_unfinished()
        # Again, for what was done already calls for what comes next.
        while view.snapshot.tasks:
            await graph.aupdate_state(config, None, as_node=END)
            view = await _aview(graph, config)


def _invoke(graph: Graph, value: Any, config: RunnableConfig, options: dict[str, Any]) -> State:
    output: Any = graph.invoke(value, config, durability="sync", **options)
    return cast(State, output)


async def _ainvoke(
    graph: Graph, value: Any, config: RunnableConfig, options: dict[str, Any]
) -> State:
    output: Any = await graph.ainvoke(value, config, durability="sync", **options)
    return cast(State, output)


def _saver(graph: Graph) -> BaseCheckpointSaver[Any]:
    if not isinstance(graph.checkpointer, BaseCheckpointSaver):
        raise ValueError(
            "the graph has no checkpointer, so no run could wait for a person; compile it with "
            "one: builder.compile(checkpointer=...)"
        )
    return graph.checkpointer


def _check(graph: Graph, config: RunnableConfig, options: Mapping[str, Any] | None = None) -> str:
    _saver(graph)
    if "durability" in (options or {}):
        raise TypeError("`durability` is 'sync' here: what is promised rests on it")
    where = config.get("configurable", {})
    if "thread_id" not in where:
        raise ValueError(
            f'`config` names no thread (got {config!r:.80}); give {{"configurable": '
            f'{{"thread_id": "..."}}}}'
        )
    if where.get("checkpoint_ns"):
        raise ValueError(
            f"`config` names a subgraph (checkpoint_ns={where['checkpoint_ns']!r}); leave it out: "
            f"the thread as a whole is carried on"
        )
    if where.get("checkpoint_id"):
        raise ValueError(
            f"`config` names an old checkpoint (checkpoint_id={where['checkpoint_id']!r}); leave "
            f"it out: only a thread's newest state can be carried on safely"
        )
    return str(where["thread_id"])


_threads: set[tuple[int, str]] = set()
_threads_lock = Lock()


@contextmanager
def _alone(
    graph: Graph, config: RunnableConfig, options: Mapping[str, Any] | None = None
) -> Iterator[None]:
    # Refused rather than made to wait: waiting would block an event loop, or a node for itself.
    # Another checkpointer's thread of the same name is another thread.
    thread = _check(graph, config, options)
    key = id(graph.checkpointer), thread
    with _threads_lock:
        if key in _threads:
            raise ThreadError(
                "busy",
                f"thread {thread!r} is being worked on by another call in this process; see what "
                f"is pending when it is done",
            )
        _threads.add(key)
    try:
        yield
    finally:
        with _threads_lock:
            _threads.remove(key)


def _view(graph: Graph, config: RunnableConfig) -> ThreadView:
    snapshot = graph.get_state(config, subgraphs=True)
    return ThreadView(snapshot, _saver(graph).get_tuple(snapshot.config))


async def _aview(graph: Graph, config: RunnableConfig) -> ThreadView:
    snapshot = await graph.aget_state(config, subgraphs=True)
    return ThreadView(snapshot, await _saver(graph).aget_tuple(snapshot.config))


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
        _saver(graph).serde.dumps_typed(value)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be kept in a checkpoint ({type(error).__name__}: {error}); give plain "
            f"data: str, float, int of 64 bits, list, dict"
        ) from error
