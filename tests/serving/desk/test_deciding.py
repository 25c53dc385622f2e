"""What reviewers do on the page, by its own forms."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.routing import Route
from bayeslora_tool.review.answer_types import answer_type
from bayeslora_tool.review.requests import ask_about, hitl_request, tool_approval
from tests.desk.filed import APPROVE, file, question, steps
from tests.serving.desk.door import Door, Page, assign

ARGS = {"account": "GB29", "amount": 50}
SCHEMA = {
    "type": "object",
    "properties": {"account": {"type": "string"}, "amount": {"type": "integer", "maximum": 100}},
    "required": ["account", "amount"],
}


def call(ledger: Ledger, *tools: str, per_call: bool = False) -> FiledReview:
    """A review of calls."""
    if per_call:
        request = tool_approval({"id": "1", "name": tools[0], "args": ARGS}, ["Doubtful."])
    else:
        request = hitl_request(*(ask_about(tool, ARGS, ["Doubtful."]) for tool in tools))
    answers = TypeAdapter(answer_type("decisions", request, SCHEMA)).json_schema()
    asked = question("send it", request=request, schema=answers, tool=", ".join(tools))
    ledger.reconcile([asked])
    return ledger.review(asked.id)


def decided(door: Door, review: FiledReview) -> Any:
    return door.ledger.review(review.id).answer


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ({"decision": "approve"}, {"type": "approve"}),
        ({"decision": "approve", "message": "fine"}, {"type": "approve", "message": "fine"}),
        (
            {"decision": "edit", "pick": "1", "pick-other": ""},
            {"type": "edit", "edited_action": {"name": "act_on_label", "args": {"label": "no"}}},
        ),
        ({"decision": "reject", "message": "a\r\nb"}, {"type": "reject", "message": "a\nb"}),
        ({"decision": "respond", "message": "ask her"}, {"type": "respond", "message": "ask her"}),
    ],
)
def test_a_form_about_a_label_becomes_the_answer(door: Door, sent: Any, answer: Any) -> None:
    review = file(door.ledger)
    ann = door.browser("ann")
    done = ann.post(f"/reviews/{review.id}/decision", sent | {"back": "q=x&evil=1&state=open"})
    assert done.status_code == 303
    assert done.headers["location"] == f"/?q=x&state=open&decided={review.id}"
    assert decided(door, review) == answer | {"reviewer": "ann"}
    assert steps(door.ledger, review) == ["filed", "decided"]


@pytest.mark.parametrize("per_call", [False, True])
def test_a_form_about_a_call_becomes_the_answer(door: Door, per_call: bool) -> None:
    review = call(door.ledger, "transfer", per_call=per_call)
    ann = door.browser("ann")
    page = Page(ann.get(f"/reviews/{review.id}").text)
    assert page.all("input", name="arg-0-0")[0]["value"] == "GB29"
    assert page.all("input", name="arg-0-1")[0]["inputmode"] == "decimal"
    sent = {"decision": "edit", "arg-0-0": "GB29", "arg-0-1": "70"}
    assert ann.post(f"/reviews/{review.id}/decision", sent).status_code == 303
    edit = {"name": "transfer", "args": ARGS | {"amount": 70}}
    assert decided(door, review)["edited_action"] == edit


def test_an_answer_that_does_not_fit_is_refused_and_what_was_typed_is_still_there(
    door: Door,
) -> None:
    review = call(door.ledger, "transfer")
    ann = door.browser("ann")
    for amount, why in (("700", "greater than the maximum"), ("much", "must be a whole number")):
        sent = {
            "decision": "edit",
            "arg-0-0": "GB<30>",
            "arg-0-1": amount,
            "message": "look:\r\n<b>",
        }
        answer = ann.post(f"/reviews/{review.id}/decision", sent)
        assert answer.status_code == 422
        page = Page(answer.text)
        assert why in page.text
        assert page.all("input", name="arg-0-0")[0]["value"] == "GB<30>"
        assert "look: <b>" in page.text
    for sent in ({}, {"decision": ""}, {"decision": "sudo"}, {"decision": "respond"}):
        assert ann.post(f"/reviews/{review.id}/decision", sent).status_code == 422
    assert decided(door, review) is None


def test_of_several_calls_each_is_decided(door: Door) -> None:
    review = call(door.ledger, "transfer", "freeze")
    ann = door.browser("ann")
    half = ann.post(f"/reviews/{review.id}/decision", {"decision-0": "approve"})
    assert (half.status_code, "say what to do about freeze" in half.text) == (422, True)
    sent = {
        "decision-0": "edit", "arg-0-0": "GB31", "arg-0-1": "50",
        "decision-1": "reject", "message-1": "no",
    }  # fmt: skip
    assert ann.post(f"/reviews/{review.id}/decision", sent).status_code == 303
    first, second = decided(door, review)["decisions"]
    assert first["edited_action"]["args"]["account"] == "GB31"
    assert second == {"type": "reject", "message": "no"}


@pytest.mark.parametrize("pick", ["2", "-1", "x", "", "1" * 400])
def test_a_label_that_nobody_offered_cannot_be_picked(door: Door, pick: str) -> None:
    review = file(door.ledger)
    sent = {"decision": "edit", "pick": pick}
    assert door.browser("ann").post(f"/reviews/{review.id}/decision", sent).status_code == 422
    assert decided(door, review) is None


def test_who_comes_second_reads_who_was_first(door: Door) -> None:
    review = file(door.ledger)
    ann, lea = door.browser("ann"), door.browser("lea")
    ann.post(f"/reviews/{review.id}/decision", {"decision": "approve"})
    late = lea.post(f"/reviews/{review.id}/decision", {"decision": "reject"})
    assert (late.status_code, "was decided by ann" in late.text) == (409, True)
    assert lea.post(f"/reviews/{review.id}/claim").status_code == 409
    assert decided(door, review)["type"] == "approve"


def test_a_claim_keeps_others_out_until_it_is_given_back(door: Door) -> None:
    review = file(door.ledger)
    ann, lea = door.browser("ann"), door.browser("lea")
    assert ann.post(f"/reviews/{review.id}/claim").status_code == 303
    page = lea.get(f"/reviews/{review.id}").text
    assert "claimed by ann" in Page(page).text
    assert 'value="approve"' not in page
    refused = lea.post(f"/reviews/{review.id}/decision", {"decision": "approve"})
    assert (refused.status_code, "claimed by ann" in refused.text) == (409, True)
    assert ann.post(f"/reviews/{review.id}/release").status_code == 303
    assert lea.post(f"/reviews/{review.id}/decision", {"decision": "approve"}).status_code == 303


def test_an_answer_can_be_taken_back_for_ten_seconds(door: Door) -> None:
    review = file(door.ledger)
    ann, lea = door.browser("ann"), door.browser("lea")
    there = ann.post(f"/reviews/{review.id}/decision", {"decision": "approve"}).headers["location"]
    for path in (there, f"/reviews/{review.id}"):
        page = Page(ann.get(path).text)
        (form,) = page.all("form", action=f"/reviews/{review.id}/undo")
        assert 5 < float(form["data-left"] or 0) <= 10
        assert not Page(lea.get(path).text).all("form", action=f"/reviews/{review.id}/undo")
    assert lea.post(f"/reviews/{review.id}/undo").status_code in (403, 409)
    assert ann.post(f"/reviews/{review.id}/undo").status_code == 303
    now = door.ledger.review(review.id)
    assert (now.state, now.assignee, now.answer) == ("claimed", "ann", None)
    page = Page(ann.get(f"/reviews/{review.id}").text)
    assert not page.all("form", action=f"/reviews/{review.id}/undo")


def test_of_two_who_must_agree_neither_sees_the_others_answer(door: Door) -> None:
    review = file(door.ledger, routes=[Route(needed=2)])
    ann, lea = door.browser("ann"), door.browser("lea")
    sent = {"decision": "reject", "message": "a telling word"}
    assert ann.post(f"/reviews/{review.id}/decision", sent).status_code == 303
    for browser in (ann, lea):
        text = Page(browser.get(f"/reviews/{review.id}").text).text
        assert "1 of 2 answered" in text
        assert "telling" not in text
        assert "reject: " not in text
    assert "You have answered" in ann.get(f"/reviews/{review.id}").text
    assert 'value="approve"' not in ann.get(f"/reviews/{review.id}").text
    assert "telling" not in door.client("lea").get(f"/api/v1/reviews/{review.id}").text
    again = ann.post(f"/reviews/{review.id}/decision", {"decision": "approve"})
    assert (again.status_code, "has the answer of ann already" in again.text) == (409, True)
    lea.post(f"/reviews/{review.id}/decision", {"decision": "reject"})
    assert door.ledger.review(review.id).state == "decided"
    page = Page(lea.get(f"/reviews/{review.id}").text)
    assert "Answers of each ann reject lea reject" in page.text
    for browser, undoes in ((ann, 0), (lea, 1)):
        page = Page(browser.get(f"/reviews/{review.id}").text)
        assert len(page.all("form", action=f"/reviews/{review.id}/undo")) == undoes


def test_what_was_changed_in_the_ledger_cannot_be_answered(door: Door) -> None:
    review = file(door.ledger)
    other = question("otherwise").request
    from bayeslora_tool.desk.review import canonical

    assign(door.ledger, review.id, request=canonical(other))
    ann = door.browser("ann")
    page = ann.get(f"/reviews/{review.id}").text
    assert "was changed in the ledger" in page
    assert 'value="approve"' not in page
    assert ann.post(f"/reviews/{review.id}/decision", {"decision": "approve"}).status_code == 409


def test_a_name_that_is_no_whole_id_is_no_review(door: Door) -> None:
    review = file(door.ledger)
    ann, program = door.browser("ann"), door.client("ann")
    for name in (review.id[:8], "nix", "%00", "..%2f"):
        assert ann.get(f"/reviews/{name}").status_code == 404
        assert program.get(f"/api/v1/reviews/{name}").status_code == 404
        assert ann.post(f"/reviews/{name}/claim").status_code == 404
        answer = program.post(f"/api/v1/reviews/{name}/decision", json={"answer": APPROVE})
        assert answer.status_code == 404
