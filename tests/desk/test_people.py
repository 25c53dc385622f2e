"""Who may sign in, what they may do, and what somebody who guesses tokens gets."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from threading import Event, Thread
from typing import Any

import pytest
from argon2 import PasswordHasher

from bayeslora_tool.desk import people as module
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.people import People, SignInError
from bayeslora_tool.desk.roles import Person, may
from tests.desk.filed import CHEAP, Later, file, meddle
from tests.desk.postgres import Postgres


@pytest.fixture
def people(ledger: Ledger) -> People:
    ledger.people.hasher = CHEAP
    return ledger.people


def wrong(people: People, name: str, token: str = "x" * 44) -> str:
    with pytest.raises(SignInError) as caught:
        people.sign_in(name, token)
    return str(caught.value)


def test_who_was_added_signs_in_with_their_token_alone(ledger: Ledger, people: People) -> None:
    tokens = {name: people.add(name, groups=["loans", "cards"]) for name in ("ann", "bob")}
    assert len(set(tokens.values())) == 2
    session = people.session(people.sign_in("ann", tokens["ann"]))
    assert session is not None
    assert (
        session.person
        == people.get("ann")
        == Person("ann", "reviewer", frozenset(["cards", "loans"]))
    )
    for name, token in (
        ("ann", tokens["bob"]),
        ("bob", tokens["ann"]),
        ("cid", tokens["ann"]),
        ("ann", ""),
        ("ann", tokens["ann"] + "x"),
        ("", ""),
        ("a\x00", "\ud800"),
    ):
        assert "nobody of that name" in wrong(people, name, token)
        meddle(ledger, "UPDATE tries SET wrong = 0, until = 0")
    assert [one.name for one in people.all()] == ["ann", "bob"]
    assert ledger.verify() == []


def test_neither_tokens_nor_secrets_are_in_the_ledger(ledger: Ledger, people: People) -> None:
    token = people.add("ann")
    secret = people.sign_in("ann", token)
    session = people.session(secret)
    assert session is not None
    held = str([
        ledger.store.read(lambda c, t=table: c.exec_driver_sql(f"SELECT * FROM {t}").all())  # type: ignore[misc]
        for table in ("reviewers", "sessions", "tries", "events")
    ])  # fmt: skip
    assert "$argon2id$" in held
    for hidden in (token, token[11:], secret, session.csrf):
        assert hidden not in held


def test_a_session_ends_by_itself_or_when_one_signs_out(people: People, later: Later) -> None:
    token = people.add("ann")
    first, second = people.sign_in("ann", token), people.sign_in("ann", token)
    one, other = people.session(first), people.session(second)
    assert one is not None
    assert other is not None
    assert one.csrf != other.csrf
    people.sign_out(first)
    assert people.session(first) is None
    assert people.session(second) is not None
    later(12 * 3600 + 1)
    assert people.session(second) is None
    for secret in ("", "x", "\ud800\x00"):
        assert people.session(secret) is None


def test_who_was_removed_is_out_at_once_and_stays_out(ledger: Ledger, people: People) -> None:
    token = people.add("ann")
    secret = people.sign_in("ann", token)
    with pytest.raises(ValueError, match="taken"):
        people.add("ann", role="lead")
    people.remove("ann")
    assert people.session(secret) is None
    wrong(people, "ann", token)
    with pytest.raises(ValueError, match="no reviewer"):
        people.remove("ann")
    new = people.add("ann")
    assert people.session(secret) is None
    wrong(people, "ann", token)
    assert people.session(people.sign_in("ann", new)) is not None
    assert ledger.verify() == []


def test_what_was_through_when_the_line_was_lost_is_not_refused(
    ledger: Ledger, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = people.store._once

    def twice(engine: Any, work: Any) -> Any:
        real(engine, work)
        return real(engine, work)

    monkeypatch.setattr(people.store, "_once", twice)
    token = people.add("ann")
    secret = people.sign_in("ann", token)
    assert people.session(secret) is not None
    people.remove("ann")
    with pytest.raises(ValueError, match="no reviewer"):
        people.remove("ann")
    assert [event[0] for event in ledger.store.read(
        lambda c: c.exec_driver_sql("SELECT step FROM events ORDER BY seq").all())
    ] == ["joined", "left"]  # fmt: skip


def test_who_is_removed_while_signing_in_is_not_in(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = people.add("ann")

    class Slow:
        hash = staticmethod(CHEAP.hash)

        def verify(self, *shown: Any) -> bool:
            people.remove("ann")
            return CHEAP.verify(*shown)

    monkeypatch.setattr(people, "hasher", Slow())
    wrong(people, "ann", token)


@pytest.mark.slow
def test_who_is_removed_at_the_end_of_signing_in_is_not_in_under_the_same_name_either(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger(postgres.database()) as ledger:
        people = ledger.people
        people.hasher = CHEAP
        token = people.add("ann")
        there, go_on, secrets = Event(), Event(), []
        real = module.forgive

        def slow(c: Any, name: str) -> None:
            real(c, name)
            there.set()
            go_on.wait(10)

        monkeypatch.setattr(module, "forgive", slow)
        enters = Thread(target=lambda: secrets.append(people.sign_in("ann", token)))
        enters.start()
        assert there.wait(10)
        leaves = Thread(target=people.remove, args=("ann",))
        leaves.start()
        leaves.join(0.5)  # it waits for who signs in, or is over
        go_on.set()
        enters.join()
        leaves.join()
        people.add("ann", "lead")
        assert [people.session(secret) for secret in secrets] == [None]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"name": ""}, "`name`"), ({"name": " ann"}, "`name`"), ({"name": "a\nb"}, "`name`"),
        ({"name": "the desk"}, "`name`"), ({"name": "x" * 201}, "`name`"),
        ({"name": None}, "`name`"),
        ({"name": "ann", "role": "boss"}, "`role`"), ({"name": "ann", "groups": [""]}, "`groups`"),
    ],
)  # fmt: skip
def test_who_is_added_has_a_name_a_role_and_groups(
    people: People, arguments: Any, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        people.add(**arguments)
    assert people.all() == []


def test_what_each_role_may_do(ledger: Ledger) -> None:
    cards = file(ledger)
    meddle(ledger, "UPDATE reviews SET \"group\" = 'cards'")
    cards, everybodys = ledger.review(cards.id), cards
    deeds: Any = ("read", "claim", "decide")

    def allowed(role: Any, review: Any, *groups: str) -> str:
        person = Person("ann", role, frozenset(groups))
        return "".join(deed[0] for deed in deeds if may(person, review, deed))

    assert allowed("reviewer", cards, "cards", "loans") == "rcd"
    assert allowed("reviewer", cards, "loans") == ""
    assert allowed("reviewer", everybodys) == "rcd"
    assert allowed("lead", cards) == "rcd"
    assert allowed("auditor", cards) == allowed("auditor", everybodys, "cards") == "r"


def test_wrong_tokens_in_a_row_are_refused_for_a_while_that_grows(
    people: People, later: Later
) -> None:
    people.add("ann")
    for _ in range(5):
        assert "nobody" in wrong(people, "ann")
    for pause in (1, 2, 4, 8, 16, 30, 30):
        # Whoever they say they are, and whether there is anybody of that name.
        assert f"in {pause} s" in wrong(people, "ann") == wrong(people, "nobody")
        later(pause)
        assert "nobody" in wrong(people, "ann")
    later(30 + 600)
    for _ in range(4):
        assert "nobody" in wrong(people, "ann")
    assert "nobody" in wrong(people, "ann")


def test_many_who_guess_at_once_do_not_get_more_tries(people: People) -> None:
    people.add("ann")
    looked = []

    class Counting:
        hash = staticmethod(CHEAP.hash)

        def verify(self, *shown: Any) -> bool:
            looked.append(shown)
            time.sleep(0.02)
            return CHEAP.verify(*shown)

    people.hasher = Counting()  # type: ignore[assignment]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: wrong(people, "ann"), range(30)))
    assert len(looked) == 5


def test_a_stranger_who_guesses_all_day_does_not_keep_its_owner_out(people: People) -> None:
    token = people.add("ann")
    for _ in range(20):
        wrong(people, "ann")
    assert "try again" in wrong(people, "ann")
    assert people.session(people.sign_in("ann", token)) is not None


def test_who_mistypes_the_end_of_their_token_waits_alone_and_not_long(
    people: People, later: Later
) -> None:
    ann, bob = people.add("ann"), people.add("bob")
    for _ in range(5):
        wrong(people, "ann", ann[:-1])
    assert "in 1 s" in wrong(people, "ann", ann)
    assert people.session(people.sign_in("bob", bob)) is not None
    later(1)
    assert people.session(people.sign_in("ann", ann)) is not None
    wrong(people, "ann", ann[:-1])  # counted from the beginning again
    assert people.session(people.sign_in("ann", ann)) is not None


def test_a_database_whose_clock_was_ahead_keeps_nobody_out(people: People, later: Later) -> None:
    token = people.add("ann")
    later(1e6)
    for _ in range(6):
        wrong(people, "ann", token[:-1])
    later(-1e6)
    assert people.session(people.sign_in("ann", token)) is not None


def test_a_process_whose_clock_leaps_signs_nobody_out(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = people.sign_in("ann", people.add("ann"))
    for _ in range(6):
        wrong(people, "bob")
    real = time.time
    for leap in (1e6, -1e6):
        monkeypatch.setattr(time, "time", lambda leap=leap: real() + leap)
        assert people.session(secret) is not None
        assert "try again in" in wrong(people, "bob")


def test_an_unknown_name_costs_as_long_as_a_wrong_token(ledger: Ledger) -> None:
    """In the hash, which takes most of it: here some 20 ms, elsewhere under 1."""
    people = ledger.people
    people.hasher = PasswordHasher(time_cost=1, memory_cost=16384, parallelism=1)
    token = people.add("ann")
    took: dict[str, list[float]] = {"unknown": [], "no tag": [], "tag": []}
    tries = {"unknown": ("bob", token), "no tag": ("ann", "x" * 44), "tag": ("ann", token[:-1])}
    wrong(people, "bob")
    for _ in range(9):
        for kind, (name, shown) in tries.items():
            meddle(ledger, "UPDATE tries SET wrong = 0, until = 0")
            began = time.process_time()
            wrong(people, name, shown)
            took[kind].append(time.process_time() - began)
    times = sorted(median(one) for one in took.values())
    assert times[0] > 0.005, took
    assert times[2] < 1.5 * times[0], took


def test_the_hashes_are_argon2_of_the_strength_its_makers_recommend(ledger: Ledger) -> None:
    assert module.PasswordHasher is PasswordHasher
    hasher = ledger.people.hasher
    assert hasher.type.name == "ID"
    assert hasher.memory_cost >= 19456
    assert hasher.time_cost >= 2
