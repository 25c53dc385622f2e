"""Requests that arrive together are answered by one call. Knows no model and no event loop."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from threading import Condition, Thread
from typing import Generic, NamedTuple, TypeVar

from bayeslora_tool.workers import OverloadedError, begin_anew_after_fork, stopped_at_exit

K = TypeVar("K", bound=Hashable)  # how to run
T = TypeVar("T")  # an item
R = TypeVar("R")  # its result

_IDLE_SECONDS = 5.0  # after which the worker thread ends; the next request starts another


class _Request(NamedTuple, Generic[K, T, R]):
    key: K
    items: Sequence[T]
    future: Future[list[R]]


class MicroBatcher(Generic[K, T, R]):
    """A worker thread in front of a function that is cheaper by the batch.

    Whatever a call raises reaches the requests that it was for, and no other. In a forked child
    nothing waits: what was asked before the fork, the parent answers.

    Args:
        run: ``run(key, items) -> results``, one result an item, in order.
        max_items: Items that one call takes at most (a larger request goes alone).
        max_delay: Seconds that a request waits for others to join it.
        max_waiting: Requests that may wait; one more raises :class:`OverloadedError`.
    """

    def __init__(
        self,
        run: Callable[[K, list[T]], Sequence[R]],
        *,
        max_items: int = 64,
        max_delay: float = 0.002,
        max_waiting: int = 1024,
    ) -> None:
        self._run = run
        self._max_items, self._max_delay, self._max_waiting = max_items, max_delay, max_waiting
        self._closed = False
        self.after_fork()
        begin_anew_after_fork(self)

    def after_fork(self) -> None:
        """The parent's worker is not here, nor is anyone who waits for it."""
        self._changed = Condition()
        self._waiting: list[_Request[K, T, R]] = []
        self._worker: Thread | None = None

    def submit(self, key: K, items: Sequence[T]) -> Future[list[R]]:
        """Ask for results; only requests with equal keys share a call.

        Cancel the future and the request is dropped, unless its call has begun.

        Raises:
            OverloadedError: ``max_waiting`` requests wait.
            RuntimeError: Closed, or there is no thread to be had.
            TypeError: ``key`` is not hashable.
        """
        hash(key)
        request: _Request[K, T, R] = _Request(key, items, Future())
        with self._changed:
            if self._closed:
                raise RuntimeError("this batcher is closed; nothing more can be submitted")
            self._waiting = [r for r in self._waiting if not r.future.cancelled()]
            if len(self._waiting) >= self._max_waiting:
                raise OverloadedError(
                    f"{len(self._waiting)} requests wait already (limit {self._max_waiting}); try "
                    f"again later, or send fewer at once"
                )
            if self._worker is None:
                self._start()
            self._waiting.append(request)
            self._changed.notify()
        return request.future

    def close(self) -> None:
        """Refuse new requests, and fail those that wait; a call under way is completed."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, []
            self._changed.notify()
        _fail(left, RuntimeError("closed before this request was scored"))

    def _start(self) -> None:
        worker = Thread(target=self._work, name="bayeslora-batches", daemon=True)
        worker.start()
        self._worker = worker

    def _work(self) -> None:
        batch: list[_Request[K, T, R]] = []
        try:
            while batch := self._next():
                groups: dict[K, list[_Request[K, T, R]]] = defaultdict(list)
                for request in batch:
                    if request.future.set_running_or_notify_cancel():
                        groups[request.key].append(request)
                for key, requests in groups.items():
                    self._answer(key, requests)
        finally:
            # Whatever ended it, nobody waits for a thread that is no more.
            _fail(batch, RuntimeError("the worker thread died before this request was scored"))
            with self._changed:
                self._worker = None
                if self._waiting:
                    try:
                        self._start()
                    except BaseException as error:
                        left, self._waiting = self._waiting, []
                        _fail(left, _raisable(error))

    def _next(self) -> list[_Request[K, T, R]]:
        """The requests of the next call; none when there is nothing left to wait for."""
        with self._changed:
            while not self._waiting:
                if self._closed or (not self._changed.wait(_IDLE_SECONDS) and not self._waiting):
                    return []
            deadline = time.monotonic() + self._max_delay
            while (left := deadline - time.monotonic()) > 0 and self._size() < self._max_items:
                self._changed.wait(left)
            if not self._waiting:  # closed meanwhile, or all cancelled
                return self._next()
            batch = self._waiting[:1]
            for request in self._waiting[1:]:
                if sum(len(r.items) for r in [*batch, request]) > self._max_items:
                    break
                batch.append(request)
            del self._waiting[: len(batch)]
            return batch

    def _size(self) -> int:
        return sum(len(request.items) for request in self._waiting)

    def _answer(self, key: K, requests: list[_Request[K, T, R]]) -> None:
        items = [item for request in requests for item in request.items]
        try:
            with stopped_at_exit():
                results = list(self._run(key, items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(items)} items were scored, {len(results)} results came")
        except BaseException as error:
            if len(requests) == 1:
                _fail(requests, _raisable(error))
                return
            for request in requests:  # the others shall not suffer for one
                self._answer(key, [request])
            return
        for request in requests:
            n = len(request.items)
            request.future.set_result(results[:n])
            results = results[n:]


def _fail(requests: Sequence[_Request[K, T, R]], error: Exception) -> None:
    for request in requests:
        future = request.future
        if not future.done() and (future.running() or future.set_running_or_notify_cancel()):
            future.set_exception(error)


def _raisable(error: BaseException) -> Exception:
    """What may be raised where a result is awaited: not what would end or cancel the waiting."""
    if isinstance(error, Exception) and not isinstance(error, CancelledError | StopIteration):
        return error
    ended = RuntimeError(f"the scoring ended with {type(error).__name__}: {error}")
    ended.__cause__ = error
    return ended
