from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bayeslora_tool import workers
from bayeslora_tool.workers import BoundedCalls, OverloadedError
from tests.processes import ROUNDS, run_program


class Hangs:
    """Calls that wait to be let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)

    def call(self) -> str:
        self.begun.release()
        assert self.open.wait(60)
        return "back"


@pytest.fixture
def hangs() -> Iterator[Hangs]:
    hangs = Hangs()
    yield hangs
    hangs.open.set()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bayeslora-call"]


def until(condition: Any) -> None:
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_a_call_gives_what_it_returns_or_raises_in_the_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    calls = BoundedCalls(limit=1)
    assert calls.run("owner", variable.get, 60) == 7
    for error in (
        ValueError("bad"),
        TimeoutError("of its own"),
        KeyboardInterrupt(),
        SystemExit(3),
    ):

        def fails(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)) as raised:
            calls.run("owner", fails, 60)
        assert raised.value is error
    until(lambda: not threads())


def test_hanging_calls_are_bounded_and_the_next_fails_at_once_until_one_returns(
    hangs: Hangs,
) -> None:
    calls, owner = BoundedCalls(limit=3), object()
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"no prediction within 0\.02 s"):
            calls.run(owner, hangs.call, 0.02)
    began = time.monotonic()
    for _ in range(300):
        with pytest.raises(OverloadedError, match=r"3 calls of object hang .* \(limit 3\)"):
            calls.run(owner, hangs.call, 60)
    assert time.monotonic() - began < 30
    assert len(threads()) == 3
    assert calls.run("another owner", lambda: "heard", 60) == "heard"
    hangs.open.set()
    until(lambda: not threads())
    assert calls.run(owner, lambda: "heard again", 60) == "heard again"


def test_more_calls_than_places_wait_for_one_and_are_all_answered() -> None:
    calls, owner, most, now = BoundedCalls(limit=4), object(), [0], [0]
    lock = threading.Lock()

    def call() -> int:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.005)
        with lock:
            now[0] -= 1
        return 1

    with ThreadPoolExecutor(40) as pool:
        assert sum(pool.map(lambda _: calls.run(owner, call, 60), range(200))) == 200
    assert most[0] <= 4


def test_a_caller_that_waits_for_a_place_gives_up_in_time(hangs: Hangs) -> None:
    calls, owner = BoundedCalls(limit=1), object()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(calls.run, owner, hangs.call, 60)
        assert hangs.begun.acquire(timeout=30)
        with pytest.raises(TimeoutError):
            calls.run(owner, hangs.call, 0.02)
        assert len(threads()) == 1
        hangs.open.set()
        assert first.result(30) == "back"


def test_where_no_thread_is_to_be_had_the_call_fails_and_leaves_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    calls = BoundedCalls(limit=1)
    with monkeypatch.context() as patch:
        patch.setattr(workers, "Thread", NoThread)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                calls.run("owner", lambda: None, 60)
    assert calls.run("owner", lambda: "heard", 60) == "heard"


def test_a_forked_child_has_places_of_its_own() -> None:
    said = run_program(f"""
        import threading
        from bayeslora_tool.workers import BoundedCalls, OverloadedError
        from tests.processes import forked

        calls = BoundedCalls(limit=1)
        try:
            calls.run("owner", threading.Event().wait, 0.02)
        except TimeoutError:
            pass
        for _ in range({ROUNDS}):
            assert forked(lambda: calls.run("owner", lambda: "heard", 20) == "heard")
        try:  # what hangs in the parent, hangs still
            calls.run("owner", lambda: None, 20)
        except OverloadedError:
            print("bounded")
    """)
    assert said == "bounded\n"


@pytest.mark.slow
def test_a_process_that_ends_during_a_call_it_gave_up_ends_well() -> None:
    # Children of one process, to load torch once; each ends as a program does.
    said = run_program(f"""
        import time
        import torch
        from bayeslora_tool.inference.batching import MicroBatcher
        from bayeslora_tool.workers import BoundedCalls
        from tests.processes import in_children_that_end

        x = torch.randn(300, 300)

        def busy(*_):
            while True:
                torch.relu(x @ x).sum().item()

        if (i := in_children_that_end({ROUNDS})) is not None:
            if i % 2:
                MicroBatcher(busy).submit("k", ["text"])
                time.sleep(0.02)
            else:
                try:
                    BoundedCalls(limit=1).run("owner", busy, 0.02)
                except TimeoutError:
                    pass
    """)
    assert said == f"{ROUNDS}\n"


def test_a_process_ends_soon_though_a_call_hangs_outside_of_python() -> None:
    began = time.monotonic()
    run_program("""
        import time
        from bayeslora_tool.workers import BoundedCalls

        try:
            BoundedCalls(limit=1).run("owner", lambda: time.sleep(600), 0.02)
        except TimeoutError:
            pass
    """)
    assert time.monotonic() - began < 60
