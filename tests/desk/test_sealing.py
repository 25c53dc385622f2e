"""What people wrote is in no file of the ledger if there is a key, and reads as before with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.fernet import Fernet

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.seal import KEY_VARIABLE, new_key
from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.desk.tables import STORED, WORK
from tests.desk.filed import APPROVE, file, hidden, log_kept, meddle, question, steps
from tests.desk.scenes import Scene
from tests.graphs.desk import APPROVE as YES

SECRET = "zanzibar"
ANSWER = {"type": "respond", "message": f"say {SECRET}"}


def files(folder: Path) -> bytes:
    """All that the database has written, also what is still in its log."""
    return b"".join(path.read_bytes() for path in folder.glob("desk.sqlite*"))


@pytest.fixture
def key() -> str:
    return new_key()


@pytest.fixture
def sealed(tmp_path: Path, key: str) -> Any:
    with Ledger(tmp_path / "desk.sqlite", key=key) as ledger:
        yield ledger


def used(ledger: Ledger) -> str:
    """A ledger in which the secret word stands wherever a person could have written it."""
    review = hidden(ledger, f"odd {SECRET}")
    ledger.decide(review.id, ANSWER, "ann")
    return review.id


def test_with_a_key_no_file_holds_a_word_of_theirs(tmp_path: Path, sealed: Ledger) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    with Ledger(plain / "desk.sqlite", key="") as other, log_kept(plain / "desk.sqlite"):
        used(other)
        assert SECRET.encode() in files(plain)  # so one would see it
    with log_kept(tmp_path / "desk.sqlite"):
        name = used(sealed)
        assert SECRET.encode() not in files(tmp_path)
    assert SECRET.encode() not in files(tmp_path)
    review = sealed.review(name)
    assert review.text == f"odd {SECRET}"
    assert review.answer == ANSWER | {"reviewer": "ann"}
    assert review.decision == "respond"
    assert steps(sealed, review) == ["filed", "decided"]


def test_what_an_action_raised_may_quote_the_text_and_is_closed_too(
    tmp_path: Path, sealed: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    def act(outcome: Any) -> None:
        raise RuntimeError(f"cannot pay {outcome['text']}")

    scene = Scene(sealed, act=act)
    name = scene.ask(text=f"odd {SECRET}")
    sealed.decide(name, YES, "ann")
    assert [one.result for one in scene.desk.apply()] == ["failed"]
    assert sealed.review(name).problem == f"RuntimeError: cannot pay odd {SECRET}"
    assert SECRET.encode() not in files(tmp_path)


def test_the_same_answer_again_is_the_same_decision(sealed: Ledger) -> None:
    name = used(sealed)
    decided = sealed.review(name)
    assert sealed.decide(name, ANSWER, "ann") == decided
    assert len(sealed.events(name)) == 2


def test_without_the_key_the_chain_is_verified_and_texts_are_refused_by_name(
    tmp_path: Path, key: str, sealed: Ledger
) -> None:
    name = used(sealed)
    for other, why in (("", f"set {KEY_VARIABLE} to its key"), (new_key(), "closed with another")):
        with Ledger(tmp_path / "desk.sqlite", key=other) as ledger:
            assert ledger.verify() == []
            assert [event["by"] for event in ledger.events(name)] == ["the desk", "ann"]
            for act in (ledger.reviews, lambda ledger=ledger: ledger.review(name)):
                with pytest.raises(LedgerError, match=why) as caught:
                    act()
                assert key not in str(caught.value)
            # What nobody could read is not what a decision may rest on.
            with pytest.raises(LedgerError, match=why):
                ledger.decide(name, APPROVE, "bob")
    assert sealed.review(name).decided_by == "ann"
    assert sealed.verify() == []


def test_a_changed_row_is_found_without_the_key(tmp_path: Path, sealed: Ledger) -> None:
    one, other = (file(sealed, f"odd {i}") for i in range(2))
    stored = sealed.store.read(
        lambda c: {row["id"]: row["text"] for row in c.execute(STORED).mappings()}
    )
    with Ledger(tmp_path / "desk.sqlite", key="") as ledger:
        for text in (stored[other.id], json.dumps("odd 7")):  # another's, and one in the open
            meddle(ledger, "UPDATE reviews SET text = :t WHERE id = :id", t=text, id=one.id)
            (damage,) = ledger.verify()
            assert (damage.where, damage.what.split(":")[0]) == (f"review {one.id}", "text")


def test_a_key_that_came_later_closes_what_comes_later(tmp_path: Path, key: str) -> None:
    with Ledger(tmp_path / "desk.sqlite", key="") as ledger:
        early = file(ledger, "odd early")
    with Ledger(tmp_path / "desk.sqlite", key=key) as ledger:
        late = hidden(ledger, f"odd {SECRET}")
        ledger.decide(early.id, ANSWER, "ann")
        assert {review.text for review in ledger.reviews()} == {"odd early", f"odd {SECRET}"}
        assert ledger.review(early.id).answer["message"] == f"say {SECRET}"
        assert ledger.verify() == []
        assert f"say {SECRET}".encode() not in files(tmp_path)
        assert ledger.decide(late.id, APPROVE, "ann").state == "decided"


def test_keys_can_be_changed_and_the_first_closes(tmp_path: Path, key: str) -> None:
    new = new_key()
    with Ledger(tmp_path / "desk.sqlite", key=key) as ledger:
        old = file(ledger, "odd old")
    with Ledger(tmp_path / "desk.sqlite", key=f"{new}, {key}") as ledger:
        fresh = file(ledger, "odd new")
        assert {review.text for review in ledger.reviews()} == {"odd old", "odd new"}
        rows = ledger.store.read(lambda c: c.execute(STORED).mappings().all())
    stored = {row["id"]: row["text"].removeprefix("fernet:").encode() for row in rows}
    assert json.loads(Fernet(key).decrypt(stored[old.id])) == "odd old"
    assert json.loads(Fernet(new).decrypt(stored[fresh.id])) == "odd new"


def test_the_key_comes_from_the_environment(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key)
    with Ledger(tmp_path / "desk.sqlite") as ledger:
        used(ledger)
        assert SECRET.encode() not in files(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, f"{key},short")
    with pytest.raises(ValueError, match=KEY_VARIABLE) as caught:
        Ledger(tmp_path / "desk.sqlite")
    assert "short" not in str(caught.value)


def test_in_postgres_too(place: str, key: str) -> None:
    with Ledger(place, key=key) as ledger:
        name = used(ledger)
        found = ledger.store.read(lambda c: str(c.execute(STORED).all()))
        assert SECRET not in found
        assert ledger.store.read(lambda c: c.execute(sa.select(WORK)).all()) == []
        assert ledger.verify() == []
        assert ledger.review(name).text == f"odd {SECRET}"


def test_a_question_of_plain_data_is_read_back_equal(sealed: Ledger) -> None:
    asked = question("odd \u202e\x00\ud800 ü", thread="t", interrupt="i", key="k")
    sealed.reconcile([asked])
    (review,) = sealed.reviews()
    assert (review.text, review.request, review.schema) == (
        asked.text, asked.request, asked.schema
    )  # fmt: skip
