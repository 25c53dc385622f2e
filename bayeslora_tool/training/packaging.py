"""Makes a trained adapter a folder that can be checked: novelty reference, manifest, model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayeslora_tool.artifacts import golden_predictions
from bayeslora_tool.artifacts.backbone import backbone_fingerprint
from bayeslora_tool.artifacts.manifest import (
    FILE_NAME,
    BackboneRecord,
    Manifest,
    PosteriorRecord,
    adapter_fingerprint,
    labels_fingerprint,
    read_manifest,
)
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.inference.novelty import Novelty, fit_novelty
from bayeslora_tool.inference.wording import fit_wording
from bayeslora_tool.progress import Advance, Progress, silent
from bayeslora_tool.training.dataset import LabelledText
from bayeslora_tool.training.recipe import Recipe, TrainingData
from bayeslora_tool.training.typos import mistype_share

NOVELTY_TEXTS = 20_000
USUAL_TEXTS = 2000  # held-out texts whose distances are the ordinary ones
MEASURED_TEXTS = 500  # held-out texts measured at the end: 20 draws of each take their time


def package_adapter(
    classifier: BayesLoRAClassifier,
    recipe: Recipe,
    data: TrainingData,
    backbone: Path,
    output: Path,
    *,
    progress: Progress = silent,
) -> None:
    """Write the novelty reference, the manifest and the model card beside a saved adapter.

    Args:
        classifier: Of the adapter in ``output``.
        recipe: It was trained with.
        data: It was trained on.
        backbone: Folder of the base weights.
        output: Folder of the adapter.
        progress: Of the two stages, in texts.
    """
    novelty = fit_adapter_novelty(classifier, data.train, data.held_out, progress=progress)
    novelty.save(output)
    with progress("words of the held-out texts", len(data.held_out)) as advance:
        ordinary = [example.text for example in data.held_out]
        fit_wording((e.text for e in data.train), ordinary, advance).save(output)
    measured = _sample(data.held_out, MEASURED_TEXTS)
    with progress("measuring", len(measured)) as advance:
        metrics = measure(classifier, measured, progress=advance)
    if recipe.typos:
        typed = mistype_share([e.text for e in measured], 1.0, recipe.seed)
        spoilt = [replace(e, text=text) for e, text in zip(measured, typed, strict=True)]
        with progress("measuring with typing errors", len(spoilt)) as advance:
            found = measure(classifier, spoilt, n_draws=2, progress=advance)
        metrics["accuracy_mistyped"] = found["accuracy_deterministic"]
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
        metrics=metrics | {"n_train": len(data.train)},
        recipe={key: value for key, value in asdict(recipe).items() if key != "card"},
    )
    manifest.write(output)
    (output / "README.md").write_text(_card(recipe, manifest, output.name), encoding="utf-8")


def add_wording(folder: Path, train: Sequence[str], held_out: Sequence[str]) -> None:
    """Fit an adapter's ``wording.safetensors`` anew; thresholds must then be calibrated again.

    Args:
        folder: Of the adapter.
        train: The texts it was trained on.
        held_out: Others of the same source.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ValueError(f"{folder} has no {FILE_NAME}, so nothing would vouch for the file")
    fit_wording(train, held_out).save(folder)
    manifest.model_copy(update={"adapter_files": adapter_fingerprint(folder)}).write(folder)


def fit_adapter_novelty(
    classifier: BayesLoRAClassifier,
    train: Sequence[LabelledText],
    held_out: Sequence[LabelledText],
    *,
    progress: Progress = silent,
) -> Novelty:
    """Distances to at most 20,000 training texts, spread evenly over each class."""
    by_label = sorted(train, key=lambda example: example.label)
    kept = by_label[:: -(-len(train) // NOVELTY_TEXTS)]
    kept += {e.label: e for e in by_label}.values()  # at least one of each class
    index = {label: i for i, label in enumerate(classifier.labels)}
    labels = torch.tensor([index[e.label] for e in kept])
    usual = _sample(held_out, USUAL_TEXTS)
    with progress("distances to the training texts", len(kept) + len(usual)) as advance:

        def passes(examples: Sequence[LabelledText]) -> tuple[Tensor, Tensor]:
            features, lengths = [], []
            for start in range(0, len(examples), 256):
                texts = [e.text for e in examples[start : start + 256]]
                passed = classifier.passes(texts)  # its logits, as wide as there are classes, go
                features.append(passed.features)
                lengths.append(passed.lengths)
                advance(len(texts))
            return torch.cat(features), torch.cat(lengths)

        trained, _ = passes(kept)
        return fit_novelty(trained, labels, *passes(usual))


def _sample(examples: Sequence[LabelledText], most: int) -> Sequence[LabelledText]:
    """At most so many, evenly spaced."""
    return examples[:: -(-len(examples) // most)]


def measure(
    classifier: BayesLoRAClassifier,
    examples: Sequence[LabelledText],
    *,
    n_draws: int = 20,
    progress: Advance = lambda n: None,
) -> dict[str, Any]:
    """Accuracy without noise and of the mean of draws, and the confidences and variances seen.

    Args:
        classifier: The adapter to measure.
        examples: Labelled texts; a label unknown to the classifier counts as wrong.
        n_draws: Draws T.
        progress: Called with the number of texts done since the last call.
    """
    right, noisy = [], []
    for start in range(0, len(examples), 64):
        some = examples[start : start + 64]
        texts = [e.text for e in some]
        plain = classifier.predict(texts, estimator="deterministic")
        drawn = classifier.predict(texts, n_draws=n_draws, seed=0, estimator="monte_carlo")
        # No prediction is kept: each holds a probability of every class.
        right += [
            (p.label == e.label, q.label == e.label)
            for e, p, q in zip(some, plain, drawn, strict=True)
        ]
        noisy += [(q.confidence, q.variance) for q in drawn]
        progress(len(texts))
    at = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
    confidence, variance = np.quantile(noisy, at, axis=0).T.tolist()
    deterministic, monte_carlo = np.mean(right, axis=0).tolist()
    return {
        "n": len(examples),
        "n_draws": n_draws,
        "accuracy_deterministic": deterministic,
        "accuracy_monte_carlo": monte_carlo,
        "quantiles_at": at,
        "quantiles": {"confidence": confidence, "variance": variance},
    }


def _card(recipe: Recipe, manifest: Manifest, name: str) -> str:
    metrics = manifest.metrics
    labels = ", ".join(manifest.labels[:8]) + (", ..." if len(manifest.labels) > 8 else "")
    rows = "\n".join(f"| {key} | {value} |" for key, value in manifest.recipe.items()
                     if key != "labels")  # fmt: skip
    typed = ""
    if "accuracy_mistyped" in metrics:
        typed = f"| accuracy, a typing error in each text | {metrics['accuracy_mistyped']:.4f} |\n"
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
{typed}| variance, median and 95 % quantile | {metrics["quantiles"]["variance"][3]:.2g}, \
{metrics["quantiles"]["variance"][5]:.2g} |

## Recipe

| setting | value |
| --- | --- |
{rows}
"""
