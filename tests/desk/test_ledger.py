"""One decision a review, who hears of it, and what time does."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.desk.review import canonical
from bayeslora_tool.desk.states import STATES, TRANSITIONS
from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.desk.tables import METADATA
from bayeslora_tool.review.requests import review_request
from tests.desk.filed import APPROVE, REJECT, Later, file, meddle, question, refused, steps


def test_a_filed_review_has_all_that_was_asked_and_no_second_one_is_made(ledger: Ledger) -> None:
    asked = question("odd \u202e\x00\ud800", thread="t", interrupt="i", key="k")
    for _ in range(3):
        ledger.reconcile([asked])
    (review,) = ledger.reviews()
    for name in ("id", "graph", "interrupt", "request", "schema", "text", "prediction", "policy"):
        assert getattr(review, name) == getattr(asked, name), name
    assert (review.state, review.shown, review.label) == ("open", asked.digest, "yes")
    assert steps(ledger, review) == ["filed"]
    assert ledger.verify() == []


def test_scores_have_columns_of_their_own_where_a_database_can_hold_them(ledger: Ledger) -> None:
    plain = question("odd").prediction
    odd = question(
        "odd 2", prediction={**plain, "confidence": float("nan"), "label": "a\x00\ud800"}
    )
    unscored = review_request(text="odd 3", prediction=None, reason="it broke", labels=())
    none = question("odd 3", prediction=None, request=unscored)
    ledger.reconcile([question("odd"), odd, none])
    found = {r.text: (r.label, r.confidence, r.variance) for r in ledger.reviews()}
    assert found == {
        "odd": (plain["label"], plain["confidence"], plain["variance"]),
        "odd 2": (None, None, plain["variance"]),
        "odd 3": (None, None, None),
    }
    assert ledger.verify() == []


def test_two_who_file_at_once_file_once(place: str) -> None:
    ledgers = [Ledger(place) for _ in range(4)]
    asked = [question(f"odd {i}") for i in range(10)]
    with ThreadPoolExecutor(4) as pool:
        filed = sum(done.filed for done in pool.map(lambda one: one.reconcile(asked), ledgers))
    assert filed == len(ledgers[0].reviews("open")) == 10
    assert ledgers[0].verify() == []
    for ledger in ledgers:
        ledger.close()


def test_four_who_make_the_ledger_at_once_make_one(place: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        ledgers = list(pool.map(lambda _: Ledger(place), range(4)))
    file(ledgers[0])
    assert len(ledgers[3].reviews()) == 1
    for ledger in ledgers:
        ledger.close()


def test_of_two_who_decide_the_second_reads_who_did(ledger: Ledger) -> None:
    review = file(ledger)
    decided = ledger.decide(review.id, APPROVE, "ann")
    assert (decided.state, decided.decided_by) == ("decided", "ann")
    assert decided.answer == APPROVE | {"reviewer": "ann"}
    with refused("decided") as caught:
        ledger.decide(review.id, REJECT, "bob")
    assert "decided by ann" in str(caught.value)
    assert caught.value.review == decided
    assert steps(ledger, review) == ["filed", "decided"]
    # Who asks again, for the line was lost, hears the same.
    assert ledger.decide(review.id, APPROVE, "ann") == decided
    with refused("decided"):
        ledger.decide(review.id, REJECT, "ann")
    assert steps(ledger, review) == ["filed", "decided"]


@pytest.mark.parametrize(
    ("answer", "signed"),
    [
        ({"type": "approve", "reviewer": "boss"}, {"type": "approve", "reviewer": "ann"}),
        (
            {"decisions": [{"type": "approve", "reviewer": "boss"}], "reviewer": "boss"},
            {"decisions": [{"type": "approve"}], "reviewer": "ann"},
        ),
        (
            [{"type": "accept", "args": None}],
            {"decisions": [{"type": "accept", "args": None}], "reviewer": "ann"},
        ),
    ],
)  # fmt: skip
def test_an_answer_is_from_who_gave_it(ledger: Ledger, answer: Any, signed: Any) -> None:
    assert ledger.decide(file(ledger).id, answer, "ann").answer == signed


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("yes please", "expected one decision"),
        ({"type": "respond"}, "non-empty text"),
        ({"type": "edit", "edited_action": {"name": "act_on_label", "args": {"label": "maybe"}}},
         "unknown label"),
    ],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_decides_nothing(
    ledger: Ledger, answer: Any, why: str
) -> None:
    review = file(ledger)
    with pytest.raises(ValueError, match=why):
        ledger.decide(review.id, answer, "ann")
    assert ledger.review(review.id) == review
    assert steps(ledger, review) == ["filed"]


@pytest.mark.parametrize("by", ["", "  ", "a\nb", "x" * 201, None])
def test_who_decides_has_a_name(ledger: Ledger, by: Any) -> None:
    review = file(ledger)
    for act in (ledger.claim, lambda name, by: ledger.decide(name, APPROVE, by)):
        with pytest.raises(ValueError, match="`by`"):
            act(review.id, by)


def test_a_claim_keeps_others_out_until_its_lease_is_over(ledger: Ledger, later: Later) -> None:
    review = file(ledger)
    claimed = ledger.claim(review.id, "ann", lease=100)
    assert (claimed.state, claimed.assignee) == ("claimed", "ann")
    for attempt in (
        lambda: ledger.claim(review.id, "bob"),
        lambda: ledger.decide(review.id, APPROVE, "bob"),
        lambda: ledger.release(review.id, "bob"),
    ):
        with refused("claimed") as caught:
            attempt()
        assert "claimed by ann" in str(caught.value)
    later(101)
    assert ledger.review(review.id).state == "open"
    assert ledger.claim(review.id, "bob").assignee == "bob"
    assert ledger.release(review.id, "bob").state == "open"
    assert ledger.decide(review.id, APPROVE, "cid").assignee is None
    assert steps(ledger, review) == [
        "filed", "claimed", "returned", "claimed", "returned", "decided"
    ]  # fmt: skip
    assert ledger.verify() == []


@pytest.mark.parametrize("lease", [0, -1, float("nan"), float("inf")])
def test_a_lease_is_a_number_of_seconds(ledger: Ledger, lease: float) -> None:
    review = file(ledger)
    with pytest.raises(ValueError, match="`lease`"):
        ledger.claim(review.id, "ann", lease=lease)


def test_a_claim_can_be_prolonged_and_decided(ledger: Ledger) -> None:
    review = file(ledger)
    first = ledger.claim(review.id, "ann", lease=100)
    second = ledger.claim(review.id, "ann", lease=1000)
    assert first.lease is not None
    assert second.lease is not None
    assert 890 < (second.lease - first.lease).total_seconds() < 990
    assert ledger.decide(review.id, REJECT, "ann").state == "decided"


def test_what_nobody_decides_in_time_is_rejected_and_never_approved(
    ledger: Ledger, later: Later
) -> None:
    review = file(ledger, due=100)
    ledger.claim(review.id, "ann")  # a claim does not stop the clock
    later(101)
    with refused("over"):
        ledger.decide(review.id, APPROVE, "ann")
    expired = ledger.review(review.id)
    assert (expired.state, expired.decided_by, expired.assignee) == ("expired", None, None)
    assert [one["type"] for one in expired.answer["decisions"]] == ["reject"]
    assert ledger.verify() == []


def test_a_process_whose_clock_leaps_changes_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = file(ledger, due=1000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1e6)
    assert ledger.claim(review.id, "ann", lease=1000).state == "claimed"
    monkeypatch.setattr(time, "time", lambda: real() - 1e6)
    with refused("claimed"):
        ledger.claim(review.id, "bob")
    assert ledger.review(review.id).state == "claimed"


def test_the_clock_of_the_ledger_never_goes_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = file(ledger, "odd 1")
    monkeypatch.setattr(ledger.store, "now", lambda c: 5)
    assert file(ledger, "odd 2").created == first.created
    assert ledger.verify() == []


def test_only_the_steps_in_the_table_are_taken(ledger: Ledger) -> None:
    """Each method in each state, beside the table."""
    acts = {
        "claimed": lambda name: ledger.claim(name, "ann"),
        "returned": lambda name: ledger.release(name, "ann"),
        "decided": lambda name: ledger.decide(name, REJECT, "ann"),
        "applied": ledger.applied,
        "withdrawn": ledger.withdraw,
    }
    ways: dict[str, list[str]] = {
        "open": [],
        "claimed": ["claimed"],
        "decided": ["decided"],
        "applied": ["decided", "applied"],
        "withdrawn": ["withdrawn"],
        "expired": [],
    }
    again = {("applied", "applied"), ("decided", "decided"), ("applied", "decided")}
    again |= {("withdrawn", "withdrawn")}
    for state, step in product(STATES, acts):
        text = f"odd {state} {step}"
        review = file(ledger, text, due=0.001 if state == "expired" else None)
        time.sleep(0.005 if state == "expired" else 0)
        for way in ways[state]:
            acts[way](review.id)
        assert ledger.review(review.id).state == state
        allowed, to = TRANSITIONS[step]  # type: ignore[index]
        if state in allowed:
            assert acts[step](review.id).state == to
        elif (state, step) in again:  # what was done already is no second time
            assert acts[step](review.id).state == state
        else:
            with pytest.raises(ReviewError):
                acts[step](review.id)
            assert ledger.review(review.id).state == state
    assert ledger.verify() == []


def test_what_was_changed_in_the_ledger_cannot_be_decided(ledger: Ledger) -> None:
    review = file(ledger)
    for request in ("{}", canonical(question("odd too").request)):
        meddle(ledger, "UPDATE reviews SET request = :r WHERE id = :id", r=request, id=review.id)
        with refused("over") as caught:
            ledger.decide(review.id, APPROVE, "ann")
        assert "was changed in the ledger" in str(caught.value)
    meddle(ledger, "DELETE FROM head")
    for act in (lambda: ledger.decide(review.id, APPROVE, "ann"), ledger.head):
        with pytest.raises(LedgerError, match="lost the head"):
            act()


def test_a_request_of_any_plain_data_is_filed_and_decided(ledger: Ledger) -> None:
    at = datetime(2026, 1, 2)
    strange = {10: 1, 2: float("nan"), "at": at, "s": {"ä"}, "n": 2**80}
    request = {
        "action_requests": [{"name": "t", "args": strange, "description": ""}],
        "review_configs": [{"action_name": "t", "allowed_decisions": ["approve"]}],
    }
    asked = question(request=request, schema=None)
    ledger.reconcile([asked])
    assert ledger.decide(asked.id, APPROVE, "ann").state == "decided"


def test_what_a_thread_no_longer_asks_is_withdrawn_and_may_be_asked_again(ledger: Ledger) -> None:
    asked = question()
    review = file(ledger)
    assert ledger.reconcile([], [review.id]).withdrawn == 1
    with refused("over"):
        ledger.decide(review.id, APPROVE, "ann")
    assert ledger.reconcile([asked]).filed == 1
    assert ledger.decide(review.id, APPROVE, "ann").state == "decided"
    assert steps(ledger, review) == ["filed", "withdrawn", "asked again", "decided"]
    assert ledger.verify() == []


def test_what_is_filed_while_somebody_looks_elsewhere_is_not_withdrawn(ledger: Ledger) -> None:
    old, new = file(ledger, "odd old"), question("odd new")
    before = [review.id for review in ledger.reviews("open")]
    ledger.reconcile([new])  # meanwhile
    ledger.reconcile([question("odd old")], before)
    assert {review.id for review in ledger.reviews("open")} == {old.id, new.id}


def test_reviews_come_by_priority_then_due_then_age(ledger: Ledger) -> None:
    for text, priority, due in (
        ("odd a", 0, None), ("odd b", 0, 50.0), ("odd c", 1, None), ("odd d", 0, 20.0)
    ):  # fmt: skip
        file(ledger, text, priority=priority, due=due)
    assert [review.text for review in ledger.reviews()] == ["odd c", "odd d", "odd b", "odd a"]
    assert len(ledger.reviews(limit=2)) == 2
    with pytest.raises(ValueError, match="unknown state 'new'; one of open"):
        ledger.reviews("new")  # type: ignore[arg-type]


def test_a_review_is_found_by_the_beginning_of_its_id(ledger: Ledger) -> None:
    reviews = [file(ledger, f"odd {i}") for i in range(17)]  # two begin alike
    assert ledger.review(reviews[0].id[:12]) == reviews[0]
    firsts = [review.id[0] for review in reviews]
    twice = next(one for one in firsts if firsts.count(one) > 1)
    for name in (twice, "", "%", "zz"):
        with refused("unknown"):
            ledger.review(name)
    for act in (ledger.claim, ledger.release):
        with refused("unknown"):
            act("zz", "ann")


def test_a_ledger_that_is_not_there_or_not_ours_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(FileNotFoundError, match="no ledger"):
        Ledger(tmp_path / "none.sqlite", create=False)
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(ValueError, match=r"`place` .*must be a file for SQLite"):
        Ledger("mysql://here/desk")
    with pytest.raises(ValueError, match="`patience`"):
        Ledger(tmp_path / "desk.sqlite", patience=0)
    with Ledger(place) as ledger:
        meddle(ledger, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ValueError, match="version 9999"):
        Ledger(place)


def test_migrations_make_the_tables_that_the_code_knows(ledger: Ledger) -> None:
    found = sa.MetaData()
    found.reflect(ledger.store.engine)
    for table in METADATA.tables.values():
        made = found.tables[table.name]
        assert [c.name for c in made.columns] == [c.name for c in table.columns]
        assert [c.nullable for c in made.columns] == [c.nullable for c in table.columns]
        assert {i.name for i in made.indexes} == {i.name for i in table.indexes}
