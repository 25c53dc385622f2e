"""A LoRA model of a few numbers, small enough to enumerate every dropout mask."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn


class TinyNet(nn.Module):
    """Mean over tokens of one (or two) linear layers, then a softmax head. (B, L, 4) -> (B, 3)."""

    def __init__(self, *, layers: int = 1, conv1d: bool = False, linear: bool = False) -> None:
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        make = (lambda: Conv1D(5, 4)) if conv1d else (lambda: nn.Linear(4, 5))
        self.inner = make()
        self.second = nn.Linear(5, 5) if layers == 2 else nn.Identity()
        self.head = nn.Linear(5, 3)
        self.activation = nn.Identity() if linear else nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.activation(self.inner(x)))
        logits: Tensor = self.head(hidden.mean(dim=1))
        return logits


def tiny_lora(
    *,
    rank: int = 3,
    layers: int = 1,
    conv1d: bool = False,
    linear: bool = False,
    dropout: float = 0.0,
    **config: Any,
) -> nn.Module:
    torch.manual_seed(0)
    targets = ["inner", "second"] if layers == 2 else ["inner"]
    model = get_peft_model(
        TinyNet(layers=layers, conv1d=conv1d, linear=linear),
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=targets,
            lora_dropout=dropout,
            fan_in_fan_out=conv1d,
            **config,
        ),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:  # LoRA starts at B = 0, where no mask changes anything
            nn.init.normal_(parameter, std=0.5)
    model.requires_grad_(False)
    return model.eval()
