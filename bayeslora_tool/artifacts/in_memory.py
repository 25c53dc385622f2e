"""A PEFT model that is loaded already: what can be checked of it without its files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bayeslora_tool.artifacts.adapter_config import CLASS_ENDS, Task, check_task
from bayeslora_tool.artifacts.head import check_exclusive, checked_labels
from bayeslora_tool.artifacts.loading import (
    LoadedAdapter,
    load_adapter,
)
from bayeslora_tool.artifacts.manifest import Manifest
from bayeslora_tool.artifacts.other_methods import check_method
from bayeslora_tool.artifacts.vocabulary import check_vocabulary


def take_model(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    labels: Sequence[str] | None = None,
    *,
    causal: bool = False,
) -> LoadedAdapter:
    """Check a PEFT model in memory, and name what it answers.

    Whether its adapter is merged, switched off, or one of several, ``AdapterPosterior`` says.

    Args:
        model: With one active LoRA adapter and, unless causal, a trained classification head.
        tokenizer: It was trained with.
        labels: Names of the classes, in the order of the head; None takes those of its
            configuration.
        causal: Whether it is a language model, and ``labels`` are its choices.

    Raises:
        TypeError: Something else than a PEFT model or a tokenizer.
        ValueError: Another task, another of PEFT's methods, or ``labels`` that do not fit the head.
    """
    if not isinstance(model, PeftModel):
        raise TypeError(
            f"expected the name of an adapter, its folder, or a peft.PeftModel, got "
            f"{type(model).__name__}; wrap a model with PeftModel.from_pretrained(model, folder) "
            f"or get_peft_model(model, config)"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            f"`tokenizer` (={tokenizer!r:.80}) must be that of the model in memory, for example "
            f"AutoTokenizer.from_pretrained(...) of its backbone"
        )
    base: Any = model.get_base_model()
    name = type(base).__name__
    settings: Any = model.active_peft_config
    kind, task = settings.peft_type, settings.task_type
    check_method({"peft_type": getattr(kind, "value", kind)}, f"adapter {model.active_adapter!r}")
    task = getattr(task, "value", task)
    if not causal and name.endswith(CLASS_ENDS[True]):
        task = "CAUSAL_LM"
    if task in get_args(Task):
        check_task(task, name, causal=causal)
    if task not in (None, *get_args(Task)) or not name.endswith(CLASS_ENDS[causal]):
        needed = "AutoModelForCausalLM" if causal else "AutoModelForSequenceClassification"
        raise ValueError(
            f"{name} with task_type={task!r} has another task than text classification; an adapter "
            f"with task_type={'CAUSAL_LM' if causal else 'SEQ_CLS'!r} on an {needed} is needed"
        )
    assert isinstance(base, PreTrainedModel)
    config = base.config
    if causal:  # a model that is not asked to choose has no labels
        names = () if labels is None else checked_labels(labels, len(labels), name)
    else:
        check_exclusive(config.problem_type, name)
        if labels is None:
            labels = [str(config.id2label[i]) for i in range(config.num_labels)]
        names = checked_labels(labels, config.num_labels, name)
    check_vocabulary(tokenizer, base, f"given for {name}")
    return LoadedAdapter(model, tokenizer, names)


def load_or_take(
    adapter: str | Path | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    labels: Sequence[str] | None,
    *,
    causal: bool | None,
    **on_disk: Any,
) -> LoadedAdapter:
    """An adapter by name or folder, or a model in memory.

    Args:
        adapter: See ``BayesLoRAClassifier.from_pretrained``.
        tokenizer: Of a model in memory, which needs one.
        labels: See ``load_adapter``.
        causal: As for ``load_adapter``; None: a model in memory is a classifier.
        **on_disk: Other arguments of ``load_adapter``, None where nothing was said.

    Raises:
        TypeError, ValueError: As :func:`take_model` and ``load_adapter``; or an argument that is
            for the other kind.
    """
    if isinstance(adapter, str | Path):
        if tokenizer is not None:
            raise ValueError(
                "`tokenizer` is for a model in memory; leave it out: that of an adapter on "
                "disk lies beside it or its backbone"
            )
        return load_adapter(adapter, labels=labels, causal=causal, **on_disk)
    loaded = take_model(adapter, tokenizer, labels, causal=bool(causal))
    if given := [name for name, value in on_disk.items() if value is not None]:
        raise ValueError(
            f"`{given[0]}` is for an adapter on disk; leave it out: a model in memory is "
            f"taken as it is and where it is"
        )
    return loaded


def short_fingerprint(model: nn.Module, manifest: Manifest | None) -> str:
    """Of an adapter: of its files as recorded, or of what it brought into memory.

    Args:
        model: As PEFT has it, not fused.
        manifest: Of the adapter, if it has one.
    """
    if manifest is None:
        return weights_fingerprint(model)
    files = "".join(sorted(manifest.adapter_files.values()))
    return hashlib.sha256(files.encode()).hexdigest()[:12]


def weights_fingerprint(model: nn.Module) -> str:
    """Of what an adapter brought, where no manifest tells: the start of a SHA-256 of all of it.

    Args:
        model: As PEFT has it, not fused.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            digest.update(repr((name, sorted(module.scaling.values()))).encode())
    for name, parameter in sorted(model.named_parameters()):
        # Biases are the adapter's too, where it trained them.
        if {"lora_A", "lora_B", "modules_to_save", "bias"} & {*name.split(".")}:
            content = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(content.numpy().tobytes())
    return digest.hexdigest()[:12]
