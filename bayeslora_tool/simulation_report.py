"""Counts what simulated runs came to, and shows it: table, JSON, picture. Knows no graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from rich.markup import escape
from rich.table import Table
from scipy import stats

from bayeslora_tool.policy import Policy
from bayeslora_tool.scenarios import Prices, Reviewer


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


def simulation_table(simulation: Simulation) -> Table:
    """A column a policy; the best of the sweep comes last."""
    reviewer, prices = simulation.reviewer, simulation.prices
    rows = list(simulation.rows)
    if simulation.sweep is not None:
        rows.append(replace(simulation.sweep.best, name=f"cheapest of {simulation.sweep.varied}"))
    outside = sum(run.gold is None for run in next(iter(simulation.runs.values())))
    table = Table(
        "",
        *(escape(row.name) for row in rows),
        title=f"{rows[0].n} scenarios, {outside} of them out of scope",
        caption="An error gets through where a wrong label is acted on; shares are of all "
        f"scenarios. A review takes {reviewer.median_seconds:g} s (median, sigma "
        f"{reviewer.sigma:g}), {reviewer.error_rate:.1%} of those without a script are wrong. An "
        f"error costs {prices.error:g}, a reviewer's hour {prices.reviewer_hour:g}, a question "
        f"{prices.clarification:g}. Seed {simulation.seed}.",
    )
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    lines: dict[str, Callable[[Measures], str]] = {
        "tau_conf": lambda row: f"{row.tau_conf:.4g}",
        "tau_var": lambda row: f"{row.tau_var:.3g}",
        "no reviewer needed": lambda row: f"{row.automation_rate:.1%}",
        "errors through": lambda row: str(row.errors),
        "  of all": lambda row: f"{row.error_rate:.2%}",
        "  95 % from": lambda row: f"{row.error_low:.2%}",
        "  to": lambda row: f"{row.error_high:.2%}",
        "  by the reviewer": lambda row: str(row.errors_by_reviewer),
        "a person is asked": lambda row: str(row.asked),
        "escalations": lambda row: str(row.escalations),
        "questions to users": lambda row: str(row.clarifications),
        "reviewer hours": lambda row: f"{row.reviewer_hours:.1f}",
        "wait p50": lambda row: f"{row.wait_p50:.0f} s",
        "  p95": lambda row: f"{row.wait_p95:.0f} s",
        "cost": lambda row: f"{row.cost:,.0f}",
    }
    for name, show in lines.items():
        table.add_row(name, *map(show, rows))
    return table


def write_simulation(simulation: Simulation, folder: Path) -> list[Path]:
    """Write ``simulation.json``, ``runs.jsonl`` and, of a sweep, ``sweep.png``.

    Raises:
        ValueError: A sweep without matplotlib, the [report] extra.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "policies": [asdict(row) for row in simulation.rows],
        "sweep": None if simulation.sweep is None else asdict(simulation.sweep),
        "reviewer": asdict(simulation.reviewer),
        "prices": asdict(simulation.prices),
        "seed": simulation.seed,
    }
    lines = [
        json.dumps({"policy": name, **asdict(run), "wrong": run.wrong}, ensure_ascii=False)
        for name, runs in simulation.runs.items()
        for run in runs
    ]
    files = {
        "simulation.json": json.dumps(summary, indent=2, ensure_ascii=False).encode() + b"\n",
        "runs.jsonl": ("\n".join(lines) + "\n").encode(),
    }
    if simulation.sweep is not None:
        from bayeslora_tool.trade_off import trade_off

        files["sweep.png"] = trade_off(simulation)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]
