from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.inference import batching
from bayeslora_tool.inference.batching import MicroBatcher
from bayeslora_tool.workers import OverloadedError
from tests.processes import ROUNDS, run_program


class Gate:
    """A slow function that waits to be let through, and remembers its calls."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Event()
        self.calls: list[tuple[str, list[str]]] = []

    def run(self, key: str, items: list[str]) -> list[str]:
        self.calls.append((key, items))
        self.begun.set()
        assert self.open.wait(10)
        if "bad" in items:
            raise ValueError("bad item")
        return [item.upper() for item in items]


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def busy(gate: Gate, **options: Any) -> MicroBatcher[str, str, str]:
    """A batcher whose worker is in a call already, so that what follows waits."""
    batcher: MicroBatcher[str, str, str] = MicroBatcher(gate.run, **options)
    batcher.submit("k", ["first"])
    assert gate.begun.wait(10)
    return batcher


def test_requests_that_wait_together_share_a_call_and_get_their_own_results(gate: Gate) -> None:
    batcher = busy(gate)
    futures = [batcher.submit("k", [f"a{i}", f"b{i}"]) for i in range(5)]
    gate.open.set()
    assert [f.result(10) for f in futures] == [[f"A{i}", f"B{i}"] for i in range(5)]
    assert [len(items) for _, items in gate.calls] == [1, 10]


def test_different_keys_do_not_share_a_call(gate: Gate) -> None:
    batcher = busy(gate)
    futures = [batcher.submit(key, ["x"]) for key in "jkj"]
    gate.open.set()
    assert [f.result(10) for f in futures] == [["X"]] * 3
    assert [(key, len(items)) for key, items in gate.calls[1:]] == [("j", 2), ("k", 1)]


def test_a_call_takes_at_most_max_items_but_a_large_request_goes_alone(gate: Gate) -> None:
    batcher = busy(gate, max_items=3)
    futures = [batcher.submit("k", ["x"] * n) for n in (2, 2, 7, 1, 1)]
    gate.open.set()
    assert [len(f.result(10)) for f in futures] == [2, 2, 7, 1, 1]
    assert [len(items) for _, items in gate.calls[1:]] == [2, 2, 7, 2]


def test_a_request_that_fails_fails_alone(gate: Gate) -> None:
    batcher = busy(gate)
    good, bad, other = (batcher.submit("k", [item]) for item in ("good", "bad", "other"))
    gate.open.set()
    assert good.result(10) == ["GOOD"]
    assert other.result(10) == ["OTHER"]
    with pytest.raises(ValueError, match="bad item"):
        bad.result(10)
    assert batcher.submit("k", ["later"]).result(10) == ["LATER"]


def test_a_cancelled_request_is_never_run_and_leaves_room(gate: Gate) -> None:
    batcher = busy(gate, max_waiting=2)
    gone, kept = (batcher.submit("k", [item]) for item in ("gone", "kept"))
    assert gone.cancel()
    another = batcher.submit("k", ["another"])  # takes the room of the cancelled one
    gate.open.set()
    assert kept.result(10) == ["KEPT"]
    assert another.result(10) == ["ANOTHER"]
    assert all("gone" not in items for _, items in gate.calls)


def test_a_full_queue_refuses_and_loses_nothing(gate: Gate) -> None:
    batcher = busy(gate, max_waiting=2)
    futures = [batcher.submit("k", [str(i)]) for i in range(2)]
    with pytest.raises(OverloadedError, match=r"2 requests wait already \(limit 2\)"):
        batcher.submit("k", ["too many"])
    gate.open.set()
    assert [f.result(10) for f in futures] == [["0"], ["1"]]


def test_closing_fails_what_waits_and_completes_what_runs(gate: Gate) -> None:
    batcher: MicroBatcher[str, str, str] = MicroBatcher(gate.run)
    running = batcher.submit("k", ["running"])
    assert gate.begun.wait(10)
    waiting = batcher.submit("k", ["waiting"])
    batcher.close()
    gate.open.set()
    assert running.result(10) == ["RUNNING"]
    with pytest.raises(RuntimeError, match="closed before"):
        waiting.result(10)
    with pytest.raises(RuntimeError, match="is closed"):
        batcher.submit("k", ["late"])


def test_the_worker_ends_when_idle_and_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_IDLE_SECONDS", 0.02)
    batcher: MicroBatcher[str, str, str] = MicroBatcher(lambda key, items: items)
    assert batcher.submit("k", ["a"]).result(10) == ["a"]
    deadline = time.monotonic() + 10
    while batcher._worker is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert batcher._worker is None
    assert batcher.submit("k", ["b"]).result(10) == ["b"]


ENDS = [
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
    GeneratorExit,
    KeyboardInterrupt,
    StopIteration,
    SystemExit,
]


@pytest.mark.parametrize("end", ENDS)
def test_whatever_a_call_raises_reaches_its_requests_and_the_next_is_answered(
    end: Callable[[], BaseException],
) -> None:
    def run(key: str, items: list[str]) -> list[str]:
        if "end" in items:
            raise end()
        return items

    batcher: MicroBatcher[str, str, str] = MicroBatcher(run, max_delay=0.001)
    for _ in range(ROUNDS):
        futures = [batcher.submit("k", [item]) for item in ("before", "end", "after")]
        assert futures[0].result(10) == ["before"]
        with pytest.raises(RuntimeError, match=f"the scoring ended with {end.__name__}"):
            futures[1].result(10)
        assert futures[2].result(10) == ["after"]


@pytest.mark.parametrize("end", ENDS)
async def test_an_awaiting_caller_hears_of_it_as_an_error_and_is_not_cancelled(
    end: Callable[[], BaseException],
) -> None:
    def run(key: str, items: list[str]) -> list[str]:
        raise end()

    batcher: MicroBatcher[str, str, str] = MicroBatcher(run)
    with pytest.raises(RuntimeError, match=end.__name__):
        async with asyncio.timeout(10):
            await asyncio.wrap_future(batcher.submit("k", ["x"]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_died_is_replaced_and_what_it_held_fails(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = busy(gate)
    answer, deaths = batcher._answer, iter([1])

    def dies(key: str, requests: Any) -> None:
        if next(deaths, None):
            raise SystemExit
        answer(key, requests)

    monkeypatch.setattr(batcher, "_answer", dies)
    held, worker = batcher.submit("k", ["held"]), batcher._worker
    assert worker is not None
    gate.open.set()
    with pytest.raises(RuntimeError, match="worker thread died"):
        held.result(10)
    assert batcher.submit("k", ["next"]).result(10) == ["NEXT"]
    worker.join(10)  # or pytest would hear of its end in another test
    assert not worker.is_alive()


def test_a_key_that_cannot_be_compared_is_the_callers_error_alone() -> None:
    batcher: MicroBatcher[Any, str, str] = MicroBatcher(lambda key, items: items)
    with pytest.raises(TypeError, match="unhashable"):
        batcher.submit(["k"], ["x"])
    assert batcher.submit("k", ["y"]).result(10) == ["y"]


def test_a_result_too_few_is_nobodys() -> None:
    batcher: MicroBatcher[str, str, str] = MicroBatcher(lambda key, items: items[1:])
    with pytest.raises(RuntimeError, match="2 items were scored, 1 results came"):
        batcher.submit("k", ["x", "y"]).result(10)


def test_where_no_thread_is_to_be_had_the_request_fails_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    batcher: MicroBatcher[str, str, str] = MicroBatcher(lambda key, items: items)
    with monkeypatch.context() as patch:
        patch.setattr(batching, "Thread", NoThread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            batcher.submit("k", ["x"])
    assert batcher.submit("k", ["y"]).result(10) == ["y"]


def test_a_forked_child_asks_a_worker_of_its_own() -> None:
    said = run_program(f"""
        import threading
        from bayeslora_tool.inference.batching import MicroBatcher
        from tests.processes import forked

        entered, leave, calls = threading.Event(), threading.Event(), []

        def run(key, items):
            calls.append(items)
            if key == "slow":
                entered.set()
                leave.wait(60)
            return [item.upper() for item in items]

        batcher = MicroBatcher(run)
        for i in range({ROUNDS}):
            assert batcher.submit("k", ["a"]).result(20) == ["A"]
            if i % 2:  # fork while one call is under way and another waits
                slow = batcher.submit("slow", ["b"])
                assert entered.wait(20)
                waits = batcher.submit("k", ["of the parent"])
            calls.clear()
            assert forked(
                lambda: batcher.submit("k", ["c"]).result(20) == ["C"] and calls == [["c"]]
            )
            if i % 2:  # the parent's are answered there
                leave.set()
                assert slow.result(20) == ["B"]
                assert waits.result(20) == ["OF THE PARENT"]
                entered.clear(), leave.clear()
        print("answered")
    """)
    assert said == "answered\n"


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_forked_child_predicts_as_its_parent_does(tiny_adapter: Path, threads: str) -> None:
    said = run_program(
        f"""
        import asyncio, sys
        from bayeslora_tool import BayesLoRAClassifier
        from tests.processes import forked

        classifier = BayesLoRAClassifier.from_pretrained(sys.argv[1])
        texts = ["a good film", "a dreadful meal"]

        async def ask():
            async with asyncio.timeout(20):
                return await classifier.apredict(texts)

        def same():
            pairs = zip(asyncio.run(ask()), want, strict=True)
            return all(p.label == q.label and abs(p.variance - q.variance) < 1e-7 for p, q in pairs)

        for _ in range({ROUNDS}):
            want = asyncio.run(ask())
            assert forked(same)
        print("same")
        """,
        str(tiny_adapter),
        OMP_NUM_THREADS=threads,
    )
    assert said.endswith("same\n")


async def test_concurrent_predictions_equal_sequential_ones(tiny: Any) -> None:
    texts = [f"a good film number {i}" for i in range(20)]
    together = await asyncio.gather(*(tiny.apredict([text]) for text in texts))
    for text, (p,) in zip(texts, together, strict=True):
        (q,) = tiny.predict([text])
        assert p.label == q.label
        assert abs(p.confidence - q.confidence) < 1e-6
        assert abs(p.variance - q.variance) < 1e-7


async def test_concurrent_predictions_refuse_bad_texts_by_their_own_index(tiny: Any) -> None:
    results = await asyncio.gather(
        tiny.apredict(["fine", "\u200b"]),
        tiny.apredict(["good"]),
        tiny.apredict("one string"),
        return_exceptions=True,
    )
    assert isinstance(results[0], ValueError)
    assert "texts[1]" in str(results[0])
    assert results[1][0].label in tiny.labels
    assert isinstance(results[2], TypeError)


async def test_a_cancelled_prediction_harms_no_other(tiny: Any) -> None:
    tasks = [asyncio.create_task(tiny.apredict([f"film {i}"])) for i in range(8)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(3), asyncio.CancelledError)
    assert all(r[0].label in tiny.labels for r in results)


@pytest.mark.parametrize("end", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
async def test_a_pass_that_ends_oddly_is_an_error_and_the_next_one_is_scored(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    score = tiny._predictions

    def odd(batch: Any, *how: Any) -> Any:
        raise end

    for _ in range(ROUNDS):
        monkeypatch.setattr(tiny, "_predictions", odd)
        with pytest.raises(RuntimeError, match=f"the scoring ended with {end.__name__}"):
            await tiny.apredict(["good"])
        monkeypatch.setattr(tiny, "_predictions", score)
        async with asyncio.timeout(20):
            assert (await tiny.apredict(["good"]))[0].label in tiny.labels


async def test_predictions_cancelled_at_any_moment_harm_no_other(tiny: Any) -> None:
    for i in range(ROUNDS):
        tasks = [asyncio.create_task(tiny.apredict([f"film {j}"])) for j in range(4)]
        await asyncio.sleep(0.0005 * (i % 20))
        tasks[i % 4].cancel()
        async with asyncio.timeout(20):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        del results[i % 4]
        assert all(r[0].label in tiny.labels for r in results)


async def test_a_full_queue_refuses_a_prediction_and_serves_the_others(
    tiny: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = tiny.score_texts

    def slow(texts: list[str], *how: Any) -> Any:
        gate.run("", texts)
        return predict(texts, *how)

    batcher: Any = MicroBatcher(lambda how, texts: slow(texts, *how), max_waiting=2)
    monkeypatch.setattr(tiny, "_submit", batcher.submit)
    tasks = [asyncio.create_task(tiny.apredict(["first"]))]
    await asyncio.to_thread(gate.begun.wait, 10)
    tasks += [asyncio.create_task(tiny.apredict([f"film {i}"])) for i in range(3)]
    await asyncio.sleep(0)
    gate.open.set()
    *served, refused = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(refused, OverloadedError)
    assert [p[0].label in tiny.labels for p in served] == [True] * 3
    batcher.close()
