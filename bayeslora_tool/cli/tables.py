"""How predictions look in a terminal. Knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bayeslora_tool.quoting import one_line

if TYPE_CHECKING:
    from bayeslora_tool.policy import Decision, Policy
    from bayeslora_tool.prediction import Prediction

COLOURS = {"proceed": "green", "clarify": "yellow", "escalate": "red"}
_CELLS = 10
_LEAST_TEXT = 10  # characters


def coloured(action: str) -> str:
    """An action in its colour."""
    return f"[{COLOURS[action]}]{action}[/]"


def variance_bar(variance: float, tau_var: float, cells: int = _CELLS) -> str:
    """The variance as a bar whose middle is ``tau_var``: past the middle, it is too high."""
    if not variance >= 0:  # NaN
        return "[dim]none[/]"
    filled = min(cells, round(cells / 2 * variance / tau_var)) if tau_var else cells
    colour = "green" if variance <= tau_var else "red"
    bar = f"[{colour}]{'█' * filled}[/][dim]{'·' * (cells - filled)}[/] " if cells else ""
    return f"{bar}{variance:.1e}" if cells else f"[{colour}]{variance:.1e}[/]"


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


def metrics_table(
    intervals: Mapping[str, Any],
    gates: list[dict[str, Any]],
    mistyped: Sequence[Mapping[str, Any]] = (),
) -> Group:
    """Metrics with their intervals, what each gate buys, and what typing errors cost."""
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
    if not mistyped:
        return Group(metrics, "", bought)
    typed = Table("texts", "accuracy", "coverage", "risk")
    for line in mistyped:
        typed.add_row(
            line["texts"],
            f"{line['accuracy']:.1%}",
            f"{line['coverage']:.1%}",
            f"{line['risk']:.2%} ({line['wrong']} of {line['proceeded']})",
        )
    return Group(metrics, "", bought, "", typed)


class Result(NamedTuple):
    """A text with its prediction and decision, or with what is wrong with it."""

    text: object
    prediction: Prediction | None = None
    decision: Decision | None = None
    fault: str | None = None


class ResultsTable:
    """Texts, what the model believes, and where each goes: printed in parts, as results come.

    The columns have their width from the start, so that the parts are one table.

    Args:
        labels: Of the classifier.
        policy: That routes.
        width: Of the terminal; where it is narrow, the least telling columns go.
    """

    def __init__(self, labels: Sequence[str], policy: Policy, width: int) -> None:
        self.policy = policy
        self.cells = _CELLS if width >= 100 else 0
        label = min(max(5, *map(cell_len, labels)), max(8, width // 4))
        widths = {"text": 0, "label": label, "confidence": 10, "variance": 8 + self.cells}
        if policy.tau_novelty is not None:
            widths["novelty"] = 7
        if policy.tau_sure is not None:
            widths["sureness"] = 8
        widths["action"] = 8

        def room() -> int:
            return width - 2 * (len(widths) - 1) - sum(widths.values())

        for name in ("novelty", "variance", "sureness"):
            if room() < _LEAST_TEXT:
                widths.pop(name, None)
        self.columns = widths | {"text": max(1, room())}
        self.begun = False

    def rows(self, results: Iterable[Result]) -> Group:
        """The next rows; a fault stands below its text, as wide as the table."""
        parts: list[RenderableType] = []
        table = None
        for result in results:
            if table is None:
                table = self._part()
                parts.append(table)
            cells = self._cells(result)
            table.add_row(*(cells.get(name, "") for name in self.columns))
            if result.fault is not None:
                parts.append(Padding(_one_line(result.fault, "red"), (0, 0, 0, 2)))
                table = None
        return Group(*parts)

    def caption(self) -> str:
        """What proceeds."""
        p = self.policy
        gates = "" if p.tau_novelty is None else f", novelty <= {p.tau_novelty:.4g}"
        gates += "" if p.tau_sure is None else f", sureness >= {p.tau_sure:.4g}"
        middle = " (the middle of the bar)" if self.cells else ""
        return (
            f"[dim]proceed: confidence >= {p.tau_conf:.4g}, variance <= {p.tau_var:.2g}{middle}"
            f"{gates}[/]"
        )

    def _part(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=not self.begun)
        for name, width in self.columns.items():
            table.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
        self.begun = True
        return table

    def _cells(self, result: Result) -> dict[str, str | Text]:
        # No terminal is as wide; what follows need not be looked at.
        text = _one_line(result.text[:1000] if isinstance(result.text, str) else "")
        prediction, policy = result.prediction, self.policy
        if prediction is None or result.decision is None:
            return {"text": text, "action": coloured("escalate")}
        far, sureness = prediction.novelty, prediction.sureness
        sure = prediction.confidence >= policy.tau_conf
        near = policy.tau_novelty is None or (far is not None and far <= policy.tau_novelty)
        passes = policy.tau_sure is None or (sureness or 0.0) >= policy.tau_sure
        shown = "-" if sureness is None else f"{sureness:.3f}"
        return {
            "text": text,
            "label": _one_line(prediction.label),
            "confidence": f"[{'green' if sure else 'red'}]{prediction.confidence:.3f}[/]",
            "variance": variance_bar(prediction.variance, policy.tau_var, self.cells),
            "novelty": f"[{'green' if near else 'red'}]{'-' if far is None else f'{far:.3f}'}[/]",
            "sureness": f"[{'green' if passes else 'red'}]{shown}[/]",
            "action": coloured(result.decision.action),
        }


def _one_line(text: str, style: str = "") -> Text:
    return Text(one_line(text), style)
