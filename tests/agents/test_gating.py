from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from tests.agents.desk import APPROVE, CONFIG, DONE, Desk, asked, order
from tests.fakes import Answers, FakeClassifier, make_prediction
from tests.scripted_model import calls


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RuntimeError("the model broke"), "RuntimeError: the model broke"),
        ([], "could not be scored"),
        ([make_prediction()] * 2, "could not be scored"),
        (None, "could not be scored"),
        (["yes"], "could not be scored"),
        ([make_prediction(variance=float("nan"))], "cannot be trusted"),
        ([make_prediction(confidence=float("nan"))], "cannot be trusted"),
    ],
    ids=str,
)
def test_what_cannot_be_scored_is_escalated_with_the_reason(
    policy: Policy, answer: Any, reason: str
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(Answers(answer), policy))
    assert reason in asked(desk.say("x"))["action_requests"][0]["description"]
    desk.answer(APPROVE)
    assert desk.did == [("tea", 1)]


@pytest.mark.parametrize("text", [lambda call, state: 5, lambda call, state: call["args"]["no"]])
def test_without_a_text_a_reviewer_is_asked(
    fake: FakeClassifier, policy: Policy, text: Any
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy, text=text))
    assert "could not be scored" in asked(desk.say("x"))["action_requests"][0]["description"]
    assert fake.seen == []


class TestTimeout:
    def test_a_hanging_classifier_is_escalated_in_time(self, policy: Policy) -> None:
        release = threading.Event()

        class Hanging:
            def predict(self, texts: list[str]) -> list[Prediction]:
                release.wait(30)
                return [make_prediction()]

        gate = UncertaintyGate(Hanging(), policy, timeout=0.05)
        desk = Desk([calls(order("tea")), DONE], gate)
        start = time.perf_counter()
        description = asked(desk.say("x"))["action_requests"][0]["description"]
        assert time.perf_counter() - start < 5
        assert "TimeoutError: no prediction within 0.05 s" in description
        release.set()

    @pytest.mark.parametrize("is_async", [True, False])
    async def test_in_async_runs_too(self, policy: Policy, is_async: bool) -> None:
        release = threading.Event()

        class Hanging:
            def predict(self, texts: list[str]) -> list[Prediction]:
                release.wait(30)
                return [make_prediction()]

        class AsyncHanging(Hanging):
            async def apredict(self, texts: list[str]) -> list[Prediction]:
                await asyncio.sleep(30)
                return [make_prediction()]

        hanging = AsyncHanging() if is_async else Hanging()
        desk = Desk([calls(order("tea")), DONE], UncertaintyGate(hanging, policy, timeout=0.05))
        state = await desk.agent.ainvoke({"messages": [("user", "x")]}, CONFIG)
        assert "within 0.05 s" in asked(state)["action_requests"][0]["description"]
        release.set()

    def test_a_classifier_in_time_is_believed(self, fake: FakeClassifier, policy: Policy) -> None:
        desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy, timeout=30))
        assert "__interrupt__" not in desk.say("clear")


def test_the_hooks_work_outside_of_a_run(fake: FakeClassifier, policy: Policy) -> None:
    gate = UncertaintyGate(fake, policy)
    state: Any = {"messages": [HumanMessage("vague"), calls(order("tea"))]}
    update = gate.after_model(state, None)
    assert update["jump_to"] == "end"
    assert asyncio.run(gate.aafter_model(state, None))["jump_to"] == "end"


class TestStreaming:
    def test_an_interrupt_and_a_question_reach_the_stream(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = Desk([calls(order("tea"))], UncertaintyGate(fake, policy))
        start = {"messages": [("user", "odd")]}
        chunks = list(desk.agent.stream(start, CONFIG, stream_mode="updates"))
        (interrupt,) = chunks[-1]["__interrupt__"]
        assert interrupt.value["action_requests"][0]["name"] == "order"
        desk = Desk([calls(order("tea"))], UncertaintyGate(fake, policy))
        start = {"messages": [("user", "vague")]}
        updates, messages = [], []
        for mode, chunk in desk.agent.stream(start, CONFIG, stream_mode=["updates", "messages"]):
            (updates if mode == "updates" else messages).append(chunk)
        asking = next(u for u in updates if "UncertaintyGate.after_model" in u)
        asking = asking["UncertaintyGate.after_model"]
        assert "I am not sure" in asking["messages"][-1].content
        assert "I am not sure" in messages[-1][0].content

    async def test_decisions_are_events_that_never_hold_the_text(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = Desk([calls(order("a"), order("b")), DONE], UncertaintyGate(fake, policy))
        start = {"messages": [("user", "clear secret")]}
        events = [
            event
            async for event in desk.agent.astream_events(start, CONFIG, version="v2")
            if event["event"] == "on_custom_event"
        ]
        assert [event["name"] for event in events] == ["bayeslora_decision"] * 2
        assert "secret" not in json.dumps([event["data"] for event in events])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classifier": object()}, r"`classifier` must have predict"),
        ({"tools": "order"}, r"`tools` \(='order'\) must be a list"),
        ({"tools": [5]}, r"must hold tools or their names, got 5"),
        ({"timeout": 0}, r"`timeout` \(=0\) must be"),
    ],
)
def test_wrong_arguments_are_refused(
    fake: FakeClassifier, policy: Policy, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        UncertaintyGate(**{"classifier": fake, "policy": policy} | arguments)
