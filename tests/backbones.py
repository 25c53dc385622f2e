"""Tiny random backbones of several architectures, saved without a head, with a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from bayeslora_tool.artifacts.loading import quiet

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
WORDS = ["a", "bad", "book", "day", "film", "fine", "good", "lovely", "meal", "play", "poor"]
POSITIONS = 32

_BERT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": POSITIONS,
}
# model_type -> the settings that make it small
SETTINGS: dict[str, dict[str, Any]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "mpnet": _BERT,
    "electra": _BERT | {"embedding_size": 16},
    "distilbert": {
        "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32,
        "max_position_embeddings": POSITIONS,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS},
    "deberta-v2": _BERT
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0},
    "modernbert": _BERT | {"cls_token_id": 0, "sep_token_id": 2},
}  # fmt: skip


def word_tokenizer(
    vocabulary: Sequence[str] = (*SPECIAL, *WORDS), *, special: bool = True, ends: bool = True
) -> PreTrainedTokenizerFast:
    """One token a word.

    Args:
        vocabulary: In the order of the ids.
        special: Whether it has padding, a beginning and an end.
        ends: Whether it puts beginning and end around a text.
    """
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if special and ends:
        words.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    named: dict[str, Any] = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", **named if special else {}
    )


def save_backbone(
    folder: Path, model_type: str, tokenizer: PreTrainedTokenizerFast | None = None, **options: Any
) -> Path:
    """A backbone as its publisher saves it."""
    torch.manual_seed(5)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(SPECIAL + WORDS),
        **{"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} | SETTINGS[model_type],
        **options,
    )
    with quiet():
        model = AutoModel.from_config(config)
        for parameter in model.parameters():  # freshly initialised, all texts look alike
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
    (tokenizer or word_tokenizer()).save_pretrained(folder)
    return folder
