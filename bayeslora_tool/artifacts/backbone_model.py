"""A backbone and its tokenizer, from a folder: safetensors only, and no code of others."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import QuantizationConfigMixin

from bayeslora_tool.artifacts.adapter_config import CLASS_ENDS
from bayeslora_tool.documents import shown

_OF_WORDS = ("lm_head", "embed_out")  # heads of language models, as transformers names them
HEADS = ("classifier", "score")  # names of classification heads that PEFT knows, and saves


def load_backbone(
    folder: Path, labels: Sequence[str] | None, *, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """The backbone with a fresh head for ``labels``; see :func:`load_with_new`."""
    return load_with_new(folder, labels, dtype=dtype)[0]


def load_with_new(
    folder: Path,
    labels: Sequence[str] | None,
    *,
    dtype: torch.dtype | None = None,
    quantization_config: QuantizationConfigMixin | None = None,
) -> tuple[PreTrainedModel, list[str]]:
    """The backbone with a fresh head for ``labels``, from a local folder, safetensors only.

    Args:
        folder: Of the backbone.
        labels: None loads it as the language model that it is.
        dtype: None is float32.
        quantization_config: See :func:`load_adapter`.

    Returns:
        The model, and the names of its parameters that the folder does not hold, or holds for
        another number of classes: they are random.

    Raises:
        ValueError: transformers cannot load it, or only with code from the folder; the folder
            lacks more than what a classifier puts on top of a backbone; or the model is one of
            encoder and decoder, or has a head that no adapter would bring along.
    """
    model: PreTrainedModel
    kind, head = AutoModelForCausalLM, dict[str, Any]()
    if labels is not None:
        kind = AutoModelForSequenceClassification
        head = {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            "ignore_mismatched_sizes": True,  # of a head for other labels; see below
        }
    try:
        with quiet():
            model, found = kind.from_pretrained(
                str(folder),
                dtype=dtype or torch.float32,
                quantization_config=_but_heads(quantization_config),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **head,
            )
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"backbone {folder} cannot be loaded: {shown(error)}; restore it from its source"
        ) from None
    _check_kind(model, folder, causal=labels is None)
    missing = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    new = [name for name, _ in model.named_parameters() if name in missing]
    # Many are saved without a pooler, which belongs to the head; without the rest nothing is left.
    prefix = f"{model.base_model_prefix}."
    if own := [name for name in new if name.startswith(prefix) and "pooler" not in name.split(".")]:
        raise ValueError(
            f"backbone {folder} lacks {len(own)} of its own weights {shown(own[:3])}, or has them "
            f"in other shapes; restore it "
            f"from its source, with a config.json of the same model"
        )
    return model, new


def _but_heads(config: QuantizationConfigMixin | None) -> QuantizationConfigMixin | None:
    """The same, but for classification heads: the adapter brings them, trained and exact."""
    if config is None:
        return None
    config = copy.deepcopy(config)
    name = "llm_int8_skip_modules"  # as bitsandbytes has it, also for 4 bits
    if not hasattr(config, name):
        name = "modules_to_not_convert"
    setattr(config, name, [*(getattr(config, name, None) or []), *HEADS, *_OF_WORDS])
    return config


def _check_kind(model: PreTrainedModel, folder: Path, *, causal: bool) -> None:
    name = type(model).__name__
    remedy = "take a backbone that is one encoder or one decoder, such as RoBERTa or Qwen"
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"backbone {folder} is an encoder with a decoder: {name} reads each text twice, and "
            f"has no hidden states of one pass to measure novelty by; {remedy}"
        )
    if causal and not name.endswith(CLASS_ENDS[True]):
        raise ValueError(
            f"backbone {folder} is no language model but a {name}; take a decoder, such as Qwen"
        )
    if not causal and not any(isinstance(getattr(model, head, None), nn.Module) for head in HEADS):
        raise ValueError(
            f"{name} of backbone {folder} has no head called {' or '.join(HEADS)}, so no adapter "
            f"would bring one along; {remedy}"
        )


def whole_modules(model: nn.Module, parameters: Collection[str]) -> list[str]:
    """The fewest modules that hold these parameters and no others.

    Args:
        model: That has the parameters.
        parameters: Names of some of them.
    """
    found: list[str] = []
    for name, module in model.named_modules():  # outer ones first
        inner = [f"{name}.{key}" for key, _ in module.named_parameters()]
        if (
            inner
            and {*inner} <= {*parameters}
            and not name.startswith((*(f"{f}." for f in found),))
        ):
            found.append(name)
    return found


def load_tokenizer(folder: Path, config: PretrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a backbone or an adapter, from a local folder.

    Args:
        folder: That holds it.
        config: Of the model, where the folder may not hold it.

    Raises:
        ValueError: The files are damaged, or ask for code of their own.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder), config=config, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # what tokenizers raises of a damaged file has no narrower class
        raise ValueError(
            f"the tokenizer in {folder} cannot be loaded: {shown(error)}; restore its files"
        ) from None
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what is expected here: a head that is new until the adapter brings it."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            # What PEFT has no use for of an adapter's settings: the tensors say whether all fits.
            warnings.filterwarnings("ignore", module=r"peft\.")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
