"""From an adapter's name to a PEFT model in eval mode whose every file has been checked.

Knows no noise and no text. Nothing that could run code is read: no pickles, no remote code.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from bayeslora_tool.artifacts.backbone import backbone_fingerprint, find_backbone
from bayeslora_tool.artifacts.manifest import (
    FILE_NAME,
    Manifest,
    adapter_fingerprint,
    check_files,
    find_adapter_folder,
    read_manifest,
)


@dataclass(frozen=True)
class LoadedAdapter:
    """A model, what belongs to it, and its manifest (None for a plain PEFT adapter)."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    manifest: Manifest | None
    folder: Path


def load_adapter(
    name_or_path: str | Path,
    *,
    base: str | Path | None = None,
    labels: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> LoadedAdapter:
    """Find, verify and load an adapter on its backbone.

    Args:
        name_or_path: Bundled name, folder, or hub id.
        base: Backbone folder or hub name; None takes the one the adapter names.
        labels: Names of the classes, for an adapter without ``bayeslora.json``.
        device: None takes CUDA where there is one.
        dtype: Of the frozen backbone; None is float32.

    Raises:
        FileNotFoundError: Adapter or backbone not found.
        ValueError: A fingerprint differs, the head is missing, weights are not finite, keys do not
            fit the backbone, or ``labels`` do not fit the head.
    """
    folder = find_adapter_folder(name_or_path)
    manifest = read_manifest(folder)
    if manifest is not None:
        files = adapter_fingerprint(folder)
        check_files(manifest.adapter_files, files, folder=folder, what="adapter")
        if unknown := sorted(files.keys() - manifest.adapter_files.keys()):
            raise ValueError(f"{folder / FILE_NAME} records no fingerprint of {', '.join(unknown)}")
    weights = _read_weights(folder)
    n_labels = _head_size(weights, folder)
    names = _check_labels(manifest, labels, n_labels, folder)
    base_folder = _find_base(folder, base, manifest)
    if manifest is not None:
        found = backbone_fingerprint(base_folder)
        check_files(manifest.backbone.files, found, folder=base_folder, what="backbone")
    model: nn.Module = load_backbone(base_folder, names, dtype=dtype)
    try:
        with quiet():
            model = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except RuntimeError as error:  # of torch, where shapes differ
        raise ValueError(
            f"adapter {folder} does not fit backbone {base_folder}; pass base= with the one it was "
            f"trained on ({' '.join(str(error).split()):.200})"
        ) from None
    _check_keys(model, weights, folder)
    model.eval()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model.to(device)
    except (AssertionError, RuntimeError) as error:  # torch has both for a missing device
        raise ValueError(f"`device` (={str(device)!r}) is of no use here: {error}") from None
    return LoadedAdapter(model, load_tokenizer(base_folder), names, manifest, folder)


def load_backbone(
    folder: Path, labels: Sequence[str], *, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """The backbone with a fresh head for ``labels``, from a local folder, safetensors only."""
    with quiet():
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            dtype=dtype or torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The backbone's tokenizer, from a local folder."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=False, local_files_only=True
    )
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
            # Missing keys are an error of ours, with the names: see _check_keys.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / "adapter_model.safetensors"
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); restore or train it again") from None
    for key, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"{path}: tensor {key} holds NaN or infinity, so nothing it predicts can be "
                f"trusted; train the adapter again (a lower learning rate may help)"
            )
    return weights


def _head_size(weights: dict[str, Tensor], folder: Path) -> int:
    heads = [
        tensor.shape[0]
        for key, tensor in weights.items()
        if "lora_" not in key and tensor.dim() == 2 and {"classifier", "score"} & {*key.split(".")}
    ]
    if not heads:
        raise ValueError(
            f"{folder} holds no trained classification head (classifier or score), so its labels "
            f"would be random; save it with task_type='SEQ_CLS' or modules_to_save=['classifier']"
        )
    return int(heads[-1])


def _check_labels(
    manifest: Manifest | None, labels: Sequence[str] | None, n_labels: int, folder: Path
) -> tuple[str, ...]:
    if manifest is not None and labels is not None and tuple(labels) != manifest.labels:
        raise ValueError(f"`labels` differ from those of {folder / FILE_NAME}; leave labels= out")
    if n_labels < 2:
        raise ValueError(
            f"the head of {folder} has one output: a regression, which has no label to doubt; "
            f"an adapter with at least two classes is needed"
        )
    names = manifest.labels if manifest else labels or [f"LABEL_{i}" for i in range(n_labels)]
    if len(names) != n_labels or len(set(names)) != n_labels:
        raise ValueError(
            f"the head of {folder} has {n_labels} classes, but {len(set(names))} different labels "
            f"are named; give one name a class, in the order of training"
        )
    return tuple(names)


def _find_base(folder: Path, base: str | Path | None, manifest: Manifest | None) -> Path:
    if base is not None:
        return find_backbone(base)
    if manifest is not None:
        return find_backbone(manifest.backbone.name, manifest.backbone.revision)
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); restore it from its source") from None
    name = config.get("base_model_name_or_path")
    if not name:
        raise ValueError(f"{path} names no base model; pass base=")
    return find_backbone(name, config.get("revision"))


def _check_keys(model: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    missing, extra = sorted(expected - set(weights)), sorted(set(weights) - expected)
    if missing or extra:
        raise ValueError(
            f"{folder / 'adapter_model.safetensors'} does not fit adapter_config.json: "
            f"{len(missing)} tensors missing {missing[:3]}, {len(extra)} unknown {extra[:3]}; "
            f"check that this is the backbone it was trained on"
        )
