"""Makes a trained adapter a folder that can be checked: novelty reference, manifest, model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bayeslora_tool.artifacts import golden_predictions
from bayeslora_tool.artifacts.backbone import backbone_fingerprint
from bayeslora_tool.artifacts.backbone_model import load_backbone, quiet
from bayeslora_tool.artifacts.manifest import (
    BackboneRecord,
    ChoicesRecord,
    Manifest,
    PosteriorRecord,
    adapter_fingerprint,
    labels_fingerprint,
)
from bayeslora_tool.artifacts.vocabulary import share_embeddings
from bayeslora_tool.classifier import TOKENS_PER_PASS, BayesLoRAClassifier
from bayeslora_tool.inference.encoding import Encoder, batches
from bayeslora_tool.inference.neighbours import fit_neighbours, states_read
from bayeslora_tool.inference.novelty import fit_novelty
from bayeslora_tool.inference.wording import fit_wording
from bayeslora_tool.progress import Advance, Progress, silent
from bayeslora_tool.training.dataset import LabelledText
from bayeslora_tool.training.recipe import Recipe, TrainingData
from bayeslora_tool.training.typos import mistype_share

REFERENCE_TEXTS = 15_000
USUAL_TEXTS = 2000  # held-out texts whose distances are the ordinary ones
# What is known of the recipe of an adapter that was trained elsewhere.
_OF_ANY = {"backbone", "revision", "labels", "text_column", "label_column"} | {
    *PosteriorRecord.model_fields
}
_OF_CHOICES = {"choices", "template", "length_normalized"}
MEASURED_TEXTS = 500  # held-out texts measured at the end: 20 draws of each take their time


def package_adapter(
    classifier: BayesLoRAClassifier,
    recipe: Recipe,
    data: TrainingData,
    backbone: Path,
    output: Path,
    *,
    adopted: bool = False,
    progress: Progress = silent,
) -> None:
    """Write references, the manifest and the model card beside a saved adapter.

    Args:
        classifier: Of the adapter in ``output``.
        recipe: It was trained with.
        data: It was trained on.
        backbone: Folder of the base weights.
        output: Folder of the adapter.
        adopted: Whether it was trained elsewhere, so that of the recipe only ``_OF_ANY`` is known.
        progress: Of each stage, in texts.
    """
    write_references(classifier, data, backbone, output, progress=progress)
    measured = _sample(data.held_out, MEASURED_TEXTS)
    with progress("measuring", len(measured)) as advance:
        metrics = measure(classifier, measured, progress=advance)
    if recipe.typos:
        typed = mistype_share([e.text for e in measured], 1.0, recipe.seed)
        spoilt = [replace(e, text=text) for e, text in zip(measured, typed, strict=True)]
        with progress("measuring with typing errors", len(spoilt)) as advance:
            found = measure(classifier, spoilt, n_draws=2, progress=advance)
        metrics["accuracy_mistyped"] = found["accuracy_deterministic"]
    known = {
        key: value
        for key, value in asdict(recipe).items()
        if key != "card"
        and (key in _OF_ANY or not adopted)
        and (key not in _OF_CHOICES or recipe.choices is not None)
    }
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
        choices=None
        if (asked := classifier.choices) is None
        else ChoicesRecord(
            verbalizers=dict(asked.verbalizers),
            template=asked.template,
            length_normalized=asked.length_normalized,
        ),
        # Decoders find a text's last token by it, and a tokenizer may have none of its own.
        pad_token_id=classifier.network.encoder.pad_id,
        golden_draws=golden_predictions.DRAWS,
        golden=golden_predictions.record_golden(classifier.predict),
        metrics=metrics | ({} if adopted else {"n_train": len(data.train)}),
        recipe=known,
        self_check=classifier.self_check,
    )
    manifest.write(output)
    card = _card(recipe, manifest, output.name)
    (output / "README.md").write_text(card, encoding="utf-8")


def write_references(
    classifier: BayesLoRAClassifier,
    data: TrainingData,
    backbone: Path,
    output: Path,
    *,
    progress: Progress = silent,
) -> None:
    """Write what texts are later held against: distances, neighbours and letters of training.

    Args:
        classifier: Of the adapter in ``output``.
        data: It was trained on. At most 15,000 of the training texts are compared with, spread
            evenly over each class.
        backbone: Folder of the base weights.
        output: Folder of the adapter.
        progress: Of each stage, in texts.
    """
    by_label = sorted(data.train, key=lambda example: example.label)
    kept = by_label[:: -(-len(by_label) // REFERENCE_TEXTS)]
    kept += {e.label: e for e in by_label}.values()  # at least one of each class
    index = {label: i for i, label in enumerate(classifier.labels)}
    labels = torch.tensor([index[e.label] for e in kept])
    usual = _sample(data.held_out, USUAL_TEXTS)
    with progress("distances to the training texts", len(kept) + len(usual)) as advance:

        def passes(examples: Sequence[LabelledText]) -> tuple[Tensor, Tensor, Tensor]:
            middles, features, lengths = [], [], []
            for start in range(0, len(examples), 256):
                passed = classifier.passes([e.text for e in examples[start : start + 256]])
                _, n_states, d = passed.features.shape
                states = states_read(n_states, d)
                middles.append(passed.features.mean(dim=1, keepdim=True))
                features.append(passed.features[:, states].half())  # of all texts at once
                lengths.append(passed.lengths)
                advance(len(passed.lengths))
            return torch.cat(middles), torch.cat(features), torch.cat(lengths)

        trained, features, _ = passes(kept)
        ordinary, _, lengths = passes(usual)
        fit_novelty(trained, labels, ordinary, lengths).save(output)
    with progress("neighbours among the training texts", len(kept)) as advance:
        embeddings = _embed(classifier, backbone, [e.text for e in kept], advance)
        states = states_read(*classifier.passes(["any"]).features.shape[1:])
        fit_neighbours(features, states, labels, embeddings).save(output)
    with progress("words of the held-out texts", len(data.held_out)) as advance:
        held_out = [example.text for example in data.held_out]
        fit_wording((e.text for e in data.train), held_out, advance).save(output)


def _embed(
    classifier: BayesLoRAClassifier, backbone: Path, texts: Sequence[str], advance: Advance
) -> Tensor:
    """(N, d) What the backbone alone makes of texts: the mean of its last states, at norm 1."""
    with quiet():
        labels = classifier.labels if classifier.choices is None else None
        model = load_backbone(backbone, labels).base_model.eval()
    share_embeddings(classifier.network.model, model)
    encoder = Encoder(classifier.tokenizer, classifier.max_tokens)  # of texts, not of prompts
    rows, parts = [], []
    for batch in batches(encoder.encode(texts), TOKENS_PER_PASS):
        ids, mask = encoder.tensors(batch)
        with torch.inference_mode():
            last = model(input_ids=ids, attention_mask=mask).last_hidden_state
        rows += [text.position for text in batch]
        parts.append(normalize((last * mask[..., None]).sum(dim=1), dim=1))
        advance(len(batch))
    return torch.cat(parts)[torch.tensor(rows).argsort()]


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
    """Accuracy without noise and of the mean of draws, mean recall, confidences, variances.

    Args:
        classifier: The adapter to measure.
        examples: Labelled texts; a label unknown to the classifier counts as wrong.
        n_draws: Draws T.
        progress: Called with the number of texts done since the last call.
    """
    right, noisy = [], []
    recalls: dict[str, list[bool]] = {}
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
        for e, p in zip(some, plain, strict=True):
            recalls.setdefault(e.label, []).append(p.label == e.label)
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
        "balanced_accuracy": float(np.mean([np.mean(found) for found in recalls.values()])),
        "quantiles_at": at,
        "quantiles": {"confidence": confidence, "variance": variance},
    }


def _card(recipe: Recipe, manifest: Manifest, name: str) -> str:
    metrics = manifest.metrics
    labels = ", ".join(manifest.labels[:8]) + (", ..." if len(manifest.labels) > 8 else "")
    rows = "\n".join(f"| {key} | {value} |" for key, value in manifest.recipe.items()
                     if key != "labels")  # fmt: skip
    source = "It was trained elsewhere, with plain PEFT; on what, nothing here says."
    if "n_train" in metrics:
        source = (
            f"Trained on {metrics['n_train']} texts that do not recur there. The best\n"
            f"epoch was chosen on the same file, so the figures flatter a little."
        )
    typed = ""
    if "accuracy_mistyped" in metrics:
        typed = f"| accuracy, a typing error in each text | {metrics['accuracy_mistyped']:.4f} |\n"
    return f"""# {name}

A LoRA adapter with a dropout posterior, for [bayeslora_tool](https://arxiv.org/abs/2506.22809)
on `{recipe.backbone}` (revision `{recipe.revision}`).
{len(manifest.labels)} labels: {labels}.

{recipe.card.strip()}

## Measured

On {metrics["n"]} held-out texts, evenly spaced in their file. {source}

| what | value |
| --- | --- |
| accuracy, deterministic pass | {metrics["accuracy_deterministic"]:.4f} |
| accuracy, mean of {metrics["n_draws"]} draws | {metrics["accuracy_monte_carlo"]:.4f} |
| mean recall of the labels, deterministic pass | {metrics["balanced_accuracy"]:.4f} |
{typed}| variance, median and 95 % quantile | {metrics["quantiles"]["variance"][3]:.2g}, \
{metrics["quantiles"]["variance"][5]:.2g} |

## Recipe

| setting | value |
| --- | --- |
{rows}
"""
