from __future__ import annotations

from typing import Any

import pytest
from bayeslora_tool.graphs.runs import start
from langgraph.types import Command

from bayeslora_tool.policy import Policy
from bayeslora_tool.review.phrases import declines
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.fakes import FakeClassifier
from tests.graphs.desk import CONFIG, build, on, request_of, waiting


@pytest.mark.parametrize(
    "answer",
    [
        "I mean clear",
        {"type": "respond", "message": "I mean clear"},
        {"decisions": [{"type": "respond", "message": " I mean clear "}]},
        [{"type": "response", "args": "I mean clear"}],
    ],
    ids=repr,
)
def test_users_answer_comes_in_any_shape(fake: FakeClassifier, policy: Policy, answer: Any) -> None:
    graph = build(fake, policy)
    graph.invoke({"text": "vague"}, CONFIG)
    state = graph.invoke(Command(resume=answer), CONFIG)
    assert state["clarifications"][0]["answer"] == "I mean clear"
    assert state["outcome"]["decided_by"] == "user"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("neither", " ('neither')"),
        ('"neither"', """ ('"neither"')"""),
        (" None  of these. ", " ('None  of these.')"),
        ("Something else", " ('Something else')"),
        ("never mind!", " ('never mind!')"),
        ({"type": "reject"}, ""),
        ({"type": "reject", "message": "close my account"}, " ('close my account')"),
        ({"decisions": [{"type": "respond", "message": "Neither."}]}, " ('Neither.')"),
        ([{"type": "ignore", "args": None}], ""),
    ],
    ids=repr,
)
def test_a_user_who_means_none_of_these_is_brought_to_a_reviewer(
    fake: FakeClassifier, policy: Policy, answer: Any, words: str
) -> None:
    graph = build(fake, policy)
    question = request_of(graph.invoke({"text": "vague"}, CONFIG))
    assert 'say "neither"' in question["action_requests"][0]["description"]
    request = request_of(graph.invoke(Command(resume=answer), CONFIG))
    (asked,) = request["action_requests"]
    assert (asked["name"], asked["args"]["text"]) == (REVIEW_ACTION, "vague")
    assert f"The user said that it is none of these{words}." in asked["description"]
    state = graph.invoke(Command(resume={"type": "approve"}), CONFIG)
    assert (state["outcome"]["decided_by"], state["outcome"]["text"]) == ("human", "vague")
    assert fake.seen == ["vague"]


@pytest.mark.parametrize(
    "answer",
    [
        "neither one of those",
        "no, neither",
        "Nope.",
        "none of the above",
        "neither?",
        "(neither)",
        "not these",
        "it's something else",
        "it\u2019s something else",
        "nevermind",
        "neither, thanks",
    ],
)
def test_what_declines(answer: str) -> None:
    assert declines(answer)


@pytest.mark.parametrize(
    "answer", ["clear, neither of my cards", "none of my cards: clear", "no cards clear"]
)
def test_words_that_say_more_are_scored(fake: FakeClassifier, policy: Policy, answer: str) -> None:
    graph = build(fake, policy)
    graph.invoke({"text": "vague"}, CONFIG)
    graph.invoke(Command(resume=answer), CONFIG)
    assert fake.seen == ["vague", f"vague\n{answer}"]


@pytest.mark.parametrize(
    "answer",
    [
        "  ",
        "a\0b",
        "\ud83d",
        5,
        {"type": "approve"},
        {"type": "respond"},
        [[]],
        {"type": "reject", "message": 5},
        {"type": "reject", "message": "a\0b"},
    ],
)
def test_a_malformed_answer_of_the_user_is_asked_for_again(
    fake: FakeClassifier, policy: Policy, answer: Any
) -> None:
    graph = build(fake, policy)
    graph.invoke({"text": "vague"}, CONFIG)
    again = request_of(graph.invoke(Command(resume=answer), CONFIG))
    assert "not understood" in again["action_requests"][0]["description"]
    state = graph.invoke(Command(resume="clear"), CONFIG)
    assert state["outcome"]["decided_by"] == "user"
    assert len(state["clarifications"]) == 1


def test_ask_is_the_callers_and_runs_once(fake: FakeClassifier, policy: Policy) -> None:
    asked: list[str] = []

    def ask(prediction: Any, text: str) -> str:
        asked.append(text)
        return f"What about {prediction.label}?"

    graph = build(fake, policy, ask=ask)
    request = request_of(graph.invoke({"text": "vague"}, CONFIG))
    assert request["action_requests"][0]["description"] == "What about yes?"
    graph.invoke(Command(resume="clear"), CONFIG)
    assert asked == ["vague"]


@pytest.mark.parametrize("question", [None, 5, {"q": 1}, " "])
def test_a_question_that_is_no_text_goes_to_a_person(fake: FakeClassifier, question: Any) -> None:
    graph = build(fake, ask=lambda prediction, text: question)
    start(graph, {"text": "vague"}, on(1))
    _, request = waiting(graph)
    assert request["name"] == REVIEW_ACTION
    assert f"`ask` gave {question!r}, expected a question" in request["description"]
