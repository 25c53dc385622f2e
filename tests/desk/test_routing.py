"""Who gets which reviews, and what becomes of those that nobody decides in time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bayeslora_tool.desk.inbox import Filter
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.roles import Person
from bayeslora_tool.desk.routing import Route, route_of
from bayeslora_tool.desk.server import Server
from tests.desk.filed import APPROVE, CHEAP, Later, question, refused, steps
from tests.desk.scenes import Scene


def scored(tool: str = "act_on_label", **scores: Any) -> Any:
    return question("odd", tool=tool, prediction={**question("odd").prediction, **scores})


@pytest.mark.parametrize(
    ("route", "asked", "fits"),
    [
        (Route(), scored(), True),
        (Route(tool="act_on_label"), scored(), True),
        (Route(tool="freeze_*"), scored("read_mail, freeze_card"), True),
        (Route(tool="freeze_*"), scored("unfreeze_card"), False),
        (Route(label="card_*"), scored(label="card_lost"), True),
        (Route(label="card_*"), scored(label="Card_lost"), False),
        (Route(label="*"), question("odd", prediction=None), True),
        (Route(label="?*"), question("odd", prediction=None), False),
        (Route(novelty=2.0), scored(novelty=2.0), True),
        (Route(novelty=2.0), scored(novelty=1.9), False),
        (Route(novelty=2.0), scored(novelty=float("nan")), True),
        (Route(novelty=2.0), scored(novelty=None), False),
        (Route(novelty=2.0), question("odd", prediction=None), False),
        (Route(tool="act_*", label="x", novelty=1), scored(label="x", novelty=3), True),
        (Route(tool="act_*", label="x", novelty=1), scored(label="y", novelty=3), False),
    ],
)
def test_a_route_is_taken_where_all_its_conditions_apply(
    route: Route, asked: Any, fits: bool
) -> None:
    assert route.fits(asked) == fits


def test_the_first_route_that_fits_is_taken_and_the_graph_fills_what_it_leaves_open() -> None:
    routes = [
        Route(label="x", group="cards", due=5, priority=3, needed=2),
        Route(label="?", group="loans"),
    ]
    found = [route_of(scored(label=label), routes, due=9, priority=1) for label in ("x", "y", "zz")]
    assert [(r.group, r.due, r.priority, r.needed) for r in found] == [
        ("cards", 5, 3, 2), ("loans", 9, 1, 1), (None, 9, 1, 1)
    ]  # fmt: skip
    assert route_of(scored(), [Route(priority=0)], due=None, priority=7).priority == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"group": ""}, "`group`"), ({"next_group": "a\n", "due": 1}, "`next_group`"),
        ({"group": "a", "next_group": "a"}, "another than `group`"), ({"due": 0}, "`due`"),
        ({"due": float("nan")}, "`due`"), ({"due": 1e12}, "a hundred years"),
        ({"needed": 0}, "`needed`"), ({"needed": 3}, "`needed`"),
        ({"novelty": float("nan")}, "`novelty`"),
    ],
)  # fmt: skip
def test_a_route_that_makes_no_sense_is_refused(options: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Route(**options)


def test_a_desk_files_by_its_routes(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="nothing ever is"):
        Scene(ledger, routes=[Route(next_group="lead")])
    scene = Scene(ledger, routes=[Route(label="no", group="x"), Route(group="cards", needed=2)])
    review = ledger.review(scene.ask())
    assert (review.group, review.next_group, review.needed, review.due) == ("cards", None, 2, None)
    assert ledger.verify() == []


def filed(ledger: Ledger, **route: Any) -> str:
    asked = question("odd")
    ledger.reconcile([asked], routes=[Route(**route)])
    return asked.id


def test_what_passes_its_due_time_goes_to_the_next_group_and_then_is_rejected(
    ledger: Ledger, later: Later
) -> None:
    name = filed(ledger, group="cards", next_group="leads", due=100)
    first = ledger.review(name)
    ledger.claim(name, "ann", lease=1e4)
    later(101)
    second = ledger.review(name)
    assert (second.state, second.group, second.next_group) == ("open", "leads", None)
    assert first.due is not None
    assert second.due is not None
    assert 100 <= (second.due - first.due).total_seconds() < 110
    mine = Filter(groups=frozenset(["leads"]))
    assert [one.id for one in ledger.inbox(mine).reviews] == [name]
    assert ledger.counts(Filter(groups=frozenset(["cards"])))["open"] == 0
    later(98)
    assert ledger.review(name).state == "open"
    later(3)
    with refused("over"):
        ledger.decide(name, APPROVE, "bob")
    expired = ledger.review(name)
    assert (expired.state, expired.decided_by) == ("expired", None)
    assert [one["type"] for one in expired.answer["decisions"]] == ["reject"]
    assert steps(ledger, expired) == ["filed", "claimed", "passed on", "expired"]
    assert ledger.verify() == []


def test_a_desk_that_slept_past_both_due_times_gives_the_next_group_theirs(
    ledger: Ledger, later: Later
) -> None:
    name = filed(ledger, group="cards", next_group="leads", due=100)
    later(1e6)
    assert ledger.review(name).group == "leads"
    assert ledger.decide(name, APPROVE, "lea").state == "decided"
    assert steps(ledger, ledger.review(name)) == ["filed", "passed on", "decided"]


def test_what_is_asked_again_begins_at_the_first_group(ledger: Ledger, later: Later) -> None:
    route = {"group": "cards", "next_group": "leads", "due": 100, "needed": 2}
    name = filed(ledger, **route)
    ledger.decide(name, APPROVE, "ann")
    later(101)
    assert ledger.review(name).group == "leads"
    ledger.withdraw(name)
    assert filed(ledger, **route) == name
    again = ledger.review(name)
    assert (again.group, again.next_group, again.votes) == ("cards", "leads", 0)
    assert ledger.verify() == []


def test_a_person_may_do_what_their_role_and_groups_say_within_the_same_transaction(
    ledger: Ledger, later: Later
) -> None:
    ledger.people.hasher = CHEAP
    for person, role, groups in (
        ("ann", "reviewer", ["cards"]), ("bob", "reviewer", ["loans"]), ("aud", "auditor", []),
        ("lea", "lead", []),
    ):  # fmt: skip
        ledger.people.add(person, role, groups)  # type: ignore[arg-type]
    ann, bob, aud, lea = (
        ledger.people.get(one) or pytest.fail(one) for one in ("ann", "bob", "aud", "lea")
    )
    name = filed(ledger, group="cards", next_group="loans", due=100)
    for person in (bob, aud):
        for act in (
            lambda p: ledger.claim(name, p),
            lambda p: ledger.release(name, p),
            lambda p: ledger.decide(name, APPROVE, p),
            lambda p: ledger.undo(name, p),
        ):
            with refused("forbidden"):
                act(person)
    assert ledger.claim(name, lea).assignee == "lea"
    ledger.release(name, lea)
    assert ledger.claim(name, ann).assignee == "ann"
    later(101)  # it is for the others now, though nobody has looked at it since
    with refused("forbidden"):
        ledger.decide(name, APPROVE, ann)
    ledger.people.remove("bob")
    with refused("forbidden"):
        ledger.decide(name, APPROVE, bob)
    ledger.people.add("bob", "auditor", ["loans"])
    with refused("forbidden"):  # what counts is what they may do now
        ledger.decide(name, APPROVE, bob)
    with refused("forbidden"):
        ledger.decide(name, APPROVE, Person("eve", "lead", frozenset()))
    assert ledger.decide(name, APPROVE, lea).decided_by == "lea"
    assert ledger.verify() == []


@pytest.mark.slow
def test_when_many_are_due_at_once_nobody_waits_for_all_of_them(
    ledger: Ledger, later: Later
) -> None:
    ledger.reconcile([question(f"odd {i}") for i in range(250)], due=100)
    assert ledger.head()[0] == 250
    later(101)
    for seen in (350, 450, 500, 500):
        ledger.inbox(limit=5)
        assert ledger.head()[0] == seen  # a hundred events at a time
    assert ledger.counts()["expired"] == 250
    ledger.reconcile([question(f"even {i}") for i in range(250)], due=100)
    later(101)
    ledger.keep_time()
    assert ledger.counts()["expired"] == 500
    assert ledger.verify() == []


def test_leaps_of_a_process_clock_pass_nothing_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = filed(ledger, group="cards", next_group="leads", due=1000)
    real = time.time
    for leap in (1e6, -1e6):
        monkeypatch.setattr(time, "time", lambda leap=leap: real() + leap)
        assert ledger.review(name).group == "cards"


@pytest.mark.parametrize("due", [0, -1, float("nan"), 1e12])
def test_a_server_takes_no_other_time_to_wait_than_a_desk(ledger: Ledger, due: float) -> None:
    with pytest.raises(ValueError, match="`due`"):
        Server(ledger, "http://127.0.0.1:1", due=due)
