"""Makes a trained adapter a folder that can be checked: novelty reference, manifest, model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayeslora_tool.artifacts import golden_predictions
from bayeslora_tool.artifacts.backbone import backbone_fingerprint
from bayeslora_tool.artifacts.manifest import (
    BackboneRecord,
    Manifest,
    PosteriorRecord,
    adapter_fingerprint,
    labels_fingerprint,
)
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.inference.network import Pass
from bayeslora_tool.inference.novelty import Novelty, fit_novelty
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.training.dataset import LabelledText
from bayeslora_tool.training.recipe import Recipe, TrainingData

NOVELTY_TEXTS = 20_000
MEASURED_TEXTS = 2000  # held-out texts measured at the end: 20 draws each take their time


def package_adapter(
    classifier: BayesLoRAClassifier,
    recipe: Recipe,
    data: TrainingData,
    backbone: Path,
    output: Path,
) -> None:
    """Write the novelty reference, the manifest and the model card beside a saved adapter.

    Args:
        classifier: Of the adapter in ``output``.
        recipe: It was trained with.
        data: It was trained on.
        backbone: Folder of the base weights.
        output: Folder of the adapter.
    """
    novelty = fit_adapter_novelty(classifier, data.train, data.held_out)
    novelty.save(output)
    manifest = Manifest(
        labels=data.labels,
        labels_sha256=labels_fingerprint(data.labels),
        backbone=BackboneRecord(
            name=recipe.backbone, revision=recipe.revision, files=backbone_fingerprint(backbone)
        ),
        adapter_files=adapter_fingerprint(output),
        posterior=PosteriorRecord(
            placement=recipe.placement, scope=recipe.scope, dropout=recipe.dropout
        ),
        golden_draws=golden_predictions.DRAWS,
        golden=golden_predictions.record_golden(classifier.predict),
        metrics=measure(classifier, _sample(data.held_out)) | {"n_train": len(data.train)},
        recipe={key: value for key, value in asdict(recipe).items() if key != "card"},
    )
    manifest.write(output)
    (output / "README.md").write_text(_card(recipe, manifest, output.name), encoding="utf-8")


def fit_adapter_novelty(
    classifier: BayesLoRAClassifier,
    train: Sequence[LabelledText],
    held_out: Sequence[LabelledText],
) -> Novelty:
    """Distances to at most 20,000 training texts, spread evenly over each class."""
    by_label = sorted(train, key=lambda example: example.label)
    kept = by_label[:: -(-len(train) // NOVELTY_TEXTS)]
    kept += {e.label: e for e in by_label}.values()  # at least one of each class
    index = {label: i for i, label in enumerate(classifier.labels)}

    def passes(examples: Sequence[LabelledText]) -> Pass:
        texts = [e.text for e in examples]
        parts = [classifier.passes(texts[i : i + 1024]) for i in range(0, len(texts), 1024)]
        return Pass(*(torch.cat(part) for part in zip(*parts, strict=True)))

    labels = torch.tensor([index[e.label] for e in kept])
    usual = passes(_sample(held_out))
    return fit_novelty(passes(kept).features, labels, usual.features, usual.lengths)


def _sample(examples: Sequence[LabelledText]) -> Sequence[LabelledText]:
    """At most MEASURED_TEXTS of them, evenly spaced."""
    return examples[:: -(-len(examples) // MEASURED_TEXTS)]


def measure(
    classifier: BayesLoRAClassifier,
    examples: Sequence[LabelledText],
    *,
    n_draws: int = 20,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Accuracy without noise and of the mean of draws, and the confidences and variances seen.

    Args:
        classifier: The adapter to measure.
        examples: Labelled texts; a label unknown to the classifier counts as wrong.
        n_draws: Draws T.
        progress: Called with the number of texts done since the last call.
    """
    plain, noisy = [], []
    for start in range(0, len(examples), 256):
        texts = [e.text for e in examples[start : start + 256]]
        plain += classifier.predict(texts, estimator="deterministic")
        noisy += classifier.predict(texts, n_draws=n_draws, seed=0, estimator="monte_carlo")
        progress(len(texts))
    gold = [e.label for e in examples]
    at = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
    quantiles: Mapping[str, list[float]] = {
        name: np.quantile([getattr(q, name) for q in noisy], at).tolist()
        for name in ("confidence", "variance")
    }
    return {
        "n": len(gold),
        "n_draws": n_draws,
        "accuracy_deterministic": _share_right(plain, gold),
        "accuracy_monte_carlo": _share_right(noisy, gold),
        "quantiles_at": at,
        "quantiles": dict(quantiles),
    }


def _share_right(predictions: Sequence[Prediction], gold: Sequence[str]) -> float:
    return float(np.mean([p.label == y for p, y in zip(predictions, gold, strict=True)]))


def _card(recipe: Recipe, manifest: Manifest, name: str) -> str:
    metrics = manifest.metrics
    labels = ", ".join(manifest.labels[:8]) + (", ..." if len(manifest.labels) > 8 else "")
    rows = "\n".join(f"| {key} | {value} |" for key, value in manifest.recipe.items()
                     if key != "labels")  # fmt: skip
    return f"""# {name}

A LoRA adapter with a dropout posterior, for [bayeslora_tool](https://arxiv.org/abs/2506.22809)
on `{recipe.backbone}` (revision `{recipe.revision}`).
{len(manifest.labels)} labels: {labels}.

{recipe.card.strip()}

## Measured on the held-out file of the training run

{metrics["n"]} texts, evenly spaced in the file; trained on {metrics["n_train"]} texts that do not
recur there. The best epoch was chosen on the same file, so the figures flatter a little.

| what | value |
| --- | --- |
| accuracy, deterministic pass | {metrics["accuracy_deterministic"]:.4f} |
| accuracy, mean of {metrics["n_draws"]} draws | {metrics["accuracy_monte_carlo"]:.4f} |
| variance, median and 95 % quantile | {metrics["quantiles"]["variance"][3]:.2g}, \
{metrics["quantiles"]["variance"][5]:.2g} |

## Recipe

| setting | value |
| --- | --- |
{rows}
"""
