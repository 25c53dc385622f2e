"""What a language model may be asked: tokens that it has, texts that can be read, options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index


def checked_tokens(name: str, given: Sequence[int], vocabulary: int) -> list[int]:
    """Tokens that somebody gave, if they are some of the model's.

    Args:
        name: Of the argument.
        given: Tokens.
        vocabulary: How many the model has.

    Raises:
        TypeError: Something else than numbers.
        ValueError: A number that is no token.
    """
    try:
        ids = [index(token) for token in given]
    except TypeError:
        raise TypeError(
            f"`{name}` (={given!r:.80}) must be tokens, such as `prompt()` or `tokens()` make"
        ) from None
    if wrong := [token for token in ids if not 0 <= token < vocabulary]:
        raise ValueError(
            f"`{name}` holds token {wrong[0]}, and the model has 0 to {vocabulary - 1}; make them "
            f"by `prompt()` or `tokens()`"
        )
    return ids


def readable(text: str, what: str) -> str:
    """A piece of a text, which may be blank, if it can be read; what is scored: ``check_text``.

    Args:
        text: Anything.
        what: To call it in the message.

    Raises:
        TypeError: Not a string.
        ValueError: A lone surrogate.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, got {text!r:.80}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} holds a lone surrogate at {error.start}, which is no text; decode the source "
            f"with errors='replace'"
        ) from None
    return text


def check_options(options: Mapping[str, Sequence[int]], other: str) -> None:
    """See that options can be told apart, and from anything else.

    Args:
        options: By name, the tokens of each.
        other: The name of anything else.

    Raises:
        ValueError: They cannot.
    """
    if not options or other in options:
        raise ValueError(f"`options` (={[*options]!r:.80}) must be one or more, none named {other}")
    for name, ids in options.items():
        if not ids:
            raise ValueError(f"`options[{name!r:.80}]` has no token")
        for one, theirs in options.items():
            if one != name and [*theirs[: len(ids)]] == [*ids]:
                raise ValueError(
                    f"`options[{one!r:.80}]` begins with all of {name!r:.80}; let each end with "
                    f"what ends it in the text, such as a quotation mark"
                )
