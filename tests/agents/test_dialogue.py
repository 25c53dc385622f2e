from __future__ import annotations

from typing import Any

import pytest
from bayeslora_tool.graphs.runs import abandon
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatResult

from bayeslora_tool.agents.answer_gate import AnswerGate
from bayeslora_tool.agents.dialogue import user_request, with_answers
from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from tests.agents.desk import (
    APPROVE,
    CONFIG,
    DONE,
    Desk,
    asked,
    assert_every_call_is_answered,
    of_the_item,
    order,
    told,
)
from tests.fakes import FakeClassifier
from tests.scripted_model import ScriptedModel, calls


class TestClarify:
    def test_ends_the_turn_with_a_question_and_answers_every_call(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        gate = UncertaintyGate(fake, policy, tools=["order"])
        desk = Desk([calls(order("tea"), ("look", {"item": "x"})), DONE], gate)
        state = desk.say("vague")
        assert "__interrupt__" not in state
        assert desk.did == []
        assert state["messages"][-1].type == "ai"
        assert '"yes" or "no"' in state["messages"][-1].content
        assert [status for _, status, _ in told(state)] == ["error", "error"]
        assert_every_call_is_answered(state["messages"])
        assert len(desk.model.heard) == 1

    def test_the_answer_is_scored_with_the_request_it_belongs_to(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        script = [calls(order("tea")), calls(order("tea"), start=2), DONE]
        desk = Desk(script, UncertaintyGate(fake, policy))
        desk.say("vague")
        state = desk.say("clear now")
        assert desk.did == [("tea", 1)]
        assert fake.seen == ["vague", "vague\nclear now"]
        assert_every_call_is_answered(state["messages"])

    def test_after_as_many_questions_as_allowed_a_reviewer_is_asked(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        script = [calls(order("tea"), start=i) for i in range(3)] + [DONE]
        desk = Desk(script, UncertaintyGate(fake, policy))
        assert "__interrupt__" not in desk.say("vague")
        assert "__interrupt__" not in desk.say("vague too")
        request = asked(desk.say("vague still"))
        assert "asked 2 times already" in request["action_requests"][0]["description"]
        desk.answer(APPROVE)
        assert desk.did == [("tea", 1)]
        assert fake.seen[-1] == "vague\nvague too\nvague still"

    def test_a_user_who_means_none_of_these_is_brought_to_a_reviewer(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        script = [calls(order("tea")), calls(order("tea"), start=2), DONE]
        desk = Desk(script, UncertaintyGate(fake, policy))
        desk.say("vague")
        description = asked(desk.say("Neither."))["action_requests"][0]["description"]
        assert "The user said that it is none of these." in description
        assert description.endswith("    | vague")
        assert fake.seen == ["vague", "vague"]

    def test_then_no_call_is_sure_enough(self, fake: FakeClassifier, policy: Policy) -> None:
        script = [calls(order("vague")), calls(order("clear"), start=2), DONE]
        desk = Desk(script, UncertaintyGate(fake, policy, text=of_the_item))
        desk.say("go")
        asked(desk.say("something else"))
        assert desk.did == []

    @pytest.mark.parametrize(
        ("said", "scored"),
        [
            ([("system", "it is three"), ("user", "clear")], "vague\nclear"),
            ([("user", "hm"), ("user", "clear")], "vague\nhm\nclear"),
        ],
    )
    def test_an_answer_may_come_in_several_messages(
        self, fake: FakeClassifier, policy: Policy, said: Any, scored: str
    ) -> None:
        script = [calls(order("tea")), calls(order("tea"), start=2), DONE]
        desk = Desk(script, UncertaintyGate(fake, policy))
        desk.say("vague")
        desk.agent.invoke({"messages": said}, CONFIG)
        assert fake.seen == ["vague", scored]

    def test_a_denial_among_several_messages(self, fake: FakeClassifier, policy: Policy) -> None:
        script = [calls(order("tea")), calls(order("tea"), start=2), DONE]
        desk = Desk(script, UncertaintyGate(fake, policy))
        desk.say("vague")
        state = desk.agent.invoke({"messages": [("user", "hm"), ("user", "neither")]}, CONFIG)
        assert "none of these." in asked(state)["action_requests"][0]["description"]

    def test_the_word_alone_is_a_request_like_any_other(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
        desk.say("never mind")
        assert fake.seen == ["never mind"]

    def test_the_budget_is_one_requests(self, fake: FakeClassifier) -> None:
        script = [calls(order("a")), calls(order("a"), start=2), DONE, calls(order("b"), start=3)]
        desk = Desk(script, UncertaintyGate(fake, Policy(0.8, 0.01, max_clarifications=1)))
        desk.say("vague")
        desk.say("clear")
        state = desk.say("vague, another thing")
        assert "__interrupt__" not in state
        assert fake.seen[-1] == "vague, another thing"

    def test_a_later_step_of_the_turn_shares_its_budget(self, fake: FakeClassifier) -> None:
        gate = UncertaintyGate(fake, Policy(0.8, 0.01, max_clarifications=1), text=of_the_item)
        script = [calls(order("clear")), calls(order("vague"), start=2)]
        script += [calls(order("vague"), start=3), DONE]
        desk = Desk(script, gate)
        assert "__interrupt__" not in desk.say("go")
        assert desk.did == [("clear", 1)]
        assert "asked 1 times" in asked(desk.say("hm"))["action_requests"][0]["description"]

    def test_is_never_skipped_by_a_later_middleware(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        hitl = HumanInTheLoopMiddleware({"order": True})
        desk = Desk([calls(order("tea")), DONE], hitl, UncertaintyGate(fake, policy))
        state = desk.say("vague")
        assert "__interrupt__" not in state
        assert_every_call_is_answered(state["messages"])

    def test_asks_the_callers_question_once(self, fake: FakeClassifier, policy: Policy) -> None:
        seen: list[str] = []

        def ask(prediction: Prediction, text: str) -> str:
            seen.append(text)
            return f"Do you mean {prediction.label}?"

        desk = Desk([calls(order("a"), order("b"))], UncertaintyGate(fake, policy, ask=ask))
        assert desk.say("vague")["messages"][-1].content == "Do you mean yes?"
        assert seen == ["vague"]

    @pytest.mark.parametrize("answer", [None, " ", 5, RuntimeError("offline")])
    def test_without_a_question_a_reviewer_is_asked(
        self, fake: FakeClassifier, policy: Policy, answer: Any
    ) -> None:
        def ask(prediction: Prediction, text: str) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy, ask=ask))
        description = asked(desk.say("vague"))["action_requests"][0]["description"]
        assert "No question could be put" in description


def test_a_summary_is_not_taken_for_the_users_words(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    summary = HumanMessage("so far: clear", additional_kwargs={"lc_source": "summarization"})
    state = desk.agent.invoke({"messages": [summary]}, CONFIG)
    assert "no message of the user" in asked(state)["action_requests"][0]["description"]


class Strict(ScriptedModel):
    """Refuses a history in which a call has no answer right behind it, as OpenAI does."""

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        open_calls: list[Any] = []
        for message in [*messages, HumanMessage("the end")]:
            if isinstance(message, ToolMessage):
                open_calls.remove(message.tool_call_id)
                continue
            if open_calls:
                raise ValueError(f"tool calls without an answer: {open_calls}")
            if isinstance(message, AIMessage):
                open_calls = [call["id"] for call in message.tool_calls]
        return super()._generate(messages, *args, **kwargs)


@pytest.mark.parametrize("mode", ["batched", "per_call"])
@pytest.mark.parametrize("first", [True, False])
async def test_a_model_never_hears_a_call_without_an_answer(
    fake: FakeClassifier, policy: Policy, mode: Any, first: bool
) -> None:
    def scored(call: Any, state: Any) -> str:
        return "clear" if call["args"].get("item") == "tea" else "odd"

    script = [calls(order("milk"), order("tea"), order("wine")), calls(order("tea"), start=2), DONE]
    gate = UncertaintyGate(fake, policy, text=scored, interrupt_mode=mode)
    other = AnswerGate(fake, policy, text=lambda call, state: "clear")
    desk = Desk(script, *([gate, other] if first else [other, gate]), model=Strict)
    state = desk.say("go")
    assert "__interrupt__" in state
    abandon(desk.agent, CONFIG)
    state = await desk.agent.ainvoke({"messages": [("user", "leave it")]}, CONFIG)
    assert state["messages"][-1].content == "done"
    heard = [m for m in desk.model.heard[1] if isinstance(m, ToolMessage)]
    ran = mode == "per_call"  # what was done stays done
    ends = {"1": "error", "2": "success" if ran else "error", "3": "error"}
    assert {m.tool_call_id: m.status for m in heard} == ends
    assert all("given up" in str(m.content) for m in heard if m.status == "error")


def test_what_has_answers_is_left_as_it_is() -> None:
    again = [
        HumanMessage("a"), calls(order("tea")), ToolMessage("ok", tool_call_id="1"),
        calls(order("tea"), order("milk")), ToolMessage("ok", tool_call_id="2"), HumanMessage("b"),
    ]  # fmt: skip
    whole = with_answers(again)
    assert [getattr(m, "tool_call_id", m.type) for m in whole] == [
        "human", "ai", "1", "ai", "1", "2", "human",
    ]  # fmt: skip
    assert with_answers(whole) == whole


CALL: Any = {"name": "order", "args": {}, "id": "1"}
FREEZE = [
    HumanMessage("they stole my wallet"),
    AIMessage("Shall I freeze your account?"),
]


@pytest.mark.parametrize("consent", ["yes", "Ok, do it!", "sure, go ahead", "Yes please. Thanks"])
def test_consent_to_a_question_of_the_agent_is_scored_as_the_request_it_is_about(
    consent: str,
) -> None:
    messages = [*FREEZE, HumanMessage(consent), calls(order("tea"))]
    assert user_request(CALL, {"messages": messages}) == "they stole my wallet"


@pytest.mark.parametrize(
    "words", ["yes, but translate this first", "transfer forty dollars", "no", "thanks"]
)
def test_words_of_their_own_are_a_request_of_their_own(words: str) -> None:
    messages = [*FREEZE, HumanMessage(words), calls(order("tea"))]
    assert user_request(CALL, {"messages": messages}) == words


def test_consent_to_what_nobody_asked_carries_no_request() -> None:
    told = [HumanMessage("they stole my wallet"), AIMessage("I am sorry to hear that.")]
    messages = [*told, HumanMessage("yes"), calls(order("tea"))]
    assert user_request(CALL, {"messages": messages}) == "yes"


def test_consent_is_for_one_act() -> None:
    first = [*FREEZE, HumanMessage("yes"), calls(order("tea"))]
    refused = ToolMessage("not run", tool_call_id="1", status="error")
    again = [*first, refused, calls(order("tea"), start=2)]
    assert user_request(CALL, {"messages": again}) == "they stole my wallet"
    ran = [*first, ToolMessage("done", tool_call_id="1"), calls(order("salt"), start=2)]
    with pytest.raises(ValueError, match="consent was for one act, which has run"):
        user_request(CALL, {"messages": ran})
