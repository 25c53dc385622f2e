"""Threads that the process can fork under, end under, and give up. Knows no model and no text."""

from __future__ import annotations

import atexit
import contextvars
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from threading import Condition, Lock, Thread, current_thread
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

R = TypeVar("R")

_EXIT_SECONDS = 3.0  # that the end of the process waits for calls under way


class OverloadedError(RuntimeError):
    """Too many calls are under way or waiting; this one was not taken. Try again later."""


class Forked(Protocol):
    """What must begin anew in a forked child."""

    def after_fork(self) -> None:
        """Forget what the parent's threads held: they, and who would release it, are not here."""
        ...


_forked: WeakSet[Forked] = WeakSet()
_under_way: set[Thread] = set()
_lock = Lock()
_ending = False


def begin_anew_after_fork(owner: Forked) -> None:
    """Call ``owner.after_fork`` in each forked child, for as long as the owner lives."""
    _forked.add(owner)


class FreshLock:
    """A lock that no forked child inherits as held: the thread that held it is not there."""

    def __init__(self) -> None:
        self.after_fork()
        begin_anew_after_fork(self)

    def after_fork(self) -> None:
        """In the child."""
        self._held = Lock()

    def __enter__(self) -> None:
        self._held.acquire()

    def __exit__(self, *_: object) -> None:
        self._held.release()


@contextmanager
def stopped_at_exit() -> Iterator[None]:
    """Around what a daemon thread does: the end of the process stops it, and waits until it has.

    A daemon thread that comes out of torch while the interpreter is torn down aborts the process.

    Raises:
        RuntimeError: The process is ending.
    """
    thread = current_thread()
    with _lock:
        if _ending:
            raise RuntimeError("the process is ending")
        _under_way.add(thread)
    try:
        yield
    finally:
        with _lock:
            _under_way.discard(thread)


class BoundedCalls:
    """Calls that may be given up: each in a thread of its own, at most ``limit`` for one owner.

    What does not come back keeps its thread, since a thread cannot be stopped. So once all of an
    owner's calls were given up, more of them are refused until one comes back.

    Args:
        limit: Calls under way for one owner.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.after_fork()
        begin_anew_after_fork(self)

    def after_fork(self) -> None:
        """Of the parent's calls, none is here."""
        self._changed = Condition()
        # What is under way: whose it is, and whether it was given up.
        self._calls: WeakKeyDictionary[Any, tuple[int, bool]] = WeakKeyDictionary()

    def run(self, owner: object, function: Callable[[], R], timeout: float) -> R:
        """What ``function`` returns or raises, in the caller's context variables.

        Raises:
            TimeoutError: Not within ``timeout`` seconds. The call goes on, and its result is lost.
            OverloadedError: All of the owner's calls were given up, and none has come back.
        """
        ends = time.monotonic() + timeout
        late = TimeoutError(f"no prediction within {timeout:g} s")
        future: Future[R] = Future()
        with self._changed:
            if not self._changed.wait_for(lambda: self._may_begin(owner), timeout):
                raise late
            self._calls[future] = id(owner), False
        context = contextvars.copy_context()

        def call() -> None:
            try:
                with stopped_at_exit():
                    result = context.run(function)
            except BaseException as error:
                self._forget(future)
                future.set_exception(error)
            else:
                self._forget(future)
                future.set_result(result)

        try:
            # An executor's threads are joined when the process ends; one that hangs would hold it.
            Thread(target=call, name="bayeslora-call", daemon=True).start()
        except BaseException:
            self._forget(future)
            raise
        if not wait([future], max(0.0, ends - time.monotonic())).done:
            with self._changed:
                if future in self._calls:  # it may have come back this moment
                    self._calls[future] = id(owner), True
                    self._changed.notify_all()
            raise late
        return future.result()

    def check(self, owner: object) -> None:
        """Refuse one more call of another kind (a task, say) where :meth:`run` would.

        Raises:
            OverloadedError: See :meth:`run`.
        """
        with self._changed:
            self._may_begin(owner)

    def give_up(self, owner: object, task: Any) -> None:
        """Count a task of the owner's, given up already, until it is done."""
        with self._changed:
            self._calls[task] = id(owner), True
        task.add_done_callback(self._forget)

    def _may_begin(self, owner: object) -> bool:
        given_up = [late for whose, late in self._calls.values() if whose == id(owner)]
        if sum(given_up) >= self._limit:
            raise OverloadedError(
                f"{sum(given_up)} calls of {type(owner).__name__} hang past their timeout (limit "
                f"{self._limit}), so this one was not begun; find out what they wait for"
            )
        return len(given_up) < self._limit

    def _forget(self, call: Any) -> None:
        with self._changed:
            self._calls.pop(call, None)
            self._changed.notify_all()


def _after_fork() -> None:
    global _lock
    _lock = Lock()
    _under_way.clear()
    for owner in list(_forked):
        owner.after_fork()


def _at_exit() -> None:
    global _ending
    with _lock:
        _ending = True
        threads = [thread for thread in _under_way if thread.ident is not None]
    for thread in threads:
        # Raised in that thread when it is next in Python: within one operation of torch.
        ident, stop = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, stop)
    ends = time.monotonic() + _EXIT_SECONDS
    while time.monotonic() < ends and any(
        thread.is_alive() and thread in _under_way for thread in threads
    ):
        time.sleep(0.002)


# After the threads that Python joins by itself: by now only daemon threads are left.
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
