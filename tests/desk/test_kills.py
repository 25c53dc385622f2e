"""kill -9 at random moments of all that happens at a desk: nothing lost, nothing applied twice."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import recover, start
from bayeslora_tool.graphs.thread import ThreadError

from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.desk.review import canonical
from bayeslora_tool.desk.routing import Route
from tests.desk.children import Child, Diary
from tests.desk.scenes import Effects, Scene, opened
from tests.graphs.desk import APPROVE, EDIT_TO_NO, on

LEASE = 0.1  # seconds
KINDS: dict[str, Any] = {
    "approve": APPROVE,
    "edit": EDIT_TO_NO,
    "reject": {"type": "reject", "message": "no"},
    "respond": {"type": "respond", "message": "later"},
}
LABELS = {"approve": "yes", "edit": "no"}
ROLES = ["file", "decide", "apply", "claim", "act"]


class Rounds:
    """Children that file, claim, decide and apply, and are killed in it."""

    def __init__(self, place: str, folder: Path, seed: int, needed: int) -> None:
        self.place, self.folder = place, folder
        self.routes = [Route(needed=needed)]
        self.random = random.Random(seed)
        self.diary = Diary(folder / "diary")
        self.threads = self.begun = 0
        self.kills: Counter[str] = Counter()

    def round(self, longest: float) -> None:
        """Two children at once, each killed within so many seconds of its beginning."""
        children = {}
        for _ in range(2):
            role, seed = ROLES[self.begun % len(ROLES)], self.random.random()
            self.begun += 1
            if role == "file":
                self.threads += 4
            children[Child(self._work(role, self.threads, seed))] = role
        for child, role in children.items():
            child.wait_until_ready()
            time.sleep(self.random.uniform(0, longest))
            self.kills[role] += child.kill()

    def _work(self, role: str, threads: int, seed: float) -> Callable[[Callable[[], None]], None]:
        def work(ready: Callable[[], None]) -> None:
            rnd = random.Random(seed)
            acts: Any = {"moment": 0.1, "begins": ready} if role == "act" else {}
            with opened(self.place, self.folder, lease=LEASE, routes=self.routes, **acts) as scene:
                if role == "act":  # ready when an action has begun, or there is none
                    while not scene.desk.apply():
                        ready()
                ready()
                if role == "file":
                    for i in range(threads - 4, threads):
                        start(scene.graph, {"text": f"odd {i}"}, on(i))
                        self.diary.write("started", str(i))
                while role in ("apply", "act"):
                    scene.desk.apply()
                while role in ("claim", "decide"):
                    reviews = scene.ledger.reviews("open")
                    for review in rnd.sample(reviews, len(reviews))[:6]:
                        self._act(scene, role, review.id, rnd)

        return work

    def _act(self, scene: Scene, role: str, name: str, rnd: random.Random) -> None:
        by, kind = rnd.choice("abc"), rnd.choice([*KINDS])
        try:
            if role == "claim":
                scene.ledger.claim(name, by, lease=LEASE)
                return
            decided = scene.ledger.decide(name, KINDS[kind], by)
            if decided.state == "open":
                self.diary.write("voted", name, by, kind)
            else:
                told = canonical(decided.answer)
                self.diary.write("told", name, str(decided.decided_by), told)
        except ReviewError as error:
            if error.problem == "unknown":
                raise

    def settle(self, scene: Scene) -> None:
        """What people and processes do who come after."""
        for i in range(self.threads):
            try:
                recover(scene.graph, on(i))
            except ThreadError as error:
                if error.problem not in ("unknown", "pending", "finished"):
                    raise
        scene.desk.sync()
        ends = time.monotonic() + 60
        while scene.ledger.reviews("open", "claimed", "decided"):
            assert time.monotonic() < ends
            for review in scene.ledger.reviews("open"):
                self._act(scene, "decide", review.id, self.random)
            scene.desk.apply()

    def check(self, scene: Scene) -> None:
        """Beside what the processes noted, the threads have and the actions did."""
        assert scene.ledger.verify() == []
        assert scene.desk.sync() == (0, 0)
        reviews = {review.thread: review for review in scene.ledger.reviews("applied")}
        assert len(reviews) == len(scene.ledger.reviews())  # none filed twice, or in vain
        assert {thread for (thread,) in self.diary.lines("started")} <= reviews.keys()
        by_id = {review.id: review for review in reviews.values()}
        for name, by, answer in self.diary.lines("told"):
            assert (by_id[name].decided_by, canonical(by_id[name].answer)) == (by, answer)
        for name, by, kind in self.diary.lines("voted"):
            voted = {vote.by: vote.answer["type"] for vote in scene.ledger.votes(name)}
            assert voted[by] == kind
        effects = Effects(self.folder / "effects.sqlite")
        expected = {}
        for thread, review in reviews.items():
            outcome, kind = scene.outcome(thread), review.answer["type"]
            assert outcome["text"] == f"odd {thread}"
            assert (outcome["key"], outcome["reviewer"]) == (review.key, review.decided_by)
            assert outcome["label"] == LABELS.get(kind)
            if kind in LABELS:
                expected[review.key] = (LABELS[kind], review.decided_by)
        assert effects.done() == expected
        again = len(effects.begun()) - len(expected)
        assert 0 <= again <= self.kills["apply"] + self.kills["act"]  # each by a kill in `act`


def killed(place: str, folder: Path, kills: int, longest: float, needed: int = 1) -> Counter[str]:
    rounds = Rounds(place, folder, kills, needed)
    Effects(folder / "effects.sqlite")
    with opened(place, folder) as scene:  # makes the files
        for i in range(8):
            scene.ledger.decide(scene.ask(f"first {i}", f"odd first {i}"), APPROVE, "ann")
    while rounds.kills.total() < kills:
        rounds.round(longest)
    with opened(place, folder, lease=LEASE, routes=rounds.routes) as scene:
        rounds.settle(scene)
        rounds.check(scene)
        begun = Effects(folder / "effects.sqlite").begun()
    rounds.kills["in act"] = len(begun) - len(set(begun))
    print(dict(rounds.kills), rounds.threads, len(rounds.diary.lines("voted")))
    assert bool(rounds.diary.lines("voted")) == (needed > 1)
    return rounds.kills


def test_killed_at_ten_moments_nothing_is_lost_nor_applied_twice(tmp_path: Path) -> None:
    killed(str(tmp_path / "desk.sqlite"), tmp_path, 10, 0.1, needed=2)


@pytest.mark.slow
@pytest.mark.parametrize("needed", [1, 2])
def test_killed_at_many_moments_nothing_is_lost_nor_applied_twice(
    place: str, tmp_path: Path, needed: int
) -> None:
    n = 200 if needed == 1 else 60
    if "://" in place:  # what differs is the ledger's database alone
        n = n // 4
    kills = killed(place, tmp_path, n, 0.12, needed)
    assert min(kills[role] for role in ROLES) >= n // 10
    assert kills["in act"] >= 1
