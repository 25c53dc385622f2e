"""Requests as an older interface shows them, and what it sends back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from bayeslora_tool.review.answers import read_decisions, read_review
from bayeslora_tool.review.older_request import same
from bayeslora_tool.review.requests import ask_about, asked_again, hitl_request, review_request
from tests.fakes import make_prediction

FREEZE = ask_about("freeze", {"card": 12345678901234567890, "why": "lost"}, ["Not sure."])
PAY = ask_about("pay", {"amount": 0.1, "to": ["Ada", None]}, ["Not sure either."])
BOTH = hitl_request(FREEZE, PAY)
OLDER = {"action_request", "config", "description"}
KINDS = ("allow_accept", "allow_edit", "allow_ignore", "allow_respond")


def as_a_browser_sends(value: Any) -> Any:
    """Its numbers are floats of 64 bits, and text fields make text of all else."""
    return json.loads(json.dumps(value), parse_int=float)


def form(**changes: Any) -> list[dict[str, Any]]:
    """The edit of both calls, as the interface sends it."""
    action = as_a_browser_sends(BOTH["action_request"])
    return [{"type": "edit", "args": {**action, "args": action["args"] | changes}}]


def kinds(answer: Any) -> list[str]:
    return [decision["type"] for decision in read_decisions(answer, BOTH)]


def test_one_action_is_shown_as_it_is_and_offers_what_is_allowed() -> None:
    request = review_request(text="x", prediction=None, reason="Why.", labels=("yes", "no"))
    (action,) = request["action_requests"]
    assert request.keys() == OLDER | {"action_requests", "review_configs"}
    assert request["action_request"] == {"action": action["name"], "args": action["args"]}
    assert request["description"] == action["description"]
    assert [request["config"][kind] for kind in KINDS] == [False, True, True, True]


def test_two_actions_are_shown_in_one_form_with_a_word_on_each() -> None:
    assert BOTH["action_request"] == {
        "action": "freeze, pay",
        "args": {
            "1_freeze": FREEZE[0]["args"],
            "decision_1": "approve",
            "2_pay": PAY[0]["args"],
            "decision_2": "approve",
        },
    }
    assert [BOTH["config"][kind] for kind in KINDS] == [True, True, True, False]
    assert BOTH["description"].index("Not sure.") < BOTH["description"].index("2. `pay`")


def test_a_problem_is_shown_there_too() -> None:
    again = asked_again(BOTH, "nonsense")
    assert "not understood: nonsense" in again["description"]
    assert again.keys() == BOTH.keys()


@pytest.mark.parametrize(
    ("answer", "decided"),
    [
        ([{"type": "accept", "args": as_a_browser_sends(BOTH["action_request"])}], "approve"),
        ([{"type": "ignore", "args": None}], "reject"),
    ],
)
def test_accept_and_ignore_hold_for_all_of_them(answer: Any, decided: str) -> None:
    assert kinds(answer) == [decided, decided]


def test_a_word_on_each_decides_each() -> None:
    assert kinds(form()) == ["approve", "approve"]
    assert kinds(form(decision_2=" Reject ")) == ["approve", "reject"]
    assert kinds(form(decision_1="reject")) == ["reject", "approve"]
    assert kinds(form(**{"1_freeze": json.dumps(FREEZE[0]["args"])})) == ["approve", "approve"]


def test_other_arguments_are_an_edit_of_that_call_alone() -> None:
    first, second = read_decisions(form(**{"2_pay": '{"amount": 2, "to": []}'}), BOTH)
    assert first["type"] == "approve"
    assert (second["type"], second["args"]) == ("edit", {"amount": 2, "to": []})


@pytest.mark.parametrize(
    "answer",
    [
        form(decision_1="maybe"),
        form(decision_2=None),
        form(**{"1_freeze": "{"}),
        form(**{"2_pay": "[]"}),
        [{"type": "edit", "args": "x"}],
        [{"type": "edit", "args": {"args": {}}}],
        [{"type": "response", "args": "hello"}],
        [{"type": [], "args": None}],
    ],
)
def test_what_decides_nothing_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"approve|decisions|JSON object"):
        read_decisions(answer, BOTH)


def test_what_was_accepted_elsewhere_does_not_settle_this() -> None:
    def about(text: str) -> dict[str, Any]:
        prediction = make_prediction().to_dict()
        return review_request(text=text, prediction=prediction, reason="r", labels=("yes", "no"))

    accepts = [{"type": "accept", "args": about("one")["action_request"]}]
    assert read_review(accepts, about("one")).label == "yes"
    with pytest.raises(ValueError, match="accepts something else"):
        read_review(accepts, about("two"))
    other = [{"type": "accept", "args": {"action": "pay", "args": {}}}]
    with pytest.raises(ValueError, match="accepts something else"):
        read_review(other, about("one"))


@pytest.mark.parametrize(
    ("given", "asked", "equal"),
    [
        (1.0, 1, True),
        ("1", 1, True),
        (True, 1, False),
        (1, True, False),
        (None, math.nan, True),
        (0.0, math.nan, False),
        (12345678901234567000, 12345678901234567890, True),
        (12345678901230000000, 12345678901234567890, False),
        (10**400, 10**400, True),
        (10**400, 5, False),
        ({"a": [1]}, {"a": (1.0,)}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1], [1, 2], False),
        (None, "x", False),
    ],
)
def test_a_value_is_known_again_after_a_browser_had_it(given: Any, asked: Any, equal: bool) -> None:
    assert same(given, asked) is equal
