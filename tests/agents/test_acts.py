"""A call runs only if what the user means leads to its tool."""

from __future__ import annotations

import logging
from random import Random
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import pending, resume
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from bayeslora_tool import Policy, UncertaintyGate
from bayeslora_tool.agents import middleware
from bayeslora_tool.agents.acts import Act
from bayeslora_tool.prediction import Prediction
from tests.agents.desk import APPROVE, CONFIG, DONE, Desk, edit, order
from tests.fakes import FakeClassifier, by_words, make_prediction
from tests.scripted_model import ScriptedModel, calls

LABELS = ("yes", "no", "book_flight", "book_hotel")


def reads(text: str) -> Prediction:
    """The first word is the label, the second how sure."""
    label, doubt = text.split()[:2]
    p = {"sure": 0.95, "vague": 0.6, "odd": 0.95}[doubt]
    rest = (1 - p) / (len(LABELS) - 1)
    return make_prediction(
        label=label,
        confidence=p,
        variance=0.2 if doubt == "odd" else 0.001,
        probabilities={x: p if x == label else rest for x in LABELS},
    )


@pytest.fixture
def clf() -> FakeClassifier:
    found = FakeClassifier(reads)
    found.labels = LABELS  # type: ignore[assignment]
    return found


def gated(clf: Any, policy: Policy, acts: Any, **options: Any) -> Desk:
    gate = UncertaintyGate(clf, policy, acts=acts, **options)
    return Desk([calls(order("tea")), DONE, DONE], gate)


def why(state: dict[str, Any]) -> str:
    return str(state["__interrupt__"][0].value["action_requests"][0]["description"])


@pytest.mark.parametrize(
    "labels",
    ["yes", {"yes", "no"}, ["y*"], lambda label: label == "yes", Act(labels="yes")],
    ids=["name", "set", "glob", "function", "act"],
)
def test_a_call_that_fits_runs_and_one_that_does_not_waits(
    clf: Any, policy: Policy, labels: Any
) -> None:
    desk = gated(clf, policy, {"order": labels})
    desk.say("yes sure")
    assert desk.did == [("tea", 1)]
    desk = gated(clf, policy, {"order": labels})
    state = desk.say("book_hotel sure")
    assert not desk.did
    assert "The request reads as 'book_hotel' (0.950); the agent wants `order`." in why(state)
    desk.answer({"decisions": [APPROVE]})
    assert desk.did == [("tea", 1)]


def test_a_call_of_a_tool_without_labels_waits(clf: Any, policy: Policy) -> None:
    desk = gated(clf, policy, {"look": "yes"})
    assert "No label leads to `order`" in why(desk.say("yes sure"))


def test_an_act_without_labels_means_the_tools_own_name(policy: Policy) -> None:
    clf = FakeClassifier(by_words)
    clf.labels = ("order", "no")  # type: ignore[assignment]
    UncertaintyGate(clf, policy, acts={"order": Act()})
    with pytest.raises(ValueError, match="unknown label 'look'"):
        UncertaintyGate(clf, policy, acts={"look": Act()})


def test_the_arguments_of_a_call_may_be_checked(clf: Any, policy: Policy) -> None:
    seen = []

    def few(args: Any, prediction: Prediction) -> bool:
        seen.append(prediction.label)
        return bool(args["n"] < 3)

    acts = {"order": Act(labels="yes", check=few)}
    gate = UncertaintyGate(clf, policy, acts=acts)
    desk = Desk([calls(order("tea", 2)), DONE], gate)
    desk.say("yes sure")
    assert desk.did == [("tea", 2)]
    desk = Desk([calls(order("tea", 5)), DONE], gate)
    assert "do not pass its check" in why(desk.say("yes sure"))
    broken = {"order": Act(labels="yes", check=lambda *_: 1 / 0)}  # type: ignore[arg-type, return-value]
    assert "could not be told (ZeroDivisionError)" in why(
        gated(clf, policy, broken).say("yes sure")
    )
    assert set(seen) == {"yes"}
    assert not desk.did


def test_a_tool_may_bring_its_own_text_classifier_and_policy(clf: Any, policy: Policy) -> None:
    other = FakeClassifier(lambda text: make_prediction(label="yes", confidence=0.9))
    act = Act(
        labels="yes",
        text=lambda call, state: f"item {call['args']['item']}",
        classifier=other,
        policy=Policy(0.95, 0.1, on_low_confidence="escalate"),
    )
    desk = gated(clf, policy, {"order": act})
    assert "0.900 (< 0.95)" in why(desk.say("no vague"))
    assert (other.seen, clf.seen) == (["item tea"], [])


def test_a_classifier_over_acts_answers_to_its_labels_names(clf: Any, policy: Policy) -> None:
    clf.act_of = {"yes": "agree", "no": "no", "book_flight": "trip", "book_hotel": "trip"}
    clf.labels = ("agree", "no", "trip")
    clf.answer = lambda text: make_prediction(
        label="trip", confidence=0.9, probabilities={"agree": 0.05, "no": 0.05, "trip": 0.9}
    )
    desk = gated(clf, policy, {"order": ["book_flight", "book_hotel"]})
    desk.say("a trip")
    assert desk.did
    desk = gated(clf, policy, {"order": ["yes"]})
    assert "reads as 'trip'" in why(desk.say("a trip"))


