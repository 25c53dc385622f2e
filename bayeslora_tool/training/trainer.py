"""Fits an adapter with the very noise that inference uses (transformers.Trainer + PEFT)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed

from bayeslora_tool.artifacts.backbone import find_backbone
from bayeslora_tool.artifacts.backbone_model import load_tokenizer, quiet
from bayeslora_tool.artifacts.manifest import FILE_NAME
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.network import Head, Reader
from bayeslora_tool.inference.positions import longest_text
from bayeslora_tool.inference.posterior import AdapterPosterior
from bayeslora_tool.language.choices import reading
from bayeslora_tool.language.prompts import asked_for
from bayeslora_tool.progress import Progress, silent
from bayeslora_tool.quoting import brief
from bayeslora_tool.training.dataset import LabelledText
from bayeslora_tool.training.new_adapter import new_adapter
from bayeslora_tool.training.packaging import package_adapter
from bayeslora_tool.training.recipe import Recipe, TrainingData
from bayeslora_tool.training.typos import mistype_one, mistype_share

logger = logging.getLogger(__name__)


def train_adapter(
    recipe: Recipe,
    data: TrainingData,
    output: str | Path,
    *,
    start: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> BayesLoRAClassifier:
    """Train, save and verify an adapter.

    Args:
        recipe: Hyperparameters and noise.
        data: From :func:`read_training_data`.
        output: Folder for the adapter; checkpoints lie below it until training has finished.
        start: Adapter whose weights to start from: a bundled name, folder, or hub id, with the
            labels of ``data`` and the recipe's rank, alpha and target modules.
        resume: Go on from the last checkpoint in ``output``.
        progress: Of the stages before and after the epochs, which transformers reports itself.

    Returns:
        The classifier, loaded back from ``output``.

    Raises:
        FileExistsError: ``output`` holds an adapter, or anything else that is not to be resumed.
        FileNotFoundError: No backbone; or ``resume`` and no checkpoint.
        ValueError: A text that the backbone's tokenizer reads nothing of; several GPUs in one
            process (start with ``accelerate launch`` instead); ``start`` does not fit recipe and
            data, or fails its checks; or the recipe's choices are none between which the backbone
            can choose, or not the labels of ``data``.
    """
    output = Path(output)
    checkpoints = output / "checkpoints"
    if (output / FILE_NAME).exists():
        raise FileExistsError(f"{output} holds an adapter already; choose another folder")
    if resume and not list(checkpoints.glob("checkpoint-*")):
        raise FileNotFoundError(f"no checkpoint below {checkpoints} to resume from")
    # `checkpoints` is there, but empty, where another process of the same run was faster.
    found = [p for p in output.glob("*") if p != checkpoints or any(p.iterdir())]
    if found and not resume:
        raise FileExistsError(
            f"{output} is not empty ({found[0].name}), and nothing there is to be overwritten; "
            f"choose another folder, or go on with what was begun there (--resume)"
        )

    choices = asked_for(recipe.choices, recipe.template, length_normalized=recipe.length_normalized)
    if choices is not None and tuple(choices.verbalizers) != data.labels:
        raise ValueError(
            f"`data` has the labels {brief(data.labels)}, the recipe's `choices` are of "
            f"{brief(tuple(choices.verbalizers))}; they must be the same, in the same order"
        )
    set_seed(recipe.seed)
    folder = find_backbone(recipe.backbone, recipe.revision)
    tokenizer = load_tokenizer(folder)
    model = new_adapter(recipe, folder, data.labels, choices, start=start)
    posterior = AdapterPosterior(
        model, placement=recipe.placement, scope=recipe.scope, dropout=recipe.dropout
    )
    index = {label: i for i, label in enumerate(data.labels)}

    most = min(recipe.max_tokens, longest_text(model, tokenizer))
    reader, head = reading(tokenizer, most, choices)
    # As at inference, whatever the tokenizer would do.
    tokenizer.pad_token_id = model.config.pad_token_id = reader.pad_id

    def encode(examples: Sequence[LabelledText], what: str) -> list[dict[str, Any]]:
        encoded = []
        with progress(f"encoding the {what}", len(examples)) as advance:
            for start in range(0, len(examples), 1024):
                some = examples[start : start + 1024]
                for text, e in zip(reader.encode([e.text for e in some]), some, strict=True):
                    if text.unread == 1:
                        raise ValueError(
                            f"{what}, line {e.line}: the backbone's tokenizer reads nothing of "
                            f"{brief(e.text)}; leave the line out, or give it words"
                        )
                    encoded.append(_row(text, index[e.label]))
                advance(len(some))
        return encoded

    train = encode(data.train, "training file")
    held_out = encode(data.held_out, "held-out file")
    if recipe.typos:
        # As often clean as mistyped, so that the best epoch is best at both.
        slips = mistype_share([e.text for e in data.held_out], 1.0, recipe.seed)
        held_out += [
            _row(text, row["labels"])
            for row, text in zip(held_out, reader.encode(slips), strict=True)
        ]
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing_factor=recipe.label_smoothing,
        max_grad_norm=0.0,  # AdamW bounds its steps already
        warmup_steps=recipe.warmup,  # below 1: a share of the steps
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        train_sampling_strategy="group_by_length" if recipe.group_by_length else "random",
        load_best_model_at_end=True,
        metric_for_best_model="balanced_accuracy" if recipe.balanced else "accuracy",
        greater_is_better=True,
        logging_steps=100,
        seed=recipe.seed,
        remove_unused_columns=False,  # of rows, before they are a batch
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )
    if arguments.n_gpu > 1:
        raise ValueError(
            f"{arguments.n_gpu} GPUs are visible to one process; start with `accelerate launch -m "
            f"bayeslora_tool train ...`, or set CUDA_VISIBLE_DEVICES to one of them"
        )
    counts = torch.bincount(torch.tensor([row["labels"] for row in train]))
    longest: Encoded = max((row["encoded"] for row in train), key=lambda text: len(text.ids))
    longest = longest._replace(ids=(longest.ids * 3)[: max(3, len(longest.ids))])
    trainer = _NoisyTrainer(
        posterior=posterior,
        head=head,
        common=posterior.layers_in_common(
            lambda n: head.logits(model.eval(), *reader.tensors([longest] * n))
        ),
        # As scikit-learn's "balanced": the mean weight of a text is 1.
        class_weights=len(train) / (len(counts) * counts) if recipe.balanced else None,
        head_learning_rate=recipe.head_learning_rate,
        model=model,
        args=arguments,
        train_dataset=_Mistyped(train, [e.text for e in data.train], reader, recipe),
        eval_dataset=held_out,
        data_collator=lambda rows: _batch(reader, rows),
        compute_metrics=_accuracy,
        preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
        callbacks=[EarlyStoppingCallback(recipe.patience)],
    )
    trainer.train(resume_from_checkpoint=resume or None)
    if trainer.is_world_process_zero():
        _save(model, recipe, output)
        # Fuses the model, so it comes after saving.
        classifier = BayesLoRAClassifier(model, tokenizer, data.labels, posterior, choices=choices)
        package_adapter(classifier, recipe, data, folder, output, progress=progress)
    trainer.accelerator.wait_for_everyone()
    loaded = BayesLoRAClassifier.from_pretrained(output, base=folder)
    if trainer.is_world_process_zero():
        shutil.rmtree(checkpoints)  # not before the adapter has been read back whole
    return loaded


def _row(text: Encoded, label: int) -> dict[str, Any]:
    return {"encoded": text, "input_ids": text.ids, "labels": label}  # ids tell its length


def _batch(reader: Reader, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    ids, mask = reader.tensors([row["encoded"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class _Mistyped(Dataset):  # type: ignore[type-arg]
    """The training texts, a share of them with slips that are others in each epoch."""

    def __init__(
        self, clean: list[dict[str, Any]], texts: list[str], reader: Reader, recipe: Recipe
    ) -> None:
        self.clean, self.texts, self.reader, self.recipe = clean, texts, reader, recipe
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, place: int) -> dict[str, Any]:
        clean, text, recipe = self.clean[place], self.texts[place], self.recipe
        typed = mistype_one(text, recipe.typos, f"{recipe.seed} {self.epoch} {place}")
        if typed == text:
            return clean
        return _row(self.reader.encode([typed])[0], clean["labels"])


class _NoisyTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Adapter noise on, backbone dropout off: the forward pass of inference, with gradients."""

    def __init__(
        self,
        *,
        posterior: AdapterPosterior,
        head: Head,
        head_learning_rate: float,
        common: Collection[str] = (),
        class_weights: Tensor | None = None,
        **arguments: Any,
    ) -> None:
        self.posterior, self.head, self.head_learning_rate = posterior, head, head_learning_rate
        self.common, self.class_weights = common, class_weights
        super().__init__(**arguments)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean over the batch of each text's cross-entropy, times its label's weight."""
        ids, mask, labels = (inputs[key] for key in ("input_ids", "attention_mask", "labels"))
        noise: Any = nullcontext()
        if training := model.training:
            model.eval()  # Trainer has just called train(), which would wake the backbone's dropout
            places = self.head.places(mask)
            noise = self.posterior.training_noise(len(labels), self.common, places)
        with noise:
            logits = self.head.logits(model, ids, mask)
        smoothing = self.args.label_smoothing_factor
        losses = cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
        if training and self.class_weights is not None:
            losses = losses * self.class_weights.to(losses)[labels]
        loss = losses.mean()
        return (loss, {"logits": logits}) if return_outputs else loss

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


def _accuracy(prediction: Any) -> dict[str, float]:
    right = prediction.predictions == prediction.label_ids
    recalls = [right[prediction.label_ids == label].mean() for label in {*prediction.label_ids}]
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(np.mean(recalls))}


def _save(model: PeftModel, recipe: Recipe, output: Path) -> None:
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = recipe.backbone, recipe.revision
    config.inference_mode = True
    with quiet():
        model.save_pretrained(output, save_embedding_layers=False)
    for file in output.iterdir():
        if file.is_file():
            file.chmod(0o644)  # safetensors writes 0600, which others could not read
