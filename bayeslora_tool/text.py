"""What a text must be before anything reads it. Knows no file, no tokenizer, no model."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from bayeslora_tool.quoting import brief

# Unicode 17's Default_Ignorable_Code_Point (fillers, joiners, bidi controls, variation selectors,
# tags), white space and control characters: where there is nothing else, there is nothing to see.
_IGNORABLE = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
)
# Tags and the further variation selectors spell words that no person sees, but machines may read.
_HIDING = "\U000e0000-\U000e0fff"
_IGNORED = re.compile(f"[\\s\x00-\x1f\x7f-\x9f{_IGNORABLE}]")
_VISIBLE = re.compile(f"[^\\s\x00-\x1f\x7f-\x9f{_IGNORABLE}{_HIDING}]")
# Accents, but for what strikes a letter out.
_ACCENT = re.compile("[\u0300-\u0333\u0339-\u036f]")
_SPACES = re.compile(r"(\s)\s+")
_WORD = re.compile(r"\S")
# Characters looked at in one go: a long text takes little memory, and lets other threads run.
_SLICE = 2**20


def check_text(text: object, where: str) -> str:
    """Return ``text`` if a classifier can read it.

    Args:
        text: Anything.
        where: What to call it in the message, for example ``"texts[3]"``.

    Raises:
        TypeError: Not a string.
        ValueError: Nothing to see in it (empty, or only whitespace, control and invisible
            characters), or a NUL or a lone surrogate (neither survives the way to the model or a
            database, so what is scored would not be what was sent).
    """
    if not isinstance(text, str):
        raise TypeError(f"{where} must be a str, got {type(text).__name__} ({brief(text)})")
    if not text or text.isspace():
        raise ValueError(f"{where} is empty or only whitespace ({brief(text)}); give it words")
    slices = range(0, len(text), _SLICE)
    if "\0" in text:
        raise ValueError(f"{where} holds a NUL character at {text.index(chr(0))}; remove it")
    if not any(_VISIBLE.search(text, start, start + _SLICE) for start in slices):
        raise ValueError(
            f"{where} holds only control or invisible characters ({brief(text)}); give it words"
        )
    if not text.isascii():
        for start in slices:
            try:
                text[start : start + _SLICE].encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{where} holds a lone surrogate at {start + error.start}, which is no text; "
                    f"decode the source with errors='replace'"
                ) from None
    return text


def beginning(text: str, most: int) -> tuple[str, bool]:
    """The first ``most`` characters, and whether words follow them.

    A text within that length is given as it is. In a longer one a run of white space counts as its
    first character, and is shortened to it.
    """
    if len(text) <= most:
        return text, False
    kept: list[str] = []
    size, start = 0, 0
    while size <= most and start < len(text):
        part = _SPACES.sub(r"\1", text[start : start + most])
        start += most
        if kept and kept[-1][-1].isspace():
            part = part.lstrip()
        if part:
            kept.append(part)
            size += len(part)
    whole = "".join(kept)
    more = _WORD.search(whole, most) or _WORD.search(text, start)
    return whole[:most], more is not None


@lru_cache(maxsize=4096)
def must_be_read(character: str) -> bool:
    """Whether a text means less without it.

    So for letters, digits, signs, emoji and whatever Unicode does not know, and for characters that
    hide words from people. Not so for white space, control and other invisible characters,
    punctuation, and accents.
    """
    return not (
        _IGNORED.match(character)
        or _ACCENT.match(character)
        or unicodedata.category(character).startswith("P")
    )


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
