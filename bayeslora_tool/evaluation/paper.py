"""What the BayesLoRA paper (arXiv 2506.22809) shows and says, beside what an adapter here does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslora_tool.evaluation.metrics import Evidence, Interval, spearman
from bayeslora_tool.evaluation.paper_sentences import TABLE_1
from bayeslora_tool.policy import Preset, decide

if TYPE_CHECKING:
    from bayeslora_tool.classifier import BayesLoRAClassifier


def five_sentences(classifier: BayesLoRAClassifier, preset: Preset) -> list[dict[str, Any]]:
    """How the adapter scores the paper's sentences, and where its policy sends them."""
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


def beside_the_paper(
    evidence: Evidence, intervals: dict[str, Interval], tau_var: float
) -> list[dict[str, str]]:
    """What the BayesLoRA paper (arXiv 2506.22809) says of such figures, and whether they agree."""
    variance, wrong = evidence.doubts["variance"], evidence.wrong
    rows: list[dict[str, str]] = []

    def row(claim: str, paper: str, here: str, agrees: bool, note: str = "") -> None:
        verdict = ("agrees" if agrees else "contradicts the paper") + note
        rows.append({"claim": claim, "paper": paper, "here": here, "verdict": verdict})

    if wrong.min() != wrong.max():
        rank = intervals["spearman_error (variance)"]
        row("variance ranks errors: Spearman (SST-2)", "0.376", str(rank), rank.low > 0)
        parts = np.array_split(np.argsort(variance), 10)
        tenths = np.array([wrong[part].mean() for part in parts])
        trend, chance = spearman(np.arange(10.0), tenths)
        row(
            "the more variance, the more errors (Figure 3)",
            "rises",
            f"{tenths[0]:.1%} wrong in the lowest tenth, {tenths[-1]:.1%} in the highest (Spearman "
            f"over the tenths {trend:.2f}, p = {chance:.1g})",
            trend > 0 and chance < 0.05,
        )
    error = intervals["ece"]
    row("calibration: ECE", "0.0000", str(error), error.low < 5e-5)
    if "variance" in evidence.outside:
        seen = intervals["auroc_ood (variance)"]
        other = intervals["auroc_ood (1 - confidence)"]
        less = f", but 1 - confidence tells more ({other.value:.3f})"
        row(
            "variance tells what belongs elsewhere (section 5.2): AUROC",
            "does",
            str(seen),
            seen.low > 0.5,
            less if seen.value < other.value else "",
        )
        unseen = float((evidence.outside["variance"] <= tau_var).mean())
        row(
            "and yet some of it looks certain (section 7)",
            "may",
            f"{unseen:.1%} of it is within the policy's variance",
            unseen > 0,
        )
    return rows
