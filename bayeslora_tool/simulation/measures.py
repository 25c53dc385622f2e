"""Counts what simulated runs came to. Knows no graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from bayeslora_tool.policy import Policy
from bayeslora_tool.simulation.scenarios import Prices, Reviewer


@dataclass(frozen=True)
class Run:
    """How one scenario ended.

    Attributes:
        id: The scenario's.
        gold: What was right; None if no label fits.
        decision: As in the graph's ``Outcome``, like the next two.
        label: What was acted on.
        decided_by: Whose word it was.
        clarifications: How often the user was asked.
        reviews: How often a reviewer was asked.
        seconds: How long the reviews took.
    """

    id: str
    gold: str | None
    decision: Literal["proceed", "reject", "respond"]
    label: str | None
    decided_by: Literal["model", "user", "human"]
    clarifications: int
    reviews: int
    seconds: float

    @property
    def wrong(self) -> bool:
        """Whether a wrong label was acted on: the error got through."""
        return self.decision == "proceed" and self.label != self.gold


@dataclass(frozen=True)
class Measures:
    """What a policy came to over ``n`` scenarios.

    Attributes:
        name: The policy's.
        tau_conf: Its threshold.
        tau_var: Its threshold.
        n: Scenarios.
        automation_rate: Share of the n that no reviewer saw.
        errors: Wrong labels acted on, whoever decided.
        errors_by_reviewer: Of these, the reviewer's own.
        error_rate: Share of the n.
        error_low: Of its exact 95 % interval (Clopper-Pearson).
        error_high: The same.
        asked: Texts about which a person was asked, the user or a reviewer.
        escalations: Texts that a reviewer saw.
        clarifications: Questions to users.
        reviewer_hours: Time the reviews took.
        wait_p50: Seconds for which reviews held up a text, median over all n.
        wait_p95: The 95th percentile; both without a queue: each review starts at once.
        cost: Of the errors, the reviewers' hours and the questions.
    """

    name: str
    tau_conf: float
    tau_var: float
    n: int
    automation_rate: float
    errors: int
    errors_by_reviewer: int
    error_rate: float
    error_low: float
    error_high: float
    asked: int
    escalations: int
    clarifications: int
    reviewer_hours: float
    wait_p50: float
    wait_p95: float
    cost: float


def measure(name: str, policy: Policy, runs: Sequence[Run], prices: Prices) -> Measures:
    """Count what ``policy`` came to over ``runs`` (at least one)."""
    n, errors = len(runs), sum(run.wrong for run in runs)
    escalations = sum(run.reviews > 0 for run in runs)
    clarifications = sum(run.clarifications for run in runs)
    seconds = [run.seconds for run in runs]
    hours = sum(seconds) / 3600
    interval = stats.binomtest(errors, n).proportion_ci()
    p50, p95 = np.percentile(seconds, [50, 95])
    return Measures(
        name=name,
        tau_conf=policy.tau_conf,
        tau_var=policy.tau_var,
        n=n,
        automation_rate=1 - escalations / n,
        errors=errors,
        errors_by_reviewer=sum(run.wrong and run.decided_by == "human" for run in runs),
        error_rate=errors / n,
        error_low=float(interval.low),
        error_high=float(interval.high),
        asked=sum(run.reviews + run.clarifications > 0 for run in runs),
        escalations=escalations,
        clarifications=clarifications,
        reviewer_hours=hours,
        wait_p50=float(p50),
        wait_p95=float(p95),
        cost=prices.error * errors
        + prices.reviewer_hour * hours
        + prices.clarification * clarifications,
    )


@dataclass(frozen=True)
class Sweep:
    """A policy with other thresholds.

    Attributes:
        varied: The name of the policy whose tau_conf and tau_var were varied.
        grid: One for each pair of thresholds.
        confidence_alone: One for each tau_conf of a policy that knows no other gate.
        best: The cheapest of ``grid``; of equals, the one that asks least.
    """

    varied: str
    grid: list[Measures]
    confidence_alone: list[Measures]
    best: Measures


@dataclass(frozen=True)
class Simulation:
    """What policies came to, what was assumed, and each run of each policy."""

    rows: list[Measures]
    runs: dict[str, list[Run]]
    reviewer: Reviewer
    prices: Prices
    seed: int
    sweep: Sweep | None = None
