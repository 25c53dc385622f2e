"""Tokens of a template and of what people say in it; only the template makes special ones."""

from __future__ import annotations

from typing import Any

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

_BLANKS = ("\u2581", "\u0120")  # as SentencePiece and byte-level tokenizers write it


class TemplateTokenizer:
    """A tokenizer that takes its special tokens for what they are, and adds none.

    Works on a copy of its own with settings that nobody changes.

    Args:
        tokenizer: Of the backbone, a fast one.

    Attributes:
        begin: What the tokenizer puts before each text, such as ``<s>``.

    Raises:
        ValueError: A tokenizer without offsets.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not tell which characters a token stands for, so "
                f"no text can be cut to fit a prompt; a fast tokenizer is needed (use_fast)"
            )
        backend: Any = tokenizer.backend_tokenizer
        self.backend = Tokenizer.from_str(backend.to_str())
        self.backend.no_padding()
        self.backend.no_truncation()
        self.backend.encode_special_tokens = False
        added = [
            (token.content.strip(), token.special)
            for token in tokenizer.added_tokens_decoder.values()
        ]
        self._added = [content for content, _ in added if len(content) > 1]
        self._special = [content for content, special in added if special and len(content) > 1]
        bare = self.encode("a").ids
        whole = self.backend.encode("a").ids
        n = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        self.begin: list[int] = whole[:n]
        # As of words that a text begins with; within it they would have one too many.
        self._blank_first = self.encode("a").tokens[0][:1] in _BLANKS

    def encode(self, text: str) -> Encoding:
        """Tokens and their offsets."""
        return self.backend.encode(text, add_special_tokens=False)

    def ids(self, text: str) -> list[int]:
        """Tokens of a whole prompt, behind ``begin``, unless it begins so itself."""
        ids: list[int] = self.encode(text).ids
        return ids if ids[: len(self.begin)] == self.begin else self.begin + ids

    def behind(self, text: str) -> list[int]:
        """Tokens of what stands behind other words, where no blank is put before it."""
        if self._blank_first:
            for before in ("\n", "a", ":"):
                own, whole = self.encode(before).ids, self.encode(before + text).ids
                if whole[: len(own)] == own:
                    return list(whole[len(own) :])
        ids: list[int] = self.encode(text).ids
        return ids

    def as_words(self, text: str, *, added: bool = False) -> str:
        """The text with a space in each special token that it spells out: it is none, but words.

        Args:
            text: Of a person.
            added: Whether the same goes for tokens that are not special but for the model's format,
                such as ``<tool_call>``.
        """
        tokens = self._added if added else self._special
        while found := next((token for token in tokens if token in text), None):
            text = text.replace(found, f"{found[0]} {found[1:]}")
        return text
