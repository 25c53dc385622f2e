"""What a text must be before anything reads it. Knows no file, no tokenizer, no model."""

from __future__ import annotations


def check_text(text: object, where: str) -> str:
    """Return ``text`` if a classifier can read it.

    Args:
        text: Anything.
        where: What to call it in the message, for example ``"texts[3]"``.

    Raises:
        TypeError: Not a string.
        ValueError: Empty or only whitespace, or holds a NUL or a lone surrogate (neither survives
            the way to the model or a database, so what is scored would not be what was sent).
    """
    if not isinstance(text, str):
        raise TypeError(f"{where} must be a str, got {type(text).__name__} ({text!r:.60})")
    if not text.strip():
        raise ValueError(f"{where} is empty or only whitespace ({text!r:.60}); give it words")
    if "\0" in text:
        raise ValueError(f"{where} holds a NUL character at {text.index(chr(0))}; remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds a lone surrogate at {error.start}, which is no text; decode the "
            f"source with errors='replace'"
        ) from None
    return text


def normal_text(text: str) -> str:
    """What two texts must share to count as the same one: all but case and outer space."""
    return text.strip().casefold()
