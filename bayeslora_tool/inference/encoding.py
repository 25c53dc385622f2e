"""Texts to token ids, and token ids to batches of bounded size. Knows no model and no noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, Sized
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from bayeslora_tool.text import check_text

MAX_TEXTS = 128  # of a batch: bounds T x B x C, however short the texts are
LONGEST_WORD = 100  # characters; WordPiece reads a longer one as one unknown token


class Encoded(NamedTuple):
    """The tokens of one text."""

    position: int  # in the caller's list
    ids: list[int]
    n_tokens: int  # of the whole text
    truncated: bool  # whether the model reads less than the whole text


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list, if a classifier can read each of them.

    Args:
        texts: A list or tuple of strings, or a column of pandas, datasets or NumPy.

    Raises:
        TypeError: One string, or something else than strings.
        ValueError: A text that cannot be read; see :func:`check_text`.
    """
    # A column of pandas, datasets or NumPy is no Sequence, but has a length and an order. A table
    # (ndim 2) would give the names of its columns.
    ordered = isinstance(texts, Sized) and isinstance(texts, Iterable)
    if (
        not ordered
        or isinstance(texts, str | bytes | bytearray | Mapping | Set)
        or getattr(texts, "ndim", 1) != 1
    ):
        raise TypeError(
            f"`texts` must be a list of strings, got {type(texts).__name__} ({texts!r:.60}); "
            f"for one text write [text], of a table take the column"
        )
    # Plain strings: NumPy's own are a subclass.
    return [str.__str__(check_text(text, f"texts[{i}]")) for i, text in enumerate(texts)]


class Encoder:
    """A tokenizer that checks its input and may be used by several threads.

    Args:
        tokenizer: Of the backbone.
        max_tokens: Longer texts are cut here, and say so.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
        self.pad_id = int(pad if pad is not None else end if end is not None else 0)
        # A fast tokenizer keeps truncation settings in shared state and raises when two threads
        # meet there.
        self._lock = Lock()

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize texts, in order.

        Raises:
            TypeError: ``texts`` is one string, or holds something else than strings.
            ValueError: A text that cannot be read.
        """
        checked = check_texts(texts)
        if not checked:
            return []
        encoded = []
        with self._lock:
            ids = self.tokenizer(checked, verbose=False)["input_ids"]
            special = self.tokenizer.num_special_tokens_to_add()
            for i, (text, full) in enumerate(zip(checked, ids, strict=True)):
                if len(full) <= special:
                    raise ValueError(
                        f"texts[{i}] ({text!r:.60}) holds nothing the model can read (only control "
                        f"or invisible characters); give it words"
                    )
                kept = full
                if len(full) > self.max_tokens:
                    cut = self.tokenizer(text, truncation=True, max_length=self.max_tokens)
                    kept = cut["input_ids"]
                unread = self.tokenizer.unk_token_id in full and any(
                    len(word) > LONGEST_WORD for word in text.split()
                )
                encoded.append(Encoded(i, kept, len(full), unread or len(kept) < len(full)))
        return encoded

    def tensors(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Padded ids and attention mask, both (B, L)."""
        rows = [torch.tensor(text.ids) for text in batch]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return ids, mask


def batches(encoded: Sequence[Encoded], max_tokens: int) -> Iterator[list[Encoded]]:
    """Texts of similar length together, at most ``max_tokens`` padded tokens a batch (or one text).

    Shortest first, so the last text of a batch is its longest.
    """
    batch: list[Encoded] = []
    for text in sorted(encoded, key=lambda e: len(e.ids)):
        if batch and ((len(batch) + 1) * len(text.ids) > max_tokens or len(batch) == MAX_TEXTS):
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
