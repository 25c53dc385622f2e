from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.human_in_the_loop import HITLRequest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel, TypeAdapter

from bayeslora_tool.agents.answer_gate import AnswerGate
from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from tests.agents.desk import ANSWERS, APPROVE, CONFIG, Desk, asked, edit, order
from tests.fakes import FakeClassifier, by_words, make_prediction
from tests.scripted_model import ScriptedModel, calls

ADVICE = AIMessage("take two a day")


def last(state: dict[str, Any]) -> str:
    return str(state["messages"][-1].content)


def test_a_sure_answer_passes(fake: FakeClassifier, policy: Policy) -> None:
    state = Desk([ADVICE], AnswerGate(fake, policy)).say("clear")
    assert "__interrupt__" not in state
    assert last(state) == "take two a day"
    assert fake.seen == ["clear"]


@pytest.mark.parametrize(
    ("decision", "heard"),
    [
        (APPROVE, "take two a day"),
        (edit("final_answer", answer="take one"), "take one"),
        ({"type": "respond", "message": "see a doctor"}, "see a doctor"),
        ({"type": "reject"}, "A reviewer withheld this answer."),
        (
            {"type": "reject", "message": "wrong dose"},
            "A reviewer withheld this answer. Their reason: wrong dose",
        ),
    ],
    ids=["approve", "edit", "respond", "reject", "reject with a reason"],
)
def test_a_doubtful_answer_is_what_the_reviewer_makes_of_it(
    fake: FakeClassifier, policy: Policy, decision: Any, heard: str
) -> None:
    desk = Desk([ADVICE], AnswerGate(fake, policy))
    request = asked(desk.say("odd"))
    assert request | TypeAdapter(HITLRequest).validate_python(request) == request
    (action,) = request["action_requests"]
    assert (action["name"], action["args"]) == ("final_answer", {"answer": "take two a day"})
    assert "variance 0.2" in action["description"]
    state = desk.answer({"decisions": [decision]})
    assert last(state) == heard
    assert [message.type for message in state["messages"]] == ["human", "ai"]
    assert fake.seen == ["odd"]  # scored once, across the resume


async def test_async(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk([ADVICE], AnswerGate(fake, policy))
    state = await desk.agent.ainvoke({"messages": [("user", "odd")]}, CONFIG)
    assert asked(state)["action_requests"][0]["name"] == "final_answer"


def test_a_vague_request_is_asked_about_and_the_answer_taken_back(
    fake: FakeClassifier, policy: Policy
) -> None:
    desk = Desk([ADVICE, AIMessage("take one")], AnswerGate(fake, policy))
    state = desk.say("vague")
    assert '"yes" or "no"' in last(state)
    assert "take two a day" not in [message.content for message in state["messages"]]
    assert last(desk.say("clear now")) == "take one"
    assert fake.seen == ["vague", "vague\nclear now"]


def test_what_cannot_be_scored_is_escalated(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk([ADVICE], AnswerGate(fake, policy))
    description = asked(desk.say("boom"))["action_requests"][0]["description"]
    assert "RuntimeError: the model broke" in description


class Ends(AgentMiddleware):
    """Puts its own words in place of the model's after the gate has seen those."""

    def after_agent(self, state: Any, runtime: Any) -> dict[str, Any]:
        return {"messages": [AIMessage("take ten", id=state["messages"][-1].id)]}


def test_an_answer_that_was_changed_since_is_judged_before_it_leaves(
    fake: FakeClassifier, policy: Policy
) -> None:
    def scored(call: Any, state: Any) -> str:
        return "odd" if "ten" in call["args"]["answer"] else "clear"

    desk = Desk([ADVICE], AnswerGate(fake, policy, text=scored), Ends())
    assert asked(desk.say("go"))["action_requests"][0]["args"] == {"answer": "take ten"}
    assert last(desk.answer({"type": "respond", "message": "see a doctor"})) == "see a doctor"
    assert fake.seen == ["clear", "odd"]


BOTH = pytest.mark.parametrize(
    "kinds",
    [(UncertaintyGate, AnswerGate), (AnswerGate, UncertaintyGate)],
    ids=["calls first", "answer first"],
)


@BOTH
def test_beside_a_gate_of_tool_calls(fake: FakeClassifier, policy: Policy, kinds: Any) -> None:
    def by_call(call: Any, state: Any) -> str:
        return "clear" if call["name"] == "order" else "odd"

    desk = Desk([calls(order("tea")), ADVICE], *(k(fake, policy, text=by_call) for k in kinds))
    state = desk.say("go")
    assert desk.did == [("tea", 1)]
    assert asked(state)["action_requests"][0]["name"] == "final_answer"
    assert last(desk.answer(APPROVE)) == "take two a day"
    assert fake.seen == ["clear", "odd"]


@BOTH
def test_the_other_gates_question_passes(fake: FakeClassifier, policy: Policy, kinds: Any) -> None:
    desk = Desk([calls(order("tea")), ADVICE], *(kind(fake, policy) for kind in kinds))
    state = desk.say("vague")
    assert "__interrupt__" not in state
    assert '"yes" or "no"' in last(state)


def test_a_structured_response_is_refused_and_not_waved_through(policy: Policy) -> None:
    class Dose(BaseModel):
        """How much to take."""

        pills: int

    gate: Any = AnswerGate(FakeClassifier(make_prediction()), policy)
    model = ScriptedModel(script=[calls(("Dose", {"pills": 2}))])
    agent = create_agent(
        model, middleware=[gate], response_format=Dose, checkpointer=InMemorySaver()
    )
    with pytest.raises(ValueError, match="cannot withhold a structured response"):
        agent.invoke({"messages": [("user", "clear")]}, CONFIG)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(ANSWERS)
def test_no_answer_of_the_reviewer_crashes_or_poisons_the_thread(answer: Any) -> None:
    fake = FakeClassifier(by_words)
    desk = Desk([ADVICE], AnswerGate(fake, Policy(0.8, 0.01)))
    (interrupt,) = desk.say("odd")["__interrupt__"]
    state = desk.answer({interrupt.id: answer})
    if "__interrupt__" in state:
        state = desk.answer(APPROVE)
    assert isinstance(state["messages"][-1].content, str)
    assert last(state).strip()
    assert fake.seen == ["odd"]
