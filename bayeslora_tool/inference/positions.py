"""How many tokens a model can read at once."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase


def longest_text(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens of a text, by the tokenizer's word and by the positions there are.

    RoBERTa, MPNet and their kin count positions from behind that of padding: of 514 they use 512.
    """
    limit = tokenizer.model_max_length
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None or positions < 1:  # XLNet says -1: it has no limit
        return int(limit)
    reserved = [
        int(module.padding_idx) + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return int(min(limit, positions - max(reserved, default=0)))
