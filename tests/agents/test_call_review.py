from __future__ import annotations

from typing import Annotated, Any

import pytest
from bayeslora_tool.graphs.runs import resume
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain.agents.middleware.human_in_the_loop import HITLRequest
from langchain_core.messages import ToolMessage
from langchain_core.tools import InjectedToolCallId, StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import TypeAdapter

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from tests.agents.desk import (
    ANSWERS,
    APPROVE,
    CONFIG,
    DONE,
    Desk,
    asked,
    assert_every_call_is_answered,
    edit,
    order,
    told,
)
from tests.fakes import FakeClassifier, by_words
from tests.scripted_model import ScriptedModel, calls


def test_a_doubtful_call_waits_as_langchains_hitl_request(
    fake: FakeClassifier, policy: Policy
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    request = asked(desk.say("odd"))
    assert desk.did == []
    assert request | TypeAdapter(HITLRequest).validate_python(request) == request
    (action,) = request["action_requests"]
    assert (action["name"], action["args"]) == ("order", {"item": "tea", "n": 1})
    assert "variance 0.2" in action["description"]
    assert "Text:\n\n    | odd" in action["description"]
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
        ({"type": "edit", "edited_action": {"name": "order", "args": {1: 2}}}, "must be str"),
        ({"type": "edit", "edited_action": {"name": "order", "args": []}}, "to edit, send"),
        ({"type": "edit"}, "to edit, send"),
        ({"type": "respond", "message": " "}, "non-empty"),
        ({"type": "reject", "message": 5}, "`message` must be a str"),
        ({"decisions": [APPROVE, APPROVE]}, "got 2 decisions"),
        ("yes", "got 'yes'"),
    ],
)
def test_what_is_no_answer_is_refused_with_the_problem_and_runs_nothing(
    fake: FakeClassifier, policy: Policy, decision: Any, problem: str
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    (first,) = desk.say("odd")["__interrupt__"]
    with pytest.raises(ValueError, match="was not taken") as refused:
        resume(desk.agent, CONFIG, {first.id: decision})
    assert problem in str(refused.value)
    assert desk.agent.get_state(CONFIG).interrupts == (first,)
    for answer in ({first.id: decision}, decision):
        (again,) = desk.answer(answer)["__interrupt__"]
        assert problem in again.value["action_requests"][0]["description"]
        assert again.id == first.id
    assert desk.did == []
    desk.answer(edit(item="mate", n=2))
    assert desk.did == [("mate", 2)]
    assert fake.seen == ["odd"]


@pytest.mark.parametrize(
    ("decision", "problem"),
    [
        (edit(item="tea", n=1, user="root"), "no argument 'user'"),
        (edit(item="tea"), "needs the argument 'n'"),
        (edit(item="tea", n="many"), "argument 'n'"),
        (edit(item=None, n=1), "argument 'item'"),
    ],
)
def test_arguments_that_the_tool_does_not_take_are_asked_for_again(
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


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ANSWERS, min_size=20, max_size=20))
@pytest.mark.slow
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
