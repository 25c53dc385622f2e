"""Any decision model behind a gate: what it does not know never counts as known."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.decisions import (
    BaseDecisionModel,
    Choice,
    ChoiceAnswer,
    ClassifierResponse,
    Noul,
    NoulAnswer,
    Score,
    ScoreAnswer,
)
from langgraph.checkpoint.memory import InMemorySaver

from bayeslora_tool import (
    AnswerGate,
    BayesLoRATool,
    Policy,
    UncertaintyGate,
    create_escalation_graph,
)
from bayeslora_tool.agents import BayesLoRADecisions, DecisionClassifier
from bayeslora_tool.policy import decide
from bayeslora_tool.prediction import check_predictions, contradiction
from tests.agents.desk import CONFIG, DONE, Desk, order
from tests.fakes import FakeClassifier, make_prediction
from tests.scripted_model import calls

BY_CONFIDENCE = Policy(0.8, 0.25, allow_no_variance=True)
CHOICE = Choice(instructions="Which?", criteria={"yes": None, "no": None})


class Oracle(BaseDecisionModel):
    """Answers by a function of the state; knows whether it was asked in an async way."""

    model: str = "oracle"
    says: Callable[[Any], Any]
    asynchronous: list[bool] = []  # noqa: RUF012

    @property
    def _provider(self) -> str:
        return "tests"

    def _classify(self, state: Any, questions: Any) -> ClassifierResponse:
        self.asynchronous.append(False)
        return ClassifierResponse(
            model=self.model, answers={name: self.says(state) for name in questions}
        )

    async def _aclassify(self, state: Any, questions: Any) -> ClassifierResponse:
        found = self._classify(state, questions)
        self.asynchronous[-1] = True
        return found


def chosen(p: float, *, confidence: float = 0.5, **more: float) -> ChoiceAnswer:
    shares = {"yes": p, "no": 1 - p} | more
    label = max(shares, key=lambda x: shares[x])
    return ChoiceAnswer(type="choice", choice=label, probabilities=shares, confidence=confidence)


def raw(label: str, shares: dict[str, float]) -> ChoiceAnswer:
    return ChoiceAnswer(type="choice", choice=label, probabilities=shares, confidence=1)


def by_words(state: str) -> ChoiceAnswer:
    if "boom" in state:
        raise RuntimeError("the provider is down")
    return chosen(0.6 if "vague" in state else 0.95)


def classifier(says: Any = by_words, question: Any = CHOICE) -> DecisionClassifier:
    return DecisionClassifier(Oracle(says=says), question)


def test_a_prediction_says_what_is_known_and_no_more() -> None:
    (found,) = classifier().predict(["hello"])
    assert (found.label, found.confidence) == ("yes", 0.95)  # not the answer's own 0.5
    assert found.probabilities == {"yes": 0.95, "no": pytest.approx(0.05)}
    assert math.isnan(found.variance)
    assert found.novelty is None
    assert found.estimator == "decision_model"
    assert contradiction(found, classifier().labels) is None
    assert found.scored_by == classifier().scored_by


@pytest.mark.parametrize(
    ("question", "answered", "labels", "label", "confidence"),
    [
        (Noul(instructions="?"), NoulAnswer(type="noul", noul=0.2), ("yes", "no"), "no", 0.8),
        (
            Score(instructions="?", criteria=["low", "high"]),
            ScoreAnswer(
                type="score", score=0.7, legend={0: "low", 1: "high"},
                probabilities={0: 0.3, 1: 0.7}, confidence=0.1,
            ),
            ("low", "high"), "high", 0.7,
        ),
        (
            Score(instructions="?", criteria=[{"a": 1}, "high"]),
            ScoreAnswer(
                type="score", score=0.7, legend={}, probabilities={0: 0.7, 1: 0.3}, confidence=0.1
            ),
            ("0", "1"), "0", 0.7,
        ),
    ],
)  # fmt: skip
def test_each_kind_of_question_has_labels(
    question: Any, answered: Any, labels: Any, label: str, confidence: float
) -> None:
    clf = classifier(lambda state: answered, question)
    (found,) = clf.predict(["x"])
    assert clf.labels == labels
    assert (found.label, found.confidence) == (label, pytest.approx(confidence))
    check_predictions([found], 1, clf.labels)


@given(st.floats(0, 1), st.floats(0, 0.25))
def test_without_a_variance_no_threshold_is_loose_enough(tau_conf: float, tau_var: float) -> None:
    (found,) = classifier().predict(["hello"])
    decision = decide(found, Policy(tau_conf, tau_var))
    assert decision.action == "escalate"
    assert "no variance to hold against `tau_var` (estimator decision_model)" in decision.reason
    lenient = decide(found, Policy(tau_conf, tau_var, allow_no_variance=True))
    assert (lenient.action == "proceed") == (found.confidence >= tau_conf)
    assert "no variance." in lenient.reason or "no variance. It" in lenient.reason


def test_a_lost_variance_of_another_estimator_stays_an_error() -> None:
    odd = make_prediction(variance=math.nan, estimator="linearized")
    assert decide(odd, BY_CONFIDENCE).action == "escalate"
    assert decide(
        make_prediction(variance=0.2), Policy(0.8, 0.1, allow_no_variance=True)
    ).action == ("escalate")


def test_a_novelty_that_nobody_measured_passes_no_gate() -> None:
    (found,) = classifier().predict(["hello"])
    policy = Policy(0.8, 0.25, tau_novelty=0.99, allow_no_variance=True)
    assert "unknown distance" in decide(found, policy).reason


def test_thresholds_hold_for_one_model_and_one_question() -> None:
    (found,) = classifier().predict(["hello"])
    held = Policy(0.8, 0.25, allow_no_variance=True, calibrated_for=classifier().scored_by)
    assert decide(found, held).action == "proceed"
    other = Choice(instructions="Which one?", criteria=CHOICE.criteria)
    for clf in (
        classifier(question=other),
        DecisionClassifier(Oracle(says=by_words, model="another"), CHOICE),
    ):
        assert decide(clf.predict(["hello"])[0], held).action == "escalate"


@pytest.mark.parametrize(
    "answered",
    [
        chosen(0.5, more=0.1),
        raw("yes", {"yes": 0.9}),
        raw("no", {"yes": 0.9, "no": 0.1}),
        raw("else", {"yes": 0.9, "no": 0.1}),
        raw("yes", {}),
        raw("yes", {"yes": math.nan, "no": 0}),
        raw("yes", {"yes": math.inf, "no": 0}),
        NoulAnswer(type="noul", noul=0.99),
    ],
    ids=["unasked", "sum", "unlikely", "unknown", "none", "nan", "inf", "kind"],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_runs_nothing(answered: Any) -> None:
    gate = UncertaintyGate(classifier(lambda state: answered), BY_CONFIDENCE, acts={"order": "yes"})
    desk = Desk([calls(order("tea")), DONE], gate)
    assert "__interrupt__" in desk.say("hello")
    assert desk.did == []


@pytest.mark.parametrize(
    ("text", "policy", "acts", "runs", "reason"),
    [
        ("hello", BY_CONFIDENCE, {"order": "yes"}, True, ""),
        ("hello", BY_CONFIDENCE, {"order": "no"}, False, "the agent wants `order`"),
        ("hello", Policy(0.8, 0.25), {"order": "yes"}, False, "no variance to hold against"),
        ("boom", BY_CONFIDENCE, {"order": "yes"}, False, "the provider is down"),
    ],
)
def test_a_gate_takes_any_decision_model(
    text: str, policy: Policy, acts: Any, runs: bool, reason: str
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(classifier(), policy, acts=acts))
    state = desk.say(text)
    assert bool(desk.did) == runs
    if not runs:
        asked = state["__interrupt__"][0].value["action_requests"][0]["description"]
        assert reason in asked


def test_async_agents_ask_the_model_in_its_async_way() -> None:
    clf = classifier()
    clf.model.asynchronous.clear()  # type: ignore[attr-defined]
    desk = Desk(
        [calls(order("tea")), DONE], UncertaintyGate(clf, BY_CONFIDENCE, acts={"order": "yes"})
    )
    asyncio.run(desk.agent.ainvoke({"messages": [("user", "hello")]}, CONFIG))
    assert desk.did == [("tea", 1)]
    assert clf.model.asynchronous == [True]  # type: ignore[attr-defined]


def test_graphs_tools_and_the_gate_for_answers_take_it_too() -> None:
    clf = classifier()
    builder = create_escalation_graph(
        classifier=clf, policy=BY_CONFIDENCE, act=lambda o: o["label"]
    )
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    assert graph.invoke({"text": "hello"}, CONFIG)["result"] == "yes"
    assert "__interrupt__" in graph.invoke({"text": "boom"}, {"configurable": {"thread_id": "2"}})
    tool = BayesLoRATool(classifier=clf, policy=BY_CONFIDENCE)
    assert "action=proceed label=yes" in tool.invoke({"text": "hello"})
    desk = Desk([DONE], AnswerGate(clf, Policy(0.8, 0.25)))
    assert "__interrupt__" in desk.say("hello")


def test_ours_behind_their_interface_is_what_it_was() -> None:
    known = FakeClassifier(lambda text: make_prediction(label="no", confidence=0.7))
    (found,) = DecisionClassifier(BayesLoRADecisions(classifier=known), CHOICE).predict(["x"])
    assert (found.label, found.confidence) == ("no", pytest.approx(0.7))
    assert math.isnan(found.variance)


@pytest.mark.parametrize(
    ("model", "question"), [(object(), CHOICE), (Oracle(says=by_words), "which?")]
)
def test_what_is_no_model_or_no_question_is_refused(model: Any, question: Any) -> None:
    with pytest.raises(TypeError, match="must be a"):
        DecisionClassifier(model, question)
