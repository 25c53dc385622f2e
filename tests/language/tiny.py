"""Tiny random language models of the usual architectures, with a LoRA adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bayeslora_tool.artifacts.backbone_model import quiet
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
