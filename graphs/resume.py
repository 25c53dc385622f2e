"""Start, answer, carry on and give up the runs of a thread, without LangGraph's silent accidents.

Left to itself, LangGraph takes an answer without an id for whatever waits, ignores an answer whose
question is gone, starts an unknown thread from nothing, and lets a new input replace a run that
waits for a person. Each of these is a :class:`ThreadError` here, raised before anything changes.

What holds, and what cannot:

- Every node's result is saved before the next node runs (``durability="sync"``). A process killed
  in a node loses that node's work alone; :func:`recover` runs it again. A node, and a gated tool,
  thus runs *at least* once; ``act`` must recognise ``outcome["key"]``, a tool its own arguments.
- Of several answers to one interrupt, one is taken, and it is final: it is kept in the checkpointer
  before the graph hears it (see ``claims.py``), so that it is neither lost nor changed when the run
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
from typing import Any, Literal, cast
from uuid import uuid4

from bayeslora_tool.graphs.claims import CHANNEL, Claim, View
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END
from langgraph.pregel import Pregel
from langgraph.types import Command

Graph = Pregel[Any, Any, Any, Any]
State = dict[str, Any]
_MANY = 100  # questions in a row of one task
Problem = Literal["unknown", "pending", "not pending", "unfinished", "finished", "busy"]


class ThreadError(RuntimeError):
    """The thread is not in a state for this; nothing was changed.

    Attributes:
        problem: ``unknown``: nothing ever ran there. ``pending``: people must answer first.
            ``not pending``: no such question waits (a stale id, a second answer). ``unfinished``:
            a run broke off, or another process is at it. ``finished``: there is nothing to carry
            on with. ``busy``: another call of this process works on the thread.
    """

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem: Problem = problem


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
        TypeError: ``value`` is None or a Command: that is no new run.
    """
    with _alone(graph, config, options):
        _check_storable(graph, "`value`", value)
        _check_start(_view(graph, config), value)
        return _invoke(graph, value, config, options)


async def astart(graph: Graph, value: Any, config: RunnableConfig, **options: Any) -> State:
    """:func:`start` for ``ainvoke``."""
    with _alone(graph, config, options):
        _check_storable(graph, "`value`", value)
        _check_start(await _aview(graph, config), value)
        return await _ainvoke(graph, value, config, options)


def pending(graph: Graph, config: RunnableConfig) -> dict[str, Any]:
    """What the thread waits for: a request for each interrupt id; empty if for nothing.

    Raises:
        ThreadError: ``unknown``.
        ValueError: As for :func:`start`.
    """
    _check(graph, config)
    return _known(_view(graph, config)).waiting


