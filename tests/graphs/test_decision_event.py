from __future__ import annotations

import hashlib
import json
from typing import Any, TypedDict

import pytest
from bayeslora_tool.graphs.decision_event import EVENT
from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.gate import create_gate_graph
from bayeslora_tool.graphs.workflow import Step, create_workflow_graph
from langchain_core.callbacks import AsyncCallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command

from bayeslora_tool.policy import Policy, policy_fingerprint
from bayeslora_tool.prediction import Prediction
from tests.fakes import FakeClassifier, by_words, make_prediction
from tests.graphs.desk import APPROVE, CONFIG, POLICY, build, request_of

SECRET = "4929 1234"


def heard(graph: Any, value: Any) -> list[dict[str, Any]]:
    chunks = [c for _, c in graph.stream(value, CONFIG, stream_mode="custom", subgraphs=True)]
    assert all(list(chunk) == [EVENT] for chunk in chunks)
    return [chunk[EVENT] for chunk in chunks]


@pytest.mark.parametrize(
    ("text", "action", "confidence"),
    [
        ("clear", "proceed", 0.9),
        ("vague", "clarify", 0.6),
        ("odd", "escalate", 0.9),
        ("boom", "escalate", None),
    ],
)
def test_the_stream_carries_each_decision_and_never_the_text(
    text: str, action: str, confidence: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(said: str) -> Prediction:
        if "boom" in said:
            raise ValueError(f"cannot read {said}")  # as errors do, it quotes the text
        return by_words(said)

    whole = f"{SECRET} {text}"
    with caplog.at_level("DEBUG", logger="bayeslora_tool"):
        (event,) = heard(build(FakeClassifier(answer)), {"text": whole})
    assert (event["gate"], event["tool"], event["thread"]) == ("escalation", None, "1")
    assert (event["action"], event["confidence"]) == (action, confidence)
    assert event["sha256"] == hashlib.sha256(whole.encode()).hexdigest()
    assert event["length"] == len(whole)
    assert event["latency"] >= 0
    assert event["policy"] == policy_fingerprint(POLICY)
    assert (event["decision"], event["reviewer"]) == (None, None)
    assert SECRET not in json.dumps(event) + caplog.text


def test_what_a_user_or_an_error_of_ask_says_is_not_told() -> None:
    def ask(prediction: Prediction, text: str) -> str:
        raise ValueError(f"no question about {text}")

    graph = build(FakeClassifier(by_words))
    heard(graph, {"text": "vague"})
    (event,) = heard(graph, Command(resume={"type": "reject", "message": SECRET}))
    assert event["action"] == "escalate"
    assert "none of these" in event["reason"]
    (lost,) = heard(build(FakeClassifier(by_words), ask=ask), {"text": f"{SECRET} vague"})
    assert "No question could be put (ValueError)" in lost["reason"]
    assert SECRET not in json.dumps([event, lost])


def test_a_review_is_told_with_the_reviewer_and_without_their_words() -> None:
    graph = build(FakeClassifier(by_words))
    heard(graph, {"text": "odd"})
    answer = {"type": "reject", "message": SECRET, "reviewer": "anna"}
    (event,) = heard(graph, Command(resume=answer))
    assert (event["decision"], event["reviewer"]) == ("reject", "anna")
    assert SECRET not in json.dumps(event)


class Parent(TypedDict):
    text: str
    first: Any


def test_a_gate_in_a_graph_and_each_step_of_a_workflow_tell_by_their_names() -> None:
    fake = FakeClassifier(by_words)
    builder = StateGraph(Parent)
    gate = create_gate_graph(classifier=fake, policy=POLICY, outcome_key="first")
    builder.add_node("gate", gate.compile())
    builder.add_edge(START, "gate")
    events = heard(builder.compile(checkpointer=InMemorySaver()), {"text": "clear"})
    assert [event["gate"] for event in events] == ["first"]
    steps = [Step(name="one"), Step(name="two")]
    flow = create_workflow_graph(steps=steps, classifier=fake, policy=POLICY)
    events = heard(flow.compile(checkpointer=InMemorySaver()), {"request": "clear"})
    assert [event["gate"] for event in events] == ["one", "two"]


class Listener(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.events: list[Any] = []

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.events.append((name, data))


async def test_async_runs_stream_and_call_back_the_same() -> None:
    class Batching(FakeClassifier):
        async def apredict(self, texts: list[str]) -> list[Prediction]:
            return self.predict(texts)

    graph, listener = build(Batching(by_words)), Listener()
    config: Any = {**CONFIG, "callbacks": [listener]}
    streamed = [c async for c in graph.astream({"text": "clear"}, config, stream_mode="custom")]
    assert [(EVENT, chunk[EVENT]) for chunk in streamed] == listener.events
    assert len(streamed) == 1


def test_policies_that_differ_in_anything_have_other_fingerprints() -> None:
    one = Policy(tau_conf=0.8, tau_var=0.01)
    others = [Policy(0.8, 0.02), Policy(0.8, 0.01, max_clarifications=3), Policy(0.9, 0.01)]
    assert len({policy_fingerprint(policy) for policy in [one, *others]}) == 4
    assert policy_fingerprint(one) == policy_fingerprint(Policy(0.8, 0.01))


LABELS = tuple(f"label {i}" for i in range(150))


def many(text: str) -> Prediction:
    rest = dict.fromkeys(LABELS[1:], 0.1 / 149)
    variance = 0.2 if "odd" in text else 0.001
    return make_prediction(
        label=LABELS[0], probabilities={LABELS[0]: 0.9} | rest, variance=variance
    )


def test_the_state_keeps_the_likeliest_and_a_reviewer_may_still_name_any_label() -> None:
    fake: Any = FakeClassifier(many)
    fake.labels = LABELS
    graph = build(fake)
    updates = list(graph.stream({"text": "odd"}, CONFIG, stream_mode="updates"))
    (kept,) = [u["score"]["prediction"]["probabilities"] for u in updates if "score" in u]
    assert len(kept) == 5
    assert kept[LABELS[0]] == 0.9
    (interrupt,) = graph.get_state(CONFIG).interrupts
    config = interrupt.value["review_configs"][0]
    assert config["args_schema"]["properties"]["label"]["enum"] == list(LABELS)
    action = {"name": "act_on_label", "args": {"label": LABELS[149]}}
    state = graph.invoke(Command(resume={"type": "edit", "edited_action": action}), CONFIG)
    assert state["outcome"]["label"] == LABELS[149]


def test_a_sure_text_with_many_labels_proceeds_on_all_of_its_probabilities() -> None:
    fake: Any = FakeClassifier(many)
    fake.labels = LABELS
    assert build(fake).invoke({"text": "clear"}, CONFIG)["outcome"]["decided_by"] == "model"


def test_without_named_labels_the_reviewer_is_offered_all_that_have_a_probability() -> None:
    class Nameless:
        def predict(self, texts: list[str]) -> list[Prediction]:
            return [many(text) for text in texts]

    graph = create_escalation_graph(classifier=Nameless(), policy=POLICY)
    state = graph.compile(checkpointer=InMemorySaver()).invoke({"text": "odd"}, CONFIG)
    enum = request_of(state)["review_configs"][0]["args_schema"]["properties"]["label"]["enum"]
    assert enum == list(LABELS)
    assert APPROVE["type"] in request_of(state)["review_configs"][0]["allowed_decisions"]
