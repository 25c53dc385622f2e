from __future__ import annotations

import pytest

from bayeslora_tool.policy import Policy
from bayeslora_tool.simulation.measures import Run, measure
from bayeslora_tool.simulation.scenarios import Prices
from bayeslora_tool.simulation.simulator import NO_GATE, simulate
from tests.fakes import FakeClassifier
from tests.simulation.made_up import PERFECT, TINY


def test_measures_are_what_one_counts_by_hand(fake: FakeClassifier, policy: Policy) -> None:
    prices = Prices(error=5.0, reviewer_hour=36.0, clarification=0.5)
    found = simulate(TINY, classifier=fake, policies={"p": policy}, reviewer=PERFECT, prices=prices)
    nothing, row, alone = found.rows
    assert [run.decided_by for run in found.runs["p"]] == [
        "model", "model", "model", "user", "human", "human", "human",
    ]  # fmt: skip
    assert [run.id for run in found.runs["p"] if run.wrong] == ["wrong", "stranger"]
    assert (row.errors, row.errors_by_reviewer, row.escalations, row.asked) == (2, 0, 3, 4)
    assert row.error_rate == pytest.approx(2 / 7)
    assert row.automation_rate == pytest.approx(4 / 7)
    assert row.clarifications == 3
    assert row.reviewer_hours == pytest.approx(300 / 3600)
    assert (row.wait_p50, row.wait_p95) == (0.0, 100.0)
    assert row.cost == pytest.approx(2 * 5 + 36 * 300 / 3600 + 3 * 0.5)
    # What cannot be scored cannot be acted on, gate or none.
    assert (nothing.name, nothing.errors, nothing.asked) == (NO_GATE, 4, 1)
    # By confidence alone the odd text (0.9) looks like the clear ones (0.9).
    assert alone.name == "confidence alone (p)"
    assert (alone.asked, alone.escalations, alone.clarifications) == (3, 3, 0)
    assert [run.id for run in found.runs[alone.name] if run.wrong] == ["wrong", "stranger", "odd"]


def test_interval_is_clopper_and_pearsons(policy: Policy) -> None:
    runs = [Run(str(i), "yes", "proceed", "no" if i < 3 else "yes", "model", 0, 0, 0.0)
            for i in range(40)]  # fmt: skip
    row = measure("p", policy, runs, Prices())

    def at_least(k: int, p: float) -> float:
        from math import comb

        return sum(comb(40, i) * p**i * (1 - p) ** (40 - i) for i in range(k, 41))

    assert at_least(3, row.error_low) == pytest.approx(0.025)
    assert 1 - at_least(4, row.error_high) == pytest.approx(0.025)
