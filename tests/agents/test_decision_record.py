from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from tests.agents.desk import APPROVE, CONFIG, DONE, Desk, order
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
    ((name, data),) = recorder.events
    assert name == "bayeslora_decision"
    assert (data["tool"], data["action"], data["confidence"]) == ("order", action, confidence)
    assert data["sha256"] == hashlib.sha256(words.encode(errors="surrogatepass")).hexdigest()
    assert data["length"] == len(words)
    assert set(data) == {
        "tool", "action", "reason", "label", "confidence", "variance", "sha256", "length",
    }  # fmt: skip
    assert "secret" not in json.dumps(data)


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
