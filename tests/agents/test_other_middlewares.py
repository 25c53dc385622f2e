from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ContextEditingMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
    TodoListMiddleware,
    ToolCallLimitMiddleware,
    ToolErrorMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.messages import AIMessage
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


class AsyncChanges(AgentMiddleware):
    """The same for async runs."""

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        call = {**request.tool_call, "args": {**request.tool_call["args"], "n": 99}}
        return await handler(request.override(tool_call=call))


class Adds(AgentMiddleware):
    """Adds a call to the model's message."""

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any]:
        message = state["messages"][-1]
        if message.tool_calls:
            extra = calls(order("extra"), start=9).tool_calls
            return {"messages": [message.model_copy(update={"tool_calls": extra})]}
        return {}


def says(text: str) -> ScriptedModel:
    return ScriptedModel(script=[AIMessage(text)] * 5)


OTHERS: dict[str, Callable[[], AgentMiddleware[Any, Any]]] = {
    "personal data": lambda: PIIMiddleware("email", strategy="redact", apply_to_input=True),
    "summary": lambda: SummarizationMiddleware(
        says("a summary"), trigger=("messages", 2), keep=("messages", 1)
    ),
    "context": lambda: ContextEditingMiddleware(),
    "model retry": lambda: ModelRetryMiddleware(initial_delay=0, jitter=False),
    "model fallback": lambda: ModelFallbackMiddleware(says("never asked")),
    "model limit": lambda: ModelCallLimitMiddleware(run_limit=9),
    "tool limit": lambda: ToolCallLimitMiddleware(run_limit=9),
    "tool retry": lambda: ToolRetryMiddleware(initial_delay=0, jitter=False),
    "tool error": lambda: ToolErrorMiddleware(on_error=lambda error, request: "it failed"),
    "todo": lambda: TodoListMiddleware(),
}


