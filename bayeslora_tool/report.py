"""Evaluates an adapter with its policy, and writes the page a person reads (HTML, PNGs, JSON)."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora_tool import plots
from bayeslora_tool.calibration import predict_all, to_scores
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.dataset import LabelledText
from bayeslora_tool.evaluation import Evidence, Interval, evaluate
from bayeslora_tool.guarantee import Scores, Thresholds
from bayeslora_tool.policy import Preset, decide
from bayeslora_tool.prediction import Prediction

# The five sentences of Table 1 in the BayesLoRA paper (arXiv 2506.22809).
TABLE_1 = (
    "This movie was fantastic!",
    "The plot was hard to follow.",
    "I've seen better films",
    "The quarterly earnings exceeded expectations.",
    "florgle wumpus theory extrapolates",
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Report:
    """All that the page shows; ``figures`` holds PNG bytes by name."""

    title: str
    facts: dict[str, str]
    intervals: dict[str, Interval]
    gates: list[dict[str, Any]]
    sentences: list[dict[str, Any]]
    routes: dict[str, Any]
    figures: dict[str, bytes] = field(repr=False)
    captions: dict[str, str] = field(repr=False)
    baselines: list[dict[str, Any]] = field(default_factory=list)


def evaluate_adapter(
    classifier: BayesLoRAClassifier,
    preset: Preset,
    examples: Sequence[LabelledText],
    outside: Sequence[str] = (),
    *,
    outside_name: str = "out of distribution",
    resamples: int = 300,
    progress: Callable[[int], None] = lambda n: None,
) -> Report:
    """Score labelled texts (and texts from elsewhere) and measure what the doubt is worth.

    Args:
        classifier: With the preset's scoring.
        preset: Whose thresholds are judged.
        examples: Labelled texts that chose nothing: neither epoch nor thresholds.
        outside: Texts that no label fits.
        outside_name: What to call them.
        resamples: For the bootstrap intervals.
        progress: Called with the number of steps done; there are
            ``2 * len(examples) + len(outside) + resamples``.

    Raises:
        ValueError: A label the classifier does not know.
    """
    labels = {label: i for i, label in enumerate(classifier.labels)}
    for example in examples:
        if example.label not in labels:
            raise ValueError(f"line {example.line}: unknown label {example.label!r}")
    texts = [e.text for e in examples]
    gold = np.array([labels[e.label] for e in examples])
    scoring, temperature = preset.scoring, classifier.temperature
    inside = predict_all(classifier, texts, scoring, progress)
    strangers = predict_all(classifier, outside, scoring, progress)
    classifier.temperature = 1.0
    try:
        raw = predict_all(classifier, texts, replace(scoring, estimator="deterministic"), progress)
    finally:
        classifier.temperature = temperature
    evidence = Evidence(
        _matrix(inside), gold, _doubts(inside), _doubts(strangers) if strangers else {}
    )
    intervals = evaluate(evidence, resamples=resamples, progress=progress)
    scores = to_scores(
        [*inside, *strangers], [*(e.label for e in examples), *([None] * len(strangers))]
    )
    features = classifier.passes([*texts, *outside]).tokens.numpy()
    facts = {
        "adapter": preset.adapter,
        "texts": f"{len(texts)} labelled, {len(outside)} {outside_name}",
        "scored by": classifier.scored_by(scoring),
        "thresholds": _describe(preset),
    }
    routes = _routes(inside, strangers, preset, gold, classifier.labels)
    figures, captions = _figures(
        evidence, scores, raw, inside, strangers, features, preset, outside_name
    )
    return Report(
        title=f"What the doubt of '{preset.adapter}' is worth",
        facts=facts,
        intervals=intervals,
        gates=what_each_gate_buys(scores, preset),
        sentences=_sentences(classifier, preset),
        routes=routes,
        figures=figures,
        captions=captions,
    )


def _matrix(predictions: Sequence[Prediction]) -> Floats:
    return np.array([list(p.probabilities.values()) for p in predictions])


def _doubts(predictions: Sequence[Prediction]) -> dict[str, Floats]:
    doubts = {
        "1 - confidence": np.array([1 - p.confidence for p in predictions]),
        "variance": np.array([p.variance for p in predictions]),
        "entropy": np.array([p.entropy for p in predictions]),
        "mutual information": np.array([p.mutual_information for p in predictions]),
        "novelty": np.array([p.novelty for p in predictions], dtype=float),
    }
    return {name: values for name, values in doubts.items() if not np.isnan(values).any()}


def _describe(preset: Preset) -> str:
    p = preset.policy
    gate = "" if p.tau_novelty is None else f", novelty <= {p.tau_novelty:.3g}"
    return f"confidence >= {p.tau_conf:.4g}, variance <= {p.tau_var:.3g}{gate}"


def what_each_gate_buys(scores: Scores, preset: Preset) -> list[dict[str, Any]]:
    """Coverage and risk with the confidence alone, then with each further gate of the policy.

    ``gain`` is the coverage over what the confidence alone covers at the same risk: what the
    gates are worth, since a stricter tau_conf would lower the risk too.
    """
    p = preset.policy
    steps = [
        ("confidence alone", Thresholds(p.tau_conf)),
        ("+ variance", Thresholds(p.tau_conf, p.tau_var)),
    ]
    if p.tau_novelty is not None and scores.novelty is not None:
        steps.append(("+ novelty", Thresholds(p.tau_conf, p.tau_var, p.tau_novelty)))
    rows = []
    for name, thresholds in steps:
        passed = thresholds.passed(scores)
        wrong = passed & ~scores.correct
        inside = passed[scores.in_scope]
        risk = float(wrong.sum() / max(passed.sum(), 1))
        outsiders = ~scores.in_scope
        rows.append(
            {
                "gate": name,
                "coverage": float(inside.mean()),
                "risk": risk,
                "outside_proceeds": float(passed[outsiders].mean()) if outsiders.any() else None,
                "gain": float(passed.mean()) - _coverage_by_confidence(scores, risk),
            }
        )
    return rows


def _coverage_by_confidence(scores: Scores, risk: float) -> float:
    order = np.argsort(-scores.confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    reached = np.cumsum(~scores.correct[order]) / counts <= risk
    return float(counts[reached].max() / len(order)) if reached.any() else 0.0


def _sentences(classifier: BayesLoRAClassifier, preset: Preset) -> list[dict[str, Any]]:
    scoring = preset.scoring
    predictions = classifier.predict(
        TABLE_1, estimator=scoring.estimator, n_draws=scoring.n_draws, seed=scoring.seed
    )
    return [
        {
            "text": text,
            "label": p.label,
            "confidence": p.confidence,
            "variance": p.variance,
            "novelty": p.novelty,
            "action": decide(p, preset.policy).action,
        }
        for text, p in zip(TABLE_1, predictions, strict=True)
    ]


def _routes(
    inside: Sequence[Prediction],
    strangers: Sequence[Prediction],
    preset: Preset,
    gold: NDArray[np.intp],
    labels: Sequence[str],
) -> dict[str, Any]:
    actions = [decide(p, preset.policy).action for p in inside]
    wrong = [p.label != labels[y] for p, y in zip(inside, gold, strict=True)]
    proceeded = [w for a, w in zip(actions, wrong, strict=True) if a == "proceed"]
    return {
        "inside": {a: actions.count(a) / len(actions) for a in ("proceed", "clarify", "escalate")},
        "risk": sum(proceeded) / max(len(proceeded), 1),
        "n_proceeded": len(proceeded),
        "outside_stopped": (
            1 - sum(decide(p, preset.policy).action == "proceed" for p in strangers)
            / len(strangers)
            if strangers
            else None
        ),
    }  # fmt: skip


def _figures(
    evidence: Evidence,
    scores: Scores,
    raw: Sequence[Prediction],
    inside: Sequence[Prediction],
    strangers: Sequence[Prediction],
    features: Floats,
    preset: Preset,
    outside_name: str,
) -> tuple[dict[str, bytes], dict[str, str]]:
    n, wrong = len(inside), evidence.wrong
    raw_p = _matrix(raw)
    figures = {
        "reliability": plots.reliability(
            {
                "before": (raw_p.max(1), raw_p.argmax(1) == evidence.gold),
                "after": (evidence.probabilities.max(1), ~wrong),
            }
        ),
        "risk_coverage": plots.risk_coverage(
            evidence.doubts, wrong, _point(scores, preset, evidence)
        ),
        "deciles": plots.deciles(evidence.doubts["variance"], wrong),
        "plane": plots.plane(inside, wrong, preset.policy),
        "pca": plots.pca(features, [*inside, *strangers], n, wrong, outside_name),
    }
    captions = {
        "reliability": f"Accuracy against confidence in 15 bins, before and after temperature; "
        f"n = {n}. On the diagonal, 90 % confidence means 90 % right.",
        "risk_coverage": f"Error rate among the texts that are let through, from the least "
        f"doubtful on, by each signal; n = {n}. Lower is better; the star is the calibrated "
        f"policy.",
        "deciles": f"Error rate in each tenth of the texts by variance, with 95 % intervals; "
        f"n = {n} (the paper's Figure 3).",
        "plane": f"Each text by confidence and variance, wrong ones crossed out, with the "
        f"policy's thresholds; n = {n}. Lower right proceeds.",
        "pca": f"The first two principal components of the texts' features, larger where the "
        f"variance is greater; n = {n} and {len(strangers)} {outside_name} (the paper's Figure 2).",
    }
    if strangers:
        figures["outside"] = plots.distributions(
            {k: evidence.doubts[k] for k in ("variance", "novelty") if k in evidence.outside},
            evidence.outside,
            outside_name,
        )
        captions["outside"] = (
            f"Variance and novelty of the {n} labelled texts and of {len(strangers)} "
            f"{outside_name}. Where the two colours part, the signal tells them apart."
        )
    return figures, captions


def _point(scores: Scores, preset: Preset, evidence: Evidence) -> tuple[float, float]:
    p = preset.policy
    gate = None if scores.novelty is None else p.tau_novelty
    passed = Thresholds(p.tau_conf, p.tau_var, gate).passed(scores)[: len(evidence.gold)]
    return float(passed.mean()), float(evidence.wrong[passed].mean()) if passed.any() else 0.0


def write_report(report: Report, folder: Path) -> None:
    """Write ``report.html`` (self-contained), ``report.json``, and a PNG a figure."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in report.figures.items():
        (folder / f"{name}.png").write_bytes(png)
    content = {
        key: value for key, value in asdict(report).items() if key not in ("figures", "captions")
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.html").write_text(to_html(report), encoding="utf-8")


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
h1 { line-height: 1.2 } h2 { margin-top: 2.5rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(27rem, 1fr)); gap: 1.5rem }
figure { margin: 0 } img { width: 100%; height: auto }
figcaption, .note { color: #555; font-size: .9rem }
.lead { font-size: 1.15rem; background: #f2f6fa; padding: 1rem; border-left: 4px solid #0072b2 }
"""


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
        _table(["", ""], [[key, value] for key, value in report.facts.items()]),
        "<h2>What each gate buys</h2>",
        _table(
            ["gate", "coverage", "risk", "strangers that proceed", "coverage gained at that risk"],
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
        '<p class="note">Risk counts every stranger that proceeds as an error. The last column '
        "compares with a stricter confidence threshold of the same risk.</p>",
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
    if report.baselines:
        parts += ["<h2>Beside other methods</h2>", _baselines(report.baselines)]
    parts += [
        "<h2>All figures</h2>",
        _table(
            ["metric", "value", "95 % interval"],
            [
                [name, f"{i.value:.4f}", f"{i.low:.4f} to {i.high:.4f}"]
                for name, i in report.intervals.items()
            ],
        ),
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{header}</tr>{body}</table>"


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
