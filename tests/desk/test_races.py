"""Many at the same reviews: one decision each, one effect each, and every loser is told."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.desk.routing import Route
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


def retreat(place: str, folder: Path, n: int) -> None:
    """Two answer and change their minds at random moments, two carry out what they find."""
    diary = Diary(folder / "diary")
    with opened(place, folder) as scene:
        names = [scene.ask(i, f"odd {i}") for i in range(n)]

    def answer(me: str, mine: list[str]) -> Child:
        def work(ready: object) -> None:
            rnd = random.Random(me)
            with opened(place, folder) as scene:
                for name in mine:
                    scene.ledger.decide(name, APPROVE, me, undo=0.1)
                    time.sleep(rnd.uniform(0.05, 0.15))
                    try:
                        scene.ledger.undo(name, me)
                    except ReviewError as error:
                        diary.write("kept", name, error.problem)
                        continue
                    scene.ledger.decide(name, EDIT_TO_NO, me)
                    diary.write("undone", name)

        return Child(work)

    def apply(_: int) -> Child:
        def work(ready: object) -> None:
            with opened(place, folder) as scene:
                while scene.ledger.counts()["applied"] < n:
                    scene.desk.apply()

        return Child(work)

    children = [answer("ann", names[::2]), answer("bob", names[1::2]), apply(1), apply(2)]
    assert [child.wait(150) for child in children] == [0] * 4
    with opened(place, folder) as scene:
        assert scene.ledger.verify() == []
        reviews = {review.key: review.id for review in scene.ledger.reviews("applied")}
    kept, undone = dict(diary.lines("kept")), {name for (name,) in diary.lines("undone")}
    assert set(kept.values()) == {"late"}
    assert len(kept) + len(undone) == n
    assert min(len(kept), len(undone)) >= 1
    effects = Effects(folder / "effects.sqlite")
    labels = {reviews[key]: label for key, (label, _) in effects.done().items()}
    assert labels == dict.fromkeys(kept, "yes") | dict.fromkeys(undone, "no")
    assert Counter(effects.begun()) == dict.fromkeys(reviews, 1)


@pytest.mark.slow
def test_what_is_taken_back_is_never_carried_out_and_what_is_not_is(
    place: str, tmp_path: Path
) -> None:
    retreat(place, tmp_path, 60)


def elect(place: str, folder: Path, n: int) -> None:
    """Four processes answer the same reviews, each of which needs two who agree, or three."""
    diary = Diary(folder / "diary")
    routes = [Route(needed=2)]
    with opened(place, folder, routes=routes) as scene:
        names = [scene.ask(i, f"odd {i}") for i in range(n)]

    def work(me: str) -> Child:
        def answer_all(ready: object) -> None:
            with opened(place, folder, routes=routes) as scene:
                for name in random.Random(me).sample(names, n):
                    try:
                        given = scene.ledger.decide(name, ANSWERS[me], me)
                        diary.write("won" if given.state == "decided" else "voted", name, me)
                    except ReviewError as error:
                        diary.write("lost", name, me, error.problem)
                scene.desk.apply()

        return Child(answer_all)

    children = [work(me) for me in ANSWERS]
    assert [child.wait(150) for child in children] == [0] * 4
    with opened(place, folder, routes=routes) as scene:
        scene.desk.apply()
        assert scene.ledger.verify() == []
        reviews = {review.id: review for review in scene.ledger.reviews("applied")}
        voters = {name: [vote.by for vote in scene.ledger.votes(name)] for name in names}
    assert len(reviews) == n
    sizes = Counter(map(len, voters.values()))
    assert set(sizes) == {2, 3}
    voted = [tuple(line) for line in diary.lines("voted")]
    assert sorted(voted) == sorted((name, by) for name in names for by in voters[name][:-1])
    won = dict(diary.lines("won"))
    assert won == {name: by[-1] for name, by in voters.items()}
    assert won == {name: review.decided_by for name, review in reviews.items()}
    for by in voters.values():
        assert len(set(by)) == len(by)
        assert (LABELS[by[0]] == LABELS[by[1]]) == (len(by) == 2)
    assert {problem for _, _, problem in diary.lines("lost")} == {"decided"}
    assert len(diary.lines("lost")) == 4 * n - sum(map(len, voters.values()))
    effects = Effects(folder / "effects.sqlite")
    assert effects.done() == {
        review.key: (LABELS[won[name]], won[name]) for name, review in reviews.items()
    }
    assert Counter(effects.begun()) == {review.key: 1 for review in reviews.values()}


@pytest.mark.slow
def test_of_four_processes_two_who_agree_or_a_third_decide_each_of_100_reviews(
    place: str, tmp_path: Path
) -> None:
    elect(place, tmp_path, 100)
