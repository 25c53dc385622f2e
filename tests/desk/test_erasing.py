"""What people wrote is erased when its time is over; what was decided stays on record."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from bayeslora_tool.desk.ledger import Ledger
from tests.desk.filed import APPROVE, REJECT, file, hidden, log_kept, meddle, question, steps
from tests.desk.scenes import Scene
from tests.graphs.desk import EDIT_TO_NO

SECRET = "zanzibar"


def settled(ledger: Ledger, text: str, answer: Any = APPROVE, number: int = 0) -> str:
    review = hidden(ledger, text, number)
    ledger.decide(review.id, answer, "ann")
    ledger.applied(review.id)
    return review.id


def test_of_an_erased_review_there_is_who_what_and_when_and_no_text(ledger: Ledger) -> None:
    before = ledger.review(settled(ledger, f"odd {SECRET}", EDIT_TO_NO | {"message": SECRET}))
    assert ledger.erase(0) == 1
    after = ledger.review(before.id)
    assert (after.text, after.reason, after.schema, after.answer) == (None,) * 4
    assert after.request == {}
    assert after.erased_at is not None
    for name in ("decided_by", "decided_at", "applied_at", "label", "confidence", "variance",
                 "prediction", "key", "policy", "state", "decision", "reviewer_label"):  # fmt: skip
        assert getattr(after, name) == getattr(before, name), name
    assert (after.decision, after.reviewer_label, after.decided_by) == ("edit", "no", "ann")
    assert steps(ledger, after) == ["filed", "decided", "applied", "erased"]
    assert ledger.verify() == []
    assert ledger.erase(0) == 0


@pytest.mark.parametrize("sealed", [False, True])
def test_its_bytes_are_in_no_file_any_more(tmp_path: Path, sealed: bool) -> None:
    from bayeslora_tool.desk.seal import new_key

    place = tmp_path / "desk.sqlite"
    with Ledger(place, key=new_key() if sealed else "") as ledger, log_kept(place):
        kept = file(ledger, "odd kept")
        # Short, and longer than a page of the database.
        names = [
            settled(ledger, f"odd {SECRET}" + " and so on" * 900 * i, number=i) for i in range(3)
        ]
        stored = [path.read_bytes() for path in tmp_path.glob("desk.sqlite*")]
        assert (SECRET.encode() in b"".join(stored)) is not sealed
        tokens = [] if not sealed else b"".join(stored).split(b"fernet:")[1:]
        assert ledger.erase(0) == 3
        left = b"".join(path.read_bytes() for path in tmp_path.glob("desk.sqlite*"))
        assert SECRET.encode() not in left
        gone = {token[:60] for token in tokens} - {t[:60] for t in left.split(b"fernet:")[1:]}
        assert len(gone) >= (3 * 4 if sealed else 0)
        assert ledger.review(kept.id) == kept
        assert all(ledger.review(name).erased_at for name in names)


def test_only_what_is_settled_and_old_enough_is_erased(
    ledger: Ledger, later: Callable[[float], None]
) -> None:
    waiting = file(ledger, "odd waiting")
    claimed = file(ledger, "odd claimed")
    ledger.claim(claimed.id, "ann")
    decided = file(ledger, "odd decided")
    ledger.decide(decided.id, APPROVE, "ann")
    late = file(ledger, "odd late", due=10)
    withdrawn = file(ledger, "odd withdrawn")
    ledger.withdraw(withdrawn.id)
    old = settled(ledger, "odd old")
    later(100)
    new = settled(ledger, "odd new")
    ledger.keep_time()
    assert ledger.erase(3600) == 0
    assert ledger.erase(50) == 2
    erased = {review.id for review in ledger.reviews() if review.erased_at}
    assert erased == {withdrawn.id, old}
    assert ledger.review(late.id).state == "expired"  # its rejection is still to be carried out
    ledger.applied(late.id)
    assert ledger.erase(0) == 2
    erased = {review.id for review in ledger.reviews() if review.erased_at}
    assert erased == {withdrawn.id, old, new, late.id}
    assert {waiting.id, claimed.id, decided.id}.isdisjoint(erased)
    assert ledger.verify() == []


def test_what_nobody_has_the_key_of_any_more_is_erased_with_the_rest(tmp_path: Path) -> None:
    from bayeslora_tool.desk.seal import new_key

    place = tmp_path / "desk.sqlite"
    with Ledger(place, key=new_key()) as ledger:
        lost = settled(ledger, f"odd {SECRET}")
        scene = Scene(ledger, act=lambda outcome: 1 / 0)
        failed = scene.ask()
        ledger.decide(failed, APPROVE, "ann")
        scene.desk.apply()  # leaves why it failed
        ledger.withdraw(failed)
    with Ledger(place, key=new_key()) as ledger:
        known = settled(ledger, "odd known", number=1)
        assert ledger.erase(0) == 3
        assert {review.id for review in ledger.reviews()} == {lost, failed, known}
        assert ledger.verify() == []


def test_an_audit_is_not_erased_while_its_label_may_be_taken_back(
    ledger: Ledger, later: Callable[[float], None]
) -> None:
    asked = question(audit=True)
    ledger.reconcile([asked])
    ledger.decide(asked.id, APPROVE, "ann", undo=10)
    assert ledger.erase(0) == 0
    assert ledger.undo(asked.id, "ann").text == asked.text
    ledger.decide(asked.id, APPROVE, "ann", undo=10)
    later(10)
    assert ledger.erase(0) == 1


def test_the_label_of_an_audit_is_heard_also_when_its_text_was_erased_before(
    ledger: Ledger,
) -> None:
    heard: list[tuple[str, bool]] = []

    class Monitor:
        def audited(self, key: str, *, wrong: bool) -> None:
            heard.append((key, wrong))

    scene = Scene(ledger, monitor=Monitor())
    for i, answer in enumerate((APPROVE, EDIT_TO_NO)):
        asked = question(f"odd {i}", graph="escalation", audit=True)
        ledger.reconcile([asked])
        ledger.decide(asked.id, answer, "ann")
    assert ledger.erase(0) == 2
    assert [one.result for one in scene.desk.apply()] == ["applied"] * 2
    assert sorted(heard) == [("key odd 0", False), ("key odd 1", True)]
    assert ledger.verify() == []


@pytest.mark.parametrize("older_than", [-1, float("nan"), float("inf")])
def test_an_age_is_a_number_of_seconds(ledger: Ledger, older_than: float) -> None:
    with pytest.raises(ValueError, match="`older_than`"):
        ledger.erase(older_than)
    with pytest.raises(ValueError, match="`retain`"):
        Scene(ledger).desk.work(Event(), retain=older_than)


def test_a_row_that_somebody_else_emptied_is_told_from_an_erased_one(ledger: Ledger) -> None:
    erased, emptied = settled(ledger, "odd one"), settled(ledger, "odd two")
    ledger.erase(0)
    emptied = settled(ledger, "odd three")
    meddle(
        ledger,
        'UPDATE reviews SET text = NULL, request = NULL, "schema" = NULL, reason = NULL, '
        "answer = NULL, erased_at = 7, salt = '' WHERE id = :id",
        id=emptied,
    )
    assert [damage.where for damage in ledger.verify()] == [f"review {emptied}"]
    meddle(ledger, "UPDATE reviews SET text = '\"odd\"' WHERE id = :id", id=erased)
    assert {damage.where for damage in ledger.verify()} == {f"review {erased}", f"review {emptied}"}


def test_what_is_asked_again_after_it_was_erased_is_there_again(ledger: Ledger) -> None:
    asked = question(f"odd {SECRET}")
    review = file(ledger, f"odd {SECRET}")
    ledger.withdraw(review.id)
    assert ledger.erase(0) == 1
    assert ledger.reconcile([asked]).filed == 1
    again = ledger.review(review.id)
    assert (again.text, again.request, again.erased_at) == (asked.text, asked.request, None)
    assert ledger.decide(review.id, REJECT, "ann").state == "decided"
    assert ledger.verify() == []


def test_a_worker_erases_as_it_goes(ledger: Ledger) -> None:
    scene, stop = Scene(ledger), Event()
    ledger.decide(scene.ask(), APPROVE, "ann")
    scene.desk.apply()
    worker = Thread(target=scene.desk.work, args=(stop,), kwargs={"every": 0.05, "retain": 0})
    worker.start()
    ends = time.monotonic() + 10
    while not ledger.reviews()[0].erased_at and time.monotonic() < ends:
        time.sleep(0.02)
    stop.set()
    worker.join(10)
    (review,) = ledger.reviews()
    assert review.text is None
    assert scene.outcome()["reviewer"] == "ann"  # the thread is the checkpointer's
