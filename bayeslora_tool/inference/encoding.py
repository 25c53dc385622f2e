"""Texts to token ids, and token ids to batches of bounded size. Knows no model and no noise."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from bayeslora_tool.inference.wording import Wording
from bayeslora_tool.quoting import brief
from bayeslora_tool.text import beginning, check_text, must_be_read
from bayeslora_tool.workers import begin_anew_after_fork

MAX_TEXTS = 128  # of a batch: bounds T x B x C, however short the texts are
# Of a text that a tokenizer gets to see. The longest entry of an English WordPiece vocabulary has
# 18; a text with more than this for each of all its tokens was not written in words.
CHARACTERS_PER_TOKEN = 32
MAX_CHARACTERS = 2**20  # however many tokens the model reads
_AT_ONCE = 32  # texts that are tokenized together: bounds the memory that long ones take


class Encoded(NamedTuple):
    """The tokens of one text."""

    position: int  # in the caller's list
    ids: list[int]
    truncated: bool  # whether the text goes on behind them
    unread: float  # see Prediction, also for the next one
    foreign: float | None = None


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
            f"`texts` must be a list of strings, got {type(texts).__name__} ({brief(texts)}); "
            f"for one text write [text], of a table take the column"
        )
    # Plain strings: NumPy's own are a subclass.
    return [str.__str__(check_text(text, f"texts[{i}]")) for i, text in enumerate(texts)]


class Encoder:
    """A tokenizer that checks its input, reads no more than it needs, and tells what it skipped.

    May be used by several threads, which do not wait for each other.

    Args:
        tokenizer: Of the backbone.
        max_tokens: Longer texts are cut here, and say so.

    Raises:
        ValueError: The tokenizer has no token to pad with.

    Attributes:
        wording: Says how foreign a text looks, if that was fitted.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.wording: Wording | None = None
        self.max_tokens = max_tokens
        self.max_characters = min(CHARACTERS_PER_TOKEN * max_tokens, MAX_CHARACTERS)
        self.pad_id = _pad_id(tokenizer)
        self._read: Callable[[list[str]], list[tuple[list[int], bool, float]]]
        if tokenizer.is_fast:
            self._read = _fast_reader(tokenizer, max_tokens)
        else:
            self._read = _SlowReader(tokenizer, max_tokens)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize texts, in order.

        Of a text with more than ``max_characters`` only the beginning is looked at; in such a one
        runs of white space are shortened first, so it may yet be read whole.

        Raises:
            TypeError: ``texts`` is one string, or holds something else than strings.
            ValueError: A text that cannot be read.
        """
        checked = check_texts(texts)
        encoded: list[Encoded] = []
        for start in range(0, len(checked), _AT_ONCE):
            heads = [beginning(t, self.max_characters) for t in checked[start : start + _AT_ONCE]]
            read = self._read([head for head, _ in heads])
            for (head, more), (ids, cut, unread) in zip(heads, read, strict=True):
                foreign = self.wording.percentile(head) if self.wording else None
                # A text without any token has a pass, too, so it fails no other; all is unread.
                encoded.append(
                    Encoded(len(encoded), ids or [self.pad_id], more or cut, unread, foreign)
                )
        return encoded

    def tensors(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Padded ids and attention mask, both (B, L)."""
        rows = [torch.tensor(text.ids) for text in batch]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return ids, mask


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Of padding, or of another token that ends no text.

    A decoder takes for a text's last token the last that is none of padding.
    """
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    last = tokenizer("a")["input_ids"][-1:]
    for name in ("eos_token_id", "bos_token_id", "sep_token_id", "cls_token_id", "mask_token_id"):
        found = getattr(tokenizer, name, None)
        if found is not None and found not in last:
            return int(found)
    raise ValueError(
        "`tokenizer` has no pad token, nor another special one that ends no text, so texts of "
        "different lengths cannot share a batch; give it the one that the model was trained with "
        "(tokenizer.pad_token = ...), and save it beside the adapter"
    )


def _fast_reader(tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> _FastReader:
    """One reader for all equal tokenizers: its vocabulary takes megabytes."""
    backend: Any = tokenizer.backend_tokenizer
    content, unknown = backend.to_str(), tokenizer.unk_token_id
    key = (hashlib.sha256(content.encode()).digest(), unknown, max_tokens)
    if (reader := _READERS.get(key)) is None:
        reader = _READERS[key] = _FastReader(content, unknown, max_tokens)
    return reader


_READERS: WeakValueDictionary[tuple[bytes, int | None, int], _FastReader] = WeakValueDictionary()


class _FastReader:
    """Ids, whether they were cut, and the unread share, by a tokenizer that gives offsets.

    Works on a copy of its own with settings that nobody changes: transformers sets truncation anew
    at every call, and raises when two threads meet there.

    Args:
        content: Of the tokenizer, as JSON.
        unknown: The id of its token for what it does not know, if it has one.
        max_tokens: Longer texts are cut here.
    """

    def __init__(self, content: str, unknown: int | None, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_str(content)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if max_tokens <= MAX_CHARACTERS:
            self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.encode_special_tokens = True  # a text's own "[SEP]" is words, not a token
        self._unknown = unknown
        self._skipped = lru_cache(maxsize=4096)(self._is_skipped)

    def __call__(self, texts: list[str]) -> list[tuple[list[int], bool, float]]:
        encodings = self._tokenizer.encode_batch(texts)
        return [
            (encoding.ids, bool(encoding.overflowing), self._unread(text, encoding))
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _unread(self, text: str, encoding: Encoding) -> float:
        known = bytearray(len(text))
        end = 0
        for token, special, (first, last) in zip(
            encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True
        ):
            end = max(end, last)
            if not special and token != self._unknown:
                known[first:last] = b"\1" * (last - first)
        if not any(known):
            return 1.0
        # What follows a cut is not unread but truncated.
        seen = text[:end] if encoding.overflowing else text
        counted = [i for i, c in enumerate(seen) if must_be_read(c)]
        missed = sum(not known[i] or self._skipped(seen[i]) for i in counted)
        return missed / len(counted) if missed else 0.0

    def _is_skipped(self, character: str) -> bool:
        """Whether the normalizer drops what matters of it, as an offset does not tell.

        A token's offsets span what was dropped between its letters.
        """
        normalizer = self._tokenizer.normalizer
        return normalizer is not None and any(
            must_be_read(part)
            and normalizer.normalize_str("a" + part) == normalizer.normalize_str("a")
            for part in unicodedata.normalize("NFD", character)
        )


class _SlowReader:
    """The same by a tokenizer without offsets: its unread share is that of unknown tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self._tokenizer, self._max_tokens = tokenizer, max_tokens
        self._special = tokenizer.num_special_tokens_to_add()
        self.after_fork()
        begin_anew_after_fork(self)

    def after_fork(self) -> None:
        """Another thread of the parent may have held the lock."""
        self._lock = Lock()  # nothing says that it may be used by two threads at once

    def __call__(self, texts: list[str]) -> list[tuple[list[int], bool, float]]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> tuple[list[int], bool, float]:
        with self._lock:
            full = self._tokenizer(text, verbose=False)["input_ids"]
            kept = full
            if len(full) > self._max_tokens:
                cut = self._tokenizer(text, truncation=True, max_length=self._max_tokens)
                kept = cut["input_ids"]
        words = len(kept) - self._special
        unknown = kept.count(self._tokenizer.unk_token_id)
        return kept, len(kept) < len(full), min(unknown / words, 1.0) if words > 0 else 1.0


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
