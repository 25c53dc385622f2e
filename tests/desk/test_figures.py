"""Figures of settled reviews, beside SciPy's, scikit-learn's, and counts by hand."""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from bayeslora_tool.desk.figures import (
    OUTCOMES,
    Settled,
    Voted,
    agreed,
    agreed_in_pairs,
    audited,
    outcome_of,
    per_day,
    upper_bound,
    waited,
    was_wrong,
)
from bayeslora_tool.monitoring.betting import RiskMonitor

MONDAY = datetime(2026, 3, 2, 12, tzinfo=UTC)


def at(moment: datetime) -> int:
    return round(1000 * moment.timestamp())


def settled(**changes: Any) -> Settled:
    values: dict[str, Any] = {
        "outcome": "approved",
        "by": "ann",
        "group": None,
        "policy": "p",
        "label": "yes",
        "given": "yes",
        "filed": at(MONDAY),
        "decided": at(MONDAY + timedelta(minutes=1)),
    }
    return Settled(**values | changes)


@pytest.mark.parametrize(
    ("decision", "outcome"),
    [
        ("approve", "approved"),
        ("edit", "edited"),
        ("reject, reject", "rejected"),
        ("respond", "responded"),
        ("approve, reject, approve", "other"),
        ("shrug", "other"),
    ],
)
def test_a_decision_has_one_outcome_also_about_several_calls(decision: str, outcome: str) -> None:
    assert outcome_of(decision) == outcome


def test_each_day_of_the_period_is_counted_also_one_on_which_nothing_was_decided() -> None:
    rng = random.Random(0)
    reviews = [
        settled(
            outcome=rng.choice(OUTCOMES),
            decided=at(MONDAY + timedelta(hours=rng.choice([-30, -11, 0, 11.999, 12, 80]))),
            audit=rng.random() < 0.2,
        )
        for _ in range(300)
    ]
    days = per_day(reviews, at(MONDAY), at(MONDAY + timedelta(days=3)))
    assert list(days) == ["2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05"]
    assert sum(days["2026-03-04"].values()) == 0
    counts: Counter[tuple[str, str]] = Counter()
    for one in reviews:
        moment = datetime.fromtimestamp(one.decided / 1000, UTC)
        if moment >= MONDAY and moment <= MONDAY + timedelta(days=3) and not one.audit:
            counts[moment.date().isoformat(), one.outcome] += 1
    assert {(d, o): n for d, some in days.items() for o, n in some.items() if n} == counts


def test_waiting_times_are_those_of_a_persons_decisions() -> None:
    rng = random.Random(1)
    seconds = [rng.expovariate(1 / 100) for _ in range(57)]
    reviews = [settled(decided=at(MONDAY + timedelta(seconds=s))) for s in seconds]
    expired = [settled(by=None, outcome="expired", decided=at(MONDAY + timedelta(days=9)))]
    found = waited(reviews + expired)
    expected = stats.mstats.mquantiles(seconds, [0.5, 0.9], alphap=1, betap=1)
    assert found.n == 57
    assert (found.median, found.p90) == pytest.approx(tuple(expected), abs=0.002)
    assert waited(expired) == (empty := waited([]))
    assert (empty.n, empty.median, empty.p90) == (0, None, None)


def test_reviewer_and_model_agree_where_both_named_a_label_and_it_is_the_same() -> None:
    reviews = [
        settled(),
        settled(outcome="edited", given="no"),
        settled(outcome="edited", given="yes"),
        settled(outcome="rejected", given=None),
        settled(label=None),
        settled(given="no", audit=True),
    ]
    found = agreed(reviews)
    assert (found.n, found.same) == (3, 2)


def test_kappa_of_each_pair_is_scikit_learns() -> None:
    rng = random.Random(2)
    words = ["refund", "delivery", "reject"]
    truth = [rng.choice(words) for _ in range(60)]
    votes = [
        Voted(f"review {i}", by, word if rng.random() < sure else rng.choice(words))
        for i, word in enumerate(truth)
        for by, sure in (("ann", 0.9), ("bob", 0.6), ("cem", 0.2))
        if rng.random() < 0.8
    ]
    rng.shuffle(votes)
    pairs = agreed_in_pairs(votes)
    assert list(pairs) == [("ann", "bob"), ("ann", "cem"), ("bob", "cem")]
    for (one, other), found in pairs.items():
        said = {(vote.review, vote.by): vote.word for vote in votes}
        both = [
            (said[review, one], said[review, other])
            for review in {vote.review for vote in votes}
            if (review, one) in said and (review, other) in said
        ]
        assert found.n == len(both)
        assert found.same == sum(a == b for a, b in both)
        expected = cohen_kappa_score(*zip(*both, strict=True))
        assert found.kappa == pytest.approx(expected, abs=1e-12)


