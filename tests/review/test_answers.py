from __future__ import annotations

import re
from typing import Any

import pytest
from langgraph.types import Command

from bayeslora_tool.policy import Policy
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.fakes import FakeClassifier
from tests.graphs.desk import CONFIG, EDIT_TO_NO, build, request_of

# What Agent Inbox shows in text fields, it sends back as str.
INBOX_ACTION = {
    "action": REVIEW_ACTION,
    "args": {"text": "odd", "label": "yes", "confidence": "0.9"},
}


@pytest.mark.parametrize(
    ("answer", "decision", "label", "message", "acts"),
    [
        ({"type": "approve"}, "proceed", "yes", None, True),
        ({"decisions": [{"type": "approve"}]}, "proceed", "yes", None, True),
        ([{"type": "accept", "args": None}], "proceed", "yes", None, True),
        ([{"type": "accept", "args": INBOX_ACTION}], "proceed", "yes", None, True),
        ([{"type": "edit", "args": INBOX_ACTION}], "proceed", "yes", None, True),
        (EDIT_TO_NO, "proceed", "no", None, True),
        ({"decisions": [EDIT_TO_NO]}, "proceed", "no", None, True),
        (
            [{"type": "edit", "args": {"action": REVIEW_ACTION, "args": {"label": "no"}}}],
            "proceed",
            "no",
            None,
            True,
        ),
        ({"type": "reject"}, "reject", None, None, False),
        ({"type": "reject", "message": "not now"}, "reject", None, "not now", False),
        ([{"type": "ignore", "args": None}], "reject", None, None, False),
        ({"type": "respond", "message": "call us"}, "respond", None, "call us", False),
        ([{"type": "response", "args": "call us"}], "respond", None, "call us", False),
    ],
)
def test_reviewer_settles(
    fake: FakeClassifier,
    policy: Policy,
    answer: Any,
    decision: str,
    label: str | None,
    message: str | None,
    acts: bool,
) -> None:
    acted: list[Any] = []
    graph = build(fake, policy, act=lambda outcome: acted.append(outcome["label"]))
    request = request_of(graph.invoke({"text": "odd"}, CONFIG))
    assert request["action_requests"][0]["args"] == {
        "text": "odd",
        "label": "yes",
        "confidence": 0.9,
        "variance": 0.2,
    }
    state = graph.invoke(Command(resume=answer), CONFIG)
    outcome = state["outcome"]
    assert (outcome["decision"], outcome["label"], outcome["message"]) == (decision, label, message)
    assert outcome["decided_by"] == "human"
    assert "draws disagree" in outcome["reason"]
    assert acted == ([label] if acts else [])
    assert fake.seen == ["odd"]  # scored once, also across the resume


MALFORMED: list[Any] = [
    "yes please",
    17,
    True,
    [],
    ["approve"],
    {"decisions": []},
    {"decisions": [{"type": "approve"}, {"type": "approve"}]},
    {"decisions": "approve"},
    {"type": "proceed"},
    {"type": ["approve"]},
    {"type": "accept"},
    {"type": "respond"},
    {"type": "respond", "message": "  "},
    {"type": "respond", "message": 3},
    {"type": "reject", "message": {"why": "x"}},
    {"type": "edit"},
    {"type": "edit", "edited_action": "no"},
    {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {}}},
    {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {"label": "maybe"}}},
    {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {"label": ["no"]}}},
    {"type": "edit", "edited_action": {"name": "delete_all", "args": {"label": "no"}}},
    {
        "type": "edit",
        "edited_action": {"name": REVIEW_ACTION, "args": {"label": "no", "text": "other"}},
    },
    {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {"label": "no", "x": 1}}},
    [{"type": "edit", "args": "no"}],
    [{"type": "response", "args": None}],
    {"one": 2},
]


@pytest.mark.parametrize("answer", MALFORMED, ids=repr)
def test_a_malformed_review_is_asked_for_again_and_loses_nothing(
    fake: FakeClassifier, policy: Policy, answer: Any
) -> None:
    acted: list[Any] = []
    graph = build(fake, policy, act=acted.append)
    first = request_of(graph.invoke({"text": "odd"}, CONFIG))
    question = graph.get_state(CONFIG).interrupts
    (again,) = graph.invoke(Command(resume=answer), CONFIG)["__interrupt__"]
    said, _, rest = again.value["action_requests"][0]["description"].partition("\n")
    assert said.startswith("The last answer was not understood: ")
    assert re.search("expected one decision|send {|must be a str|near are|give a non", said)
    assert rest == first["action_requests"][0]["description"]
    assert again.id == question[0].id
    assert acted == []
    state = graph.invoke(Command(resume={"type": "approve"}), CONFIG)
    assert state["outcome"]["label"] == "yes"
    assert len(acted) == 1
    assert fake.seen == ["odd"]
