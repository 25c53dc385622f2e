"""From an adapter's name to a PEFT model in eval mode whose every file has been checked.

Knows no noise and no text. Nothing that could run code is read: no pickles, no remote code.
"""

from __future__ import annotations

import os.path
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.quantization_config import QuantizationConfigMixin

from bayeslora_tool.artifacts.adapter_config import FILE_NAME as CONFIG_NAME
from bayeslora_tool.artifacts.adapter_config import AdapterConfig, read_adapter_config
from bayeslora_tool.artifacts.backbone import backbone_fingerprint, find_backbone
from bayeslora_tool.artifacts.backbone_model import (
    load_tokenizer,
    load_with_new,
    quiet,
    whole_modules,
)
from bayeslora_tool.artifacts.frozen import FrozenWeights
from bayeslora_tool.artifacts.head import (
    check_folders_exclusive,
    check_labels,
    check_task_of_head,
    head_size,
)
from bayeslora_tool.artifacts.manifest import (
    FILE_NAME,
    Manifest,
    adapter_fingerprint,
    check_files,
    find_adapter_folder,
    read_manifest,
)
from bayeslora_tool.artifacts.tensors import read_shapes, read_tensors
from bayeslora_tool.artifacts.vocabulary import (
    check_vocabulary,
    fit_embeddings,
    tokenizer_folder,
)
from bayeslora_tool.documents import shown
from bayeslora_tool.workers import FreshLock

WEIGHTS_NAME = "adapter_model.safetensors"


class Source(TypedDict, total=False):
    """What :func:`load_adapter` takes of where and how, where that is not as the adapter says."""

    base: str | Path | None
    labels: Sequence[str] | None
    device: str | torch.device | None
    dtype: torch.dtype | None


