"""Shows what a simulation came to: table, JSON, picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from bayeslora_tool.simulation.measures import Measures, Simulation


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
        from bayeslora_tool.simulation.trade_off import trade_off

        files["sweep.png"] = trade_off(simulation)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]
