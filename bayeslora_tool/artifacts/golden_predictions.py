"""Golden predictions: what an adapter said when it was trained, and whether it still does.

Knows no model: whoever holds one brings its ``predict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bayeslora_tool.artifacts.manifest import FILE_NAME, Golden, Manifest
from bayeslora_tool.policy import Estimator
from bayeslora_tool.prediction import Prediction

# About anything, so that some answers are unsure.
PROBES = (
    "This movie was fantastic!",
    "The plot was hard to follow.",
    "please move forty dollars from savings to checking",
    "The quarterly earnings exceeded expectations.",
    "Où est la gare ? \N{SLIGHTLY SMILING FACE}",
)
DRAWS = 8


class Predict(Protocol):
    """``BayesLoRAClassifier.predict``."""

    def __call__(
        self,
        texts: Sequence[str],
        *,
        n_draws: int | None = None,
        seed: int | None = None,
        estimator: Estimator | None = None,
    ) -> list[Prediction]:
        """One prediction a text, in order."""
        ...


def record_golden(predict: Predict) -> tuple[Golden, ...]:
    """The predictions of today for the probe texts."""
    plain = predict(PROBES, estimator="deterministic")
    noisy = predict(PROBES, n_draws=DRAWS, seed=0, estimator="monte_carlo")
    return tuple(
        Golden(
            text=text,
            label=q.label,
            deterministic=p.probabilities[q.label],
            confidence=q.confidence,
            variance=q.variance,
        )
        for text, p, q in zip(PROBES, plain, noisy, strict=True)
    )


def check_golden(predict: Predict, manifest: Manifest, *, same_noise: bool, exact: bool) -> None:
    """Compare with the predictions recorded in the manifest.

    Args:
        predict: Of the adapter as loaded.
        manifest: Its ``bayeslora.json``.
        same_noise: Whether it predicts with the noise that the manifest records.
        exact: False for a half-precision backbone, which may differ more.

    Raises:
        ValueError: A probe text does not come out as recorded.
    """
    texts = [golden.text for golden in manifest.golden]
    plain = predict(texts, estimator="deterministic")
    noisy = predict(texts, n_draws=manifest.golden_draws, seed=0, estimator="monte_carlo")
    # Other CPUs and releases round otherwise (1e-6 seen); half precision moves 1e-2.
    tolerance = 2e-3 if exact else 0.1
    for golden, p, q in zip(manifest.golden, plain, noisy, strict=True):
        label = golden.label
        checks = [("probability", golden.deterministic, p.probabilities.get(label), tolerance)]
        if same_noise:
            found = q.probabilities.get(label)
            checks.append(("confidence", golden.confidence, found, tolerance))
        if same_noise and exact and q.label == label:
            near = 1e-6 + 0.05 * golden.variance
            checks.append(("variance", golden.variance, q.variance, near))
        for what, expected, got, allowed in checks:
            if got is None or not abs(got - expected) <= allowed:
                raise ValueError(
                    f"golden prediction differs: {what} of {label!r} for {golden.text!r} is "
                    f"{got}, {FILE_NAME} records {expected:.6f}. The labels may be permuted, "
                    f"or the noise or the backbone's configuration changed; restore "
                    f"{FILE_NAME} and the adapter from their source, or train again"
                )
