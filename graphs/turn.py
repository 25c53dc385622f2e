"""One call at a time on a thread: takes a turn in its record, or refuses as busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from threading import Lock
from typing import Any, TypeVar

from bayeslora_tool.graphs.record import (
    Doing,
    Run,
    Turn,
    advance_clock,
    end,
    forget,
    lives,
    newest,
    take,
    this_run,
)
from bayeslora_tool.graphs.script import Script, call
from bayeslora_tool.graphs.thread import ThreadError, ThreadView
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel

from bayeslora_tool.workers import begin_anew_after_fork

Graph = Pregel[Any, Any, Any, Any]
T = TypeVar("T")


def saver_of(graph: Graph) -> BaseCheckpointSaver[Any]:
    """The checkpointer of a graph; a ValueError if it has none."""
    if not isinstance(graph.checkpointer, BaseCheckpointSaver):
        raise ValueError(
            "the graph has no checkpointer, so no run could wait for a person; compile it with "
            "one: builder.compile(checkpointer=...)"
        )
    return graph.checkpointer


def check_config(
    graph: Graph, config: RunnableConfig, options: Mapping[str, Any] | None = None
) -> str:
    """The thread that a config names.

    Raises:
        ValueError: No checkpointer, or a config that names no thread, or only a part of one.
        TypeError: ``durability`` among the options.
    """
    saver_of(graph)
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


class _Busy:
    """The threads that calls of this process work on."""

    def __init__(self) -> None:
        self.after_fork()
        begin_anew_after_fork(self)

    def after_fork(self) -> None:
        """The parent's calls are not the child's."""
        self.threads: set[tuple[int, str]] = set()
        self.lock = Lock()


_busy = _Busy()


@contextmanager
def _alone(graph: Graph, thread: str) -> Iterator[None]:
    # Refused rather than made to wait: waiting would block an event loop, or a node for itself.
    # The checkpointer in memory cannot tell which of two threads of a process wrote first.
    key = id(graph.checkpointer), thread
    with _busy.lock:
        if key in _busy.threads:
            raise ThreadError(
                "busy",
                f"thread {thread!r} is being worked on by another call in this process; see what "
                f"is pending when it is done",
            )
        _busy.threads.add(key)
    try:
        yield
    finally:
        with _busy.lock:
            _busy.threads.discard(key)


def in_turn(
    graph: Graph,
    config: RunnableConfig,
    doing: Doing,
    check: Callable[[ThreadView], None],
    work: Callable[[ThreadView], Script[T]],
    options: Mapping[str, Any] | None = None,
    takeover: bool = False,
) -> Script[T]:
    """Do ``work`` on a thread while no other call does, if it passes the ``check``."""
    thread, saver = check_config(graph, config, options), saver_of(graph)
    with _alone(graph, thread):
        mine = this_run(doing, _fingerprint(graph))
        while True:
            before = yield from newest(saver, thread)
            if before.broken_off and not takeover:
                _check_gone(before.broken_off, thread)
            view = yield from view_of(graph, config, before)
            check(view)
            if (yield from take(saver, thread, before, mine)):
                break
        for checkpoint_id in view.checkpoint_ids():
            advance_clock(checkpoint_id)
        try:
            result = yield from work(view)
        except GeneratorExit:  # nobody drives this any more, so nothing more can be written
            forget(mine)
            raise
        except BaseException:
            yield from end(saver, thread, before, mine)
            raise
        yield from end(saver, thread, before, mine)
        return result


def _check_gone(run: Run, thread: str) -> None:
    if (alive := lives(run)) is False:
        return
    where = f"process {run['pid']} on {run['host'].split(' ')[0]}"
    hint = "" if alive else "; if that is gone for good, pass takeover=True"
    raise ThreadError(
        "busy",
        f"thread {thread!r} is being worked on by {where} ({run['doing']}){hint}; see what is "
        f"pending when it is done",
    )


def _fingerprint(graph: Graph) -> str:
    """Of the names of the nodes: which of them a thread may wait in."""
    names = [*graph.nodes]
    for place, subgraph in graph.get_subgraphs(recurse=True):
        names += [f"{place}|{node}" for node in getattr(subgraph, "nodes", ())]
    return sha256("\n".join(sorted(names)).encode()).hexdigest()[:12]


def view_of(graph: Graph, config: RunnableConfig, turn: Turn | None = None) -> Script[ThreadView]:
    """What the thread waits for; ``turn`` is its newest, if it was looked up."""
    snapshot = yield from call(graph, "get_state", config, subgraphs=True)
    saved = yield from call(saver_of(graph), "get_tuple", snapshot.config)
    left = turn.broken_off if turn else None
    other = left is not None and left["graph"] != _fingerprint(graph)
    return ThreadView(snapshot, saved, broke_off_elsewhere=other)
