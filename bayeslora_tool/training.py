"""Fits an adapter with the very noise that inference uses (transformers.Trainer + PEFT)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
)
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from bayeslora_tool import golden
from bayeslora_tool.backbone import backbone_fingerprint, find_backbone
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.dataset import LabelledText
from bayeslora_tool.loading import load_backbone, load_tokenizer, quiet
from bayeslora_tool.manifest import (
    FILE_NAME,
    BackboneRecord,
    Manifest,
    PosteriorRecord,
    adapter_fingerprint,
)
from bayeslora_tool.novelty import Novelty, fit_novelty
from bayeslora_tool.posterior import AdapterPosterior
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.recipe import Recipe, TrainingData

logger = logging.getLogger(__name__)

NOVELTY_TEXTS = 20_000
MEASURED_TEXTS = 2000  # held-out texts measured at the end: 20 draws each take their time


def train_adapter(
    recipe: Recipe, data: TrainingData, output: str | Path, *, resume: bool = False
) -> BayesLoRAClassifier:
    """Train, save and verify an adapter.

    Args:
        recipe: Hyperparameters and noise.
        data: From :func:`read_training_data`.
        output: Folder for the adapter; checkpoints lie below it until training has finished.
        resume: Go on from the last checkpoint in ``output``.

    Returns:
        The classifier, loaded back from ``output``.

    Raises:
        FileExistsError: ``output`` holds an adapter already.
        FileNotFoundError: No backbone; or ``resume`` and no checkpoint.
        ValueError: Several GPUs in one process (start with ``accelerate launch`` instead).
    """
    output = Path(output)
    checkpoints = output / "checkpoints"
    if (output / FILE_NAME).exists():
        raise FileExistsError(f"{output} holds an adapter already; choose another folder")
    if resume and not list(checkpoints.glob("checkpoint-*")):
        raise FileNotFoundError(f"no checkpoint below {checkpoints} to resume from")

    set_seed(recipe.seed)
    folder = find_backbone(recipe.backbone, recipe.revision)
    tokenizer = load_tokenizer(folder)
    with quiet():
        model = get_peft_model(load_backbone(folder, data.labels), _lora_config(recipe))
    posterior = AdapterPosterior(
        model, placement=recipe.placement, scope=recipe.scope, dropout=recipe.dropout
    )
    index = {label: i for i, label in enumerate(data.labels)}

    def encode(examples: Sequence[LabelledText]) -> list[dict[str, Any]]:
        ids = tokenizer([e.text for e in examples], truncation=True, max_length=recipe.max_tokens)
        return [
            {"input_ids": row, "labels": index[e.label]}
            for row, e in zip(ids["input_ids"], examples, strict=True)
        ]

    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=0.0,  # AdamW bounds its steps already
        warmup_steps=recipe.warmup,  # below 1: a share of the steps
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        logging_steps=100,
        seed=recipe.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )
    if arguments.n_gpu > 1:
        raise ValueError(
            f"{arguments.n_gpu} GPUs are visible to one process; start with `accelerate launch -m "
            f"bayeslora_tool train ...`, or set CUDA_VISIBLE_DEVICES to one of them"
        )
    trainer = _NoisyTrainer(
        posterior=posterior,
        head_learning_rate=recipe.head_learning_rate,
        model=model,
        args=arguments,
        train_dataset=encode(data.train),
        eval_dataset=encode(data.held_out),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_accuracy,
        preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
        callbacks=[EarlyStoppingCallback(recipe.patience)],
    )
    trainer.train(resume_from_checkpoint=resume or None)
    if trainer.is_world_process_zero():
        _save(model, recipe, output)
        # Fuses the model, so it comes after saving.
        classifier = BayesLoRAClassifier(model, tokenizer, data.labels, posterior)
        _describe(classifier, recipe, data, folder, output)
    trainer.accelerator.wait_for_everyone()
    loaded = BayesLoRAClassifier.from_pretrained(output, base=folder)
    if trainer.is_world_process_zero():
        shutil.rmtree(checkpoints)  # not before the adapter has been read back whole
    return loaded


class _NoisyTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Adapter noise on, backbone dropout off: the forward pass of inference, with gradients."""

    def __init__(
        self, *, posterior: AdapterPosterior, head_learning_rate: float, **arguments: Any
    ) -> None:
        self.posterior, self.head_learning_rate = posterior, head_learning_rate
        super().__init__(**arguments)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        model.eval()  # Trainer has just called train(), which would wake the backbone's dropout
        with self.posterior.training_noise(len(inputs["labels"])):
            return super().compute_loss(model, inputs, *args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        if getattr(self, "optimizer", None) is None:
            trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
            adapter = [p for n, p in trained.items() if "lora_" in n]
            head = [p for n, p in trained.items() if "lora_" not in n]
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": adapter, "lr": self.args.learning_rate},
                    {"params": head, "lr": self.head_learning_rate},
                ],
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer


def _lora_config(recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=recipe.target_modules,
        # For whoever loads the adapter without this package: PEFT's dropout is input dropout.
        lora_dropout=recipe.dropout if recipe.placement == "input" else 0.0,
    )


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions == prediction.label_ids))}


def _save(model: PeftModel, recipe: Recipe, output: Path) -> None:
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = recipe.backbone, recipe.revision
    config.inference_mode = True
    with quiet():
        model.save_pretrained(output, save_embedding_layers=False)
    for file in output.iterdir():
        if file.is_file():
            file.chmod(0o644)  # safetensors writes 0600, which others could not read


def _describe(
    classifier: BayesLoRAClassifier,
    recipe: Recipe,
    data: TrainingData,
    backbone: Path,
    output: Path,
) -> None:
    """Write manifest and model card beside the saved adapter."""
    novelty = fit_adapter_novelty(classifier, data.train, data.held_out)
    novelty.save(output)
    manifest = Manifest(
        labels=data.labels,
        backbone=BackboneRecord(
            name=recipe.backbone, revision=recipe.revision, files=backbone_fingerprint(backbone)
        ),
        adapter_files=adapter_fingerprint(output),
        posterior=PosteriorRecord(
            placement=recipe.placement, scope=recipe.scope, dropout=recipe.dropout
        ),
        golden_draws=golden.DRAWS,
        golden=golden.record_golden(classifier),
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

    def features(examples: Sequence[LabelledText]) -> dict[str, torch.Tensor]:
        texts = [e.text for e in examples]
        parts = [classifier.passes(texts[i : i + 1024]) for i in range(0, len(texts), 1024)]
        return {
            name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features
        }

    labels = torch.tensor([index[e.label] for e in kept])
    return fit_novelty(features(kept), labels, features(_sample(held_out)))


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
