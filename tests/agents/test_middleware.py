from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain.agents.middleware.human_in_the_loop import HITLRequest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolArg, InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command
from pydantic import TypeAdapter

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from tests.fakes import Answers, FakeClassifier, by_words, make_prediction
from tests.scripted_model import ScriptedModel, calls

CONFIG: Any = {"configurable": {"thread_id": "1"}}
APPROVE = {"type": "approve"}
DONE = AIMessage("done")


class Desk:
    """An agent with two tools that remember what was done with them."""

    def __init__(self, script: Sequence[AIMessage], *middleware: Any, saver: Any = None) -> None:
        self.did: list[tuple[str, Any]] = []

        @tool
        def order(item: str, n: int) -> str:
            """Order things."""
            self.did.append((item, n))
            return f"ordered {n} {item}"

        @tool
        def look(item: str, user: Annotated[str, InjectedToolArg] = "me") -> str:
            """Look something up."""
            self.did.append((item, user))
            return f"seen {item}"

        self.model = ScriptedModel(script=list(script))
        self.agent: Any = create_agent(
            self.model, [order, look], middleware=middleware, checkpointer=saver or InMemorySaver()
        )

    def say(self, text: str, config: Any = CONFIG) -> dict[str, Any]:
        return self.agent.invoke({"messages": [("user", text)]}, config)

    def answer(self, answer: Any, config: Any = CONFIG) -> dict[str, Any]:
        return self.agent.invoke(Command(resume=answer), config)


def of_the_item(call: Any, state: Any) -> str:
    return str(call["args"]["item"])


def order(item: str, n: int = 1) -> tuple[str, dict[str, Any]]:
    return ("order", {"item": item, "n": n})


def edit(name: str = "order", **args: Any) -> dict[str, Any]:
    return {"type": "edit", "edited_action": {"name": name, "args": args}}


def asked(state: dict[str, Any]) -> dict[str, Any]:
    (interrupt,) = state["__interrupt__"]
    return interrupt.value


def by_item(state: dict[str, Any]) -> dict[str, Any]:
    return {i.value["action_requests"][0]["args"]["item"]: i for i in state["__interrupt__"]}


def told(state: dict[str, Any]) -> list[tuple[str, str, str]]:
    messages = [m for m in state["messages"] if isinstance(m, ToolMessage)]
    return [(m.tool_call_id, m.status, str(m.content)) for m in messages]


def assert_every_call_is_answered(messages: Sequence[Any]) -> None:
    made = [call["id"] for m in messages if isinstance(m, AIMessage) for call in m.tool_calls]
    assert sorted(made) == sorted(m.tool_call_id for m in messages if isinstance(m, ToolMessage))


