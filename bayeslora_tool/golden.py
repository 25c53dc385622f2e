"""Golden predictions: what an adapter said when it was trained, and whether it still does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayeslora_tool.manifest import FILE_NAME, Golden, Manifest

if TYPE_CHECKING:
    from bayeslora_tool.classifier import BayesLoRAClassifier

# About anything, so that some answers are unsure.
PROBES = (
    "This movie was fantastic!",
    "The plot was hard to follow.",
    "please move forty dollars from savings to checking",
    "The quarterly earnings exceeded expectations.",
    "Où est la gare ? \N{SLIGHTLY SMILING FACE}",
)
DRAWS = 8


def record_golden(classifier: BayesLoRAClassifier) -> tuple[Golden, ...]:
    """The predictions of today for the probe texts."""
    plain = classifier.predict(PROBES, estimator="deterministic")
    noisy = classifier.predict(PROBES, n_draws=DRAWS, seed=0, estimator="monte_carlo")
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


def check_golden(classifier: BayesLoRAClassifier, manifest: Manifest, *, exact: bool) -> None:
    """Compare with the predictions recorded in the manifest.

    Args:
        classifier: As loaded.
        manifest: Its ``bayeslora.json``.
        exact: False for a half-precision backbone, which may differ more.

    Raises:
        ValueError: A probe text does not come out as recorded.
    """
    texts = [golden.text for golden in manifest.golden]
    recorded, own = manifest.posterior, classifier.posterior
    same_noise = (recorded.placement, recorded.scope, recorded.dropout) == (
        own.placement,
        own.scope,
        own.dropout,
    )
    plain = classifier.predict(texts, estimator="deterministic")
    noisy = classifier.predict(
        texts, n_draws=manifest.golden_draws, seed=0, estimator="monte_carlo"
    )
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
