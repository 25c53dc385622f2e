from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from bayeslora_tool.graphs.decision_event import EVENT
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.types import Command

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy, policy_fingerprint
from bayeslora_tool.prediction import Prediction
from tests.agents.desk import APPROVE, CONFIG, DONE, Desk, asked, order
from tests.fakes import FakeClassifier, by_words
from tests.scripted_model import calls


def test_verdicts_are_plain_private_state(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk(
        [calls(order("tea")), DONE], UncertaintyGate(fake, policy, interrupt_mode="per_call")
    )
    state = desk.say("odd")
    assert set(state) == {"messages", "__interrupt__"}
    kept = desk.agent.get_state(CONFIG).values["uncertainty_gate"]["UncertaintyGate"]
    assert json.loads(json.dumps(kept)) == kept
    (verdict,) = kept.values()
    assert Prediction.from_dict(verdict["prediction"]) == by_words("odd")


def test_a_caller_cannot_bring_a_verdict_along(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    clear = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    clear.say("clear")
    verdicts = clear.agent.get_state(CONFIG).values["uncertainty_gate"]
    state = desk.agent.invoke({"messages": [("user", "odd")], "uncertainty_gate": verdicts}, CONFIG)
    assert "__interrupt__" in state


GATE = "UncertaintyGate"


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.events.append((name, data))


@pytest.mark.parametrize(
    ("text", "action", "confidence"),
    [
        ("clear", "proceed", 0.9),
        ("vague", "clarify", 0.6),
        ("odd", "escalate", 0.9),
        ("boom", "escalate", None),
    ],
)
def test_each_decision_is_one_event_with_hash_and_length(
    policy: Policy, text: str, action: str, confidence: float | None
) -> None:
    def answer(said: str) -> Prediction:
        if "boom" in said:
            raise ValueError(f"cannot read {said}")  # as errors do, it quotes the text
        return by_words(said)

    words = f"secret \ud800 {text}"  # a lone surrogate, which a model may send
    recorder = Recorder()
    gate = UncertaintyGate(FakeClassifier(answer), policy, text=lambda call, state: words)
    desk = Desk([calls(order("tea")), DONE], gate)
    state = desk.say("hello", {**CONFIG, "callbacks": [recorder]})
    if "__interrupt__" in state:
        desk.answer(APPROVE, {**CONFIG, "callbacks": [recorder]})
    (name, data), *reviews = recorder.events
    assert [review["decision"] for _, review in reviews] == ["approve"] * (action == "escalate")
    assert name == "bayeslora_decision"
    assert (data["tool"], data["action"], data["confidence"]) == ("order", action, confidence)
    assert data["sha256"] == hashlib.sha256(words.encode(errors="surrogatepass")).hexdigest()
    assert data["length"] == len(words)
    assert (data["gate"], data["thread"]) == ("UncertaintyGate", "1")
    assert data["policy"] == policy_fingerprint(policy)
    assert data["latency"] >= 0
    assert "secret" not in json.dumps(recorder.events)


def test_neither_event_nor_log_holds_what_the_user_says(
    fake: FakeClassifier, policy: Policy, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    script = [calls(order("tea")), calls(order("tea"), start=2), DONE]
    desk = Desk(script, UncertaintyGate(fake, policy))
    config = {**CONFIG, "callbacks": [recorder]}
    with caplog.at_level("DEBUG", logger="bayeslora_tool"):
        desk.say("vague SECRET", config)
        desk.say("No, NEITHER of those!", config)
    heard = f"{caplog.text} {recorder.events}"
    assert "none of these" in heard
    assert "SECRET" not in heard
    assert "NEITHER" not in heard


@pytest.mark.parametrize("mode", ["batched", "per_call"])
def test_the_stream_of_an_agent_carries_decisions_and_its_state_no_text(
    fake: FakeClassifier, policy: Policy, mode: Any
) -> None:
    gate = UncertaintyGate(fake, policy, interrupt_mode=mode, text=lambda call, state: "SECRET odd")
    desk = Desk([calls(order("tea")), DONE], gate)
    request: Any = {"messages": [("user", "hello")]}
    modes = ["custom", "updates", "values"]
    chunks = list(desk.agent.stream(request, CONFIG, stream_mode=modes))
    (event,) = [chunk[EVENT] for kind, chunk in chunks if kind == "custom"]
    assert (event["tool"], event["action"]) == ("order", "escalate")
    assert "SECRET" in str(chunks)  # the reviewer reads it
    assert "SECRET" not in str([chunk for chunk in chunks if "__interrupt__" not in chunk[1]])
    gates = desk.agent.get_state(CONFIG).values.get("uncertainty_gate")
    assert "SECRET" not in str(gates)
    answer = {**APPROVE, "message": "fine", "reviewer": "anna"}
    (review,) = [
        chunk[EVENT]
        for chunk in desk.agent.stream(Command(resume=answer), CONFIG, stream_mode="custom")
    ]
    assert (review["decision"], review["reviewer"]) == ("approve", "anna")
    assert desk.did == [("tea", 1)]


def test_the_record_says_who_approved_and_what_they_wrote(
    fake: FakeClassifier, policy: Policy
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    desk.say("odd")
    claims = {**APPROVE, "message": "fine", "reviewer": "mallory"}
    config: Any = {"configurable": {"thread_id": "1", "langgraph_auth_user_id": "anna"}}
    desk.answer(claims, config)
    history = [at.values.get("uncertainty_gate") for at in desk.agent.get_state_history(CONFIG)]
    kept = [record for gates in history for record in (gates or {}).get(GATE, {}).values()]
    assert {record["reviewer"] for record in kept} == {"anna"}
    assert {(record["approved"], record["message"]) for record in kept} == {(True, "fine")}


def test_a_text_that_reads_otherwise_when_the_reviewer_is_asked_is_not_shown(
    fake: FakeClassifier, policy: Policy
) -> None:
    said = iter(f"odd {i}" for i in range(100))
    gate = UncertaintyGate(fake, policy, text=lambda call, state: next(said))
    desk = Desk([calls(order("tea")), DONE], gate)
    (action,) = asked(desk.say("hello"))["action_requests"]
    assert fake.seen == ["odd 0"]
    assert "cannot be shown" in action["description"]
    assert "odd 1" not in action["description"]
