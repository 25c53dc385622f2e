"""What people decided is carried out on its thread, once, whatever broke off before."""

from __future__ import annotations

import logging
import platform
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from bayeslora_tool.graphs.record import this_run
from bayeslora_tool.graphs.runs import pending, resume
from langgraph.checkpoint.memory import InMemorySaver

from bayeslora_tool.desk import applying
from bayeslora_tool.desk.ledger import Ledger
from tests.desk.filed import Later, meddle, steps
from tests.desk.scenes import Scene
from tests.graphs.desk import APPROVE, EDIT_TO_NO, REJECT, on

RESPOND = {"type": "respond", "message": "write to them"}


class Stop(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    ("answer", "decision", "label", "message"),
    [
        (APPROVE, "proceed", "yes", None),
        (EDIT_TO_NO, "proceed", "no", None),
        (REJECT | {"message": "never"}, "reject", None, "never"),
        (RESPOND, "respond", None, "write to them"),
    ],
)
def test_a_decision_is_carried_out_in_the_name_of_who_took_it(
    ledger: Ledger, answer: Any, decision: str, label: str | None, message: str | None
) -> None:
    scene = Scene(ledger)
    name = scene.ask()
    assert scene.desk.apply() == []
    ledger.decide(name, answer | {"reviewer": "boss"}, "ann")
    assert [(one.review, one.result) for one in scene.desk.apply()] == [(name, "applied")]
    outcome = scene.outcome()
    assert outcome["decided_by"] == "human"
    assert (outcome["decision"], outcome["label"], outcome["message"], outcome["reviewer"]) == (
        decision, label, message, "ann"
    )  # fmt: skip
    assert scene.acted == ([outcome] if label else [])
    assert ledger.review(name).state == "applied"
    assert scene.desk.apply() == []
    assert steps(ledger, ledger.review(name)) == ["filed", "decided", "applied"]


def test_what_expired_is_rejected(ledger: Ledger, later: Later) -> None:
    scene = Scene(ledger, due=100)
    name = scene.ask()
    later(101)
    assert [one.result for one in scene.desk.apply()] == ["applied"]
    assert (scene.outcome()["decision"], scene.outcome()["reviewer"]) == ("reject", None)
    assert steps(ledger, ledger.review(name)) == ["filed", "expired", "applied"]
    assert scene.acted == []


def test_of_a_thread_that_was_answered_elsewhere_nothing_is_run_again(ledger: Ledger) -> None:
    scene = Scene(ledger)
    name = scene.ask()
    ledger.decide(name, APPROVE, "ann")
    (interrupt,) = pending(scene.plain, on(1))
    resume(scene.plain, on(1), {interrupt: REJECT})
    assert [one.result for one in scene.desk.apply()] == ["withdrawn"]
    assert scene.outcome()["decision"] == "reject"
    assert scene.acted == []


def test_what_changed_since_it_was_shown_is_asked_again_and_never_run(ledger: Ledger) -> None:
    scene = Scene(ledger)
    name = scene.ask()
    ledger.decide(name, APPROVE, "ann")
    scene.plain.invoke({"text": "something else"}, on(1))  # the question now says more
    assert [one.result for one in scene.desk.apply()] == ["withdrawn"]
    assert scene.acted == []
    (again,) = ledger.reviews("open")
    assert again.id != name
    ledger.decide(again.id, APPROVE, "ann")
    scene.desk.apply()
    assert len(scene.acted) == 1


def test_the_same_interrupt_with_other_arguments_is_not_what_was_decided(ledger: Ledger) -> None:
    scene = Scene(ledger)
    name = scene.ask()
    ledger.decide(name, APPROVE, "ann")
    meddle(ledger, "UPDATE reviews SET digest = 'other' WHERE id = :id", id=name)
    assert [one.result for one in scene.desk.apply()] == ["withdrawn"]
    assert scene.acted == []


