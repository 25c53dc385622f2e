"""The report in files: a self-contained HTML page, JSON, PNGs. Measures nothing."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from bayeslora_tool.evaluation.metrics import Interval
from bayeslora_tool.evaluation.report import Report
from bayeslora_tool.settings import write_json

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
h1 { line-height: 1.2 } h2 { margin-top: 2.5rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child, .words td, .words th { text-align: left }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(27rem, 1fr)); gap: 1.5rem }
figure { margin: 0 } img { width: 100%; height: auto }
figcaption, .note { color: #555; font-size: .9rem }
.lead { font-size: 1.15rem; background: #f2f6fa; padding: 1rem; border-left: 4px solid #0072b2 }
"""


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.html`` (self-contained), ``report.json``, and a PNG a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in report.figures.items():
        (folder / f"{name}.png").write_bytes(png)
    content = {
        key: value for key, value in asdict(report).items() if key not in ("figures", "captions")
    }
    write_json(folder / "report.json", content)
    (folder / "report.html").write_text(to_html(report), encoding="utf-8")


def to_html(report: Report) -> str:
    """The page, with its pictures inside."""
    figures = "".join(
        f'<figure><img alt="{escape(report.captions[name])}" '
        f'src="data:image/png;base64,{b64encode(png).decode()}">'
        f"<figcaption>{escape(report.captions[name])}</figcaption></figure>"
        for name, png in report.figures.items()
    )
    parts = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="lead">{escape(_lead(report))}</p>',
        _table([], [[key, value] for key, value in report.facts.items()], "words"),
        "<h2>What each gate buys</h2>",
        _table(
            ["gate", "coverage", "risk", "strangers that proceed", "coverage gained"],
            [
                [
                    row["gate"],
                    f"{row['coverage']:.1%}",
                    f"{row['risk']:.2%}",
                    _share(row["outside_proceeds"]),
                    f"{100 * row['gain']:+.1f} points",
                ]
                for row in report.gates
            ],
        ),
        '<p class="note">Coverage and risk: of the labelled texts. The last column compares with '
        "a stricter confidence threshold that lets as great a share of errors through, every "
        "stranger counted as one.</p>",
        *_mistyped(report.mistyped),
        "<h2>Pictures</h2>",
        f'<div class="figures">{figures}</div>',
        "<h2>The five sentences of the paper's Table 1</h2>",
        _table(
            ["sentence", "label", "mean", "variance", "novelty", "route"],
            [
                [
                    row["text"],
                    row["label"],
                    f"{row['confidence']:.3f}",
                    f"{row['variance']:.5f}",
                    _share(row["novelty"]),
                    row["action"],
                ]
                for row in report.sentences
            ],
        ),
    ]
    parts += [
        "<h2>Beside what the BayesLoRA paper says</h2>",
        _table(
            ["claim", "paper", "here", ""],
            [[row["claim"], row["paper"], row["here"], row["verdict"]] for row in report.paper],
            "words",
        ),
    ]
    if report.baselines:
        parts += ["<h2>Beside other methods</h2>", _baselines(report.baselines)]
    parts += [
        "<h2>All figures</h2>",
        *_metrics(report.intervals),
        '<p class="note">Intervals: percentiles of bootstrap resamples of the texts.</p>',
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(report.title)}</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _lead(report: Report) -> str:
    routes = report.routes
    lead = (
        f"{routes['inside']['proceed']:.1%} of ordinary texts proceed, and {routes['risk']:.2%} of "
        f"those are wrong ({routes['n_proceeded']} texts); {routes['inside']['clarify']:.1%} are "
        f"put to the user, {routes['inside']['escalate']:.1%} to a reviewer."
    )
    if routes["outside_stopped"] is not None:
        lead += f" Of the texts that belong elsewhere, {routes['outside_stopped']:.1%} are stopped."
    return lead


def _share(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.1%}"


def _metrics(intervals: Mapping[str, Interval]) -> list[str]:
    """A table of what holds for the predictions, and one of metrics by signal."""
    whole: list[list[str]] = []
    by_signal: dict[str, dict[str, str]] = {}
    for name, i in intervals.items():
        metric, _, signal = name.partition(" (")
        if signal:
            by_signal.setdefault(metric, {})[signal.rstrip(")")] = str(i)
        else:
            whole.append([metric, str(i)])
    signals = list(dict.fromkeys(s for found in by_signal.values() for s in found))
    rows = [[m, *(found.get(s, "-") for s in signals)] for m, found in by_signal.items()]
    return [_table([], whole), _table(["", *signals], rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<table class="{kind}"><tr>{header}</tr>{body}</table>'


def _mistyped(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts as people may type them, beside the texts as they are."""
    if not rows:
        return []
    table = _table(
        ["texts", "accuracy", "coverage", "risk"],
        [
            [
                row["texts"],
                f"{row['accuracy']:.1%}",
                f"{row['coverage']:.1%}",
                f"{row['risk']:.2%} ({row['wrong']} of {row['proceeded']})",
            ]
            for row in rows
        ],
    )
    return ["<h2>With typing errors</h2>", table]


def _baselines(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    return _table(
        columns,
        [
            [f"{v:.4f}" if isinstance(v, float) else "-" if v is None else str(v)
             for v in (row[c] for c in columns)]
            for row in rows
        ],
    )  # fmt: skip