@dataclass(frozen=True)
class LoadedAdapter:
    """A model, what belongs to it, its manifest (None for a plain PEFT adapter) and folder.

    A model that was in memory already has no folder.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    manifest: Manifest | None = None
    folder: Path | None = None


def load_adapter(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    base: str | Path | None = None,
    base_revision: str | None = None,
    labels: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization_config: QuantizationConfigMixin | None = None,
    frozen: FrozenWeights | None = None,
    causal: bool | None = False,
) -> LoadedAdapter:
    """Find, verify and load an adapter on its backbone.

    Args:
        name_or_path: Bundled name, folder, or hub id.
        revision: Commit, tag or branch of a hub id.
        subfolder: Where in the hub's repository the adapter lies.
        base: Backbone folder or hub name; None takes the one the adapter names.
        base_revision: Of the backbone on the hub, instead of the one the adapter names.
        labels: Names of the classes, for an adapter without ``bayeslora.json``.
        device: None takes CUDA where there is one.
        dtype: Of the frozen backbone; None is float32.
        quantization_config: Of transformers, to quantize the frozen backbone by.
        frozen: What other adapters on this backbone hold already.
        causal: Whether it is that of a language model, and ``labels`` are its choices, if it has
            any; None: as ``bayeslora.json`` says.

    Raises:
        FileNotFoundError: Adapter or backbone not found.
        ValueError: It has another task, a fingerprint differs, the head is missing, weights are not
            finite, keys do not fit the backbone, or ``labels`` do not fit the head.
    """
    with _ONE_AT_A_TIME:
        return _load(
            find_adapter_folder(name_or_path, revision=revision, subfolder=subfolder),
            base, base_revision, labels, device, dtype, quantization_config, frozen, causal,
        )  # fmt: skip


# PEFT changes how all modules of the process are made while it adds an adapter.
_ONE_AT_A_TIME = FreshLock()


def _load(
    folder: Path,
    base: str | Path | None,
    base_revision: str | None,
    labels: Sequence[str] | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    quantization_config: QuantizationConfigMixin | None,
    frozen: FrozenWeights | None,
    causal: bool | None,
) -> LoadedAdapter:
    manifest = read_manifest(folder)
    if manifest is not None:
        files = adapter_fingerprint(folder)
        check_files(manifest.adapter_files, files, folder=folder, what="adapter")
        if unknown := sorted(files.keys() - manifest.adapter_files.keys()):
            raise ValueError(f"{folder / FILE_NAME} records no fingerprint of {', '.join(unknown)}")
    recorded = manifest is not None and manifest.choices is not None
    if causal is None:
        causal = recorded
    if causal and manifest is not None and not recorded:
        raise ValueError(
            f"{folder / FILE_NAME} is of a classifier, which has labels of its own; load it by "
            f"BayesLoRAClassifier.from_pretrained, and leave choices= and template= out"
        )
    if recorded and not causal:
        raise ValueError(
            f"{folder / FILE_NAME} is of a language model and its choices, and this is for "
            f"adapters with a classification head; take one with task_type='SEQ_CLS'"
        )
    config = read_adapter_config(folder, causal=causal)
    shapes = read_shapes(folder / WEIGHTS_NAME)
    names: tuple[str, ...] = ()  # a model that is not asked to choose has no labels
    if not causal:
        names = check_labels(manifest, labels, head_size(shapes, folder), folder)
    elif (known := manifest.labels if manifest else labels) is not None:
        names = check_labels(manifest, labels, len(known), folder)
    base_folder = _find_base(folder, base, base_revision, manifest, config)
    if manifest is not None:
        found = backbone_fingerprint(base_folder)
        check_files(manifest.backbone.files, found, folder=base_folder, what="backbone")
    backbone, new = load_with_new(
        base_folder,
        None if causal else names,
        dtype=dtype,
        quantization_config=quantization_config,
    )
    if not causal:
        check_folders_exclusive(base_folder, folder)
    if config.task_type is None and not causal:
        check_task_of_head(base_folder, folder)
    roots = whole_modules(backbone, new)
    embeddings = fit_embeddings(backbone, shapes)
    model = _add_adapter(backbone, config, folder)
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    expected |= {key: model.get_parameter(key) for key in embeddings if key not in expected}
    _check_keys(expected, shapes, folder)
    if random := [name for name in new if f"base_model.model.{name}" not in expected]:
        lost = [root for root in roots if any(name.startswith(f"{root}.") for name in random)]
        raise ValueError(
            f"{', '.join(random)} stand neither in adapter {folder} nor in backbone {base_folder}, "
            f"so they are random, and each load would give other answers; train the adapter again "
            f"with modules_to_save={lost} and without LoRA in them, or pass base= with the model "
            f"that has them"
        )
    for key, tensor in expected.items():
        if tensor.shape != shapes[key]:
            raise ValueError(
                f"adapter {folder} does not fit backbone {base_folder}: {key} has the shape "
                f"{shapes[key]}, expected {tuple(tensor.shape)}; pass base= with the one "
                f"it was trained on, or restore {CONFIG_NAME}"
            )
    for module in model.modules():
        if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            module.to_empty(device="cpu", recurse=False)
    set_peft_model_state_dict(model, read_tensors(folder / WEIGHTS_NAME))
    model.eval()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it computes nothing")
        model.to(device)
    except (AssertionError, RuntimeError) as error:  # torch has both for a missing device
        raise ValueError(
            f"`device` (={str(device)!r}) is of no use here: {shown(error)}; leave it "
            f"out, or name one that torch finds here ({_devices()})"
        ) from None
    source = tokenizer_folder(folder, base_folder)
    tokenizer = load_tokenizer(source, backbone.config)
    if manifest is not None and (pad := manifest.pad_token_id) is not None:
        if pad >= len(tokenizer):
            raise ValueError(
                f"{folder / FILE_NAME}: `pad_token_id` (={pad}) is none of the {len(tokenizer)} "
                f"tokens of the tokenizer in {source}; restore the file"
            )
        tokenizer.pad_token_id = pad
    if frozen is not None:
        frozen.share(model)
        tokenizer = frozen.tokenizer(source, tokenizer)
    if source != base_folder:
        check_vocabulary(tokenizer, backbone, f"in {source}")
    return LoadedAdapter(model, tokenizer, names, manifest, folder)


def _devices() -> str:
    n = torch.cuda.device_count()
    return ", ".join(["cpu", *(f"cuda:{i}" for i in range(n))])


def _add_adapter(model: PreTrainedModel, config: AdapterConfig, folder: Path) -> PeftModel:
    """With LoRA layers that have no weights yet, so that no rank fills memory."""
    try:
        settings = config.for_peft([name for name, _ in model.named_modules()])
        wanted = LoraConfig(**settings, inference_mode=True)
        with quiet():
            return get_peft_model(model, wanted, low_cpu_mem_usage=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / CONFIG_NAME} does not fit the backbone: {shown(error)}; pass base= with "
            f"the one it was trained on"
        ) from None


def _find_base(
    folder: Path,
    base: str | Path | None,
    revision: str | None,
    manifest: Manifest | None,
    config: AdapterConfig,
) -> Path:
    name, recorded = base, None
    if base is None and manifest is not None:
        name, recorded = manifest.backbone.name, manifest.backbone.revision
    elif base is None:
        name, recorded = config.base_model_name_or_path, config.revision
    if name is None:
        raise ValueError(f"{folder / CONFIG_NAME} names no base model; pass base=")
    if revision is not None and os.path.isdir(name):
        raise ValueError(
            f"backbone {str(name)!r:.200} is a folder, and `base_revision` (={revision!r:.80}) is "
            f"of a hub repository; leave it out"
        )
    return find_backbone(name, revision or recorded)


def _check_keys(expected: Collection[str], found: Collection[str], folder: Path) -> None:
    missing, extra = sorted({*expected} - {*found}), sorted({*found} - {*expected})
    if missing or extra:
        raise ValueError(
            f"{folder / WEIGHTS_NAME} does not fit {CONFIG_NAME}: "
            f"{len(missing)} tensors missing {shown(missing[:3])}, {len(extra)} unknown "
            f"{shown(extra[:3])}; check that this is the backbone it was trained on"
        )
