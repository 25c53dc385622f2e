"""How predictions look in a terminal. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from bayeslora_tool.quoting import one_line

if TYPE_CHECKING:
    from bayeslora_tool.policy import Decision, Policy
    from bayeslora_tool.prediction import Prediction

COLOURS = {"proceed": "green", "clarify": "yellow", "escalate": "red"}
_CELLS = 10


def coloured(action: str) -> str:
    """An action in its colour."""
    return f"[{COLOURS[action]}]{action}[/]"


def variance_bar(variance: float, tau_var: float) -> str:
    """The variance as a bar whose middle is ``tau_var``: past the middle, it is too high."""
    if not variance >= 0:  # NaN
        return "[dim]no variance[/]"
    filled = min(_CELLS, round(_CELLS / 2 * variance / tau_var)) if tau_var else _CELLS
    colour = "green" if variance <= tau_var else "red"
    return f"[{colour}]{'█' * filled}[/][dim]{'·' * (_CELLS - filled)}[/] {variance:.1e}"


def bench_tables(bench: Mapping[str, Any]) -> tuple[Table, Table]:
    """What each contestant costs and how well it agrees; and the figures set out to be reached."""
    rows = Table(
        "contestant",
        "passes",
        "texts/s",
        "p50 ms",
        "p95 ms",
        "peak MB",
        "rank corr.",
        "equal routes",
        title=f"{bench['adapter']}: {bench['texts']} texts of {bench['mean_tokens']:.0f} tokens, "
        f"{bench['device']}, {bench['threads']} threads",
        caption=f"passes: time over one deterministic pass, median of {bench['rounds']} rounds. "
        f"p50, p95: one short text. rank corr. of variances and equal routes: against "
        f"{bench['reference']['draws']} draws of {bench['reference']['texts']} texts",
    )
    for row in bench["rows"]:
        worth = [row["rank_correlation"], row["equal_routes"]]
        rows.add_row(
            row["name"],
            f"{row['passes']:.2f}",
            f"{row['texts_per_second']:.0f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['peak_mb']:.0f}",
            *("-" if value is None else f"{value:.3f}" for value in worth),
        )
    cases = Table("what", "measured", "set out to reach", "")
    for case in bench["cases"]:
        mark = "[green]reached[/]" if case["reached"] else "[yellow]missed[/]"
        cases.add_row(case["what"], f"{case['value']:.2f}", case["target"], mark)
    return rows, cases


def metrics_table(intervals: Mapping[str, Any], gates: list[dict[str, Any]]) -> Group:
    """Metrics with their intervals, and what each gate of the policy buys."""
    metrics = Table("metric", "value", "95 % interval", box=None, pad_edge=False)
    for name, found in intervals.items():
        metrics.add_row(name, f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}")
    bought = Table("gate", "coverage", "risk", "strangers that proceed", "gain at that risk")
    for row in gates:
        outside = row["outside_proceeds"]
        bought.add_row(
            row["gate"],
            f"{row['coverage']:.1%}",
            f"{row['risk']:.2%}",
            "-" if outside is None else f"{outside:.1%}",
            f"{100 * row['gain']:+.1f} points",
        )
    return Group(metrics, "", bought)


def results_table(rows: list[tuple[str, Prediction, Decision]], policy: Policy) -> Table:
    """Texts, what the model believes, and where each goes."""
    table = Table(
        "text",
        "label",
        "confidence",
        "variance",
        "action",
        caption=f"proceed: confidence >= {policy.tau_conf:.4g} and variance <= "
        f"{policy.tau_var:.2g} (the middle of the bar)",
    )
    for text, prediction, decision in rows:
        table.add_row(
            escape(one_line(text, 80)),
            escape(one_line(prediction.label)),
            f"{prediction.confidence:.3f}",
            variance_bar(prediction.variance, policy.tau_var),
            coloured(decision.action),
        )
    return table
