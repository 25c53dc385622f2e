"""Other clients answer the same threads, and read the same requests in their own way."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from bayeslora_tool.graphs.runs import pending, resume, start
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.desk.desk import Desk
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.review.agui import agui_answers
from tests.desk.filed import file, question, refused, steps
from tests.desk.scenes import Scene
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import APPROVE, EDIT_TO_NO, POLICY, on
from tests.scripted_model import ScriptedModel, calls

SHOWN = {"text": "odd", "label": "yes", "confidence": "0.9"}
INBOX = {"action": "act_on_label", "args": SHOWN}
# What agent-chat-ui and Agent Inbox send, without an interrupt's id.
ANSWERS: list[tuple[Any, str]] = [
    ({"decisions": [APPROVE]}, "proceed"),
    ({"decisions": [EDIT_TO_NO]}, "proceed"),
    ({"decisions": [{"type": "reject", "message": "no"}]}, "reject"),
    ([{"type": "accept", "args": None}], "proceed"),
    ([{"type": "accept", "args": INBOX}], "proceed"),
    ([{"type": "edit", "args": {"action": "act_on_label", "args": {"label": "no"}}}], "proceed"),
    ([{"type": "ignore", "args": None}], "reject"),
    ([{"type": "response", "args": "call us"}], "respond"),
]


@pytest.mark.parametrize(("answer", "decision"), ANSWERS)
def test_the_desk_notices_at_once_what_another_client_answers_in_its_process(
    ledger: Ledger, answer: Any, decision: str
) -> None:
    scene = Scene(ledger)
    name = scene.ask()
    state = scene.graph.invoke(Command(resume=answer), on(1))
    assert state["outcome"]["decision"] == decision
    assert ledger.review(name).state == "withdrawn"
    with refused("over"):
        ledger.decide(name, APPROVE, "ann")
    assert scene.desk.apply() == []
    assert len(scene.acted) == (decision == "proceed")


@pytest.mark.parametrize(("answer", "decision"), ANSWERS[3::3])
def test_and_what_was_answered_in_another_process_when_it_looks(
    ledger: Ledger, answer: Any, decision: str
) -> None:
    scene = Scene(ledger)
    open_one, decided = scene.ask(1), scene.ask(2)
    ledger.decide(decided, EDIT_TO_NO, "ann")
    for thread in (1, 2):
        scene.plain.invoke(Command(resume=answer), on(thread))
    assert scene.desk.sync() == (0, 1)
    assert ledger.review(open_one).state == "withdrawn"
    assert [one.result for one in scene.desk.apply()] == ["withdrawn"]
    assert scene.outcome(2)["decision"] == decision
    assert len(scene.acted) == 2 * (decision == "proceed")
    assert ledger.verify() == []


def test_of_several_questions_of_a_thread_the_others_go_on_waiting(ledger: Ledger) -> None:
    from tests.graphs.desk import two_gates

    graph = Desk(ledger).watch(two_gates(), name="two")
    start(graph, {"text": "odd"}, on(1))
    first, second = ledger.reviews("open")
    graph.invoke(Command(resume={first.interrupt: APPROVE}), on(1))
    assert ledger.review(first.id).state == "withdrawn"
    assert ledger.review(second.id).state == "open"


def test_what_the_desk_itself_carries_out_is_not_taken_for_anothers(ledger: Ledger) -> None:
    scene = Scene(ledger)
    name = scene.ask()
    ledger.decide(name, APPROVE, "ann")
    scene.desk.apply()
    assert steps(ledger, ledger.review(name)) == ["filed", "decided", "applied"]


def valid(found: dict[str, Any]) -> dict[str, Any]:
    """The same, as AG-UI's SDK writes what it read."""
    core = pytest.importorskip("ag_ui.core")
    read = core.Interrupt.model_validate(found)
    assert read.model_dump(by_alias=True, exclude_none=True).keys() == found.keys()
    return read.model_dump(by_alias=True, exclude_none=True)  # type: ignore[no-any-return]


def test_a_review_is_one_of_ag_ui_s_interrupts_with_its_end_and_its_answers(
    ledger: Ledger,
) -> None:
    review = file(ledger, due=60)
    found = valid(review.to_ag_ui())
    assert found["id"] == review.interrupt
    assert found["expiresAt"] == review.due.isoformat()  # type: ignore[union-attr]
    assert found["message"] == review.request["action_requests"][0]["description"]
    assert found["metadata"]["bayeslora_tool"] == review.request
    assert found["metadata"]["bayeslora_desk"]["review"] == review.id
    jsonschema.validate(EDIT_TO_NO, found["responseSchema"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type": "perhaps"}, found["responseSchema"])
    ledger.reconcile([question("odd too")])
    endless = next(one for one in ledger.reviews() if one.id != review.id)
    assert "expiresAt" not in valid(endless.to_ag_ui())


def test_a_tool_call_is_bound_to_it_and_its_answer_in_ag_ui_s_way_counts(ledger: Ledger) -> None:
    from langchain_core.tools import tool

    @tool
    def order(item: str) -> str:
        """Order it."""
        return f"ordered {item}"

    gate = UncertaintyGate(FakeClassifier(by_words), POLICY, interrupt_mode="per_call")
    script = [calls(("order", {"item": "tea"})), AIMessage("done")]
    plain = create_agent(
        ScriptedModel(script=script), [order], middleware=[gate], checkpointer=InMemorySaver()
    )
    graph = Desk(ledger).watch(plain, name="a", due=60)
    start(graph, {"messages": [("user", "odd")]}, on(1))
    (review,) = ledger.reviews()
    found = valid(review.to_ag_ui())
    assert found["reason"] == "tool_call"
    assert found["toolCallId"] == review.request["tool_call_id"]
    assert "expiresAt" in found
    sent = {"approved": True, "editedArgs": {"item": "ham"}}
    entry = {"interruptId": found["id"], "status": "resolved", "payload": sent}
    answers = agui_answers([entry], graph.get_state(on(1)).interrupts)
    assert pending(graph, on(1)).keys() == answers.keys()
    state = resume(graph, on(1), answers)
    assert state["messages"][-2].content.endswith("ordered ham")
    assert ledger.review(review.id).state == "withdrawn"
