"""What a person is asked, by AG-UI's own model of an interrupt, and back."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, Interrupt

from bayeslora_tool import Policy, UncertaintyGate, create_escalation_graph
from bayeslora_tool.agents import Act
from bayeslora_tool.review.agui import agui_answers, agui_interrupts
from tests.agents.desk import CONFIG, DONE, Desk, order
from tests.fakes import FakeClassifier, by_words
from tests.scripted_model import calls


def valid(interrupts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, as AG-UI's SDK writes what it read."""
    core = pytest.importorskip("ag_ui.core")
    ours = ("id", "reason", "message", "toolCallId", "responseSchema", "metadata")
    found = []
    for one in interrupts:
        assert set(one) <= set(ours)
        read = core.Interrupt.model_validate(one)
        found.append(read.model_dump(by_alias=True, exclude_none=True))
    outcome = core.RunFinishedInterruptOutcome(type="interrupt", interrupts=found)
    event = core.RunFinishedEvent(thread_id="1", run_id="1", outcome=outcome)
    assert event.model_dump_json()
    return found


def desk(policy: Policy, *wanted: Any, **options: Any) -> Desk:
    gate = UncertaintyGate(
        FakeClassifier(by_words), policy, acts={"order": "yes", "look": "yes"}, **options
    )
    return Desk([calls(*wanted), DONE], gate)


def test_a_call_is_bound_to_its_interrupt_and_answered_in_agui_s_way(policy: Policy) -> None:
    gated = desk(
        policy, order("tea", 1), order("milk", 2), order("gin", 3), interrupt_mode="per_call"
    )
    state = gated.say("odd")
    waiting = state["__interrupt__"]
    exported = agui_interrupts(waiting)
    assert valid(exported) == exported
    for one, interrupt in zip(exported, waiting, strict=True):
        assert one["reason"] == "tool_call"
        assert one["toolCallId"] == interrupt.value["tool_call_id"]
        assert one["message"] == interrupt.value["description"]
        assert "expiresAt" not in one
        shown = one["responseSchema"]["properties"]["editedArgs"]
        assert set(shown["properties"]) == {"item", "n"}
    by_call = {one["toolCallId"]: one for one in exported}
    payloads: dict[str, Any] = {
        "1": {"approved": True},
        "2": {"approved": True, "editedArgs": {"item": "milk", "n": 5}},
        "3": {"approved": False, "message": "no gin"},
    }
    for call, payload in payloads.items():
        jsonschema.validate(payload, by_call[call]["responseSchema"])
    resume = [
        {"interruptId": by_call[call]["id"], "status": "resolved", "payload": payload}
        for call, payload in payloads.items()
    ]
    state = gated.agent.invoke(Command(resume=agui_answers(resume, waiting)), CONFIG)
    assert sorted(gated.did) == [("milk", 5), ("tea", 1)]
    assert "no gin" in str(state["messages"])


def test_a_call_that_may_not_be_edited_does_not_offer_it(policy: Policy) -> None:
    act = Act(labels="yes", allowed_decisions=["approve", "reject"])
    gate = UncertaintyGate(
        FakeClassifier(by_words), policy, acts={"order": act}, interrupt_mode="per_call"
    )
    gated = Desk([calls(order("tea")), DONE], gate)
    (one,) = valid(agui_interrupts(gated.say("odd")["__interrupt__"]))
    assert set(one["responseSchema"]["properties"]) == {"approved", "message"}


def test_a_batch_is_one_interrupt_that_shows_what_an_answer_is(policy: Policy) -> None:
    gated = desk(policy, order("tea"), order("milk"))
    waiting = gated.say("odd")["__interrupt__"]
    (one,) = valid(agui_interrupts(waiting))
    assert one["reason"] == "input_required"
    assert "toolCallId" not in one
    assert one["responseSchema"] == waiting[0].response_schema
    assert one["metadata"]["bayeslora_tool"] == waiting[0].value
    answer = {"decisions": [{"type": "approve"}, {"type": "reject"}]}
    jsonschema.validate(answer, one["responseSchema"])
    resume = [{"interruptId": one["id"], "status": "resolved", "payload": answer}]
    gated.agent.invoke(Command(resume=agui_answers(resume, waiting)), CONFIG)
    assert gated.did == [("tea", 1)]


@pytest.mark.parametrize("mode", ["batched", "per_call"])
def test_what_is_cancelled_is_not_done(policy: Policy, mode: Any) -> None:
    gated = desk(policy, order("tea"), order("milk"), interrupt_mode=mode)
    waiting = gated.say("odd")["__interrupt__"]
    resume = [{"interruptId": one.id, "status": "cancelled"} for one in waiting]
    state = gated.agent.invoke(Command(resume=agui_answers(resume, waiting)), CONFIG)
    assert gated.did == []
    assert "__interrupt__" not in state


@pytest.mark.parametrize("text", ["vague", "odd"])
def test_questions_of_a_graph_take_the_words_of_a_person(policy: Policy, text: str) -> None:
    builder = create_escalation_graph(
        classifier=FakeClassifier(by_words), policy=policy, act=lambda outcome: outcome["label"]
    )
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    waiting = graph.invoke({"text": text}, CONFIG)["__interrupt__"]
    (one,) = valid(agui_interrupts(waiting))
    assert one["reason"] == "input_required"
    assert one["message"] == waiting[0].value["action_requests"][0]["description"]
    answer: Any = "it is clear" if text == "vague" else {"type": "approve"}
    jsonschema.validate(answer, one["responseSchema"])
    resume = [{"interruptId": one["id"], "status": "resolved", "payload": answer}]
    state = graph.invoke(Command(resume=agui_answers(resume, waiting)), CONFIG)
    assert state["result"] == "yes"


def test_questions_of_others_pass_as_they_are() -> None:
    other = Interrupt(value={"ask": "which?"}, id="7")
    (one,) = valid(agui_interrupts([other]))
    assert one == {
        "id": "7",
        "reason": "langgraph:interrupt",
        "metadata": {"bayeslora_tool": {"ask": "which?"}},
    }
    resume = [{"interruptId": "7", "status": "resolved", "payload": "this"}]
    assert agui_answers(resume, [other]) == {"7": "this"}


CALL = Interrupt(
    value={"type": "tool_approval", "tool_call_id": "c", "name": "order", "args": {},
           "description": "?"},
    id="1",
)  # fmt: skip
YES = {"interruptId": "1", "status": "resolved", "payload": {"approved": True}}


@pytest.mark.parametrize(
    ("resume", "message"),
    [
        ([], "leaves out 1; waiting: 1"),
        ([YES, YES], "answered twice"),
        ([{**YES, "interruptId": "2"}], "does not wait; waiting: 1"),
        ([{**YES, "status": "done"}], "`status` .='done'. must be"),
        ([{**YES, "payload": {"approved": "true"}}], "must be {.approved.: true or false}"),
        ([{**YES, "payload": {"approved": 1}}], "must be {.approved.: true or false}"),
        ([{**YES, "payload": {}}], "must be {.approved.: true or false}"),
        ([{**YES, "payload": {"approved": True, "editedArgs": "n=1"}}], "`editedArgs` as an obj"),
    ],
)
def test_what_is_no_answer_is_refused(resume: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agui_answers(resume, [CALL])


def test_a_decision_in_langchain_s_words_passes() -> None:
    answer = {"type": "respond", "message": "we have none"}
    assert agui_answers([{**YES, "payload": answer}], [CALL]) == {"1": answer}