@pytest.mark.parametrize("mode", ["batched", "per_call"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("other", OTHERS)
def test_beside_any_other_a_doubtful_call_waits_and_runs_once(
    fake: FakeClassifier, policy: Policy, other: str, first: bool, mode: Any
) -> None:
    for text, reviews in (("clear", 0), ("an odd wish of a@b.com", 1)):
        gate = UncertaintyGate(fake, policy, interrupt_mode=mode)
        desk = Desk(
            [calls(order("tea")), DONE],
            *([gate, OTHERS[other]()] if first else [OTHERS[other](), gate]),
        )
        talk = [("user", "hello"), ("ai", "good morning"), ("user", text)]
        state = desk.agent.invoke({"messages": talk}, CONFIG)
        assert len(state.get("__interrupt__", [])) == reviews
        assert desk.did == [("tea", 1)] * (1 - reviews)
        if reviews:
            desk.answer(APPROVE)
        assert desk.did == [("tea", 1)]
    shown = "an odd wish of " + ("[REDACTED_EMAIL]" if other == "personal data" else "a@b.com")
    assert fake.seen == ["clear", shown]


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

    @pytest.mark.parametrize(("other", "text"), [(Changes, "odd 99"), (Adds, "odd extra")])
    def test_a_call_changed_or_added_outside_of_the_gate_is_judged_as_it_arrives(
        self, fake: FakeClassifier, policy: Policy, other: Any, text: str
    ) -> None:
        def scored(call: Any, state: Any) -> str:
            doubtful = call["args"]["n"] == 99 or call["args"]["item"] == "extra"
            return text if doubtful else "clear"

        desk = Desk(
            [calls(order("tea")), DONE], other(), UncertaintyGate(fake, policy, text=scored)
        )
        (action,) = asked(desk.say("go"))["action_requests"]
        assert f"| {text}" in action["description"]
        assert desk.did == []
        desk.answer(APPROVE)
        assert desk.did == [tuple(action["args"].values())]
        assert fake.seen == ["clear", text]

    async def test_a_vague_call_that_arrives_late_goes_to_a_reviewer(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        def scored(call: Any, state: Any) -> str:
            return "vague" if call["args"]["n"] == 99 else "clear"

        gate = UncertaintyGate(fake, policy, text=scored)
        desk = Desk([calls(order("tea")), DONE], AsyncChanges(), gate)
        state = await desk.agent.ainvoke({"messages": [("user", "go")]}, CONFIG)
        assert "too late to ask the user" in asked(state)["action_requests"][0]["description"]
        await desk.agent.ainvoke(Command(resume=APPROVE), CONFIG)
        assert desk.did == [("tea", 99)]
        assert fake.seen == ["clear", "vague"]

    def test_a_call_added_inside_is_scored(self, fake: FakeClassifier, policy: Policy) -> None:
        desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy), Adds())
        assert "__interrupt__" not in desk.say("clear")
        assert desk.did == [("extra", 1)]

    @pytest.mark.parametrize(
        ("first", "mode", "reviews"),
        [
            (True, "batched", 1),
            (True, "per_call", 1),
            (False, "batched", 1),
            (False, "per_call", 2),
        ],
    )
    def test_a_retry_asks_again_only_around_a_gate_that_asks_per_call(
        self, fake: FakeClassifier, policy: Policy, first: bool, mode: Any, reviews: int
    ) -> None:
        tries: list[str] = []

        @tool
        def flaky(item: str) -> str:
            """Fails the first time."""
            tries.append(item)
            if len(tries) == 1:
                raise ConnectionError("once")
            return "ok"

        gate = UncertaintyGate(fake, policy, interrupt_mode=mode)
        retry = ToolRetryMiddleware(initial_delay=0, jitter=False)
        agent: Any = create_agent(
            ScriptedModel(script=[calls(("flaky", {"item": "a"})), DONE]),
            [flaky],
            middleware=[gate, retry] if first else [retry, gate],
            checkpointer=InMemorySaver(),
        )
        state = agent.invoke({"messages": [("user", "odd")]}, CONFIG)
        for _ in range(reviews):
            assert "__interrupt__" in state
            state = agent.invoke(Command(resume=APPROVE), CONFIG)
        assert "__interrupt__" not in state
        assert tries == ["a", "a"]

    @pytest.mark.parametrize(("first", "reviewed"), [(True, ["a"]), (False, ["a", "b"])])
    def test_a_call_beyond_a_limit_does_not_run(
        self, fake: FakeClassifier, policy: Policy, first: bool, reviewed: list[str]
    ) -> None:
        gate, limit = UncertaintyGate(fake, policy), ToolCallLimitMiddleware(run_limit=1)
        both = [gate, limit] if first else [limit, gate]
        desk = Desk([calls(order("a"), order("b")), DONE], *both)
        actions = asked(desk.say("odd"))["action_requests"]
        assert [action["args"]["item"] for action in actions] == reviewed
        desk.answer({"decisions": [APPROVE] * len(actions)})
        assert desk.did == [("a", 1)]

    def test_two_gates_for_different_tools_need_no_names(self, policy: Policy) -> None:
        orders, looks = FakeClassifier(by_words), FakeClassifier(by_words)
        gates = [
            UncertaintyGate(orders, policy, tools=["order"]),
            UncertaintyGate(looks, policy, tools={"look", "order"}),
        ]
        assert [g.name for g in gates] == ["UncertaintyGate(order)", "UncertaintyGate(look, order)"]
        desk = Desk([calls(order("tea")), DONE], *gates)
        desk.say("clear")
        assert desk.did == [("tea", 1)]
        assert (orders.seen, looks.seen) == (["clear"], ["clear"])

    def test_two_gates_each_judge_their_own_tools(self, policy: Policy) -> None:
        orders, looks = FakeClassifier(by_words), FakeClassifier(lambda text: make_prediction())
        desk = Desk(
            [calls(order("tea"), ("look", {"item": "x"})), DONE],
            UncertaintyGate(orders, policy, tools=["order"], name="orders"),
            UncertaintyGate(looks, policy, tools=["look"], name="looks"),
        )
        assert set(by_item(desk.say("odd"))) == {"tea"}
        desk.answer(APPROVE)
        assert sorted(desk.did) == [("tea", 1), ("x", "me")]
        assert (orders.seen, looks.seen) == (["odd"], ["odd"])