@pytest.mark.parametrize(
    ("acts", "error", "message"),
    [
        ({"order": "yess"}, ValueError, r"`acts\['order'\]`: unknown label 'yess'; near are yes"),
        ({"order": []}, ValueError, r"`acts\['order'\]` is empty"),
        ({"order": [1]}, TypeError, "must hold names of labels, got 1"),
        (["order"], TypeError, "must be {tool: labels}"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(
    clf: Any, policy: Policy, acts: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        UncertaintyGate(clf, policy, acts=acts)


def test_a_tool_that_the_agent_does_not_have_is_refused(clf: Any, policy: Policy) -> None:
    with pytest.raises(ValueError, match="`acts` of UncertaintyGate names 'ordr'"):
        gated(clf, policy, {"ordr": "yes"}).say("yes sure")


def test_a_gate_without_acts_says_once_what_it_does_not_check(
    clf: Any, policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    middleware._say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            UncertaintyGate(clf, policy)
        UncertaintyGate(clf, policy, acts={"order": "yes"})
    assert len([r for r in caplog.records if "not whether it fits" in r.message]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batched", "per_call"])  # five thousand each
def test_of_ten_thousand_calls_none_runs_that_does_not_fit(
    clf: Any, policy: Policy, mode: Any
) -> None:
    rng, each, messages = Random(0), 20, 250
    tools = {f"tool{i}": {x for x in LABELS if rng.random() < 0.4} or {"yes"} for i in range(6)}
    ran: list[str] = []
    made = [
        StructuredTool.from_function(lambda case: ran.append(case) or "done", name=t, description=t)
        for t in [*tools, "unbound"]
    ]
    script, expected = [], []
    for m in range(messages):
        wanted = []
        for i in range(each):
            label, tool = rng.choice(LABELS), rng.choice([*tools, "unbound"])
            doubt = rng.choice(["sure", "sure", "odd"])
            case = f"{label} {doubt} {m}-{i}"
            wanted.append((tool, {"case": case}))
            if doubt == "sure" and label in tools.get(tool, ()):
                expected.append(case)
        script += [calls(*wanted, start=1000 * m), AIMessage("done")]
    gate = UncertaintyGate(
        clf, policy, acts=tools, text=lambda call, _: call["args"]["case"], interrupt_mode=mode
    )
    agent: Any = create_agent(
        ScriptedModel(script=script), made, middleware=[gate], checkpointer=InMemorySaver()
    )
    for m in range(messages):
        config: Any = {"configurable": {"thread_id": str(m)}}
        state = agent.invoke({"messages": [("user", "go")]}, config)
        no = {"type": "reject"}
        while asked := state.get("__interrupt__"):
            answers = {
                i.id: {"decisions": [no] * len(i.value["action_requests"])}
                if mode == "batched"
                else no
                for i in asked
            }
            state = agent.invoke(Command(resume=answers), config)
    assert sorted(ran) == sorted(expected)
    assert len(expected) > 500


def test_the_agents_state_keeps_the_likeliest_labels_only(clf: Any, policy: Policy) -> None:
    labels = [f"label{i}" for i in range(20)]
    clf.labels = ("yes", *labels)
    clf.answer = lambda text: make_prediction(
        label="yes", confidence=0.9, probabilities={"yes": 0.9} | dict.fromkeys(labels, 0.005)
    )
    desk = gated(clf, policy, {"order": "label1"}, interrupt_mode="per_call")
    desk.say("anything")  # and waits
    (kept,) = desk.agent.get_state(CONFIG).values["uncertainty_gate"].values()
    (record,) = kept.values()
    assert next(iter(record["prediction"]["probabilities"])) == "yes"
    assert len(record["prediction"]["probabilities"]) == 5


class TestAllowedDecisions:
    def waiting(self, mode: Any, *wanted: Any) -> Any:
        acts = {"order": Act(labels="yes", allowed_decisions=("approve", "reject")), "look": "yes"}
        gate = UncertaintyGate(
            FakeClassifier(by_words), Policy(0.8, 0.01), acts=acts, interrupt_mode=mode
        )
        desk = Desk([calls(*wanted), DONE], gate)
        desk.say("odd")
        return desk

    def test_are_each_tools_own(self) -> None:
        desk = self.waiting("batched", order("tea"), ("look", {"item": "tea"}))
        ((name, request),) = pending(desk.agent, CONFIG).items()
        shown = [config["allowed_decisions"] for config in request["review_configs"]]
        assert shown == [["approve", "reject"], ["approve", "edit", "reject", "respond"]]
        respond = {"type": "respond", "message": "no"}
        with pytest.raises(ValueError, match=r"order \(approve, reject\); look"):
            resume(desk.agent, CONFIG, {name: {"decisions": [respond, respond]}})
        resume(desk.agent, CONFIG, {name: {"decisions": [APPROVE, respond]}})
        assert desk.did == [("tea", 1)]

    def test_stand_in_each_calls_own_question(self) -> None:
        desk = self.waiting("per_call", order("tea"))
        ((name, request),) = pending(desk.agent, CONFIG).items()
        assert request["allowed_decisions"] == ["approve", "reject"]
        with pytest.raises(ValueError, match="one of approve, reject"):
            resume(desk.agent, CONFIG, {name: edit(item="coffee", n=1)})
        assert desk.did == []

    @pytest.mark.parametrize("allowed", [(), "approve", ("approve", "accept")])
    def test_are_checked(self, allowed: Any) -> None:
        acts = {"order": Act(labels="yes", allowed_decisions=allowed)}
        with pytest.raises(ValueError, match=r"`acts\['order'\].allowed_decisions`"):
            UncertaintyGate(FakeClassifier(by_words), Policy(0.8, 0.01), acts=acts)
