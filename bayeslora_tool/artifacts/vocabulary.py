"""The words an adapter was trained with: whose tokenizer counts, and embeddings that fit it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bayeslora_tool.artifacts.backbone import tokenizer_files


def tokenizer_folder(adapter: Path, backbone: Path) -> Path:
    """That of the adapter where a tokenizer lies beside it, which it was trained with."""
    own = any(
        file.name == "tokenizer.json" or file.stem == "vocab" or file.suffix == ".model"
        for file in tokenizer_files(adapter)
    )
    return adapter if own else backbone


def fit_embeddings(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Give the model as many embeddings as an adapter holds, if it holds them.

    Args:
        model: The backbone, changed in place.
        shapes: Of the adapter's tensors.

    Returns:
        The adapter's keys for them, if it has some.
    """
    held = []
    # A language model has a second set, to write them with.
    for find in (_embeddings, type(model).get_output_embeddings):
        embeddings = find(model)
        if embeddings is None:
            continue
        name = next(name for name, module in model.named_modules() if module is embeddings)
        key = f"base_model.model.{name}.weight"
        if key not in shapes:
            continue
        if shapes[key][0] != embeddings.weight.shape[0]:
            model.resize_token_embeddings(shapes[key][0], mean_resizing=False)
        held.append(key)
    return held


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, source: str
) -> None:
    """Compare a tokenizer with the embeddings there are.

    Args:
        tokenizer: Of the adapter.
        model: With the adapter's embeddings, if it has some.
        source: Of the tokenizer, for the message.

    Raises:
        ValueError: The tokenizer knows more tokens than the model has embeddings for.
    """
    embeddings = _embeddings(model)
    rows = len(tokenizer) if embeddings is None else embeddings.weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer {source} knows {len(tokenizer)} tokens, the model has embeddings "
            f"for {rows}: those of added tokens were not saved; save the adapter again with "
            f"save_pretrained(..., save_embedding_layers=True)"
        )


def share_embeddings(known: PreTrainedModel, model: PreTrainedModel) -> None:
    """Give a backbone the embeddings of a model whose vocabulary grew, if it did.

    Args:
        known: That has them.
        model: On the CPU, changed in place.
    """
    theirs, ours = _embeddings(known), _embeddings(model)
    if ours is not None and theirs.weight.shape != ours.weight.shape:
        model.set_input_embeddings(copy.deepcopy(theirs).cpu())


def _embeddings(model: PreTrainedModel) -> Any:
    """Those of tokens; None for a model that has none, such as CANINE, which hashes characters."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None
