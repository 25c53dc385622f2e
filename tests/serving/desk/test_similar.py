"""Settled reviews like one: the nearest by cosine that may be read, without the page waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.roles import Person
from bayeslora_tool.serving.desk.similar import SimilarReviews
from tests.desk.filed import APPROVE, REJECT, file, meddle

LEAD = Person("lea", "lead", frozenset())
TOPICS = ("card", "film", "rain", "money")


class Bag:
    """Embeds by counting a few words, at norm 1."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Any:
        self.asked += texts
        counts = np.array([[text.count(word) for word in TOPICS] for text in texts], float) + 1e-3
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


def settle(ledger: Ledger, text: str, answer: Any = APPROVE) -> str:
    return ledger.decide(file(ledger, text).id, answer, "ann").id


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "desk.sqlite") as made:
        yield made


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bayeslora_tool.serving.desk.similar._PAUSE", 0.02)


def test_the_nearest_by_cosine_come_first_and_what_is_open_does_not(ledger: Ledger) -> None:
    texts = ["card card", "card film", "film film rain", "rain", "money money card", "rain film"]
    names = {settle(ledger, text, REJECT if "rain" in text else APPROVE): text for text in texts}
    asked = file(ledger, "card card card film")
    file(ledger, "card card card card")  # nobody has decided it
    similar = SimilarReviews(ledger, Bag)
    assert similar.wait(10)
    found = similar(asked, LEAD, 3)
    vectors = dict(zip(texts, Bag().embed(texts), strict=True))
    (mine,) = Bag().embed([str(asked.text)])
    expected = sorted(texts, key=lambda text: -float(vectors[text] @ mine))[:3]
    assert [names[one.id] for one in found] == expected
    assert {one.decided_by for one in found} == {"ann"}


def test_nothing_waits_for_the_model_and_without_it_nothing_is_similar(ledger: Ledger) -> None:
    settle(ledger, "card")
    asked, loaded = file(ledger, "card again"), Event()

    def load() -> Bag:
        assert loaded.wait(10)
        return Bag()

    similar = SimilarReviews(ledger, load)
    assert similar(asked, LEAD) == []  # who waited here would wait for `loaded` in vain
    loaded.set()
    assert similar.wait(10)
    assert len(similar(asked, LEAD)) == 1


def test_a_model_that_does_not_load_leaves_the_desk_as_it_is(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    settle(ledger, "card")
    similar = SimilarReviews(ledger, lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert not similar.wait(0.2)
    assert similar(file(ledger, "card again"), LEAD) == []
    assert "did not load" in caplog.text


def test_what_is_settled_later_is_read_once(ledger: Ledger) -> None:
    bag = Bag()
    asked = file(ledger, "card?")
    similar = SimilarReviews(ledger, lambda: bag)
    assert similar.wait(10)
    for text in ("card one", "film two"):
        settle(ledger, text)
        until(lambda text=text: text in [one.text for one in similar(asked, LEAD)])  # type: ignore[misc]
    assert sorted(text for text in bag.asked if text != "card?") == ["card one", "film two"]


def test_groups_that_somebody_may_not_read_are_not_shown_and_take_no_place(ledger: Ledger) -> None:
    for i in range(6):
        name = settle(ledger, f"card {i}")
        meddle(ledger, "UPDATE reviews SET \"group\" = 'cards' WHERE id = :id", id=name)
    own = settle(ledger, "film card")
    asked = file(ledger, "card")
    similar = SimilarReviews(ledger, Bag)
    assert similar.wait(10)
    bob = Person("bob", "reviewer", frozenset({"films"}))
    assert [one.id for one in similar(asked, bob, 2)] == [own]
    assert own not in [one.id for one in similar(asked, LEAD, 2)]
    assert len(similar(asked, Person("cem", "reviewer", frozenset({"cards"})), 5)) == 5


def test_what_was_taken_back_or_erased_since_is_not_shown(ledger: Ledger) -> None:
    first, second, third = (settle(ledger, f"card {i}") for i in range(3))
    asked = file(ledger, "card")
    similar = SimilarReviews(ledger, Bag)
    assert similar.wait(10)
    meddle(ledger, "UPDATE reviews SET state = 'claimed' WHERE id = :id", id=first)
    meddle(ledger, "UPDATE reviews SET text = NULL WHERE id = :id", id=second)
    assert [one.id for one in similar(asked, LEAD)] == [third]


def test_memory_is_bounded_and_the_latest_are_kept(ledger: Ledger) -> None:
    names = [settle(ledger, f"card {i}") for i in range(7)]
    for i, name in enumerate(names):
        meddle(ledger, "UPDATE reviews SET decided_at = :at WHERE id = :id", id=name, at=1000 + i)
    asked = file(ledger, "card")
    similar = SimilarReviews(ledger, Bag, most=3)
    assert similar.wait(10)
    assert {one.id for one in similar(asked, LEAD)} == set(names[4:])
    later = settle(ledger, "card later")
    until(lambda: later in [one.id for one in similar(asked, LEAD)])
    assert {one.id for one in similar(asked, LEAD)} == {*names[5:], later}


@pytest.mark.slow
def test_a_bundled_backbone_finds_what_is_about_the_same(ledger: Ledger) -> None:
    texts = ["my bag with the card in it was stolen", "the film was dull and long",
             "will it rain in boston", "please send my brother some money"]  # fmt: skip
    for text in texts:
        settle(ledger, text)
    similar = SimilarReviews(ledger, lambda: BayesLoRAClassifier.from_pretrained("intents"))
    assert similar.wait(100)
    for asked, about in (
        ("someone took my wallet and all my cards", texts[0]),
        ("a boring movie", texts[1]),
        ("do i need an umbrella today", texts[2]),
        ("transfer a hundred to my sister", texts[3]),
    ):
        assert similar(file(ledger, asked), LEAD)[0].text == about
