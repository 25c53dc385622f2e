"""Tiny random language models of the usual architectures, with a LoRA adapter."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bayeslora_tool.artifacts.backbone_model import quiet
from bayeslora_tool.inference.posterior import AdapterPosterior
from tests.backbones import FAMILIES, settings_of, word_tokenizer

RATE = 0.2
POSITIONS = 64  # of letters, texts have more than of words
WINDOWS: Mapping[str, dict[str, Any]] = {
    "gemma3": {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "mistral": {"sliding_window": 4},
}
KINDS = [
    "llama",
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in ("gpt2", "qwen3", "gemma3", "phi3", "mistral", "opt")
    ),
]


def adapted(kind: str) -> tuple[Any, PreTrainedTokenizerFast]:
    """A language model with LoRA of random weights on all its linear layers but the last."""
    torch.manual_seed(0)
    tokenizer = word_tokenizer(habits=FAMILIES[kind].habits)
    config = settings_of(kind, len(tokenizer))
    config.max_position_embeddings = POSITIONS
    for name, value in WINDOWS.get(kind, {}).items():
        setattr(config, name, value)
    with quiet():
        peft = get_peft_model(
            AutoModelForCausalLM.from_config(config),
            LoraConfig(
                task_type="CAUSAL_LM", r=3, lora_alpha=6, lora_dropout=RATE,
                target_modules="all-linear",
            ),
        )  # fmt: skip
    torch.manual_seed(1)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.15)
        elif parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return peft.eval(), tokenizer


def tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """As in training: a beginning if the family has one, and no end."""
    ids: list[int] = tokenizer(text)["input_ids"]
    end = tokenizer.eos_token_id
    return ids[:-1] if ids[-1] == end else ids


class BruteForce:
    """PEFT's own layers, hooked one by one, nothing fused and nothing kept from pass to pass."""

    def __init__(self, kind: str, placement: Any, scope: Any) -> None:
        self.peft, self.tokenizer = adapted(kind)
        self.peft.requires_grad_(False)
        self.posterior = AdapterPosterior(self.peft, placement=placement, scope=scope, dropout=RATE)
        self.placement = placement
        self.length = 1 if scope == "sequence" else POSITIONS

    def logits(self, ids: list[int], masks: Mapping[str, Tensor]) -> Tensor:
        """(L, V) of what follows each token; masks (L, n) by position, or (1, n)."""
        with ExitStack() as stack:
            for name, mask in masks.items():
                layer = self.peft.get_submodule(f"{name}.lora_A.default")

                def masked(x: Tensor, mask: Tensor = mask) -> Tensor:
                    return x * mask[: x.shape[-2]]

                if self.placement == "rank":
                    hook = layer.register_forward_hook(lambda m, i, h, f=masked: f(h))
                else:
                    hook = layer.register_forward_pre_hook(lambda m, i, f=masked: f(i[0]))
                stack.callback(hook.remove)
            logits: Tensor = self.peft(input_ids=torch.tensor([ids])).logits[0].double()
        return logits

    def ones(self) -> dict[str, Tensor]:
        return {
            name: torch.ones(self.length, width, requires_grad=True)
            for name, width in self.posterior.widths.items()
        }

    def drawn(self, seed: int, t: int) -> dict[str, Tensor]:
        return {
            name: self.posterior._stack(
                name, seed, range(t, t + 1), self.length, torch.device("cpu")
            )[0]
            for name in self.posterior.widths
        }

    def variance(self, value: Tensor, masks: Mapping[str, Tensor]) -> float:
        slopes = torch.autograd.grad(value, [*masks.values()], allow_unused=True, retain_graph=True)
        squares = sum(float(s.double().square().sum()) for s in slopes if s is not None)
        return RATE / (1 - RATE) * squares
