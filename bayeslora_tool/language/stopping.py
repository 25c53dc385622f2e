"""Where a text ends: at a token of the model's, or before a string of the caller's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from bayeslora_tool.language.tokens import TokenDoubt


def until_stop(tokens: Iterable[TokenDoubt], stop: Collection[str]) -> Iterator[TokenDoubt]:
    """The tokens before the first stop string, each as soon as it cannot be part of one.

    Args:
        tokens: Of a text.
        stop: Strings, none empty. A token of which one begins within is cut before it.
    """
    held: list[TokenDoubt] = []
    for token in tokens:
        held.append(token)
        text = "".join(one.text for one in held)
        if found := [at for word in stop if (at := text.find(word)) >= 0]:
            yield from _before(held, min(found))
            return
        # The longest end of the text that may be the beginning of a stop string.
        longest = max((len(word) for word in stop), default=1) - 1
        ends = (text[len(text) - n :] for n in range(min(longest, len(text)), 0, -1))
        begun = next((end for end in ends if any(word.startswith(end) for word in stop)), "")
        free = len(text) - len(begun)
        while held and len(held[0].text) <= free:
            free -= len(held[0].text)
            yield held.pop(0)
    yield from held


def _before(tokens: Iterable[TokenDoubt], n: int) -> Iterator[TokenDoubt]:
    """Of a text its first n characters."""
    for token in tokens:
        if n <= 0:
            return
        yield replace(token, text=token.text[:n])
        n -= len(token.text)


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end the model's turn: of the tokenizer and of the model's own settings."""
    settings = getattr(model, "generation_config", None)
    ids: list[int] = []
    for found in (getattr(settings, "eos_token_id", None), tokenizer.eos_token_id):
        ids += found if isinstance(found, list) else [] if found is None else [found]
    return frozenset(ids)