def test_a_sure_call_runs_without_a_person(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    state = desk.say("clear")
    assert "__interrupt__" not in state
    assert desk.did == [("tea", 1)]
    assert state["messages"][-1].content == "done"
    assert fake.seen == ["clear"]


def test_a_doubtful_call_waits_as_langchains_hitl_request(
    fake: FakeClassifier, policy: Policy
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    request = asked(desk.say("odd"))
    assert desk.did == []
    assert TypeAdapter(HITLRequest).validate_python(request) == request
    (action,) = request["action_requests"]
    assert (action["name"], action["args"]) == ("order", {"item": "tea", "n": 1})
    assert "variance 0.2" in action["description"]
    assert "Text: odd" in action["description"]
    (review,) = request["review_configs"]
    assert review["allowed_decisions"] == ["approve", "edit", "reject", "respond"]


@pytest.mark.parametrize(
    "decision",
    [
        APPROVE,
        edit(item="mate", n=3),
        {"type": "reject"},
        {"type": "reject", "message": "too dear"},
        {"type": "respond", "message": "we are out of tea"},
    ],
    ids=lambda decision: decision["type"],
)
def test_decisions_do_what_they_do_in_langchains_own_middleware(
    fake: FakeClassifier, policy: Policy, decision: Any
) -> None:
    def run(middleware: Any) -> tuple[list[Any], Any, str, list[str]]:
        desk = Desk([calls(order("tea")), DONE], middleware)
        desk.say("odd")
        state = desk.answer({"decisions": [decision]})
        (result,) = [m for m in state["messages"] if isinstance(m, ToolMessage)]
        shape = (result.name, result.tool_call_id, result.status)
        return desk.did, shape, str(result.content), [m.type for m in state["messages"]]

    did, shape, content, kinds = run(UncertaintyGate(fake, policy))
    theirs = run(HumanInTheLoopMiddleware({"order": True}))
    assert (did, shape, kinds) == (theirs[0], theirs[1], theirs[3])
    assert decision.get("message", "") in content
    if decision["type"] in ("approve", "respond"):
        assert content == theirs[2]
    if decision["type"] == "edit":  # both say before the result that a person changed the call
        assert content.endswith("ordered 3 mate")
        assert '"mate"' in content.splitlines()[0]


def test_an_edit_that_changes_nothing_is_not_announced(
    fake: FakeClassifier, policy: Policy
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    desk.say("odd")
    state = desk.answer(edit(item="tea", n=1))
    (result,) = [m for m in state["messages"] if isinstance(m, ToolMessage)]
    assert result.content == "ordered 1 tea"


@pytest.mark.parametrize(
    ("decision", "problem"),
    [
        (edit("look", item="tea"), "may not change the action 'order'"),
        (edit(item="tea", n=1, user="root"), "no argument 'user'"),
        (edit(item="tea"), "needs the argument 'n'"),
        (edit(item="tea", n="many"), "argument 'n'"),
        (edit(item=None, n=1), "argument 'item'"),
        ({"type": "edit", "edited_action": {"name": "order", "args": {1: 2}}}, "must be str"),
        ({"type": "edit", "edited_action": {"name": "order", "args": []}}, "to edit, send"),
        ({"type": "edit"}, "to edit, send"),
        ({"type": "respond", "message": " "}, "non-empty"),
        ({"type": "reject", "message": 5}, "`message` must be a str"),
        ({"decisions": [APPROVE, APPROVE]}, "got 2 decisions"),
        ("yes", "got 'yes'"),
    ],
)
def test_a_bad_answer_is_asked_again_with_the_problem_and_runs_nothing(
    fake: FakeClassifier, policy: Policy, decision: Any, problem: str
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    first = desk.say("odd")
    again = desk.answer({first["__interrupt__"][0].id: decision})
    assert problem in asked(again)["action_requests"][0]["description"]
    assert again["__interrupt__"][0].id != first["__interrupt__"][0].id
    assert desk.did == []
    desk.answer(edit(item="mate", n=2))
    assert desk.did == [("mate", 2)]
    assert fake.seen == ["odd"]


def test_an_edit_cannot_set_what_the_tool_hides_from_the_model(
    fake: FakeClassifier, policy: Policy
) -> None:
    desk = Desk([calls(("look", {"item": "tea"})), DONE], UncertaintyGate(fake, policy))
    desk.say("odd")
    again = desk.answer(edit("look", item="tea", user="root"))
    assert "no argument 'user'; it has item" in asked(again)["action_requests"][0]["description"]
    desk.answer(edit("look", item="mate"))
    assert desk.did == [("mate", "me")]


def test_edits_of_a_tool_with_a_json_schema_are_checked(
    fake: FakeClassifier, policy: Policy
) -> None:
    did: list[Any] = []
    schema = {
        "type": "object",
        "properties": {"item": {"type": "string"}, "n": {"type": ["integer", "null"]}, "x": {}},
        "required": ["item"],
    }
    remote = StructuredTool.from_function(
        lambda **args: did.append(args) or "ok", name="order", description="o", args_schema=schema
    )
    model = ScriptedModel(script=[calls(order("tea")), DONE])
    gate = UncertaintyGate(fake, policy)
    agent: Any = create_agent(model, [remote], middleware=[gate], checkpointer=InMemorySaver())
    agent.invoke({"messages": [("user", "odd")]}, CONFIG)
    for decision, problem in [
        (edit(n=1), "needs the argument 'item'"),
        (edit(item=5), "'item' must be string, got 5"),
        (edit(item="a", n=True), "'n' must be integer or null, got True"),
        (edit(item="a", z=1), "no argument 'z'; it has item, n, x"),
    ]:
        state = agent.invoke(Command(resume=decision), CONFIG)
        assert problem in asked(state)["action_requests"][0]["description"]
    agent.invoke(Command(resume=edit(item="a", n=None, x={"any": 1})), CONFIG)
    assert did == [{"item": "a", "n": None, "x": {"any": 1}}]


def test_a_schema_that_cannot_be_read_refuses_edits_and_nothing_else(
    fake: FakeClassifier, policy: Policy
) -> None:
    did: list[Any] = []
    schema = {"type": "object", "properties": {"item": True, "n": {}}}  # valid, and rare
    remote = StructuredTool.from_function(
        lambda **args: did.append(args) or "ok", name="order", description="o", args_schema=schema
    )
    model = ScriptedModel(script=[calls(order("tea")), DONE])
    gate = UncertaintyGate(fake, policy)
    agent: Any = create_agent(model, [remote], middleware=[gate], checkpointer=InMemorySaver())
    agent.invoke({"messages": [("user", "odd")]}, CONFIG)
    state = agent.invoke(Command(resume=edit(item="mate")), CONFIG)
    assert "cannot be checked" in asked(state)["action_requests"][0]["description"]
    agent.invoke(Command(resume=APPROVE), CONFIG)
    assert did == [{"item": "tea", "n": 1}]


class TestParallelCalls:
    def desk(self, fake: FakeClassifier, policy: Policy) -> Desk:
        gate = UncertaintyGate(fake, policy, text=of_the_item)
        return Desk([calls(order("odd a"), order("clear"), order("odd b", 2)), DONE], gate)

    def test_only_doubtful_ones_wait_and_each_is_answered_by_its_id(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = self.desk(fake, policy)
        waiting = by_item(desk.say("go"))
        assert desk.did == [("clear", 1)]
        assert set(waiting) == {"odd a", "odd b"}
        waiting = by_item(desk.answer({waiting["odd b"].id: APPROVE}))
        assert desk.did == [("clear", 1), ("odd b", 2)]
        state = desk.answer({waiting["odd a"].id: {"type": "reject"}})
        assert desk.did == [("clear", 1), ("odd b", 2)]
        assert [status for _, status, _ in told(state)] == ["error", "success", "success"]
        assert fake.seen == ["odd a", "clear", "odd b"]

    def test_a_bad_answer_to_one_leaves_the_other_answerable(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = self.desk(fake, policy)
        waiting = by_item(desk.say("go"))
        both = {waiting["odd a"].id: {"type": "yes"}, waiting["odd b"].id: APPROVE}
        again = by_item(desk.answer(both))
        assert set(again) == {"odd a"}
        desk.answer({again["odd a"].id: APPROVE})
        assert sorted(desk.did) == [("clear", 1), ("odd a", 1), ("odd b", 2)]
        assert fake.seen == ["odd a", "clear", "odd b"]

    def test_one_that_cannot_be_scored_fails_alone(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        gate = UncertaintyGate(fake, policy, text=of_the_item)
        desk = Desk([calls(order("boom"), order("clear")), DONE], gate)
        assert set(by_item(desk.say("go"))) == {"boom"}
        assert desk.did == [("clear", 1)]

    def test_the_same_text_is_scored_once(self, fake: FakeClassifier, policy: Policy) -> None:
        desk = Desk([calls(order("a"), order("b")), DONE], UncertaintyGate(fake, policy))
        desk.say("clear")
        assert fake.seen == ["clear"]
        assert len(desk.did) == 2


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
        assert "The user said that it is none of these ('Neither.')." in description
        assert "Text: vague\n" in description
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
        assert "none of these ('neither')" in asked(state)["action_requests"][0]["description"]

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


def test_a_summary_is_not_taken_for_the_users_words(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    summary = HumanMessage("so far: clear", additional_kwargs={"lc_source": "summarization"})
    state = desk.agent.invoke({"messages": [summary]}, CONFIG)
    assert "no message of the user" in asked(state)["action_requests"][0]["description"]


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


class AsyncFake(FakeClassifier):
    async def apredict(self, texts: Sequence[str]) -> list[Prediction]:
        await asyncio.sleep(0)
        return super().predict(texts)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        raise AssertionError("an async run must not block")


@pytest.mark.parametrize("kind", [AsyncFake, FakeClassifier])
async def test_async_with_sqlite(kind: Any, policy: Policy, tmp_path: Path) -> None:
    fake = kind(by_words)
    gate = UncertaintyGate(fake, policy, text=of_the_item)
    script = [calls(order("odd a"), order("clear"), order("odd b")), DONE]
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as saver:
        desk = Desk(script, gate, saver=saver)
        state = await desk.agent.ainvoke({"messages": [("user", "go")]}, CONFIG)
        waiting = by_item(state)
        assert set(waiting) == {"odd a", "odd b"}
        state = await desk.agent.ainvoke(
            Command(resume={waiting["odd a"].id: "garbage", waiting["odd b"].id: APPROVE}), CONFIG
        )
        again = by_item(state)
        state = await desk.agent.ainvoke(Command(resume={again["odd a"].id: APPROVE}), CONFIG)
    assert state["messages"][-1].content == "done"
    assert sorted(desk.did) == [("clear", 1), ("odd a", 1), ("odd b", 1)]
    assert sorted(fake.seen) == ["clear", "odd a", "odd b"]


def test_a_review_outlives_the_process(
    fake: FakeClassifier, policy: Policy, tmp_path: Path
) -> None:
    file = str(tmp_path / "a.sqlite")
    with SqliteSaver.from_conn_string(file) as saver:
        Desk([calls(order("tea"))], UncertaintyGate(fake, policy), saver=saver).say("odd")
    second = FakeClassifier(by_words)
    with SqliteSaver.from_conn_string(file) as saver:
        desk = Desk([DONE], UncertaintyGate(second, policy), saver=saver)
        desk.answer(APPROVE)
    assert desk.did == [("tea", 1)]
    assert (fake.seen, second.seen) == (["odd"], [])


def test_verdicts_are_plain_private_state(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
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


def test_an_ungated_tool_is_neither_scored_nor_stopped(
    fake: FakeClassifier, policy: Policy
) -> None:
    gate = UncertaintyGate(fake, policy, tools=["look"])
    desk = Desk([calls(order("tea")), DONE], gate)
    desk.say("odd")
    assert desk.did == [("tea", 1)]
    assert fake.seen == []


async def test_a_tool_that_the_agent_does_not_have_is_not_gated_in_silence(
    fake: FakeClassifier, policy: Policy
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy, tools=["ordr", "look"]))
    problem = "names 'ordr', but the agent has 'order', 'look'"
    with pytest.raises(ValueError, match=problem):
        desk.say("odd")
    with pytest.raises(ValueError, match=problem):
        await desk.agent.ainvoke(
            {"messages": [("user", "odd")]}, {"configurable": {"thread_id": 2}}
        )
    assert desk.did == []


def test_a_command_from_an_edited_tool_is_annotated(fake: FakeClassifier, policy: Policy) -> None:
    @tool
    def jump(to: str, call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Go somewhere."""
        return Command(update={"messages": [ToolMessage(f"at {to}", tool_call_id=call_id)]})

    agent: Any = create_agent(
        ScriptedModel(script=[calls(("jump", {"to": "a"})), DONE]),
        [jump],
        middleware=[UncertaintyGate(fake, policy)],
        checkpointer=InMemorySaver(),
    )
    agent.invoke({"messages": [("user", "odd")]}, CONFIG)
    ((_, _, content),) = told(agent.invoke(Command(resume=edit("jump", to="b")), CONFIG))
    assert "A reviewer changed this call" in content
    assert content.endswith("at b")


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
        assert "I am not sure" in updates[-1]["UncertaintyGate.after_model"]["messages"][-1].content
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


def test_the_hooks_work_outside_of_a_run(fake: FakeClassifier, policy: Policy) -> None:
    gate = UncertaintyGate(fake, policy)
    state: Any = {"messages": [HumanMessage("vague"), calls(order("tea"))]}
    update = gate.after_model(state, None)
    assert update["jump_to"] == "end"
    assert asyncio.run(gate.aafter_model(state, None))["jump_to"] == "end"


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


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, bayeslora_tool.agents.middleware; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


LEAF = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5)
KEY = st.sampled_from(
    ["type", "message", "decisions", "edited_action", "name", "args", "action", "item", "n"]
)
WORD = st.sampled_from(
    ["approve", "edit", "reject", "respond", "accept", "ignore", "response", "order", "look"]
)
JUNK = st.recursive(
    LEAF | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=8,
)
EDITS = st.fixed_dictionaries(
    {
        "type": st.just("edit"),
        "edited_action": st.fixed_dictionaries(
            {
                "name": st.sampled_from(["order", "look"]) | JUNK,
                "args": st.dictionaries(st.sampled_from(["item", "n", "user"]), LEAF) | JUNK,
            }
        ),
    }
)
DECISIONS = st.fixed_dictionaries({"type": WORD}, optional={"message": JUNK, "args": JUNK})
ANSWERS = JUNK | EDITS | DECISIONS | st.lists(DECISIONS | EDITS, max_size=2)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ANSWERS, min_size=20, max_size=20))
def test_no_answer_crashes_or_poisons_the_thread(answers: list[Any]) -> None:
    fake = FakeClassifier(by_words)
    gate = UncertaintyGate(fake, Policy(0.8, 0.01))
    left = list(answers)
    while left:
        fake.seen.clear()
        desk = Desk([calls(order("tea")), DONE], gate)
        state = desk.say("odd")
        while left and "__interrupt__" in state:
            (interrupt,) = state["__interrupt__"]
            state = desk.answer({interrupt.id: left.pop()})
        if "__interrupt__" in state:
            assert desk.did == []
            state = desk.answer(APPROVE)
        assert state["messages"][-1].content == "done"
        assert_every_call_is_answered(state["messages"])
        assert len(desk.did) <= 1  # and if it ran, then with arguments of the right kinds
        assert all(isinstance(item, str) and isinstance(n, int) for item, n in desk.did)
        assert fake.seen == ["odd"]


def test_it_adds_less_than_5_ms_to_a_call(policy: Policy) -> None:
    instant = make_prediction()
    gate = UncertaintyGate(FakeClassifier(lambda text: instant), policy)
    script = [calls(order("tea")), DONE] * 200
    desks = Desk(script, gate), Desk(script)
    added = []
    for turn in range(200):  # in turns, so that a busy machine slows both alike
        took = []
        for desk in desks:
            start = time.process_time()  # nor do other processes count
            desk.say("clear", {"configurable": {"thread_id": str(turn)}})
            took.append(time.process_time() - start)
        added.append(took[0] - took[1])
    assert [len(desk.did) for desk in desks] == [200, 200]
    print(f"the gate adds {1000 * median(added):.2f} ms a call")
    assert median(added) < 0.005


async def test_with_the_real_classifier(sentiment: Any) -> None:
    gate = UncertaintyGate(sentiment, Policy.from_preset("sentiment"), text=of_the_item)
    desk = Desk([calls(order("a wonderful film"), order("fine " * 600)), DONE], gate)
    state = await desk.agent.ainvoke({"messages": [("user", "go")]}, CONFIG)
    assert desk.did == [("a wonderful film", 1)]
    assert "602 tokens" in asked(state)["action_requests"][0]["description"]