async def apending(graph: Graph, config: RunnableConfig) -> dict[str, Any]:
    """:func:`pending` for async checkpointers."""
    _check(graph, config)
    return _known(await _aview(graph, config)).waiting


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
        TypeError: ``answers`` is not a mapping, or ``durability`` is among the options.
    """
    with _alone(graph, config, options):
        view, by = _view(graph, config), uuid4().hex
        _check_answers(graph, view, answers)
        for name, answer in answers.items():
            claim = [(CHANNEL, Claim(by=by, answer=answer))]
            _saver(graph).put_writes(view.snapshot.config, claim, name)
        _check_taken(_view(graph, config), answers, by)
        return _invoke(graph, Command(resume=dict(answers)), config, options)


async def aresume(
    graph: Graph, config: RunnableConfig, answers: Mapping[str, Any], **options: Any
) -> State:
    """:func:`resume` for ``ainvoke``."""
    with _alone(graph, config, options):
        view, by = await _aview(graph, config), uuid4().hex
        _check_answers(graph, view, answers)
        for name, answer in answers.items():
            claim = [(CHANNEL, Claim(by=by, answer=answer))]
            await _saver(graph).aput_writes(view.snapshot.config, claim, name)
        _check_taken(await _aview(graph, config), answers, by)
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
        _check_recover(_view(graph, config))
        state = _invoke(graph, None, config, options)
        for _ in range(_MANY):
            owed = _owed(state, _view(graph, config))
            if not owed:
                return state
            state = _invoke(graph, Command(resume=owed), config, options)
        raise RuntimeError("the graph asks the same questions again and again")


async def arecover(graph: Graph, config: RunnableConfig, **options: Any) -> State:
    """:func:`recover` for ``ainvoke``."""
    with _alone(graph, config, options):
        _check_recover(await _aview(graph, config))
        state = await _ainvoke(graph, None, config, options)
        for _ in range(_MANY):
            owed = _owed(state, await _aview(graph, config))
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
        _check_abandon(view)
        # Again, for what was done already calls for what comes next.
        while view.snapshot.tasks:
            graph.update_state(config, None, as_node=END)
            view = _view(graph, config)


async def aabandon(graph: Graph, config: RunnableConfig) -> None:
    """:func:`abandon` for async checkpointers."""
    with _alone(graph, config):
        view = await _aview(graph, config)
        _check_abandon(view)
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


def _check(graph: Graph, config: RunnableConfig) -> str:
    _saver(graph)
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
    if "durability" in (options or {}):
        raise TypeError("`durability` is 'sync' here: what is promised rests on it")
    # Refused rather than made to wait: waiting would block an event loop, or a node for itself.
    # Another checkpointer's thread of the same name is another thread.
    thread = _check(graph, config)
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


def _view(graph: Graph, config: RunnableConfig) -> View:
    snapshot = graph.get_state(config, subgraphs=True)
    return View(snapshot, _saver(graph).get_tuple(snapshot.config))


async def _aview(graph: Graph, config: RunnableConfig) -> View:
    snapshot = await graph.aget_state(config, subgraphs=True)
    return View(snapshot, await _saver(graph).aget_tuple(snapshot.config))


def _known(view: View) -> View:
    if view.snapshot.metadata is None:
        thread = view.snapshot.config["configurable"]["thread_id"]
        raise ThreadError("unknown", f"nothing ever ran on thread {thread!r}; start it first")
    return view


def _check_start(view: View, value: Any) -> None:
    if value is None or isinstance(value, Command):
        raise TypeError(f"`value` must be a new run's input, got {value!r:.60}; see `resume`")
    if view.waiting:
        raise ThreadError(
            "pending",
            f"the thread waits for an answer to {', '.join(view.waiting)}, which a new run would "
            f"throw away; `resume` it, `abandon` it, or take another thread_id",
        )
    # Not `next`: that leaves out what is done, though the thread may not have moved on.
    if view.snapshot.tasks:
        names = ", ".join(task.name for task in view.snapshot.tasks)
        raise ThreadError(
            "unfinished",
            f"the thread's last run is not over: it broke off in {names}, or goes on elsewhere. A "
            f"new run would throw it away; `recover` it, `abandon` it, or take another thread_id",
        )


def _check_storable(graph: Graph, name: str, value: object) -> None:
    # LangGraph would find out in the middle of the run, and leave the thread there.
    try:
        _saver(graph).serde.dumps_typed(value)
    except Exception as error:
        raise ValueError(
            f"{name} cannot be kept in a checkpoint ({type(error).__name__}: {error}); give plain "
            f"data: str, float, int of 64 bits, list, dict"
        ) from error


def _check_answers(graph: Graph, view: View, answers: Mapping[str, Any]) -> None:
    if not isinstance(answers, Mapping):
        raise TypeError(f"`answers` must be {{interrupt id: answer}}, got {answers!r:.80}")
    if not answers:
        raise ValueError("`answers` is empty; give {interrupt id: answer}")
    waiting = _known(view).waiting
    for name in answers:
        if name not in waiting:
            raise ThreadError(
                "not pending",
                f"no interrupt {name!r:.60} waits for an answer: it was answered already or never "
                f"asked; pending are: {', '.join(waiting) or 'none'}",
            )
        _check_storable(graph, f"the answer to {name}", answers[name])


def _check_taken(view: View, answers: Mapping[str, Any], by: str) -> None:
    lost = [name for name in answers if name not in view.claims or view.claims[name]["by"] != by]
    if lost:
        taken = [name for name in answers if name not in lost]
        rest = f"; those to {', '.join(taken)} count, `recover` carries them out" if taken else ""
        raise ThreadError("not pending", f"somebody else has just answered {', '.join(lost)}{rest}")


def _check_recover(view: View) -> None:
    if _known(view).waiting and not view.broken:
        raise ThreadError(
            "pending", f"the thread waits for an answer to {', '.join(view.waiting)}; `resume` it"
        )
    _check_abandon(view)


def _owed(state: State, view: View) -> dict[str, Any]:
    """The answers to what a run has just asked although it was answered before."""
    asked = [interrupt.id for interrupt in state.get("__interrupt__", ())]
    return {name: view.claims[name]["answer"] for name in asked if name in view.claims}


def _check_abandon(view: View) -> None:
    if not _known(view).snapshot.tasks:
        raise ThreadError("finished", "the thread's last run is over; `start` another")
