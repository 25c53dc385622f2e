"""Who works on a thread: a record beside its checkpoints, written by compare-and-set.

LangGraph takes the checkpoint with the highest id for the newest, and makes ids from the clock; it
cannot tell a run under way from one that broke off. So each run here takes a turn first. Turns are
numbered, and stand in a namespace of their own as checkpoints whose ids are these numbers: no
clock has a part in their order. The checkpointer keeps the first write of a name, so of all that
would follow turn n one does (:func:`take`); whoever finds a turn decided but not yet written
writes it (:func:`newest`). A turn is over when its run says so; a run that died never will, and
whether its process lives is known on the same machine only.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID, uuid4

import psutil
from bayeslora_tool.graphs.script import Script, call
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.base import id as checkpoint_ids

Doing = Literal["start", "resume", "recover", "abandon"]
NAMESPACE = "__bayeslora_turns__"
_NEXT, _OVER = "__bayeslora_next__", "__bayeslora_over__"
_RUN = "bayeslora_run"

_at_work: set[str] = set()  # the runs of this process


class Run(TypedDict):
    """A call that works on a thread."""

    id: str
    doing: Doing
    host: str
    pid: int
    born: float
    """When the process was, by its machine's clock: process ids come again."""

    graph: str
    """Fingerprint of the graph it runs."""


class Turn(NamedTuple):
    """The newest turn on a thread; number 0 is before the first."""

    number: int
    run: Run | None
    over: bool

    @property
    def broken_off(self) -> Run | None:
        """The run that did not say that it is over."""
        return None if self.over else self.run


def this_run(doing: Doing, graph: str) -> Run:
    """A run of this process."""
    return Run(
        id=uuid4().hex,
        doing=doing,
        host=_host(),
        pid=os.getpid(),
        born=psutil.Process().create_time(),
        graph=graph,
    )


def newest(saver: BaseCheckpointSaver[Any], thread: str) -> Script[Turn]:
    """The newest turn."""
    while True:
        found = yield from call(saver, "get_tuple", _place(thread))
        if found is None:
            return Turn(0, None, over=True)
        number = int(found.checkpoint["id"])
        writes = {channel: value for _, channel, value in found.pending_writes or []}
        if _NEXT not in writes:
            return Turn(number, found.metadata.get(_RUN), _OVER in writes)
        yield from _write(saver, thread, number + 1, writes[_NEXT])


def take(saver: BaseCheckpointSaver[Any], thread: str, after: Turn, run: Run) -> Script[bool]:
    """Take the turn after the one given; False if another run has, and nothing was changed."""
    _at_work.add(run["id"])  # before anybody can see it and ask
    try:
        if after.number == 0:
            yield from _write(saver, thread, 0, None)
        yield from call(saver, "put_writes", _place(thread, after.number), [(_NEXT, run)], "next")
        now = yield from newest(saver, thread)
    except BaseException:
        forget(run)
        raise
    mine = now.run is not None and now.run["id"] == run["id"]
    if not mine:
        forget(run)
    return mine


def end(saver: BaseCheckpointSaver[Any], thread: str, after: Turn, run: Run) -> Script[None]:
    """Say that the turn which :func:`take` took after the given one is over."""
    place = _place(thread, after.number + 1)
    yield from call(saver, "put_writes", place, [(_OVER, True)], "over")
    forget(run)


def forget(run: Run) -> None:
    """This process no longer works at it."""
    _at_work.discard(run["id"])


def lives(run: Run) -> bool | None:
    """Whether a run may still go on; None: it is another machine's, and cannot be asked."""
    if run["host"] != _host():
        return None
    if run["pid"] == os.getpid():
        return run["id"] in _at_work
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(run["pid"])
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return not zombie and process.create_time() == run["born"]
    return False


def advance_clock(checkpoint_id: str) -> None:
    """See that checkpoints made in this process from now on come after the given one.

    LangGraph never gives an id before the last one of its process, whatever the clock says; here
    what another process gave counts, too (Lamport 1978). So a host whose clock is behind cannot
    write a new state that counts as an old one.
    """
    try:
        number = UUID(checkpoint_id).int
    except ValueError:  # a checkpointer with ids of its own
        return
    # Version 6: 48 bits of time, 4 of version, 12 of time; in 100 ns.
    time = (number >> 80) << 12 | (number >> 64) & 0xFFF
    if time > (checkpoint_ids._last_v6_timestamp or 0):
        checkpoint_ids._last_v6_timestamp = time  # type: ignore[assignment]  # untyped


def _place(thread: str, number: int | None = None) -> Any:
    where = {"thread_id": thread, "checkpoint_ns": NAMESPACE}
    return {"configurable": where if number is None else where | {"checkpoint_id": _name(number)}}


def _name(number: int) -> str:
    return f"{number:020d}"  # in the order of strings


def _write(
    saver: BaseCheckpointSaver[Any], thread: str, number: int, run: Run | None
) -> Script[None]:
    # Whoever writes it writes the same.
    entry: Any = empty_checkpoint()
    entry |= {"id": _name(number), "ts": datetime.now(UTC).isoformat()}
    metadata: Any = {"source": "update", "step": number, "parents": {}, _RUN: run}
    yield from call(saver, "put", _place(thread), entry, metadata, {})


def _host() -> str:
    # Machines may share a name, and containers of one machine all but their process ids.
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()
