"""What proceeded is labelled on the page, and what was erased is shown so."""

from __future__ import annotations

from typing import Any

from bayeslora_tool.graphs.runs import start

from tests.desk.filed import APPROVE, file
from tests.desk.test_auditing import watched
from tests.graphs.desk import on
from tests.serving.desk.door import Door, Page


def audit(door: Door, **options: Any) -> Any:
    desk, graph, _ = watched(door.ledger, **options)
    start(graph, {"text": "clear"}, on(1))
    (review,) = door.ledger.reviews("open")
    return desk, review


def test_an_audit_is_labelled_on_the_page_and_changes_no_thread(door: Door) -> None:
    desk, review = audit(door, labels=("yes", "no"))
    browser = door.browser("ann")
    assert "is the label right?" in browser.get(f"/reviews/{review.id}").text
    sent = {"decision": "edit", "pick": "1"}
    assert browser.post(f"/reviews/{review.id}/decision", sent).status_code == 303
    labelled = door.ledger.review(review.id)
    assert (labelled.state, labelled.decided_by, labelled.reviewer_label) == (
        "decided",
        "ann",
        "no",
    )
    assert desk.apply() == []


def test_of_an_erased_review_every_page_says_so_and_shows_no_text(door: Door) -> None:
    review = file(door.ledger, "odd zanzibar", due=3600)
    door.ledger.decide(review.id, APPROVE, "ann")
    door.ledger.applied(review.id)
    door.ledger.erase(0)
    browser = door.browser("lea")
    assert "Its texts were erased" in browser.get(f"/reviews/{review.id}").text
    for path in ("/", "/history", f"/reviews/{review.id}/whole", "/people/ann"):
        answer = browser.get(path)
        assert answer.status_code == 200
        assert "Likeliest" not in answer.text
    assert "approve: yes" in browser.get("/history").text
    assert "100 % of 1 labels" in Page(browser.get("/people/ann").text).text
    shown = door.client("lea").get(f"/api/v1/reviews/{review.id}")
    assert (shown.status_code, shown.json()["text"]) == (200, None)
