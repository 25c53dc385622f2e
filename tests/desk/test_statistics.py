"""What a ledger says of its desk, beside what was done at it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.statistics import statistics
from tests.desk.filed import APPROVE, REJECT, file, meddle, question

EDIT = {"type": "edit", "edited_action": {"name": "act_on_label", "args": {"label": "no"}}}
RESPOND = {"type": "respond", "message": "not ours"}


def today(ledger: Ledger, **options: object) -> dict[str, int]:
    found = statistics(ledger, **options).days  # type: ignore[arg-type]
    assert list(found)[-1] == datetime.now(UTC).date().isoformat()
    return {outcome: n for outcome, n in [*found.values()][-1].items() if n}


def test_each_decision_is_counted_once_under_its_name(ledger: Ledger) -> None:
    for i, (answer, by) in enumerate(
        [(APPROVE, "ann"), (APPROVE, "bob"), (EDIT, "ann"), (REJECT, "ann"), (RESPOND, "bob")]
    ):
        ledger.decide(file(ledger, f"odd {i}").id, answer, by)
    late = file(ledger, "odd late", due=0.05)
    file(ledger, "odd open")
    time.sleep(0.1)
    assert today(ledger) == {
        "approved": 2,
        "edited": 1,
        "rejected": 1,
        "responded": 1,
        "expired": 1,
    }
    assert ledger.review(late.id).state == "expired"
    ledger.applied(late.id)
    assert today(ledger)["expired"] == 1  # also when the safe answer was carried out
    found = statistics(ledger)
    assert (found.waited.n, found.agreed.n, found.agreed.same) == (5, 3, 2)
    assert {name: one.n for name, one in found.waited_by.items()} == {"ann": 3, "bob": 2}
    assert (found.agreed_by["ann"].same, found.agreed_by["bob"].same) == (1, 1)
    assert found.risks == []
    assert found.pairs == {}


def test_waiting_is_from_filing_to_decision_by_the_databases_clock(ledger: Ledger) -> None:
    waits = [3.0, 10.0, 50.0]
    for i, seconds in enumerate(waits):
        review = ledger.decide(file(ledger, f"odd {i}").id, APPROVE, "ann")
        meddle(
            ledger,
            "UPDATE reviews SET created = decided_at - :span WHERE id = :id",
            id=review.id,
            span=round(1000 * seconds),
        )
    found = statistics(ledger)
    assert (found.waited.median, found.waited.p90) == (10.0, pytest.approx(42.0))
    assert found.waited == found.waited_by["ann"] == found.waited_in[None]


def test_what_was_decided_before_the_period_is_not_in_it(ledger: Ledger) -> None:
    for i, days in enumerate((0, 1, 40)):
        review = ledger.decide(file(ledger, f"odd {i}").id, APPROVE, "ann")
        meddle(
            ledger,
            "UPDATE reviews SET decided_at = decided_at - :span WHERE id = :id",
            id=review.id,
            span=86_400_000 * days,
        )
    assert statistics(ledger, days=1).waited.n == 1
    assert statistics(ledger, days=2).waited.n == 2
    assert len(statistics(ledger, days=2).days) == 2
    assert statistics(ledger, days=60).waited.n == 3


@pytest.mark.parametrize("days", [0, -1, 10_000])
def test_a_period_has_some_days(ledger: Ledger, days: int) -> None:
    with pytest.raises(ValueError, match="`days`"):
        statistics(ledger, days=days)


def test_groups_that_somebody_may_not_read_do_not_count(ledger: Ledger) -> None:
    for i, group in enumerate((None, "cards", "films")):
        review = ledger.decide(file(ledger, f"odd {i}").id, APPROVE, "ann")
        meddle(ledger, 'UPDATE reviews SET "group" = :g WHERE id = :id', g=group, id=review.id)
    assert statistics(ledger).waited.n == 3
    assert [*statistics(ledger, groups={"cards"}).waited_in] == [None, "cards"]
    assert [*statistics(ledger, groups=()).waited_in] == [None]


def test_erasing_changes_no_figure(ledger: Ledger) -> None:
    for i, answer in enumerate([APPROVE, EDIT, REJECT, RESPOND]):
        for audit in (False, True):
            review = file(ledger, f"odd {i} {audit}")
            meddle(ledger, "UPDATE reviews SET audit = :a WHERE id = :id", a=audit, id=review.id)
            ledger.decide(review.id, answer, "ann")
            if not audit:
                ledger.applied(review.id)
    before = statistics(ledger)
    assert (before.agreed.n, before.agreed.same) == (2, 1)
    assert ledger.erase(0) == 8
    after = statistics(ledger)
    assert after == before
    assert [(risk.n, risk.wrong) for risk in after.risks] == [(4, 3)]


def test_audits_count_by_policy_and_not_as_decisions(ledger: Ledger) -> None:
    for i, answer in enumerate([APPROVE, EDIT, REJECT, APPROVE]):
        review = file(ledger, f"odd {i}")
        meddle(ledger, "UPDATE reviews SET audit = TRUE WHERE id = :id", id=review.id)
        ledger.decide(review.id, answer, "ann")
    waiting = file(ledger, "odd waiting")
    meddle(ledger, "UPDATE reviews SET audit = TRUE WHERE id = :id", id=waiting.id)
    found = statistics(ledger, target_risk=0.1, delta=0.2)
    (risk,) = found.risks
    assert (risk.policy, risk.n, risk.wrong, risk.unlabelled) == (waiting.policy, 4, 2, 1)
    assert today(ledger) == {}
    assert replace(found, risks=[]).agreed.n == 0
    with pytest.raises(ValueError, match="target_risk"):
        statistics(ledger, target_risk=2)
    assert question().policy == risk.policy


def test_as_plain_data_it_is_json(ledger: Ledger) -> None:
    ledger.decide(file(ledger).id, APPROVE, "ann")
    plain = json.loads(json.dumps(statistics(ledger).to_dict(), allow_nan=False))
    (waited,) = plain["waited_in"]
    assert (waited["group"], waited["n"]) == (None, 1)
    assert plain["waited_by"]["ann"] == plain["waited"]
    assert plain["agreed"] == {"n": 1, "same": 1, "kappa": None}