def test_kappa_says_nothing_of_two_who_always_say_the_same_word() -> None:
    votes = [Voted(str(i), by, "yes") for i in range(5) for by in ("ann", "bob")]
    (found,) = agreed_in_pairs(votes).values()
    assert (found.n, found.same, found.kappa) == (5, 5, None)
    assert agreed_in_pairs([Voted("1", "ann", "yes")]) == {}


@pytest.mark.parametrize(("wrong", "n"), [(0, 1), (0, 59), (3, 40), (39, 40), (40, 40), (0, 0)])
@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_the_bound_is_the_one_sided_exact_one(wrong: int, n: int, delta: float) -> None:
    expected = 1.0
    if n:
        interval = stats.binomtest(wrong, n, alternative="less").proportion_ci(1 - delta)
        expected = float(interval.high)
    assert upper_bound(wrong, n, delta) == pytest.approx(expected, abs=1e-12)


def test_the_bound_lies_below_the_risk_as_seldom_as_it_says() -> None:
    n, delta = 60, 0.1
    for risk in (0.02, 0.1, 0.3):
        misses = sum(
            float(stats.binom.pmf(k, n, risk))
            for k in range(n + 1)
            if upper_bound(k, n, delta) < risk
        )
        assert misses <= delta


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, False),
        ({"outcome": "edited", "given": "no"}, True),
        ({"outcome": "edited", "given": "yes"}, False),
        ({"outcome": "edited", "given": None}, True),
        ({"outcome": "rejected", "given": None}, True),
        ({"outcome": "responded", "given": None}, True),
        ({"outcome": "approved", "label": None, "given": None}, False),
    ],
)
def test_an_audit_is_right_if_it_was_approved_or_the_label_is_the_same(
    changes: dict[str, Any], wrong: bool
) -> None:
    one = settled(audit=True, **changes)
    assert was_wrong(one.outcome, one.given, one.label) is wrong


def test_the_evidence_of_audits_is_the_monitors_in_the_order_of_their_labels() -> None:
    rng = random.Random(3)
    audits = [
        settled(
            audit=True,
            policy=policy,
            outcome="edited" if (was := rng.random() < risk) else "approved",
            given="no" if was else "yes",
            decided=at(MONDAY + timedelta(seconds=rng.random() * 1000)),
        )
        for policy, risk, n in (("bad", 0.4, 80), ("good", 0.01, 120))
        for _ in range(n)
    ]
    audits.append(settled(audit=True, policy="good", by=None, outcome="expired", given=None))
    bad, good = audited(audits, {"good": 2, "new": 1}, target_risk=0.05, delta=0.1)[:2]
    (new,) = audited([], {"new": 1}, target_risk=0.05, delta=0.1)
    for found, policy in ((bad, "bad"), (good, "good")):
        bets = RiskMonitor(0.05, 0.1)
        mine = [one for one in audits if one.policy == policy and one.by]
        for one in sorted(mine, key=lambda one: one.decided):
            bets.update(one.given != one.label)
        assert found.policy == policy
        assert (found.n, found.wrong) == (len(mine), sum(one.given == "no" for one in mine))
        assert found.evidence[-1] == pytest.approx(bets.log_wealth)
        assert found.alarm == bets.alarm == (max(found.evidence) >= math.log(10))
        assert found.bound == pytest.approx(
            stats.beta.ppf(0.9, found.wrong + 1, found.n - found.wrong)
        )
    assert (bad.alarm, good.alarm, good.unlabelled) == (True, False, 3)
    assert (new.n, new.unlabelled, new.bound, list(new.evidence)) == (0, 1, 1.0, [])


@pytest.mark.parametrize("bad", [{"target_risk": 0.0}, {"delta": np.nan}, {"target_risk": 1.0}])
def test_a_promise_is_a_share(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        audited([], {}, **{"target_risk": 0.05, "delta": 0.05} | bad)  # type: ignore[arg-type]
