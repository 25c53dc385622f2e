"""Evaluates an adapter with its policy: scores, measures, draws; ``page.py`` writes the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslora_tool.calibration.adapter import predict_all, to_scores
from bayeslora_tool.calibration.guarantee import FEWEST
from bayeslora_tool.calibration.thresholds import Scores, Thresholds
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.evaluation import plots
from bayeslora_tool.evaluation.metrics import Evidence, Interval, evaluate, spearman
from bayeslora_tool.evaluation.mistyped import beside_mistyped
from bayeslora_tool.evaluation.paper import beside_the_paper, five_sentences
from bayeslora_tool.policy import Preset, calibration_mismatch, decide
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.training.dataset import LabelledText

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
    paper: list[dict[str, str]]
    baselines: list[dict[str, Any]] = field(default_factory=list)
    mistyped: list[dict[str, Any]] = field(default_factory=list)


def evaluate_adapter(
    classifier: BayesLoRAClassifier,
    preset: Preset,
    examples: Sequence[LabelledText],
    outside: Sequence[str] = (),
    *,
    outside_name: str = "out of distribution",
    perturb: bool = False,
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
        perturb: Also with typing errors in each labelled text; see :func:`beside_mistyped`.
        resamples: For the bootstrap intervals.
        progress: Called with the number of steps done; there are
            ``2 * len(examples) + len(outside) + resamples``, and ``2 * len(examples)`` more to
            perturb.

    Raises:
        ValueError: A label the classifier does not know, fewer than 30 texts, or a preset under
            which nothing proceeds: deterministic, or calibrated for another scoring.
    """
    if len(examples) < FEWEST:
        raise ValueError(f"{len(examples)} labelled texts say too little; give {FEWEST} or more")
    if preset.scoring.estimator == "deterministic":
        raise ValueError("the preset's estimator is deterministic: it has no variance to evaluate")
    scored_by = classifier.scored_by(preset.scoring)
    if mismatch := calibration_mismatch(preset.policy, scored_by):
        raise ValueError(f"all would escalate. {mismatch}")
    labels = {label: i for i, label in enumerate(classifier.labels)}
    for example in examples:
        if example.label not in classifier.act_of:
            raise ValueError(f"line {example.line}: unknown label {example.label!r}")
    texts = [e.text for e in examples]
    right = [classifier.act_of[e.label] for e in examples]
    gold = np.array([labels[act] for act in right])
    scoring, temperature = preset.scoring, classifier.temperature
    fitted = classifier.offset, classifier.forecast, classifier.sureness
    inside = predict_all(classifier, texts, scoring, progress)
    strangers = predict_all(classifier, outside, scoring, progress)
    classifier.temperature = 1.0
    try:
        raw = predict_all(classifier, texts, replace(scoring, estimator="deterministic"), progress)
    finally:
        classifier.temperature = temperature  # forgets all three
        classifier.offset, classifier.forecast, classifier.sureness = fitted
    mistyped = (
        beside_mistyped(classifier, preset, examples, inside, progress=progress) if perturb else []
    )
    evidence = Evidence(
        _matrix(inside), gold, _doubts(inside), _doubts(strangers) if strangers else {}
    )
    intervals = evaluate(evidence, resamples=resamples, progress=progress)
    scores = to_scores([*inside, *strangers], [*right, *([None] * len(strangers))])
    features = classifier.passes([*texts, *outside]).head.numpy()
    rank, chance = spearman(evidence.doubts["variance"], evidence.wrong)
    facts = {
        "adapter": preset.adapter,
        "texts": f"{len(texts)} labelled, {len(outside)} {outside_name}",
        "scored by": scored_by,
        "variance against error": f"Spearman {rank:.3f}, p = {chance:.1e}",
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
        sentences=five_sentences(classifier, preset),
        routes=routes,
        figures=figures,
        captions=captions,
        paper=beside_the_paper(evidence, intervals, preset.policy.tau_var),
        mistyped=mistyped,
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
        "1 - sureness": 1 - np.array([p.sureness for p in predictions], dtype=float),
    }
    return {name: values for name, values in doubts.items() if not np.isnan(values).any()}


def _describe(preset: Preset) -> str:
    p = preset.policy
    gate = "" if p.tau_novelty is None else f", novelty <= {p.tau_novelty:.3g}"
    gate += "" if p.tau_sure is None else f", sureness >= {p.tau_sure:.3g}"
    return f"confidence >= {p.tau_conf:.4g}, variance <= {p.tau_var:.3g}{gate}"


def what_each_gate_buys(scores: Scores, preset: Preset) -> list[dict[str, Any]]:
    """Coverage and risk with the policy's ordering alone, then with each further gate of it.

    The ordering is by sureness where ``tau_sure`` is set, else by confidence. ``gain`` is the share
    of all texts that proceeds over what the confidence alone would let through at the same share of
    errors, outsiders counted as such: what the gates are worth, since a stricter tau_conf would
    lower the risk too.
    """
    p = preset.policy
    alone = Thresholds(p.tau_conf)
    if p.tau_sure is not None and scores.sureness is not None:
        alone = alone._replace(tau_sure=p.tau_sure)
    name = "confidence alone" if alone.tau_sure is None else "sureness alone"
    steps = [(name, alone), ("+ variance", alone._replace(tau_var=p.tau_var))]
    if p.tau_novelty is not None and scores.novelty is not None:
        steps.append(("+ novelty", steps[-1][1]._replace(tau_novelty=p.tau_novelty)))
    rows = []
    for name, thresholds in steps:
        passed = thresholds.passed(scores)
        inside, outsiders = passed & scores.in_scope, ~scores.in_scope
        errors = float((passed & ~scores.correct).sum() / max(passed.sum(), 1))
        rows.append(
            {
                "gate": name,
                "coverage": float(inside.sum() / scores.in_scope.sum()),
                "risk": float((inside & ~scores.correct).sum() / max(inside.sum(), 1)),
                "outside_proceeds": float(passed[outsiders].mean()) if outsiders.any() else None,
                "gain": float(passed.mean()) - _coverage_by_confidence(scores, errors),
            }
        )
    return rows


def _coverage_by_confidence(scores: Scores, risk: float) -> float:
    order = np.argsort(-scores.confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    reached = np.cumsum(~scores.correct[order]) / counts <= risk
    return float(counts[reached].max() / len(order)) if reached.any() else 0.0


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
        "pca": f"The first two principal components of what the head reads of each text (the "
        f"pooled [CLS] embedding), larger where the "
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
    novelty = None if scores.novelty is None else p.tau_novelty
    sure = None if scores.sureness is None else p.tau_sure
    thresholds = Thresholds(p.tau_conf, p.tau_var, novelty, sure)
    passed = thresholds.passed(scores)[: len(evidence.gold)]
    return float(passed.mean()), float(evidence.wrong[passed].mean()) if passed.any() else 0.0
