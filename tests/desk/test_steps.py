"""Random walks of many people and much time over a few reviews, beside a model of the rules."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.refusal import ReviewError
from bayeslora_tool.desk.routing import Route
from bayeslora_tool.desk.states import TRANSITIONS
from tests.desk.filed import APPROVE, REJECT, Later, question, steps

TERM, LEASE, UNDO = 50, 20, 10  # seconds
WEIGHTS = {
    "claim": 4, "release": 2, "decide": 5, "undo": 4, "wait": 4, "applied": 0.5, "withdraw": 0.5,
    "again": 1, "erase": 0.5,
}  # fmt: skip


@dataclass
class Model:
    """What the docs say of a review, as one would do it by hand."""

    needed: int
    due: float
    groups: int = 2  # of them, those that have it now and later
    state: str = "open"
    holder: str | None = None
    lease: float = 0
    votes: list[tuple[str, Any]] = field(default_factory=list)
    given: tuple[str, Any] | None = None
    undo_until: float = 0

    def pass_time(self, now: float) -> None:
        if self.state not in ("open", "claimed"):
            return
        if self.due <= now:
            self.groups -= 1
            self.holder, self.due = None, now + TERM
            self.state = "open" if self.groups else "expired"
        elif self.state == "claimed" and self.lease <= now:
            self.state, self.holder = "open", None

    def free(self, by: str) -> bool:
        held = self.state == "claimed" and self.holder != by
        voted = by in [voter for voter, _ in self.votes]
        return self.state in ("open", "claimed") and not held and not voted

    def claim(self, by: str, now: float) -> bool:
        if free := self.free(by):
            self.state, self.holder, self.lease = "claimed", by, now + LEASE
        return free

    def release(self, by: str) -> bool:
        if free := self.free(by) and self.state == "claimed":
            self.state, self.holder = "open", None
        return free

    def decide(self, by: str, answer: Any, now: float) -> bool:
        if (by, answer) in [self.given, *self.votes] and self.state != "withdrawn":
            return True
        if not self.free(by):
            return False
        self.votes.append((by, answer))
        answers = [one for _, one in self.votes]
        settled = self.needed == 1 or len(answers) == 3 or answers.count(answer) == 2
        self.state, self.holder = ("decided" if settled else "open"), None
        self.given = (by, answer) if settled else None
        self.undo_until = now + UNDO
        return True

    def undo(self, by: str, now: float) -> bool:
        if self.state == "claimed" and self.holder == by:
            return True
        mine = bool(self.votes) and self.votes[-1][0] == by and self.state in ("open", "decided")
        if not mine or self.undo_until <= now:
            return False
        self.votes.pop()
        self.state, self.holder, self.lease, self.given = "claimed", by, now + 600, None
        return True

    def applied(self) -> bool:
        if fine := self.state in ("decided", "expired", "applied"):
            self.state = "applied"
        return fine

    def withdraw(self) -> bool:
        if fine := self.state != "applied":
            self.state, self.holder = "withdrawn", None
        return fine

    def erase(self) -> bool:
        if fine := self.state in ("applied", "withdrawn"):
            self.votes = []
            self.given = self.given and (self.given[0], None)  # who is known, and what no more
        return fine

    def act(self, act: str, by: str, answer: Any, now: float) -> bool:
        if act in ("applied", "withdraw", "erase"):
            return bool(getattr(self, act)())
        if act == "release":
            return self.release(by)
        if act == "decide":
            return self.decide(by, answer, now)
        return self.claim(by, now) if act == "claim" else self.undo(by, now)


def taken(ledger: Ledger, name: str, act: str, by: str, answer: Any) -> bool:
    """Whether the ledger took an act."""
    try:
        if act in ("applied", "withdraw"):  # the desk's own, which has looked at the time before
            ledger.keep_time()
            ledger.applied(name) if act == "applied" else ledger.withdraw(name)
        elif act == "erase":
            before = ledger.review(name).erased_at
            ledger.erase(0)
            return (before or ledger.review(name).erased_at) is not None
        elif act == "release":
            ledger.release(name, by)
        elif act == "decide":
            ledger.decide(name, answer, by, undo=UNDO)
        else:
            ledger.claim(name, by, lease=LEASE) if act == "claim" else ledger.undo(name, by)
    except ReviewError:
        return False
    return True


def walk(ledger: Ledger, later: Later, seed: int, length: int) -> set[str]:
    rnd, now = random.Random(seed), 0.0
    route = Route(group="a", next_group="b", due=TERM, needed=rnd.choice([1, 2, 2]))
    asked = question(f"odd {seed}")
    ledger.reconcile([asked], routes=[route])
    model = Model(route.needed, TERM)
    for _ in range(length):
        by, answer = rnd.choice(["ann", "bob", "cid", "dee"]), rnd.choice([APPROVE, REJECT])
        act = rnd.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        if act == "wait":
            span = rnd.choice([3.0, 12.0, 25.0])
            later(span)
            now += span
        elif act == "again":
            if ledger.reconcile([asked], routes=[route]).filed:
                assert model.state == "withdrawn"
                model = Model(route.needed, now + TERM)
        else:
            model.pass_time(now)
            done = taken(ledger, asked.id, act, by, answer)
            assert done == model.act(act, by, answer, now), (act, by, answer, model)
        model.pass_time(now)
        review = ledger.review(asked.id)
        assert (review.state, review.assignee) == (model.state, model.holder), (act, model)
        assert review.group == ("a" if model.groups == 2 else "b")
        if route.needed == 2:
            assert list(review.voters) == [voter for voter, _ in model.votes]
        who, what = model.given or (None, None)
        assert review.decided_by == who
        if what is not None:
            assert review.answer == what | {"reviewer": who}
        if review.state in ("open", "claimed"):
            assert review.answer is None
            assert review.text == asked.text
    events, state = steps(ledger, review), None
    for step in events:
        allowed, to = TRANSITIONS[step]  # type: ignore[index]
        assert state in allowed or (step == "filed" and state is None)
        state = to or state
    assert state == review.state
    assert events.count("passed on") <= 1 + events.count("asked again")
    return set(events)


def test_random_walks_end_where_the_rules_say(ledger: Ledger, later: Later) -> None:
    for seed in range(3):
        walk(ledger, later, seed, 40)
    assert ledger.verify() == []


@pytest.mark.slow
def test_many_random_walks_take_every_step_and_end_where_the_rules_say(
    ledger: Ledger, later: Later
) -> None:
    seen = set[str]()
    for seed in range(100, 130):
        seen |= walk(ledger, later, seed, 60)
    assert seen == set(TRANSITIONS)
    assert ledger.verify() == []
