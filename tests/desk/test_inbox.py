"""Pages of reviews: the right ones, in order, each once, and what a page costs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from bayeslora_tool.desk.inbox import ORDERS, Filter, Inbox
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.desk.states import STATES
from bayeslora_tool.desk.tables import REVIEWS
from tests.desk.filed import APPROVE, REJECT, file, meddle, question, refused

GROUPS = (None, "cards", "loans")
WAITING: Any = ("open", "claimed")


def many(ledger: Ledger, n: int) -> list[FiledReview]:
    """Reviews of all kinds, some of them alike in all that sorts them but their ids."""
    rnd = random.Random(n)
    for i in range(n):
        plain = question(f"odd {i}")
        score = rnd.choice([None, {**plain.prediction, "confidence": rnd.choice([0.5, 0.7])}])
        asked = replace(plain, prediction=score, graph=rnd.choice("gh"))
        ledger.reconcile([asked], priority=rnd.choice([-1, 0, 2]), due=rnd.choice([None, 1e3, 2e3]))
        act = rnd.choice(["", "", "claim", "decide", "withdraw"])
        if act == "claim":
            ledger.claim(asked.id, rnd.choice("ab"), lease=1e6)
        elif act == "decide":
            ledger.decide(asked.id, APPROVE, rnd.choice("ab"))
        elif act == "withdraw":
            ledger.withdraw(asked.id)
        meddle(
            ledger,
            'UPDATE reviews SET "group" = :group, audit = :audit, created = :at WHERE id = :id',
            id=asked.id,
            group=rnd.choice(GROUPS),
            audit=rnd.random() < 0.3,
            at=rnd.choice([10**12, 10**12 + 1]),
        )
    meddle(ledger, "DELETE FROM tallies")
    meddle(
        ledger,
        "INSERT INTO tallies (state, audit, audience, n) "
        "SELECT state, audit, audience, count(*) FROM reviews GROUP BY state, audit, audience",
    )
    return ledger.reviews()


def pages(ledger: Ledger, wanted: Filter, limit: int, order: Any = "urgency") -> list[FiledReview]:
    found: list[FiledReview] = []
    after = None
    while True:
        page = ledger.inbox(wanted, order=order, limit=limit, after=after)
        found += page.reviews
        after = page.next
        if after is None:
            return found
        assert len(page.reviews) == limit or wanted.text


def key(order: str) -> Callable[[FiledReview], Any]:
    far = 1e18
    return {
        "urgency": lambda r: (-r.priority, r.due.timestamp() if r.due else far, r.created, r.id),
        "doubt": lambda r: (-1 if r.confidence is None else r.confidence, r.created, r.id),
        "age": lambda r: (r.created, r.id),
        "recent": lambda r: (r.created, r.id),
    }[order]


def fits(wanted: Filter, review: FiledReview) -> bool:
    """The same, another way."""
    return (
        (not wanted.states or review.state in wanted.states)
        and (wanted.groups is None or review.group in {None, *wanted.groups})
        and wanted.audit in (None, review.audit)
        and all(
            getattr(wanted, name) in (None, getattr(review, name))
            for name in ("graph", "tool", "label", "assignee", "decided_by")
        )
    )


FILTERS = [
    Filter(),
    Filter(states=WAITING),
    Filter(states=WAITING, groups=frozenset()),
    Filter(states=WAITING, groups=frozenset(["cards"]), audit=False),
    Filter(groups=frozenset(["cards", "loans", "none"]), audit=True),
    Filter(states=("claimed",), assignee="a"),
    Filter(states=("decided",), decided_by="b", graph="g"),
    Filter(label="yes", tool="act_on_label"),
    Filter(states=("open", "open"), groups=frozenset(["cards", ""])),
    Filter(groups=frozenset(["cards", *(f"none {i}" for i in range(90))]), graph="g"),
    Filter(label="no such"),
]


def test_pages_have_what_was_asked_for_in_order_each_once_and_are_counted(ledger: Ledger) -> None:
    reviews = many(ledger, 40)
    assert len({key("age")(review)[0] for review in reviews}) == 2
    for wanted in FILTERS:
        there = Counter(one.state for one in reviews if fits(wanted, one))
        assert ledger.counts(wanted) == {state: there[state] for state in STATES}, wanted
    for wanted, order in product(FILTERS, ORDERS):
        expected = sorted(
            (one for one in reviews if fits(wanted, one)),
            key=key(order),
            reverse=order == "recent",
        )
        assert pages(ledger, wanted, 7, order) == expected, (wanted, order)
    assert sum(len(pages(ledger, wanted, 50)) for wanted in FILTERS) > 80


def test_counts_follow_each_step(ledger: Ledger) -> None:
    """Beside the rows themselves, which `verify` counts."""
    one, two = file(ledger, "odd 1"), file(ledger, "odd 2")
    file(ledger, "odd 3")
    for step in (
        lambda: ledger.claim(one.id, "ann"),
        lambda: ledger.release(one.id, "ann"),
        lambda: ledger.decide(one.id, APPROVE, "ann", undo=100),
        lambda: ledger.undo(one.id, "ann"),
        lambda: ledger.decide(one.id, REJECT, "ann"),
        lambda: ledger.applied(one.id),
        lambda: ledger.withdraw(two.id),
    ):
        step()
        there = Counter(review.state for review in ledger.reviews())
        assert ledger.counts() == {state: there[state] for state in STATES}
        assert ledger.verify() == []
    meddle(ledger, "UPDATE tallies SET n = n + 1 WHERE state = 'open'")
    assert [damage.where for damage in ledger.verify()] == ["tallies"]


def test_what_changes_between_two_pages_moves_nothing_else(ledger: Ledger) -> None:
    reviews = [file(ledger, f"odd {i}") for i in range(20)]
    order = [review.id for review in ledger.inbox(Filter(states=WAITING)).reviews]
    first = ledger.inbox(Filter(states=WAITING), limit=8)
    for name in order[:5] + order[10:12]:
        ledger.decide(name, APPROVE, "ann")
    file(ledger, "odd first", priority=9)
    second = ledger.inbox(Filter(states=WAITING), limit=50, after=first.next)
    assert [review.id for review in second.reviews] == [order[8], order[9], *order[12:]]
    assert len(reviews) == 20


def test_a_text_is_found_in_what_was_scored_asked_or_answered(ledger: Ledger) -> None:
    for i in range(4):
        file(ledger, f"odd {i} ÄRGER" if i % 2 else f"odd {i}")
    (two,) = (one for one in ledger.reviews() if one.text == "odd 2")
    ledger.decide(two.id, {"type": "reject", "message": "Größe"}, "ann")
    for text, n in (("ärger", 2), ("ODD", 4), ("größe", 1), ("unsure", 4), ("%", 0), (two.id, 1)):
        assert len(pages(ledger, Filter(text=text), 50)) == n, text
        assert len(pages(ledger, Filter(text=text), 1)) == n, text


def test_looking_for_a_text_stops_and_can_go_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bayeslora_tool.desk.inbox._LOOKED_AT", 10)
    monkeypatch.setattr("bayeslora_tool.desk.inbox._AT_ONCE", 5)
    for i in range(35):
        file(ledger, f"odd {i}")
    (last,) = ledger.inbox(limit=50).reviews[-1:]
    first = ledger.inbox(Filter(text=str(last.text) + '"'), limit=5)
    assert (first.reviews, first.next is None) == ([], False)
    assert [one.id for one in pages(ledger, Filter(text=f"{last.text}"), 5)].count(last.id) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"order": "size"}, "`order`"), ({"limit": 0}, "`limit`"), ({"limit": 1001}, "`limit`"),
        ({"after": "x"}, "`after`"), ({"after": ""}, "`after`"), ({"after": "W10="}, "`after`"),
        ({"after": "ü\x00"}, "`after`"), ({"after": "MQ=="}, "`after`"),
        ({"after": "WyJ1cmdlbmN5IiwgTmFOLCAxLCAxLCAiYSJd"}, "`after`"),  # NaN
        ({"after": "WyJ1cmdlbmN5IiwgMTA5OTUxMTYyNzc3NiwgMSwgMSwgImEiXQ=="}, "`after`"),  # 2**40
    ],
)  # fmt: skip
def test_what_makes_no_page_is_refused(ledger: Ledger, options: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ledger.inbox(**options)


def test_a_cursor_is_of_its_order_and_strange_filters_find_nothing(ledger: Ledger) -> None:
    for i in range(3):
        file(ledger, f"odd {i}")
    first: Inbox = ledger.inbox(order="age", limit=1)
    with pytest.raises(ValueError, match="`after`"):
        ledger.inbox(order="doubt", after=first.next)
    with pytest.raises(ValueError, match="unknown state"):
        Filter(states=("new",))  # type: ignore[arg-type]
    for strange in ({"label": "\x00"}, {"graph": "\ud800"}, {"groups": frozenset(["\x00"])}):
        with pytest.raises(ValueError, match="nowhere"):
            Filter(**strange)  # type: ignore[arg-type]
    assert ledger.inbox(Filter(label="' OR 1=1 --")).reviews == []


def grown(ledger: Ledger, n: int) -> None:
    """Copies of the one review that is there, in all groups; they are in no chain."""
    columns = [c.name for c in REVIEWS.columns if c.computed is None]
    hexed = "printf('%016x', i)" if ledger.store.kind == "sqlite" else "lpad(to_hex(i), 16, '0')"
    values = {"id": hexed, "group": "CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN 'cards' ELSE 'x' END",
              "due": "created + 1000000000 + i", "confidence": "(i % 997) / 997.0"}  # fmt: skip
    numbers = f"SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {n}"
    meddle(
        ledger,
        f"INSERT INTO reviews ({', '.join(map(_quoted, columns))}) "
        f"WITH RECURSIVE numbers(i) AS ({numbers}) "
        f"SELECT {', '.join(values.get(c, _quoted(c)) for c in columns)} FROM reviews, numbers",
    )
    meddle(ledger, f"UPDATE tallies SET n = {n + 1}")


def _quoted(name: str) -> str:
    return f'"{name}"'


def refused_as_several(ledger: Ledger) -> None:
    with refused("unknown"):
        ledger.review("0")


MINE = Filter(states=WAITING, groups=frozenset(["cards"]))
LOOKS: dict[str, Callable[[Ledger], Any]] = {
    "all": lambda ledger: ledger.inbox(Filter(states=WAITING)),
    "mine": lambda ledger: ledger.inbox(MINE),
    "nobody's": lambda ledger: ledger.inbox(Filter(states=WAITING, groups=frozenset(["none"]))),
    "no audits": lambda ledger: ledger.inbox(Filter(states=WAITING, audit=True)),
    "doubt": lambda ledger: ledger.inbox(MINE, order="doubt"),
    "recent": lambda ledger: ledger.inbox(MINE, order="recent"),
    "counts": lambda ledger: ledger.counts(MINE),
    "time": lambda ledger: ledger.keep_time(),
    "one": lambda ledger: ledger.review("0" * 15 + "2"),
    "beginning": lambda ledger: refused_as_several(ledger),
}


@pytest.mark.slow
def test_a_page_costs_the_database_as_much_with_10_000_reviews_as_with_200(
    ledger: Ledger,
) -> None:
    """In steps of SQLite's machine: no clock."""
    if ledger.store.kind != "sqlite":
        pytest.skip("Postgres counts no steps; the next test reads its plans")
    file(ledger, "odd")
    steps = Counter[str]()
    doing = ""

    @event.listens_for(ledger.store.engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.set_progress_handler(lambda: steps.update([doing]), 1)

    cost = {}
    for n in (200, 10_000):
        grown(ledger, n)
        steps.clear()
        for doing, look in LOOKS.items():  # noqa: B007
            look(ledger)
        cost[n] = dict(steps)
        meddle(ledger, "DELETE FROM reviews WHERE id LIKE '00000000000%'")
    for name in LOOKS:
        assert cost[10_000][name] < 1.2 * cost[200][name] + 50, (name, cost)
    page = ledger.inbox(Filter(states=WAITING))
    assert len(page.reviews) == 1


@pytest.mark.slow
def test_postgres_reads_no_page_without_an_index(ledger: Ledger) -> None:
    if ledger.store.kind != "postgresql":
        pytest.skip("of Postgres")
    file(ledger, "odd")
    grown(ledger, 10_000)
    ledger.store.write(lambda c: c.execute(sa.text("ANALYZE")) and None)
    plans: list[str] = []
    asking = False

    @event.listens_for(ledger.store.engine, "before_cursor_execute")
    def explained(connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        nonlocal asking
        if statement.startswith("SELECT") and "reviews" in statement and not asking:
            asking = True
            plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE) {statement}", values)
            plans.append("\n".join(row[0] for row in plan))
            asking = False

    for name, look in LOOKS.items():
        if name != "beginning":  # which ends with the second row, wherever that is
            look(ledger)
    assert len(plans) >= len(LOOKS)
    for plan in plans:
        assert "Seq Scan on reviews" not in plan, plan
        assert "Rows Removed by Filter" not in plan, plan
