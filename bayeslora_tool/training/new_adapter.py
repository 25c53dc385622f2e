"""An adapter before its first step: new on its backbone, and tried, lest training be in vain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import (
    LoraConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import nn

from bayeslora_tool.artifacts.backbone_model import HEADS, load_with_new, quiet, whole_modules
from bayeslora_tool.artifacts.loading import WEIGHTS_NAME, load_adapter
from bayeslora_tool.artifacts.manifest import find_adapter_folder, read_manifest
from bayeslora_tool.artifacts.tensors import read_shapes
from bayeslora_tool.artifacts.vocabulary import tokenizer_folder
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.inference.posterior import AdapterPosterior
from bayeslora_tool.language.prompts import Choices
from bayeslora_tool.quoting import brief
from bayeslora_tool.training.recipe import Recipe


def new_adapter(
    recipe: Recipe,
    backbone: Path,
    labels: Sequence[str],
    choices: Choices | None = None,
    *,
    start: str | Path | None = None,
) -> PeftModel:
    """The backbone with an adapter that has still to be trained, but can be saved and loaded.

    Args:
        recipe: With rank, alpha, targets and noise.
        backbone: Folder of the backbone.
        labels: In the order of the logits.
        choices: Between which a language model chooses; None: it becomes a classifier.
        start: Adapter whose weights to start from, see ``train_adapter``.

    Raises:
        ValueError: The backbone is none of that kind, an adapter of this recipe could not be used
            after training, or ``start`` does not fit.
    """
    loaded, new = load_with_new(backbone, labels if choices is None else None)
    if new and choices is not None:
        raise ValueError(
            f"backbone {backbone} lacks {', '.join(new[:3])}, by which a language model writes; "
            f"take one that is saved with its head of words ({type(loaded).__name__})"
        )
    with quiet():
        model = get_peft_model(loaded, lora_config(recipe, loaded, new, causal=choices is not None))
    assert isinstance(model, PeftModel)
    _check_comes_back(model, backbone, labels, choices, recipe)
    if start is not None:
        _copy_weights(start, model, backbone, labels, causal=choices is not None)
    return model


def lora_config(
    recipe: Recipe, backbone: nn.Module, new: Collection[str], *, causal: bool = False
) -> LoraConfig:
    """Of an adapter that brings along what is new on its backbone, trained whole.

    Args:
        recipe: With rank, alpha, dropout and targets.
        backbone: Before the adapter.
        new: Names of its parameters that no file holds.
        causal: Whether it stays a language model.
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
        task_type=TaskType.CAUSAL_LM if causal else TaskType.SEQ_CLS,
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=recipe.target_modules,
        # For whoever loads the adapter without this package: PEFT's dropout is input dropout.
        lora_dropout=recipe.dropout if recipe.placement == "input" else 0.0,
    )


def _check_comes_back(
    model: PeftModel,
    backbone: Path,
    labels: Sequence[str],
    choices: Choices | None,
    recipe: Recipe,
) -> None:
    """Save, load and try the adapter before it is trained: what fails now would fail after hours.

    A new adapter changes nothing, so it is tried with random weights.
    """
    # Loading draws random weights, and training is to draw what it drew before.
    with torch.random.fork_rng(devices=[]), TemporaryDirectory() as folder:
        with quiet():
            model.save_pretrained(folder, save_embedding_layers=False)
        try:
            loaded = load_adapter(
                folder, base=backbone, labels=labels, device="cpu", causal=choices is not None
            )
            for name, parameter in loaded.model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.02)
            posterior = AdapterPosterior(
                loaded.model,
                placement=recipe.placement,
                scope=recipe.scope,
                dropout=recipe.dropout,
            )
            BayesLoRAClassifier(
                loaded.model, loaded.tokenizer, loaded.labels, posterior, choices=choices
            )
        except ValueError as error:
            raise ValueError(
                f"an adapter of this recipe could not be used after training: {error}"
            ) from error


def _copy_weights(
    start: str | Path, model: PeftModel, backbone: Path, labels: Sequence[str], *, causal: bool
) -> None:
    # A plain PEFT adapter knows no labels: it takes those of the data.
    folder = find_adapter_folder(start)
    named = read_manifest(folder) is not None
    loaded = load_adapter(
        start, base=backbone, labels=None if named else labels, device="cpu", causal=causal
    )
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
