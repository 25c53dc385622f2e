"""Both shapes of a review, answered as LangChain's clients do: by position or by id."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import pending, resume, start
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, wrap_tool_call
from langchain.agents.middleware.human_in_the_loop import HITLRequest, ToolApprovalRequest
from langchain_core.tools import StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command
from pydantic import BaseModel, TypeAdapter

from bayeslora_tool.agents.answer_gate import AnswerGate
from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from tests.agents.desk import (
    APPROVE,
    CONFIG,
    DONE,
    Desk,
    asked,
    assert_every_call_is_answered,
    by_item,
    edit,
    of_the_item,
    order,
    told,
)
from tests.fakes import FakeClassifier
from tests.scripted_model import ScriptedModel, calls

REJECT = {"type": "reject", "message": "too dear"}
RESPOND = {"type": "respond", "message": "we are out"}
SCRIPT = [calls(order("odd a"), order("clear"), order("odd b", 2)), DONE]
SEEN = ["odd a", "clear", "odd b"]

# Two decisions, as clients send them; what they come to.
ANSWERS: list[Any] = [
    ({"decisions": [APPROVE, REJECT]}, [("clear", 1), ("odd a", 1)], ["success", "error"]),
    ({"decisions": [REJECT, APPROVE]}, [("clear", 1), ("odd b", 2)], ["error", "success"]),
    (
        {"decisions": [edit(item="mate", n=3), RESPOND]},
        [("clear", 1), ("mate", 3)],
        ["success", "success"],
    ),
    (
        [{"type": "accept", "args": None}, {"type": "ignore", "args": None}],
        [("clear", 1), ("odd a", 1)],
        ["success", "error"],
    ),
    (
        [
            {"type": "response", "args": "we are out"},
            {"type": "edit", "args": {"action": "order", "args": {"item": "mate", "n": 3}}},
        ],
        [("clear", 1), ("mate", 3)],
        ["success", "success"],
    ),
]


def breaks(item: str, when: Callable[[], bool]) -> Any:
    """Raises once before the order of an item, as soon as something is so."""
    left = [item]

    @wrap_tool_call
    def once(request: Any, handler: Callable[[Any], Any]) -> Any:
        if request.tool_call["args"]["item"] in left:
            left.clear()
            ends = time.monotonic() + 20
            while not when():
                assert time.monotonic() < ends
                time.sleep(0.01)
            raise ConnectionError("once")
        return handler(request)

    return once


def of_two(state: dict[str, Any]) -> list[str]:
    """How the calls of "odd a" and "odd b" ended."""
    ends = {call_id: status for call_id, status, _ in told(state)}
    return [ends["1"], ends["3"]]


class TestBatched:
    def desk(self, fake: FakeClassifier, policy: Policy, *others: Any, **options: Any) -> Desk:
        return Desk(SCRIPT, UncertaintyGate(fake, policy, text=of_the_item), *others, **options)

    def test_one_interrupt_asks_about_all_doubtful_calls_and_no_other(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        request = asked(self.desk(fake, policy).say("go"))
        assert request | TypeAdapter(HITLRequest).validate_python(request) == request
        assert [a["args"]["item"] for a in request["action_requests"]] == ["odd a", "odd b"]
        assert [f"| {a['args']['item']}" in a["description"] for a in request["action_requests"]]
        assert len(request["review_configs"]) == 2

    @pytest.mark.parametrize(("answer", "did", "ends"), ANSWERS)
    def test_decisions_without_ids_are_taken_by_position(
        self, fake: FakeClassifier, policy: Policy, answer: Any, did: Any, ends: Any
    ) -> None:
        desk = self.desk(fake, policy)
        desk.say("go")
        state = desk.answer(answer)
        assert sorted(desk.did) == did
        assert of_two(state) == ends
        assert state["messages"][-1].content == "done"
        assert_every_call_is_answered(state["messages"])
        assert fake.seen == SEEN  # once, over the resume

    @pytest.mark.parametrize(("answer", "did", "ends"), ANSWERS)
    async def test_by_id_in_an_async_run_with_sqlite(
        self,
        fake: FakeClassifier,
        policy: Policy,
        tmp_path: Path,
        answer: Any,
        did: Any,
        ends: Any,
    ) -> None:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as saver:
            desk = self.desk(fake, policy, saver=saver)
            state = await desk.agent.ainvoke({"messages": [("user", "go")]}, CONFIG)
            (question,) = state["__interrupt__"]
            state = await desk.agent.ainvoke(Command(resume={question.id: answer}), CONFIG)
        assert sorted(desk.did) == did
        assert of_two(state) == ends
        assert fake.seen == SEEN

    def test_it_does_with_a_batch_what_langchains_own_middleware_does(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        both = [calls(order("odd a"), order("odd b", 2)), DONE]
        answer = {"decisions": [edit(item="mate", n=3), REJECT]}
        ends = []
        for gate in (
            UncertaintyGate(fake, policy, text=of_the_item),
            HumanInTheLoopMiddleware({"order": True}),
        ):
            desk = Desk(both, gate)
            desk.say("go")
            state = desk.answer(answer)
            shapes = [(m.type, getattr(m, "tool_call_id", None)) for m in state["messages"]]
            ends.append((desk.did, shapes, sorted(x[:2] for x in told(state))))
        assert ends[0] == ends[1]

    @pytest.mark.parametrize(
        ("answer", "problem"),
        [
            (APPROVE, "got 1 decisions"),
            ({"decisions": [APPROVE]}, "with 2 decisions, in this order: order "),
            ({"decisions": [APPROVE, APPROVE, APPROVE]}, "got 3 decisions"),
            ({"decisions": [APPROVE, {"type": "yes"}]}, "`type` is 'yes'"),
        ],
    )
    def test_too_few_or_wrong_decisions_take_none(
        self, fake: FakeClassifier, policy: Policy, answer: Any, problem: str
    ) -> None:
        desk = self.desk(fake, policy)
        desk.say("go")
        ((name, _),) = pending(desk.agent, CONFIG).items()
        with pytest.raises(ValueError, match=problem):
            resume(desk.agent, CONFIG, {name: answer})
        assert problem in asked(desk.answer(answer))["action_requests"][0]["description"]
        assert list(pending(desk.agent, CONFIG)) == [name]
        assert desk.did == []
        resume(desk.agent, CONFIG, {name: {"decisions": [APPROVE, REJECT]}})
        assert sorted(desk.did) == [("clear", 1), ("odd a", 1)]

    def test_arguments_that_the_tool_does_not_take_are_asked_for_again_alone(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = self.desk(fake, policy)
        desk.say("go")
        state = desk.answer({"decisions": [edit(item="mate", n="many"), APPROVE]})
        assert sorted(desk.did) == [("clear", 1), ("odd b", 2)]
        (action,) = asked(state)["action_requests"]
        assert action["description"].startswith("The last answer was not understood: argument 'n'")
        assert action["args"] == {"item": "odd a", "n": 1}
        state = desk.answer({"decisions": [edit(item="mate", n=3)]})
        assert sorted(desk.did) == [("clear", 1), ("mate", 3), ("odd b", 2)]
        assert "A reviewer changed this call" in {i: c for i, _, c in told(state)}["1"]
        assert fake.seen == SEEN

    def test_a_tool_that_breaks_runs_again_and_nobody_is_asked_or_scored_again(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        def others_are_kept() -> bool:
            # What a tool did and was not saved when another broke is done again.
            saved = desk.agent.checkpointer.get_tuple(CONFIG)
            return len({task for task, name, _ in saved.pending_writes if name == "messages"}) == 2

        desk = self.desk(fake, policy, breaks("mate", others_are_kept))
        desk.say("go")
        with pytest.raises(ConnectionError):
            desk.answer({"decisions": [edit(item="mate", n=3), APPROVE]})
        state = desk.agent.invoke(None, CONFIG)
        assert "__interrupt__" not in state
        assert sorted(desk.did) == [("clear", 1), ("mate", 3), ("odd b", 2)]
        assert fake.seen == SEEN

    def test_an_approval_holds_for_its_own_message_alone(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        """Also where a model gives the same id to the same call twice."""
        again = [calls(order("odd a")), calls(order("odd a")), DONE]
        desk = Desk(again, UncertaintyGate(fake, policy, text=of_the_item))
        desk.say("go")
        state = desk.answer({"decisions": [edit(item="mate", n=3)]})
        assert desk.did == [("mate", 3)]
        assert asked(state)["action_requests"][0]["args"] == {"item": "odd a", "n": 1}
        desk.answer({"decisions": [APPROVE]})
        assert desk.did == [("mate", 3), ("odd a", 1)]

    @pytest.mark.parametrize("first", [True, False])
    def test_beside_a_gate_of_answers(
        self, fake: FakeClassifier, policy: Policy, first: bool
    ) -> None:
        gates = [
            UncertaintyGate(fake, policy, text=of_the_item),
            AnswerGate(fake, policy, text=lambda call, state: "odd answer"),
        ]
        desk = Desk(SCRIPT, *(gates if first else gates[::-1]))
        desk.say("go")
        state = desk.answer({"decisions": [APPROVE, APPROVE]})
        assert asked(state)["action_requests"][0]["name"] == "final_answer"
        assert desk.answer({"decisions": [APPROVE]})["messages"][-1].content == "done"
        assert len(desk.did) == 3


class TestPerCall:
    def desk(self, fake: FakeClassifier, policy: Policy, **options: Any) -> Desk:
        gate = UncertaintyGate(fake, policy, text=of_the_item, interrupt_mode="per_call")
        return Desk(SCRIPT, gate, **options)

    def test_each_doubtful_call_waits_as_langchains_tool_approval(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = self.desk(fake, policy)
        waiting = by_item(desk.say("go"))
        assert desk.did == [("clear", 1)]
        for item, call_id in (("odd a", "1"), ("odd b", "3")):
            request = waiting[item].value
            assert TypeAdapter(ToolApprovalRequest).validate_python(request) == request
            assert (request["tool_call_id"], request["name"]) == (call_id, "order")
            assert f"| {item}" in request["description"]
            shown = str(waiting[item].response_schema)
            assert "'item': {'title': 'Item', 'type': 'string'}" in shown  # what an edit may give

    @pytest.mark.parametrize(("answer", "did", "ends"), ANSWERS)
    def test_one_decision_for_each_id(
        self, fake: FakeClassifier, policy: Policy, answer: Any, did: Any, ends: Any
    ) -> None:
        desk = self.desk(fake, policy)
        waiting = by_item(start(desk.agent, {"messages": [("user", "go")]}, CONFIG))
        one, other = answer["decisions"] if isinstance(answer, dict) else [[a] for a in answer]
        by_id = {waiting["odd a"].id: one, waiting["odd b"].id: other}
        state = resume(desk.agent, CONFIG, by_id)
        assert sorted(desk.did) == did
        assert of_two(state) == ends
        assert fake.seen == SEEN

    def test_the_only_doubtful_call_is_answered_without_an_id(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        gate = UncertaintyGate(fake, policy, interrupt_mode="per_call")
        desk = Desk([calls(order("tea")), DONE], gate)
        desk.say("odd")
        desk.answer(APPROVE)
        assert desk.did == [("tea", 1)]


class Size(BaseModel):
    """How large."""

    cm: int
    wider: list[Size] = []


@pytest.mark.parametrize("mode", ["batched", "per_call"])
@pytest.mark.parametrize("is_json", [True, False])
def test_arguments_with_models_in_them_may_be_edited(
    fake: FakeClassifier, policy: Policy, mode: Any, is_json: bool
) -> None:
    did: list[Any] = []

    @tool
    def cut(size: Size) -> str:
        """Cut."""
        did.append(size.cm)
        return "cut"

    remote = StructuredTool.from_function(
        lambda **args: did.append(args["size"]["cm"]) or "cut",
        name="cut", description="c", args_schema=cut.tool_call_schema.model_json_schema(),
    )  # fmt: skip
    agent: Any = create_agent(
        ScriptedModel(script=[calls(("cut", {"size": {"cm": 1}})), DONE]),
        [remote if is_json else cut],
        middleware=[UncertaintyGate(fake, policy, interrupt_mode=mode)],
        checkpointer=InMemorySaver(),
    )
    (question,) = agent.invoke({"messages": [("user", "odd")]}, CONFIG)["__interrupt__"]
    if mode == "per_call":
        assert "'cm': {'title': 'Cm', 'type': 'integer'}" in str(question.response_schema)
    agent.invoke(Command(resume=edit("cut", size={"cm": 2, "wider": [{"cm": 3}]})), CONFIG)
    assert did == [2]


def test_an_unknown_mode_is_refused(fake: FakeClassifier, policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"`interrupt_mode` \(='each'\) must be 'batched' or"):
        UncertaintyGate(fake, policy, interrupt_mode="each")  # type: ignore[arg-type]


class TestTwoGates:
    """One after the other around the same tool."""

    def desk(self, fake: FakeClassifier, policy: Policy, *modes: Any) -> Desk:
        gates = [
            UncertaintyGate(fake, policy, text=of_the_item, interrupt_mode=mode, name=name)
            for mode, name in zip(modes, ("outer", "inner"), strict=True)
        ]
        return Desk([calls(order("odd a")), DONE], *gates)

    @pytest.mark.parametrize("outer", ["batched", "per_call"])
    @pytest.mark.parametrize("inner", ["batched", "per_call"])
    @pytest.mark.parametrize(("item", "waits"), [("mate", False), ("odd b", True)])
    def test_a_call_edited_at_one_is_judged_at_the_next(
        self, fake: FakeClassifier, policy: Policy, outer: str, inner: str, item: str, waits: bool
    ) -> None:
        desk = self.desk(fake, policy, outer, inner)
        state = desk.say("go")
        if inner == "batched":  # asks first, about the call that the outer one's reviewer changes
            state = desk.answer(APPROVE)
        state = desk.answer(edit(item=item, n=3))
        assert fake.seen.count(item) == 1
        if waits:
            assert desk.did == []
            (question,) = state["__interrupt__"]
            request = question.value.get("action_requests", [question.value])[0]
            assert request["args"] == {"item": item, "n": 3}
            assert f"| {item}" in request["description"]
            state = desk.answer(APPROVE)
        assert desk.did == [(item, 3)]
        assert state["messages"][-1].content == "done"
        assert fake.seen.count(item) == 1

    def test_a_call_edited_at_the_inner_gate_is_judged_at_the_outer(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = self.desk(fake, policy, "batched", "batched")
        desk.say("go")
        state = desk.answer(edit(item="odd b", n=3))
        assert asked(state)["action_requests"][0]["args"] == {"item": "odd b", "n": 3}
        state = desk.answer(APPROVE)
        assert desk.did == [("odd b", 3)]
        assert fake.seen == ["odd a", "odd b"]
        assert str(told(state)[0][2]).count("A reviewer changed this call") == 1

    def test_what_one_rejects_the_other_does_not_ask_about(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = self.desk(fake, policy, "batched", "batched")
        desk.say("go")
        state = desk.answer(REJECT)
        assert state["messages"][-1].content == "done"
        assert desk.did == []

    def test_an_edit_back_to_the_models_call_is_not_an_approval_of_it_at_the_inner_gate(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = self.desk(fake, policy, "batched", "batched")
        desk.say("go")
        desk.answer(edit(item="odd b", n=3))
        state = desk.answer(edit(item="odd a", n=1))
        assert asked(state)["action_requests"][0]["args"] == {"item": "odd a", "n": 1}
        assert desk.did == []
        desk.answer(APPROVE)
        assert desk.did == [("odd a", 1)]