@pytest.mark.parametrize("place_of_death", ["before the answer", "in the run", "after the run"])
def test_killed_anywhere_a_decision_is_carried_out_once(
    ledger: Ledger, later: Later, monkeypatch: pytest.MonkeyPatch, place_of_death: str
) -> None:
    scene = Scene(ledger, lease=100)
    name = scene.ask()
    ledger.decide(name, APPROVE, "ann")

    def die(*_: Any, **__: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        if place_of_death == "before the answer":
            patch.setattr(applying, "resume", die)
        elif place_of_death == "in the run":  # the answer is claimed, and the graph not yet run
            patch.setattr(type(scene.graph), "invoke", die)
        else:
            patch.setattr(ledger, "applied", die)
        with pytest.raises(Stop):
            scene.desk.apply()
    assert ledger.review(name).state == "decided"
    assert scene.desk.apply() == []  # it may still be at it
    later(101)
    assert [one.result for one in scene.desk.apply()] == ["applied"]
    assert [outcome["reviewer"] for outcome in scene.acted] == ["ann"]


def test_killed_in_the_action_it_runs_again_under_the_same_key(
    ledger: Ledger, later: Later
) -> None:
    acted: list[str] = []

    def act(outcome: Any) -> None:
        acted.append(outcome["key"])
        if len(acted) == 1:
            raise Stop

    scene = Scene(ledger, act=act, lease=100)
    ledger.decide(scene.ask(), APPROVE, "ann")
    with pytest.raises(Stop):
        scene.desk.apply()
    later(101)
    assert [one.result for one in scene.desk.apply()] == ["applied"]
    assert len(acted) == 2
    assert len(set(acted)) == 1


def test_an_action_that_raises_is_tried_again_later_and_its_problem_shown(
    ledger: Ledger, later: Later
) -> None:
    tries: list[Any] = []

    def act(outcome: Any) -> str:
        tries.append(outcome)
        if len(tries) < 3:
            raise RuntimeError(f"the bank is closed, {len(tries)}")
        return "done"

    scene = Scene(ledger, act=act)
    name = scene.ask()
    ledger.decide(name, EDIT_TO_NO, "ann")
    waits: list[float] = []
    while ledger.review(name).state != "applied":
        waits.append(0.0)
        while not (done := scene.desk.apply()):
            later(0.5)
            waits[-1] += 0.5
        if done[0].result == "failed":
            assert done[0].problem == f"RuntimeError: the bank is closed, {len(tries)}"
            assert ledger.review(name).problem == done[0].problem
            assert scene.desk.apply() == []
    assert [outcome["label"] for outcome in tries] == ["no"] * 3
    assert waits == [0, 1, 2]
    assert ledger.review(name).problem is None


def test_another_question_of_the_same_run_is_filed_by_who_applies(ledger: Ledger) -> None:
    scene = Scene(ledger)
    first = scene.ask()
    # A review per text of the thread.
    ledger.decide(first, APPROVE, "ann")
    scene.desk.apply()
    second = scene.ask(text="odd too")
    assert second != first
    ledger.decide(second, REJECT, "bob")
    scene.desk.apply()
    assert [outcome["text"] for outcome in scene.acted] == ["odd"]
    assert scene.outcome()["text"] == "odd too"


def test_two_workers_carry_each_decision_out_once(ledger: Ledger) -> None:
    saver = InMemorySaver()
    one, other = Scene(ledger, saver), Scene(ledger, saver)
    for i in range(12):
        ledger.decide(one.ask(i, f"odd {i}"), APPROVE, "ann")
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda scene: scene.desk.apply(), (one, other)))
    assert sorted(o["text"] for o in one.acted + other.acted) == sorted(
        f"odd {i}" for i in range(12)
    )
    assert {a.result for done in results for a in done} == {"applied"}


def test_a_run_that_takes_longer_than_the_lease_stays_with_who_began_it(ledger: Ledger) -> None:
    saver, acted = InMemorySaver(), []

    def act(outcome: Any) -> None:
        acted.append(outcome)
        time.sleep(2)

    one, other = (Scene(ledger, saver, act, lease=1.2) for _ in range(2))
    ledger.decide(one.ask(), APPROVE, "ann")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(one.desk.apply)
        time.sleep(0.1)
        while not slow.done():
            assert other.desk.apply() == []
            time.sleep(0.05)
    assert [a.result for a in slow.result()] == ["applied"]
    assert len(acted) == 1


@pytest.mark.parametrize(("takeover", "same_lease"), [(True, False), (False, True), (False, False)])
def test_what_a_machine_that_is_gone_left_behind_waits_for_a_word_or_the_end_of_its_lease(
    ledger: Ledger,
    later: Later,
    monkeypatch: pytest.MonkeyPatch,
    takeover: bool,
    same_lease: bool,
) -> None:
    saver = InMemorySaver()
    elsewhere = {**this_run("resume", ""), "host": "far away", "pid": 1}
    scene = Scene(ledger, saver, lease=100)
    name = scene.ask()
    ledger.decide(name, APPROVE, "ann")

    def die(*_: Any, **__: Any) -> None:
        raise Stop

    # The run there began, and never said that it is over; the ledger knows of it or not.
    with monkeypatch.context() as patch:
        patch.setattr("bayeslora_tool.graphs.turn.this_run", lambda *_: elsewhere)
        patch.setattr("bayeslora_tool.graphs.turn.end", lambda *_: iter(()))
        patch.setattr(type(scene.graph), "invoke", die)
        if same_lease:
            patch.setattr(platform, "node", lambda: "far.away")
        with pytest.raises(Stop):
            scene.desk.apply()
    later(101)
    (done,) = scene.desk.apply(takeover=takeover)
    if takeover or same_lease:
        assert done.result == "applied"
        assert len(scene.acted) == 1
    else:
        assert done.result == "failed"
        assert "takeover=True" in str(done.problem)
        assert scene.acted == []


def test_a_worker_goes_on_until_it_is_stopped_and_waits_for_a_ledger_that_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, impatient = (
        Ledger(tmp_path / "desk.sqlite"),
        Ledger(tmp_path / "desk.sqlite", patience=0.1),
    )
    scene, stop = Scene(impatient), Event()
    scene.desk.ledger = ledger
    names = [scene.ask(i) for i in range(2)]
    scene.desk.ledger = impatient
    worker = Thread(target=scene.desk.work, args=(stop,), kwargs={"every": 0.05}, daemon=True)
    worker.start()

    def wait_for(name: str) -> None:
        ends = time.monotonic() + 10
        while ledger.review(name).state != "applied":
            assert time.monotonic() < ends
            time.sleep(0.02)

    ledger.decide(names[0], APPROVE, "ann")
    wait_for(names[0])
    ledger.decide(names[1], APPROVE, "ann")
    blocker = sqlite3.connect(tmp_path / "desk.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    time.sleep(0.5)
    blocker.close()
    wait_for(names[1])
    assert "does not answer: database is locked" in caplog.text
    stop.set()
    worker.join(10)
    assert not worker.is_alive()
    assert len(scene.acted) == 2


def test_a_thread_that_is_gone_fails_with_the_reason_and_keeps_the_decision(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(ledger)
    name = scene.ask()
    ledger.decide(name, APPROVE, "ann")
    fresh = Scene(ledger)  # whose checkpointer lost everything
    with caplog.at_level(logging.INFO):
        (done,) = fresh.desk.apply()
    assert done.result == "failed"
    assert "nothing ever ran on thread '1'" in str(done.problem)
    assert ledger.review(name).state == "decided"
