"""A question that waits is not lost, whoever talks to the graph, and however."""

from __future__ import annotations

from typing import Any

import pytest
from bayeslora_tool.graphs.runs import abandon, pending, resume, start
from langgraph.types import Command

from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import APPROVE, CONFIG, REJECT, Desk, build, refused, request_of


def about(state: dict[str, Any]) -> tuple[str, str]:
    (action,) = request_of(state)["action_requests"]
    return action["args"]["text"], action["description"]


def test_a_new_text_puts_the_review_that_waits_again_and_is_handed_back() -> None:
    desk = Desk()
    assert about(desk.graph.invoke({"text": "odd"}, CONFIG))[0] == "odd"
    for n, text in enumerate(["clear", "other", "other"], 1):
        state = desk.graph.invoke({"text": text}, CONFIG)
        assert about(state)[0] == "odd"
        assert f"{n} new text" in about(state)[1]
        assert state["refused"] == ["clear", "other", "other"][:n]
    assert desk.fake.seen == ["odd"]  # nothing was scored again, nor for the first time
    state = desk.graph.invoke(Command(resume=APPROVE), CONFIG)
    assert (state["outcome"]["text"], state["outcome"]["decided_by"]) == ("odd", "human")
    assert [outcome["text"] for outcome in desk.acted] == ["odd"]
    assert state["refused"] == ["clear", "other", "other"]
    assert "new text" not in state["outcome"]["reason"]
    state = desk.graph.invoke({"text": "clear"}, CONFIG)
    assert (state["outcome"]["text"], state["refused"]) == ("clear", [])


def test_the_same_text_again_is_no_other() -> None:
    desk = Desk()
    desk.graph.invoke({"text": "odd"}, CONFIG)
    state = desk.graph.invoke({"text": "odd"}, CONFIG)
    assert about(state)[0] == "odd"
    assert state["refused"] == []
    assert desk.graph.invoke(Command(resume=REJECT), CONFIG)["outcome"]["decision"] == "reject"
    assert desk.acted == []


def test_a_question_to_the_user_is_put_again_and_their_answers_so_far_are_kept() -> None:
    desk = Desk()
    desk.graph.invoke({"text": "vague"}, CONFIG)
    desk.graph.invoke(Command(resume="vague still"), CONFIG)
    state = desk.graph.invoke({"text": "clear"}, CONFIG)
    (action,) = request_of(state)["action_requests"]
    assert action["name"] == "ask_user"
    assert action["args"]["text"] == "vague\nvague still"
    assert "send it again" in action["args"]["question"]
    state = desk.graph.invoke(Command(resume="clear"), CONFIG)
    assert state["outcome"]["text"] == "vague\nvague still\nclear"


def test_what_jumps_to_the_end_loses_no_review_either() -> None:
    desk = Desk()
    desk.graph.invoke({"text": "odd"}, CONFIG)
    desk.graph.invoke(Command(goto="__end__"), CONFIG)
    assert about(desk.graph.invoke({"text": "clear"}, CONFIG))[0] == "odd"
    assert desk.acted == []


@pytest.mark.parametrize("late", [REJECT, {"decisions": [REJECT]}])
def test_a_second_answer_changes_nothing_and_answers_no_later_question(late: Any) -> None:
    desk = Desk()
    first = desk.graph.invoke({"text": "odd"}, CONFIG)
    (interrupt,) = first["__interrupt__"]
    settled = desk.graph.invoke(Command(resume=APPROVE), CONFIG)
    for answer in (late, {interrupt.id: late}):
        again = desk.graph.invoke(Command(resume=answer), CONFIG)
        assert again["outcome"] == settled["outcome"]  # which says who decided, and what
    assert len(desk.acted) == 1
    state = desk.graph.invoke({"text": "odd two"}, CONFIG)
    assert about(state)[0] == "odd two"  # it waits: nothing has answered it
    state = desk.graph.invoke(Command(resume={interrupt.id: APPROVE}), CONFIG)
    assert about(state)[0] == "odd two"
    assert len(desk.acted) == 1


def test_an_answer_to_the_question_as_it_was_put_first_settles_nothing() -> None:
    desk = Desk()
    (first,) = desk.graph.invoke({"text": "odd"}, CONFIG)["__interrupt__"]
    desk.graph.invoke({"text": "clear"}, CONFIG)
    desk.graph.invoke(Command(resume={first.id: APPROVE}), CONFIG)
    assert desk.acted == []
    (now,) = pending(desk.graph, CONFIG)
    resume(desk.graph, CONFIG, {now: APPROVE})
    assert len(desk.acted) == 1


def test_what_was_given_up_is_not_put_again() -> None:
    desk = Desk()
    start(desk.graph, {"text": "odd"}, CONFIG)
    refused("pending", lambda: start(desk.graph, {"text": "clear"}, CONFIG))
    abandon(desk.graph, CONFIG)
    state = start(desk.graph, {"text": "clear"}, CONFIG)
    assert (state["outcome"]["text"], state["refused"]) == ("clear", [])


async def test_async() -> None:
    graph = build(FakeClassifier(by_words))
    await graph.ainvoke({"text": "odd"}, CONFIG)
    assert about(await graph.ainvoke({"text": "clear"}, CONFIG))[0] == "odd"
