from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from tests.agents.desk import APPROVE, CONFIG, DONE, Desk, asked, by_item, order
from tests.fakes import FakeClassifier, by_words, make_prediction
from tests.scripted_model import ScriptedModel, calls


class Changes(AgentMiddleware):
    """Alters a call on its way to the tool."""

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        call = {**request.tool_call, "args": {**request.tool_call["args"], "n": 99}}
        return handler(request.override(tool_call=call))


class Adds(AgentMiddleware):
    """Adds a call to the model's message."""

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        message = state["messages"][-1]
        if message.tool_calls:
            extra = calls(order("extra"), start=9).tool_calls
            return {"messages": [message.model_copy(update={"tool_calls": extra})]}
        return {}


class TestOtherMiddlewares:
    @pytest.mark.parametrize("first", [True, False])
    def test_a_sure_call_passes_them_all(
        self, fake: FakeClassifier, policy: Policy, first: bool
    ) -> None:
        gate = UncertaintyGate(fake, policy)
        others = [
            ModelCallLimitMiddleware(run_limit=9),
            ToolCallLimitMiddleware(run_limit=9),
            ToolRetryMiddleware(),
        ]
        desk = Desk([calls(order("tea")), DONE], *([gate, *others] if first else [*others, gate]))
        desk.say("clear")
        assert desk.did == [("tea", 1)]

    @pytest.mark.parametrize("first", [True, False])
    def test_both_reviews_happen_beside_langchains_own(
        self, fake: FakeClassifier, policy: Policy, first: bool
    ) -> None:
        gate = UncertaintyGate(fake, policy)
        hitl = HumanInTheLoopMiddleware({"order": True})
        desk = Desk([calls(order("tea")), DONE], *([gate, hitl] if first else [hitl, gate]))
        desk.say("odd")
        state = desk.answer({"decisions": [APPROVE]})
        assert desk.did == []
        assert "__interrupt__" in state
        desk.answer({"decisions": [APPROVE]})
        assert desk.did == [("tea", 1)]
        assert fake.seen == ["odd"]

    def test_a_call_that_another_one_rejected_is_not_scored(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        hitl = HumanInTheLoopMiddleware({"order": True})
        desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy), hitl)
        desk.say("odd")
        state = desk.answer({"decisions": [{"type": "reject"}]})
        assert "__interrupt__" not in state
        assert fake.seen == []

    @pytest.mark.parametrize("other", [Changes, Adds])
    def test_a_call_changed_or_added_outside_of_the_gate_is_escalated(
        self, fake: FakeClassifier, policy: Policy, other: Any
    ) -> None:
        desk = Desk([calls(order("tea")), DONE], other(), UncertaintyGate(fake, policy))
        description = asked(desk.say("clear"))["action_requests"][0]["description"]
        assert "List the gate first" in description
        assert desk.did == []

    def test_a_call_added_inside_is_scored(self, fake: FakeClassifier, policy: Policy) -> None:
        desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy), Adds())
        assert "__interrupt__" not in desk.say("clear")
        assert desk.did == [("extra", 1)]

    def test_a_retry_inside_does_not_ask_again(self, fake: FakeClassifier, policy: Policy) -> None:
        tries: list[str] = []

        @tool
        def flaky(item: str) -> str:
            """Fails the first time."""
            tries.append(item)
            if len(tries) == 1:
                raise ConnectionError("once")
            return "ok"

        retry = ToolRetryMiddleware(initial_delay=0, jitter=False)
        agent: Any = create_agent(
            ScriptedModel(script=[calls(("flaky", {"item": "a"})), DONE]),
            [flaky],
            middleware=[UncertaintyGate(fake, policy), retry],
            checkpointer=InMemorySaver(),
        )
        agent.invoke({"messages": [("user", "odd")]}, CONFIG)
        state = agent.invoke(Command(resume=APPROVE), CONFIG)
        assert "__interrupt__" not in state
        assert tries == ["a", "a"]

    def test_two_gates_each_judge_their_own_tools(self, policy: Policy) -> None:
        orders, looks = FakeClassifier(by_words), FakeClassifier(lambda text: make_prediction())
        desk = Desk(
            [calls(order("tea"), ("look", {"item": "x"})), DONE],
            UncertaintyGate(orders, policy, tools=["order"], name="orders"),
            UncertaintyGate(looks, policy, tools=["look"], name="looks"),
        )
        assert set(by_item(desk.say("odd"))) == {"tea"}
        assert desk.did == [("x", "me")]
        assert (orders.seen, looks.seen) == (["odd"], ["odd"])
