"""Ends a text where a stop string begins, without ever showing a part of one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

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
