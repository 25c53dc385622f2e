from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest
from bayeslora_tool.graphs.runs import resume, start
from bayeslora_tool.graphs.scoring import ascore, score

from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.fakes import Answers, FakeClassifier, make_prediction
from tests.graphs.desk import build, on, waiting
from tests.graphs.processes import run_python


class AsyncAnswers(Answers):
    async def apredict(self, texts: list[str]) -> Any:
        return self.predict(texts)


class MorePrediction(Prediction):
    """What no checkpoint gives back."""


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
        (TimeoutError(), "TimeoutError"),
        (KeyError("label"), "KeyError: 'label'"),
        (None, "expected a list of 1 Predictions, `predict` gave None"),
        ([], r"expected a list of 1 Predictions, `predict` gave []"),
        ([make_prediction()] * 2, "expected a list of 1 Predictions"),
        (["yes"], "expected a Prediction, `predict` gave 'yes'"),
        ([{"label": "yes"}], "expected a Prediction"),
        ([make_prediction(confidence=np.float32(0.9))], "`confidence` must be a plain float"),
        ([make_prediction(entropy=np.float64(0.9))], "`entropy` must be a plain float or int"),
        ([make_prediction(truncated=np.bool_(False))], "`truncated` must be a plain bool"),
        ([make_prediction(novelty="far")], "`novelty` must be a plain float"),
        ([make_prediction(confidence=10**400)], "`confidence` must be a plain float"),
        ([make_prediction(label=3)], "`label` must be a plain str"),
        (
            [make_prediction(label="other", probabilities={"yes": 0.9, "no": 0.1})],
            "cannot be trusted: the label 'other' is none of the labels",
        ),
        (
            [make_prediction(confidence=0.99, probabilities={"yes": 0.1, "no": 0.9})],
            "confidence 0.99 is not the label's probability, 0.1",
        ),
        ([make_prediction(probabilities={"yes": "0.9"})], "`probabilities['yes']` must be a plain"),
        ([make_prediction(confidence=97.0)], "cannot be trusted: confidence 97.0"),
        ([make_prediction(variance=-1.0)], "variance -1.0"),
        (asyncio.CancelledError(), "CancelledError"),
        ([MorePrediction(**make_prediction().to_dict())], "expected a Prediction"),
        ([make_prediction(confidence=float("nan"))], "cannot be trusted: confidence nan"),
        ([make_prediction(variance=float("nan"))], "variance nan"),
        ([make_prediction(variance=float("inf"))], "variance inf"),
    ],
    ids=repr,
)
async def test_a_broken_classifier_is_escalated_with_the_reason(
    answer: Any, reason: str, timeout: float | None, mode: str
) -> None:
    graph = build(AsyncAnswers(answer), timeout=timeout, act=lambda outcome: pytest.fail("acted"))
    if mode == "sync":
        graph.invoke({"text": "x"}, on(1))
    else:
        await graph.ainvoke({"text": "x"}, on(1))
    name, request = waiting(graph)
    assert request["name"] == REVIEW_ACTION
    assert reason in request["description"]
    assert resume(graph, on(1), {name: {"type": "reject"}})["outcome"]["decision"] == "reject"


def raises(texts: list[str]) -> Any:
    raise RuntimeError("down")


async def is_cancelled(texts: list[str]) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("apredict", "reason"),
    [
        (raises, "RuntimeError: down"),
        (lambda texts: [make_prediction()], "TypeError"),
        (is_cancelled, "RuntimeError: the scoring was cancelled"),
    ],
    ids=["raises at once", "not awaitable", "cancelled"],
)
async def test_a_broken_apredict_is_escalated_with_the_reason(apredict: Any, reason: str) -> None:
    classifier = Answers(None)
    classifier.apredict = apredict  # type: ignore[attr-defined]
    graph = build(classifier, act=lambda outcome: pytest.fail("acted"))
    await graph.ainvoke({"text": "x"}, on(1))
    assert reason in waiting(graph)[1]["description"]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_timeout_of_the_classifiers_own_is_not_taken_for_ours(mode: str) -> None:
    graph = build(AsyncAnswers(TimeoutError()), timeout=60.0)
    if mode == "sync":
        graph.invoke({"text": "x"}, on(1))
    else:
        await graph.ainvoke({"text": "x"}, on(1))
    description = waiting(graph)[1]["description"]
    assert "TimeoutError" in description
    assert "no prediction within" not in description


def test_a_classifier_that_hangs_is_escalated_in_time() -> None:
    release = threading.Event()

    class Hangs:
        def predict(self, texts: list[str]) -> Any:
            release.wait(60)
            return [make_prediction()]

    graph = build(Hangs(), timeout=0.05)
    began = time.monotonic()
    start(graph, {"text": "x"}, on(1))
    assert time.monotonic() - began < 30
    assert "TimeoutError: no prediction within 0.05 s" in waiting(graph)[1]["description"]
    release.set()


def test_a_thread_that_hangs_does_not_keep_the_process_alive() -> None:
    done = run_python("""
        class Hangs:
            def predict(self, texts):
                time.sleep(600)

        graph = create_escalation_graph(classifier=Hangs(), policy=POLICY, timeout=0.05)
        state = start(graph.compile(checkpointer=InMemorySaver()), {"text": "x"}, on(1))
        assert "__interrupt__" in state
    """)
    assert done.returncode == 0, done.stderr


async def test_an_async_classifier_that_hangs_and_ignores_its_end_is_escalated() -> None:
    release = asyncio.Event()

    class Hangs(Answers):
        async def apredict(self, texts: list[str]) -> Any:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return [make_prediction()]

    graph = build(Hangs(None), timeout=0.05)
    await graph.ainvoke({"text": "x"}, on(1))
    assert "TimeoutError: no prediction within 0.05 s" in waiting(graph)[1]["description"]
    release.set()


def test_a_classifier_in_time_is_heard(fake: FakeClassifier) -> None:
    graph = build(fake, timeout=60)
    assert start(graph, {"text": "clear"}, on(1))["outcome"]["decided_by"] == "model"


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_a_label_that_the_classifier_does_not_know_is_no_prediction(
    timeout: float | None,
) -> None:
    class Knows(AsyncAnswers):
        labels = ("yes", "no")

    for label, known in (("yes", True), ("other", False)):
        classifier = Knows([make_prediction(label=label)])
        for scored in (
            score(classifier, "x", timeout),
            await ascore(classifier, "x", timeout),
        ):
            assert (scored["failure"] is None) == known
            assert known or "the label 'other' is none of the labels" in scored["failure"]
