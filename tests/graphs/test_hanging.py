from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import start
from bayeslora_tool.graphs.scoring import MOST_HANGING, ascore, score

from bayeslora_tool.prediction import Prediction
from tests.fakes import Answers, FakeClassifier, make_prediction
from tests.graphs.desk import build, on, waiting

SECRET = "my card is 4929 1234"


class Hangs:
    """Answers when it is let through."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked = 0

    def predict(self, texts: list[str]) -> list[Prediction]:
        self.asked += 1
        assert self.open.wait(60)
        return [make_prediction() for _ in texts]


@pytest.fixture
def hangs() -> Iterator[Hangs]:
    hangs = Hangs()
    yield hangs
    hangs.open.set()


def scoring_threads() -> int:
    return sum(thread.name == "bayeslora-call" for thread in threading.enumerate())


def test_300_scorings_of_a_classifier_that_hangs_leave_no_more_threads_than_stated(
    hangs: Hangs, fake: FakeClassifier
) -> None:
    failures = [score(hangs, "x", 0.01)["failure"] for _ in range(300)]
    assert scoring_threads() == hangs.asked == MOST_HANGING
    assert set(failures[:MOST_HANGING]) == {"TimeoutError: no prediction within 0.01 s"}
    (refused,) = set(failures[MOST_HANGING:])
    assert refused.startswith("OverloadedError: 32 calls of Hangs hang past their timeout")
    assert score(fake, "clear", 60)["failure"] is None  # another classifier is not concerned

    graph = build(hangs, timeout=60)
    start(graph, {"text": "x"}, on(1))
    assert "OverloadedError" in waiting(graph)[1]["description"]

    hangs.open.set()
    ends = time.monotonic() + 30
    while scoring_threads() and time.monotonic() < ends:
        time.sleep(0.01)
    assert score(hangs, "x", 60)["failure"] is None


def test_many_scorings_at_once_of_a_classifier_that_hangs_all_end_in_time(hangs: Hangs) -> None:
    failures: list[str] = []
    callers = [
        threading.Thread(target=lambda: failures.append(score(hangs, "x", 0.2)["failure"]))
        for _ in range(100)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert len(failures) == 100
    assert {failure.partition(":")[0] for failure in failures} <= {
        "TimeoutError",
        "OverloadedError",
    }
    assert scoring_threads() <= MOST_HANGING


async def test_awaited_scorings_that_ignore_their_end_are_bounded_too() -> None:
    release = asyncio.Event()

    class Stubborn(Answers):
        asked = 0

        async def apredict(self, texts: list[str]) -> Any:
            self.asked += 1
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return [make_prediction()]

    stubborn = Stubborn(None)
    failures = [(await ascore(stubborn, "x", 0.001))["failure"] for _ in range(100)]
    assert stubborn.asked == MOST_HANGING
    assert all("OverloadedError" in failure for failure in failures[MOST_HANGING:])
    release.set()
    await asyncio.sleep(0.01)
    assert (await ascore(stubborn, "x", 60))["failure"] is None


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_the_callers_context_reaches_the_scoring(timeout: float | None) -> None:
    variable = contextvars.ContextVar("variable", default="none")

    class Reads(Answers):
        def predict(self, texts: Any) -> Any:
            return [make_prediction(scored_by=variable.get())]

        async def apredict(self, texts: Any) -> Any:
            return self.predict(texts)

    variable.set("the caller's")
    assert score(Reads(None), "x", timeout)["prediction"]["scored_by"] == "the caller's"
    scored = await ascore(Reads(None), "x", timeout)
    assert scored["prediction"]["scored_by"] == "the caller's"


async def test_what_a_late_scoring_raises_is_logged_by_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Late(Answers):
        async def apredict(self, texts: list[str]) -> Any:
            try:
                await asyncio.sleep(60)
            finally:
                raise ValueError(f"cannot read {texts}")

    unraisable: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, told: unraisable.append(told))
    with caplog.at_level(logging.DEBUG):
        scored = await ascore(Late(None), SECRET, 0.01)
        run = asyncio.create_task(ascore(Late(None), SECRET, None))
        await asyncio.sleep(0.01)
        run.cancel()  # the run itself: its scoring has nobody left either
        await asyncio.gather(run, return_exceptions=True)
        await asyncio.sleep(0.01)
        gc.collect()  # a task that nobody asked complains when it is collected
        await asyncio.sleep(0.01)
    assert scored["failure"] == "TimeoutError: no prediction within 0.01 s"
    assert unraisable == []
    assert SECRET not in caplog.text
