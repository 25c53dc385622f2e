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


def check_label(label: object, where: str) -> str:
    """Return ``label`` if it can name a class wherever it is shown: terminal, page, question.

    Markup such as ``<`` or ``&`` may stand in it: what makes pages escapes it.

    Args:
        label: Anything.
        where: What to call it in the message, for example ``"labels[3]"``.

    Raises:
        TypeError: Not a string.
        ValueError: Empty, longer than 200 characters, with space around it, or with a character
            that is not shown as itself: a line break, a control or format character (such as
            those that turn the direction of writing).
    """
    if not isinstance(label, str):
        raise TypeError(f"{where} must be a str, got {type(label).__name__} ({label!r:.60})")
    if not (0 < len(label) <= 200 and label == label.strip() and label.isprintable()):
        raise ValueError(
            f"{where} ({label!r:.60}) must have 1 to 200 characters, none of them a line break, a "
            f"control or an invisible one, and no space around it; rename it and train again"
        )
    return label
