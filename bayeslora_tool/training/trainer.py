"""Fits an adapter with the very noise that inference uses (transformers.Trainer + PEFT)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from bayeslora_tool.artifacts.backbone import find_backbone
from bayeslora_tool.artifacts.backbone_model import (
    HEADS,
    load_tokenizer,
    load_with_new,
    quiet,
    whole_modules,
)
from bayeslora_tool.artifacts.loading import WEIGHTS_NAME, load_adapter
from bayeslora_tool.artifacts.manifest import FILE_NAME, find_adapter_folder, read_manifest
from bayeslora_tool.artifacts.tensors import read_shapes
from bayeslora_tool.artifacts.vocabulary import tokenizer_folder
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.inference.encoding import Encoder
from bayeslora_tool.inference.positions import longest_text
from bayeslora_tool.inference.posterior import AdapterPosterior
from bayeslora_tool.progress import Progress, silent
from bayeslora_tool.quoting import brief
from bayeslora_tool.training.dataset import LabelledText
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
            process (start with ``accelerate launch`` instead); or ``start`` does not fit recipe and
            data, or fails its checks.
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

    set_seed(recipe.seed)
    folder = find_backbone(recipe.backbone, recipe.revision)
    tokenizer = load_tokenizer(folder)
    backbone, new = load_with_new(folder, data.labels)
    with quiet():
        model = get_peft_model(backbone, _lora_config(recipe, backbone, new))
    _check_comes_back(model, folder, data.labels, recipe)
    if start is not None:
        _copy_weights(start, model, folder, data.labels)
    posterior = AdapterPosterior(
        model, placement=recipe.placement, scope=recipe.scope, dropout=recipe.dropout
    )
    index = {label: i for i, label in enumerate(data.labels)}

    encoder = Encoder(tokenizer, min(recipe.max_tokens, longest_text(model, tokenizer)))
    # As at inference, whatever the tokenizer would do.
    tokenizer.pad_token_id = model.config.pad_token_id = encoder.pad_id
    tokenizer.padding_side = "right"

    def encode(examples: Sequence[LabelledText], what: str) -> list[dict[str, Any]]:
        encoded = []
        with progress(f"encoding the {what}", len(examples)) as advance:
            for start in range(0, len(examples), 1024):
                some = examples[start : start + 1024]
                for text, e in zip(encoder.encode([e.text for e in some]), some, strict=True):
                    if text.unread == 1:
                        raise ValueError(
                            f"{what}, line {e.line}: the backbone's tokenizer reads nothing of "
                            f"{brief(e.text)}; leave the line out, or give it words"
                        )
                    encoded.append({"input_ids": text.ids, "labels": index[e.label]})
                advance(len(some))
        return encoded

    train = encode(data.train, "training file")
    held_out = encode(data.held_out, "held-out file")
    if recipe.typos:
        # As often clean as mistyped, so that the best epoch is best at both.
        slips = mistype_share([e.text for e in data.held_out], 1.0, recipe.seed)
        held_out += [
            row | {"input_ids": text.ids}
            for row, text in zip(held_out, encoder.encode(slips), strict=True)
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
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )
    if arguments.n_gpu > 1:
        raise ValueError(
            f"{arguments.n_gpu} GPUs are visible to one process; start with `accelerate launch -m "
            f"bayeslora_tool train ...`, or set CUDA_VISIBLE_DEVICES to one of them"
        )
    counts = torch.bincount(torch.tensor([row["labels"] for row in train]))
    longest = max((row["input_ids"] for row in train), key=len)
    ids = (longest * 3)[: max(3, len(longest))]
    trainer = _NoisyTrainer(
        posterior=posterior,
        common=posterior.layers_in_common(
            lambda n: model.eval()(input_ids=torch.tensor([ids] * n, device=model.device))
        ),
        # As scikit-learn's "balanced": the mean weight of a text is 1.
        class_weights=len(train) / (len(counts) * counts) if recipe.balanced else None,
        head_learning_rate=recipe.head_learning_rate,
        model=model,
        args=arguments,
        train_dataset=_Mistyped(train, [e.text for e in data.train], encoder, recipe),
        eval_dataset=held_out,
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
        package_adapter(classifier, recipe, data, folder, output, progress=progress)
    trainer.accelerator.wait_for_everyone()
    loaded = BayesLoRAClassifier.from_pretrained(output, base=folder)
    if trainer.is_world_process_zero():
        shutil.rmtree(checkpoints)  # not before the adapter has been read back whole
    return loaded


class _Mistyped(Dataset):  # type: ignore[type-arg]
    """The training texts, a share of them with slips that are others in each epoch."""

    def __init__(
        self, clean: list[dict[str, Any]], texts: list[str], encoder: Encoder, recipe: Recipe
    ) -> None:
        self.clean, self.texts, self.encoder, self.recipe = clean, texts, encoder, recipe
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
        return clean | {"input_ids": self.encoder.encode([typed])[0].ids}


class _NoisyTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Adapter noise on, backbone dropout off: the forward pass of inference, with gradients."""

    def __init__(
        self,
        *,
        posterior: AdapterPosterior,
        head_learning_rate: float,
        common: Collection[str] = (),
        class_weights: Tensor | None = None,
        **arguments: Any,
    ) -> None:
        self.posterior, self.head_learning_rate = posterior, head_learning_rate
        self.common, self.class_weights = common, class_weights
        super().__init__(**arguments)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        model.eval()  # Trainer has just called train(), which would wake the backbone's dropout
        with self.posterior.training_noise(len(inputs["labels"]), self.common):
            if self.class_weights is None:
                return super().compute_loss(model, inputs, *args, **kwargs)
            return self._weighted_loss(model, inputs, *args, **kwargs)

    def _weighted_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean over the batch of each text's loss times its label's weight."""
        assert self.class_weights is not None
        labels = inputs["labels"]
        outputs = model(**{key: value for key, value in inputs.items() if key != "labels"})
        smoothing = self.args.label_smoothing_factor
        losses = cross_entropy(
            outputs.logits.float(), labels, reduction="none", label_smoothing=smoothing
        )
        loss = (losses * self.class_weights.to(losses)[labels]).mean()
        return (loss, outputs) if return_outputs else loss

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


def _lora_config(recipe: Recipe, backbone: nn.Module, new: Collection[str]) -> LoraConfig:
    """Of an adapter that brings along what is new on its backbone, trained whole.

    Args:
        recipe: With rank, alpha, dropout and targets.
        backbone: Before the adapter.
        new: Names of its parameters that no file holds.
    """
    roots = whole_modules(backbone, new)
    # PEFT trains and saves whole whatever ends in one of these, DistilBERT's `pre_classifier`, too.
    whole = (*HEADS, *roots)
    within = [name for name, _ in backbone.named_modules() if name.endswith(whole)]
    inside = [
        name
        for name, _ in backbone.named_modules()
        if any(f"{name}.".startswith(f"{module}.") for module in within)
    ]
    return LoraConfig(
        modules_to_save=[root for root in roots if root not in HEADS] or None,
        exclude_modules=inside or None,
        task_type=TaskType.SEQ_CLS,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=recipe.target_modules,
        # For whoever loads the adapter without this package: PEFT's dropout is input dropout.
        lora_dropout=recipe.dropout if recipe.placement == "input" else 0.0,
    )


def _check_comes_back(
    model: PeftModel, backbone: Path, labels: Sequence[str], recipe: Recipe
) -> None:
    """Save, load and try the adapter before it is trained: what fails now would fail after hours.

    A new adapter changes nothing, so it is tried with random weights.
    """
    # Loading draws random weights, and training is to draw what it drew before.
    with torch.random.fork_rng(devices=[]), TemporaryDirectory() as folder:
        with quiet():
            model.save_pretrained(folder, save_embedding_layers=False)
        try:
            loaded = load_adapter(folder, base=backbone, labels=labels, device="cpu")
            for name, parameter in loaded.model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.02)
            posterior = AdapterPosterior(
                loaded.model,
                placement=recipe.placement,
                scope=recipe.scope,
                dropout=recipe.dropout,
            )
            BayesLoRAClassifier(loaded.model, loaded.tokenizer, loaded.labels, posterior)
        except ValueError as error:
            raise ValueError(
                f"an adapter of this recipe could not be used after training: {error}"
            ) from error


def _copy_weights(
    start: str | Path, model: PeftModel, backbone: Path, labels: Sequence[str]
) -> None:
    # A plain PEFT adapter knows no labels: it takes those of the data.
    folder = find_adapter_folder(start)
    named = read_manifest(folder) is not None
    loaded = load_adapter(start, base=backbone, labels=None if named else labels, device="cpu")
    assert isinstance(loaded.model, PeftModel)
    if loaded.labels != tuple(labels):
        raise ValueError(
            f"`start` (={str(start)!r}) knows the labels {loaded.labels[:5]}..., the data "
            f"{tuple(labels)[:5]}...: it can go on with its own labels only, in its own order"
        )
    old, new = (m.peft_config["default"] for m in (loaded.model, model))
    for key in ("r", "lora_alpha", "target_modules"):
        if getattr(old, key) != getattr(new, key):
            raise ValueError(
                f"`start` (={str(start)!r}) has {key} = {getattr(old, key)}, the recipe "
                f"{getattr(new, key)}; set the recipe's to the same"
            )
    expected = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    others = sorted(expected ^ read_shapes(folder / WEIGHTS_NAME).keys())
    if others or tokenizer_folder(folder, backbone) != backbone:
        raise ValueError(
            f"`start` (={str(start)!r}) holds other weights than the recipe trains "
            f"{brief(others[:3])}, or a tokenizer of its own: neither would be taken "
            f"over; start from one that `train` made on this backbone"
        )
    set_peft_model_state_dict(model, get_peft_model_state_dict(loaded.model))


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
