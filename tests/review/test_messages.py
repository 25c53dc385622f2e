from __future__ import annotations

from typing import Any

import pytest
from bayeslora_tool.graphs.gate import create_gate_graph
from bayeslora_tool.graphs.workflow import Step, create_workflow_graph
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from bayeslora_tool.agents.answer_gate import AnswerGate
from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from bayeslora_tool.review.messages import MESSAGES, Messages, read_messages
from bayeslora_tool.review.phrases import declines
from tests.agents.desk import DONE, Desk, order
from tests.fakes import FakeClassifier
from tests.graphs.desk import CONFIG, build, request_of
from tests.scripted_model import calls

GERMAN = MESSAGES["de"]


@pytest.mark.parametrize("language", MESSAGES)
def test_each_set_that_ships_is_whole_and_fits(language: str) -> None:
    assert read_messages(MESSAGES[language]) == MESSAGES[language]
    assert set(MESSAGES[language]) == set(Messages.__annotations__)


def test_the_way_out_that_a_question_names_is_understood() -> None:
    for messages in MESSAGES.values():
        question = messages["question"]
        _, _, named = question.rstrip('\u201c".').rpartition(
            "\u201e" if "\u201e" in question else '"'
        )
        assert declines(named)


def test_what_is_left_out_is_english() -> None:
    read = read_messages({"withheld": "Nein."})
    assert read["withheld"] == "Nein."
    assert read["question"] == MESSAGES["en"]["question"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("de", "must be a mapping"),
        ({"qestion": "?"}, "no 'qestion'; it has question, not_understood, withheld"),
        ({"withheld": None}, "must be a text"),
        ({"withheld": " "}, "must be a text"),
        ({"question": "{first}?"}, r"must have \{first\} and \{second\}"),
        ({"question": "{first} {second} {third}"}, r"must have \{first\} and \{second\}"),
        ({"question": "{first!r} {second}"}, r"must have \{first\} and \{second\}"),
        ({"question": "{first.__class__} {second}"}, r"must have \{first\} and \{second\}"),
        ({"question": "{} {first} {second}"}, r"must have \{first\} and \{second\}"),
        ({"question": "{first} {second"}, "is no template"),
        ({"withheld": "{reason}"}, "must have no placeholder"),
    ],
)
def test_templates_that_do_not_fit_are_refused_when_the_gate_is_made(
    fake: FakeClassifier, policy: Policy, given: Any, problem: str
) -> None:
    makers: list[Any] = [
        lambda: UncertaintyGate(fake, policy, messages=given),
        lambda: build(fake, policy, messages=given),
        lambda: create_gate_graph(classifier=fake, policy=policy, messages=given),
        lambda: create_workflow_graph(
            steps=[Step(name="a")], classifier=fake, policy=policy, messages=given
        ),
    ]
    for make in makers:
        with pytest.raises((TypeError, ValueError), match=problem):
            make()


def test_a_graph_asks_in_german_and_asks_again_in_german(
    fake: FakeClassifier, policy: Policy
) -> None:
    graph = build(fake, policy, messages=GERMAN)
    (action,) = request_of(graph.invoke({"text": "vague"}, CONFIG))["action_requests"]
    assert action["args"]["question"].startswith("Ich bin nicht sicher, was Sie meinen. Geht es um")
    assert "\u201eyes\u201c oder \u201eno\u201c" in action["description"]
    (action,) = request_of(graph.invoke(Command(resume=" "), CONFIG))["action_requests"]
    assert action["description"].startswith("Die letzte Antwort wurde nicht verstanden: ")
    (action,) = request_of(graph.invoke(Command(resume="Keins von beiden."), CONFIG))[
        "action_requests"
    ]
    assert action["name"] == "act_on_label"  # a reviewer's, in English
    assert "none of these" in action["description"]


def test_a_workflow_and_a_gate_in_a_graph_ask_in_german(
    fake: FakeClassifier, policy: Policy
) -> None:
    flow = create_workflow_graph(
        steps=[Step(name="a")], classifier=fake, policy=policy, messages=GERMAN
    )
    state = flow.compile(checkpointer=InMemorySaver()).invoke({"request": "vague"}, CONFIG)
    assert "Geht es um" in request_of(state)["action_requests"][0]["description"]
    gate = create_gate_graph(classifier=fake, policy=policy, messages=GERMAN)
    state = gate.compile(checkpointer=InMemorySaver()).invoke({"text": "vague"}, CONFIG)
    assert "Geht es um" in request_of(state)["action_requests"][0]["description"]


def test_agents_ask_and_withhold_in_german(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy, messages=GERMAN))
    assert "Geht es um" in desk.say("vague")["messages"][-1].text
    for message, told in [(None, "zurückgehalten."), ("zu {teuer}", "Begründung: zu {teuer}")]:
        desk = Desk([DONE], AnswerGate(fake, policy, messages=GERMAN))
        desk.say("odd")
        state = desk.answer({"type": "reject", "message": message})
        assert state["messages"][-1].text.endswith(told)
