"""What was done behind the ledger's back is found."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from bayeslora_tool.desk.ledger import Ledger
from tests.desk.filed import APPROVE, CHEAP, REJECT, file, meddle, question


@pytest.fixture
def used(ledger: Ledger) -> Ledger:
    """Three reviews and seven events."""
    for text, answer in (("odd 1", APPROVE), ("odd 2", REJECT), ("odd 3", APPROVE)):
        review = file(ledger, text)
        ledger.decide(review.id, answer, "ann")
    ledger.applied(review.id)
    assert ledger.head()[0] == 7
    assert ledger.verify() == []
    return ledger


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE events SET changes = '{}' WHERE seq = 2", "event 2"),
        ("UPDATE events SET changes = replace(changes, 'ed', '') WHERE seq = 4", "event 4"),
        ("UPDATE events SET by = 'bob' WHERE seq = 4", "event 4"),
        ("UPDATE events SET at = at + 1 WHERE seq = 7", "event 7"),
        ("UPDATE events SET step = 'claimed' WHERE seq = 2", "event 2"),
        ("UPDATE events SET subject = 'x' WHERE seq = 3", "event 3"),
        ("UPDATE events SET hash = '0' WHERE seq = 3", "event 3"),
        ("DELETE FROM events WHERE seq = 3", "event 4"),
        ("DELETE FROM events WHERE seq = 1", "event 2"),
        ("DELETE FROM events WHERE seq = 7", "head"),
        ("DELETE FROM events", "head"),
        ("UPDATE head SET seq = 6", "head"),
        ("DELETE FROM head", "head"),
    ],
)  # fmt: skip
def test_a_changed_or_missing_event_is_found(used: Ledger, statement: str, where: str) -> None:
    if used.store.kind == "postgresql":
        statement = statement.replace(" by =", ' "by" =')
    meddle(used, statement)
    assert where in [damage.where for damage in used.verify()]


def test_reordered_events_are_found(used: Ledger) -> None:
    meddle(used, "UPDATE events SET seq = 100 WHERE seq = 3")
    meddle(used, "UPDATE events SET seq = 3 WHERE seq = 5")
    meddle(used, "UPDATE events SET seq = 5 WHERE seq = 100")
    assert {"event 3", "event 5"} <= {damage.where for damage in used.verify()}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("graph", "h"), ("thread", "t"), ("interrupt", "i"), ("key", None), ("tool", "t"),
        ("digest", "d"), ("request", "{}"), ("request", None), ("schema", None), ("text", '"even"'),
        ("reason", '"why"'), ("prediction", None), ("policy", "p"), ("scored_by", "s"),
        ("priority", 7), ("created", 7), ("due", 7), ("state", "decided"), ("assignee", "bob"),
        ("lease", 7), ("answer", '{"type":"approve","reviewer":"bob"}'), ("answer", None),
        ("decision", "reject"), ("reviewer_label", "no"), ("decided_by", "bob"),
        ("decided_at", 7), ("applied_at", 7), ("salt", "s"),
        ("label", "no"), ("confidence", 0.5), ("variance", None), ("audit", True),
        ("inclusion", 0.5), ("group", "g"), ("next_group", "g"), ("needed", 2), ("term", 7),
        ("votes", "[]"), ("undo_until", 7), ("erased_at", 7),
    ],
)  # fmt: skip
def test_a_changed_review_is_found(used: Ledger, column: str, value: Any) -> None:
    (review,) = used.reviews("applied")
    meddle(
        used, f'UPDATE reviews SET "{column}" = :value WHERE id = :id', value=value, id=review.id
    )
    (damage,) = [one for one in used.verify() if one.where != "tallies"]
    assert damage.where == f"review {review.id}"
    assert column == "salt" or column in damage.what


def test_a_missing_review_and_one_that_was_never_filed_are_found(used: Ledger) -> None:
    one, other, _ = used.reviews()
    meddle(used, "UPDATE reviews SET id = 'x' WHERE id = :id", id=one.id)
    meddle(used, "DELETE FROM reviews WHERE id = :id", id=other.id)
    assert {damage.where for damage in used.verify()} == {
        "review x", f"review {one.id}", f"review {other.id}", "tallies"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE reviewers SET role = 'lead' WHERE name = 'ann'", "reviewer ann"),
        ("UPDATE reviewers SET groups = '[\"loans\"]' WHERE name = 'ann'", "reviewer ann"),
        ("UPDATE reviewers SET token = 'x' WHERE name = 'ann'", "reviewer ann"),
        ("UPDATE reviewers SET tag = 'x' WHERE name = 'ann'", "reviewer ann"),
        ("UPDATE reviewers SET name = 'dee' WHERE name = 'ann'", "reviewer dee"),
        ("DELETE FROM reviewers WHERE name = 'ann'", "reviewer ann"),
        ("INSERT INTO reviewers SELECT 'eve', 'lead', groups, tag, token FROM reviewers "
         "WHERE name = 'ann'", "reviewer eve"),
        ("UPDATE events SET subject = 'cid' WHERE step = 'left'", "event 11"),
        ("UPDATE events SET step = 'left' WHERE seq = 8", "event 8"),
        ("DELETE FROM events WHERE step = 'left'", "head"),
    ],
)  # fmt: skip
def test_a_reviewer_who_was_let_in_or_changed_behind_its_back_is_found(
    used: Ledger, statement: str, where: str
) -> None:
    used.people.hasher = CHEAP
    for name in ("ann", "bob", "cid"):
        used.people.add(name, groups=["cards"])
    used.people.remove("bob")
    assert used.head()[0] == 11
    assert used.verify() == []
    meddle(used, statement)
    assert where in [damage.where for damage in used.verify()]


def test_a_ledger_that_was_written_anew_lacks_a_head_that_was_noted(
    used: Ledger, tmp_path: Any
) -> None:
    noted = used.head()[1]
    file(used, "odd 4")
    assert used.verify(noted) == []
    other = Ledger(tmp_path / "anew.sqlite")
    file(other, "odd 1")
    assert other.verify() == []
    assert [damage.where for damage in other.verify(noted)] == ["head"]


def test_a_head_that_is_none_accuses_nobody(used: Ledger) -> None:
    for head in ("zz", used.head()[1][:12], used.head()[1].upper()):
        with pytest.raises(ValueError, match="64 hexadecimal digits"):
            used.verify(head)


def test_no_event_holds_what_people_wrote(ledger: Ledger) -> None:
    asked = question("odd secret", thread="t", interrupt="i", key="k")
    ledger.reconcile([asked])
    ledger.decide(asked.id, {"type": "respond", "message": "hidden"}, "ann")
    told = str(ledger.events(asked.id))
    assert asked.digest in told
    assert "secret" not in told
    assert "hidden" not in told
    # Nor can who guesses the text make sure by its hash alone.
    assert sha256(b'"odd secret"').hexdigest() not in told
