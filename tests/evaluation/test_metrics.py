from __future__ import annotations

import math

import numpy as np
import pytest

from bayeslora_tool.evaluation import metrics
from bayeslora_tool.evaluation.metrics import Evidence
from bayeslora_tool.evaluation.paper import beside_the_paper


def evidence(n: int = 400, seed: int = 0, m: int = 100) -> Evidence:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([2, 1, 1], n)
    gold = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    doubt = 1 - p.max(1)
    outside = {"doubt": rng.uniform(0.2, 0.9, m)} if m else {}
    return Evidence(p, gold, {"doubt": doubt}, outside)


def test_aurc_by_hand() -> None:
    """Errors at ranks 2 and 4 of four: risks 0, 1/2, 1/3, 2/4."""
    doubt, wrong = np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True])
    assert math.isclose(metrics.aurc(doubt, wrong), (0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    best = (0 + 0 + 1 / 3 + 2 / 4) / 4
    assert math.isclose(metrics.aurc(wrong.astype(float), wrong), best)


def test_augrc_by_hand() -> None:
    """Errors at ranks 2 and 4 of four: 0, 1, 1, 2 of four texts let through wrong."""
    doubt, wrong = np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True])
    assert math.isclose(metrics.augrc(doubt, wrong), (0 + 1 + 1 + 2) / 4 / 4)
    assert math.isclose(metrics.augrc(wrong * 1.0, wrong), (0 + 0 + 1 + 2) / 4 / 4)
    assert math.isclose(metrics.augrc(np.zeros(4), wrong), (0.5 + 1 + 1.5 + 2) / 4 / 4)


def test_recall_at_false_alarms_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    is_outside = (rng.random(300) < 0.3).astype(float)
    score = rng.integers(0, 40, 300) + 10 * is_outside
    for share in metrics.FALSE_ALARMS:
        best = max(
            (float((score[is_outside == 1] >= t).mean()) for t in score
             if (score[is_outside == 0] >= t).mean() <= share),
            default=0.0,
        )  # fmt: skip
        assert metrics.recall_at(is_outside, score, share) == pytest.approx(best)


def test_ties_make_the_order_of_the_file_irrelevant() -> None:
    rng = np.random.default_rng(0)
    doubt, wrong = rng.integers(0, 4, 100) / 4, rng.random(100) < 0.3
    order = rng.permutation(100)
    assert math.isclose(metrics.aurc(doubt, wrong), metrics.aurc(doubt[order], wrong[order]))
    constant = np.zeros(100)
    assert math.isclose(metrics.aurc(constant, wrong), wrong.mean())


def test_coverage_at_risk_by_brute_force() -> None:
    found = evidence()
    for risk in (0.02, 0.1, 0.3):
        doubt, wrong = found.doubts["doubt"], found.wrong
        best = max(
            (float((doubt <= t).mean()) for t in doubt if wrong[doubt <= t].mean() <= risk),
            default=0.0,
        )
        assert metrics.coverage_at_risk(doubt, wrong, risk) == pytest.approx(best)


def test_ece_by_hand() -> None:
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.7, 0.3], [0.7, 0.3]])
    gold = np.array([0, 0, 0, 1])
    expected = 0.5 * abs(0.95 - 1) + 0.5 * abs(0.7 - 0.5)
    assert metrics.ece(p, gold) == pytest.approx(expected, abs=1e-6)
    assert metrics.adaptive_ece(p.max(1), gold == 0) == pytest.approx((0.05 + 0.05 + 0.3 + 0.7) / 4)


def test_metrics_by_their_definitions() -> None:
    found = evidence()
    values = metrics.metrics(found)
    rows = np.arange(400)
    assert values["nll"] == pytest.approx(-np.log(found.probabilities[rows, found.gold]).mean())
    one_hot = np.eye(3)[found.gold]
    assert values["brier"] == pytest.approx(((found.probabilities - one_hot) ** 2).sum(1).mean())
    doubt, wrong = found.doubts["doubt"], found.wrong
    pairs = doubt[wrong][:, None] - doubt[~wrong][None]
    assert values["auroc_error (doubt)"] == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    outside = found.outside["doubt"]
    threshold = np.sort(outside)[int(0.05 * len(outside))]
    assert values["fpr95_ood (doubt)"] == pytest.approx((doubt >= threshold).mean(), abs=0.02)


def test_intervals_cover_the_value_and_shrink_with_texts() -> None:
    few = metrics.evaluate(evidence(100), resamples=100)["accuracy"]
    many = metrics.evaluate(evidence(2500), resamples=100)["accuracy"]
    assert few.low <= few.value <= few.high
    assert 3 < (few.high - few.low) / (many.high - many.low) < 8


def test_works_without_outsiders() -> None:
    values = metrics.metrics(evidence(m=0))
    assert not any("ood" in name for name in values)


def test_metrics_without_a_single_error_have_no_ranking_and_no_warning() -> None:
    p = np.tile([0.9, 0.1], (30, 1))
    faultless = Evidence(p, np.zeros(30, dtype=int), {"doubt": np.linspace(0, 1, 30)}, {})
    found = metrics.evaluate(faultless, resamples=5)
    assert found["accuracy"] == metrics.Interval(1, 1, 1)
    assert math.isnan(found["auroc_error (doubt)"].low)


def test_the_page_says_where_the_data_contradict_the_paper() -> None:
    rng = np.random.default_rng(0)
    n = 800
    right = rng.uniform(0.5, 1, n)
    p, gold = np.c_[right, 1 - right], (rng.uniform(size=n) > right).astype(int)
    elsewhere = {"variance": rng.uniform(size=200), "1 - confidence": rng.uniform(1, 2, 200)}

    def verdicts(variance: np.ndarray) -> list[str]:
        doubts = {"variance": variance, "1 - confidence": 1 - right}
        given = Evidence(p, gold, doubts, elsewhere)
        found = metrics.evaluate(given, resamples=20)
        return [row["verdict"] for row in beside_the_paper(given, found, tau_var=0.3)]

    agrees, contradicts = verdicts(1 - right), verdicts(right)
    assert agrees[:2] == ["agrees", "agrees"]
    assert agrees[3].startswith("agrees, but 1 - confidence tells more")
    assert contradicts[:3] == ["contradicts the paper"] * 3
    assert contradicts[3].startswith("contradicts the paper, but 1 - confidence tells more")

    faultless = Evidence(p, np.zeros(n, dtype=int), {"variance": right}, {})
    found = metrics.evaluate(faultless, resamples=20)
    assert [row["claim"] for row in beside_the_paper(faultless, found, 0.3)] == ["calibration: ECE"]
