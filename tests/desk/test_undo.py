"""Who has just answered may take it back, until somebody carries it out."""

from __future__ import annotations

import pytest

from bayeslora_tool.desk.ledger import Ledger
from tests.desk.filed import APPROVE, REJECT, Later, file, meddle, refused, steps
from tests.desk.scenes import Scene
from tests.graphs.desk import EDIT_TO_NO


def test_an_answer_that_is_taken_back_was_never_carried_out(ledger: Ledger) -> None:
    scene = Scene(ledger)
    name = scene.ask()
    decided = ledger.decide(name, APPROVE, "ann", undo=100)
    assert decided.undo_until is not None
    assert decided.decided_at is not None
    assert (decided.undo_until - decided.decided_at).total_seconds() == 100
    assert scene.desk.apply() == []
    undone = ledger.undo(name, "ann")
    assert (undone.state, undone.assignee) == ("claimed", "ann")
    assert (undone.answer, undone.decided_by, undone.decided_at, undone.undo_until) == (None,) * 4
    assert ledger.undo(name, "ann") == undone  # asked again, for the line was lost
    ledger.decide(name, EDIT_TO_NO, "ann")
    scene.desk.apply()
    assert [outcome["label"] for outcome in scene.acted] == ["no"]
    assert steps(ledger, undone) == ["filed", "decided", "undone", "decided", "applied"]
    assert ledger.verify() == []


def test_it_is_carried_out_when_it_can_no_longer_be_taken_back(
    ledger: Ledger, later: Later
) -> None:
    scene = Scene(ledger)
    name = scene.ask()
    ledger.decide(name, APPROVE, "ann", undo=100)
    assert scene.desk.apply() == []
    later(101)
    for _ in range(2):
        with refused("late"):
            ledger.undo(name, "ann")
        scene.desk.apply()
    assert [outcome["label"] for outcome in scene.acted] == ["yes"]
    assert ledger.review(name).state == "applied"


def test_only_who_answered_may_take_it_back_and_only_if_they_said_so(ledger: Ledger) -> None:
    review = file(ledger)
    with refused("over"):
        ledger.undo(review.id, "ann")
    ledger.decide(review.id, APPROVE, "ann", undo=100)
    with refused("decided") as caught:
        ledger.undo(review.id, "bob")
    assert "decided by ann" in str(caught.value)
    ledger.undo(review.id, "ann")
    with refused("claimed"):
        ledger.undo(review.id, "bob")
    ledger.decide(review.id, APPROVE, "ann")
    with refused("late"):
        ledger.undo(review.id, "ann")
    assert ledger.review(review.id).state == "decided"
    with pytest.raises(ValueError, match="`undo`"):
        ledger.decide(review.id, APPROVE, "ann", undo=float("nan"))


def test_what_was_taken_back_too_late_for_its_due_time_is_rejected(
    ledger: Ledger, later: Later
) -> None:
    review = file(ledger, due=100)
    ledger.decide(review.id, APPROVE, "ann", undo=1000)
    later(101)
    assert ledger.undo(review.id, "ann").state == "claimed"
    assert ledger.review(review.id).state == "expired"
    assert ledger.verify() == []


def test_a_worker_that_has_begun_is_not_overtaken_by_a_clock_that_leaps_back(
    ledger: Ledger,
) -> None:
    review = file(ledger)
    ledger.decide(review.id, APPROVE, "ann", undo=100)
    meddle(
        ledger,
        "INSERT INTO work (review, holder, until, tries) VALUES (:id, 'h', 0, 0)",
        id=review.id,
    )
    with refused("late"):
        ledger.undo(review.id, "ann")


def test_a_review_that_is_asked_again_can_be_taken_back_as_the_first_time(ledger: Ledger) -> None:
    review = file(ledger)
    ledger.decide(review.id, APPROVE, "ann", undo=1e6)
    meddle(
        ledger,
        "INSERT INTO work (review, holder, until, tries) VALUES (:id, 'h', 0, 0)",
        id=review.id,
    )
    ledger.withdraw(review.id)
    assert file(ledger).undo_until is None
    ledger.decide(review.id, REJECT, "ann", undo=100)
    assert ledger.undo(review.id, "ann").state == "claimed"
