"""The tensors of one backbone, kept once however many adapters are loaded on it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase


class FrozenWeights:
    """Hands a model the tensors that another one has already, wherever they are equal.

    Of the first model it sees it keeps all but what its adapter trained whole.
    """

    def __init__(self) -> None:
        self._kept: dict[str, nn.Parameter] = {}
        self._quantized: dict[tuple[str, bytes], nn.Module] = {}
        self._tokenizers: dict[tuple[Path, int | None], PreTrainedTokenizerBase] = {}

    def share(self, model: nn.Module) -> None:
        """Give the model, in place, the tensors that are kept, and keep those that are not yet.

        Args:
            model: On its device, not run yet: bitsandbytes moves what belongs to a weight about in
                the first pass, so a layer of another kind of weight is shared whole.
        """
        for name, module in [*model.named_modules()]:
            if {"lora_A", "lora_B", "modules_to_save"} & {*name.split(".")}:
                continue
            own_name = name.replace(".base_layer", "")
            weight = module._parameters.get("weight")
            if weight is not None and type(weight) is not nn.Parameter:
                kept = self._quantized.setdefault((own_name, _content(module)), module)
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, kept)
                continue
            for key, own in module._parameters.items():
                if own is not None:
                    shared = self._kept.setdefault(f"{own_name}.{key}", own)
                    if own.shape == shared.shape and torch.equal(own, shared):
                        module._parameters[key] = shared

    def tokenizer(self, folder: Path, own: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The tokenizer of a folder, and of a way to pad, kept from the first time on."""
        return self._tokenizers.setdefault((folder, own.pad_token_id), own)


def _content(module: nn.Module) -> bytes:
    """A digest of all that a layer with a quantized weight computes with."""
    digest = hashlib.sha256()
    for tensor in _tensors(module._parameters.get("weight")) + _tensors(module._parameters["bias"]):
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.digest()


def _tensors(weight: Any) -> list[Tensor]:
    if weight is None:
        return []
    if hasattr(weight, "__tensor_flatten__"):  # torchao's: scales, and integers
        return [getattr(weight, name) for name in weight.__tensor_flatten__()[0]]
    beside = [getattr(weight, "SCB", None)]  # bitsandbytes' scales
    if (state := getattr(weight, "quant_state", None)) is not None:
        beside += [part for part in state.as_dict().values() if isinstance(part, Tensor)]
    return [weight.data, *(part for part in beside if part is not None)]
