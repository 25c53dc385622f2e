from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from bayeslora_tool.graphs.question import known_reviewer
from langgraph.types import Command

from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import CONFIG, build

ACTION = {"name": REVIEW_ACTION, "args": {"label": "no"}}


@pytest.mark.parametrize(
    ("configurable", "name"),
    [
        ({}, None),
        ({"reviewer": "anna"}, "anna"),
        ({"reviewer": "anna", "langgraph_auth_user_id": "ben"}, "ben"),
        ({"langgraph_auth_user_id": "ben", "langgraph_auth_user": {"identity": "carla"}}, "carla"),
        ({"langgraph_auth_user": SimpleNamespace(identity="carla")}, "carla"),
        ({"reviewer": "anna", "langgraph_auth_user": {"identity": ""}}, "anna"),
        ({"reviewer": 5}, None),
    ],
)
def test_who_a_config_names(configurable: dict[str, Any], name: str | None) -> None:
    assert known_reviewer({"configurable": configurable}) == name


@pytest.mark.parametrize(
    "answer",
    [
        {"type": "approve", "message": "fine", "reviewer": "anna"},
        {"decisions": [{"type": "approve", "message": "fine", "reviewer": "anna"}]},
        {"decisions": [{"type": "approve", "message": "fine"}], "reviewer": "anna"},
        {"type": "edit", "edited_action": ACTION, "message": "fine", "reviewer": "anna"},
        [{"type": "accept", "args": "fine", "reviewer": "anna"}],
        [{"type": "edit", "args": {"action": REVIEW_ACTION, "args": {"label": "no"}},
          "message": "fine", "reviewer": "anna"}],
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("by_config", [None, "ben"])
def test_the_outcome_names_the_reviewer_and_keeps_their_message(
    answer: Any, by_config: str | None
) -> None:
    graph = build(FakeClassifier(by_words))
    graph.invoke({"text": "odd"}, CONFIG)
    config: Any = {"configurable": {"thread_id": "1", "reviewer": by_config}}
    outcome = graph.invoke(Command(resume=answer), config)["outcome"]
    assert outcome["decision"] == "proceed"
    assert outcome["message"] == "fine"
    assert outcome["reviewer"] == (by_config or "anna")
    assert graph.get_state(CONFIG).values["outcome"]["reviewer"] == outcome["reviewer"]


def test_what_a_model_decides_has_no_reviewer() -> None:
    config: Any = {"configurable": {"thread_id": "1", "reviewer": "ben"}}
    state = build(FakeClassifier(by_words)).invoke({"text": "clear"}, config)
    assert state["outcome"]["reviewer"] is None


def test_a_reviewer_that_is_no_name_is_asked_for_again() -> None:
    graph = build(FakeClassifier(by_words))
    graph.invoke({"text": "odd"}, CONFIG)
    state = graph.invoke(Command(resume={"type": "approve", "reviewer": 5}), CONFIG)
    (interrupt,) = state["__interrupt__"]
    assert "`reviewer` must be a str" in interrupt.value["action_requests"][0]["description"]
