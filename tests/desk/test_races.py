"""Many at the same reviews: one decision each, one effect each, and every loser is told."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from bayeslora_tool.desk.refusal import ReviewError
from tests.desk.children import Child, Diary
from tests.desk.scenes import Effects, opened
from tests.graphs.desk import APPROVE, EDIT_TO_NO

ANSWERS = {"ann": APPROVE, "bob": EDIT_TO_NO, "cid": APPROVE, "dee": EDIT_TO_NO}
LABELS = {"ann": "yes", "bob": "no", "cid": "yes", "dee": "no"}


def race(place: str, folder: Path, n: int) -> None:
    """Four processes answer the same reviews, in orders of their own, and carry out meanwhile."""
    diary = Diary(folder / "diary")
    with opened(place, folder) as scene:
        names = [scene.ask(i, f"odd {i}") for i in range(n)]

    def work(me: str) -> Child:
        def answer_all(ready: object) -> None:
            mine = random.Random(me).sample(names, n)
            with opened(place, folder) as scene:
                for i, name in enumerate(mine):
                    try:
                        scene.ledger.decide(name, ANSWERS[me], me)
                        diary.write("won", name, me)
                    except ReviewError as error:
                        by = str(error.review and error.review.decided_by)
                        diary.write("lost", name, me, by, str(error))
                    if i % 20 == 19:
                        scene.desk.apply()
                scene.desk.apply()

        return Child(answer_all)

    children = [work(me) for me in ANSWERS]
    assert [child.wait(150) for child in children] == [0] * 4
    with opened(place, folder) as scene:
        scene.desk.apply()
        reviews = {review.id: review for review in scene.ledger.reviews()}
        assert scene.ledger.verify() == []
        outcomes = {review.id: scene.outcome(review.thread) for review in reviews.values()}
    assert {review.state for review in reviews.values()} == {"applied"}
    won = dict(diary.lines("won"))
    assert won == {name: review.decided_by for name, review in reviews.items()}
    assert len(diary.lines("won")) == len(reviews) == n
    lost = diary.lines("lost")
    assert len(lost) == 3 * n
    assert Counter((name, me) for name, me, *_ in lost).most_common(1)[0][1] == 1
    for name, me, winner, said in lost:
        assert winner == won[name] != me
        assert f"decided by {winner}" in said
    effects = Effects(folder / "effects.sqlite")
    assert effects.done() == {
        review.key: (LABELS[won[name]], won[name]) for name, review in reviews.items()
    }
    assert Counter(effects.begun()) == {review.key: 1 for review in reviews.values()}
    for name, outcome in outcomes.items():
        assert (outcome["label"], outcome["reviewer"]) == (LABELS[won[name]], won[name])


def test_of_four_processes_one_decides_each_review(tmp_path: Path) -> None:
    race(str(tmp_path / "desk.sqlite"), tmp_path, 8)


@pytest.mark.slow
def test_of_four_processes_one_decides_each_of_300_reviews(place: str, tmp_path: Path) -> None:
    race(place, tmp_path, 300)
