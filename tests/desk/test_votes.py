"""Two people who have to agree, and a third where they differ."""

from __future__ import annotations

from typing import Any

import pytest

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.routing import Route
from tests.desk.filed import APPROVE, REJECT, Later, question, refused, steps
from tests.desk.scenes import Scene
from tests.graphs.desk import EDIT_TO_NO


def filed(ledger: Ledger, text: str = "odd") -> str:
    asked = question(text)
    ledger.reconcile([asked], routes=[Route(needed=2)])
    return asked.id


def test_an_answer_counts_when_another_agrees(ledger: Ledger) -> None:
    name = filed(ledger)
    ledger.claim(name, "ann")
    first = ledger.decide(name, {**APPROVE, "message": "looks fine"}, "ann")
    assert (first.state, first.votes, first.voters) == ("open", 1, ("ann",))
    assert (first.answer, first.decided_by, first.assignee) == (None, None, None)
    second = ledger.decide(name, {"decisions": [APPROVE]}, "bob")
    assert (second.state, second.voters, second.decided_by) == ("decided", ("ann", "bob"), "bob")
    assert [(vote.by, vote.answer["reviewer"]) for vote in ledger.votes(name)] == [
        ("ann", "ann"), ("bob", "bob")
    ]  # fmt: skip
    assert steps(ledger, second) == ["filed", "claimed", "voted", "decided"]
    with refused("decided"):
        ledger.decide(name, APPROVE, "cid")
    assert ledger.verify() == []


@pytest.mark.parametrize("third", [APPROVE, REJECT, EDIT_TO_NO])
def test_where_two_differ_a_third_decides(ledger: Ledger, third: Any) -> None:
    name = filed(ledger)
    ledger.decide(name, APPROVE, "ann")
    second = ledger.decide(name, REJECT, "bob")
    assert (second.state, second.votes) == ("open", 2)
    decided = ledger.decide(name, third, "cid")
    assert (decided.state, decided.decided_by, decided.votes) == ("decided", "cid", 3)
    assert decided.answer == third | {"reviewer": "cid"}
    assert ledger.verify() == []


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        (REJECT, {"type": "reject", "message": "another reason"}, True),
        (REJECT, APPROVE, False),
        (EDIT_TO_NO, {"decisions": [EDIT_TO_NO]}, True),
        (EDIT_TO_NO, APPROVE, False),
        ({"type": "respond", "message": "a"}, {"type": "respond", "message": "a"}, True),
        ({"type": "respond", "message": "a"}, {"type": "respond", "message": "b"}, False),
    ],
)
def test_answers_agree_that_do_the_same_whoever_gives_them_and_why(
    ledger: Ledger, one: Any, other: Any, agree: bool
) -> None:
    name = filed(ledger)
    ledger.decide(name, one, "ann")
    assert ledger.decide(name, other, "bob").state == ("decided" if agree else "open")


def test_answers_to_a_question_that_is_not_ours_agree_if_they_are_the_same(ledger: Ledger) -> None:
    asked = question(schema=None)
    ledger.reconcile([asked], routes=[Route(needed=2)])
    ledger.decide(asked.id, {"anything": [1]}, "ann")
    ledger.decide(asked.id, {"anything": [2]}, "bob")
    assert ledger.decide(asked.id, 7, "cid").state == "decided"


def test_who_has_answered_neither_answers_nor_claims_it_again(ledger: Ledger) -> None:
    name = filed(ledger)
    first = ledger.decide(name, APPROVE, "ann")
    assert ledger.decide(name, APPROVE, "ann") == first  # for the line was lost
    for act in (
        lambda: ledger.decide(name, REJECT, "ann"),
        lambda: ledger.claim(name, "ann"),
        lambda: ledger.release(name, "ann"),
    ):
        with refused("voted") as caught:
            act()
        assert "answer of ann already" in str(caught.value)
    assert ledger.review(name) == first
    assert steps(ledger, first) == ["filed", "voted"]


def test_nobody_sees_an_answer_before_it_is_decided(ledger: Ledger) -> None:
    name = filed(ledger)
    for by, message in (("ann", "hidden one"), ("bob", "hidden two")):
        ledger.decide(name, {"type": "respond", "message": message}, by)
        assert ledger.votes(name) == []
        shown = repr([ledger.review(name), ledger.inbox(), ledger.reviews(), ledger.events(name)])
        assert by in shown
        assert "hidden" not in shown
    ledger.decide(name, APPROVE, "cid")
    assert "hidden one" in repr(ledger.votes(name))
    assert "hidden" not in repr(ledger.events(name))


def test_a_first_answer_may_be_taken_back_until_another_counts(ledger: Ledger) -> None:
    name = filed(ledger)
    ledger.decide(name, APPROVE, "ann", undo=100)
    with refused("over"):
        ledger.undo(name, "bob")
    undone = ledger.undo(name, "ann")
    assert (undone.state, undone.assignee, undone.votes) == ("claimed", "ann", 0)
    ledger.decide(name, REJECT, "ann", undo=100)
    ledger.claim(name, "bob")
    with refused("claimed"):
        ledger.undo(name, "ann")
    ledger.decide(name, REJECT, "bob", undo=100)
    with refused("decided"):
        ledger.undo(name, "ann")
    undone = ledger.undo(name, "bob")
    assert (undone.voters, undone.answer) == (("ann",), None)
    ledger.decide(name, REJECT, "bob")
    with refused("late"):
        ledger.undo(name, "bob")
    assert ledger.verify() == []


def test_an_answer_without_time_to_take_it_back_stays(ledger: Ledger) -> None:
    name = filed(ledger)
    ledger.decide(name, APPROVE, "ann")
    with refused("late"):
        ledger.undo(name, "ann")
    assert ledger.review(name).voters == ("ann",)


def test_what_one_of_two_has_answered_is_not_carried_out(ledger: Ledger) -> None:
    scene = Scene(ledger, routes=[Route(needed=2)])
    name = scene.ask()
    ledger.decide(name, EDIT_TO_NO, "ann")
    assert scene.desk.apply() == []
    ledger.decide(name, EDIT_TO_NO, "bob")
    assert [one.result for one in scene.desk.apply()] == ["applied"]
    assert [(one["label"], one["reviewer"]) for one in scene.acted] == [("no", "bob")]


def test_what_only_one_has_answered_in_time_is_rejected(ledger: Ledger, later: Later) -> None:
    asked = question("odd")
    ledger.reconcile([asked], routes=[Route(needed=2, due=100)])
    ledger.decide(asked.id, APPROVE, "ann")
    later(101)
    expired = ledger.review(asked.id)
    assert (expired.state, expired.decided_by) == ("expired", None)
    assert [one["type"] for one in expired.answer["decisions"]] == ["reject"]
    assert [vote.by for vote in ledger.votes(asked.id)] == ["ann"]
