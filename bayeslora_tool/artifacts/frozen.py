"""The tensors of one backbone, kept once however many adapters are loaded on it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase


class FrozenWeights:
    """Hands a model the tensors that another one has already, wherever they are equal.

    Of the first model it sees it keeps all but what its adapter brought.
    """

    def __init__(self) -> None:
        self._kept: dict[str, nn.Parameter] = {}
        self._tokenizers: dict[tuple[Path, int | None], PreTrainedTokenizerBase] = {}

    def share(self, model: nn.Module) -> None:
        """Give the model, in place, the tensors that are kept, and keep those that are not yet."""
        for name, module in model.named_modules():
            if {"lora_A", "lora_B", "modules_to_save"} & {*name.split(".")}:
                continue
            for key, own in module._parameters.items():
                if own is not None:
                    kept = self._kept.setdefault(f"{name}.{key}".replace(".base_layer", ""), own)
                    if own.shape == kept.shape and torch.equal(own, kept):
                        module._parameters[key] = kept

    def tokenizer(self, folder: Path, own: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """The tokenizer of a folder, and of a way to pad, kept from the first time on."""
        return self._tokenizers.setdefault((folder, own.pad_token_id), own)
