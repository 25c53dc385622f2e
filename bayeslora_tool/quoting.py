r"""How a text is shown to people. Knows no markup but Markdown, which chat windows render.

Who reads a review, a table or an error must see what is there, and whose words it is. So nothing
of a quoted text is invisible, moves the cursor, turns the line around, or passes for another's
words. What cannot be printed is written as Python does: ``\x1b``, ``\u202e``.
"""

from __future__ import annotations

import json
import re
import reprlib
import unicodedata

MARK = "    | "
"""Begins each line of a block. Four spaces make it code to Markdown, which renders nothing in it;
the bar tells people the same."""

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 60
_BRIEF.maxlevel = 2
# Inside of `](`, which makes a link or an image, and of `<x`, an element of HTML.
_RENDERED = re.compile(r"(?<=\])(?=\()|(?<=<)(?=[A-Za-z/!?])")


def visible(text: str) -> str:
    r"""The text with all that cannot be printed as an escape, save line feeds and spaces."""
    if text.isprintable():
        return text
    return "".join(c if _shows(c) or c == "\n" else _escape(c) for c in text)


def one_line(text: str, most: int | None = None) -> str:
    r"""The text, visible, on one line: a line feed is shown as ``\n``.

    Args:
        text: Anybody's.
        most: Characters of it to show, >= 1; the last gives way to an ellipsis if there are more.
    """
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    return visible(text).replace("\n", "\\n")


def unrendered(text: str) -> str:
    """One line, at most 2,000 characters of it, in which Markdown finds no image, link or HTML.

    A space is put where one would begin; a backslash could be undone by another before it.
    """
    return _RENDERED.sub(" ", one_line(text, 2000))


def block(text: str, most: int = 10_000) -> list[str]:
    """The text, visible, as lines that each begin with :data:`MARK`, after an empty one.

    Args:
        text: Anybody's.
        most: Characters of it to show, >= 1; a last line without mark says how many more there are.
    """
    lines = visible(text[:most].replace("\r\n", "\n")).split("\n")
    quoted = ["", *(MARK + line for line in lines)]
    if len(text) > most:
        quoted += ["", f"({len(text) - most:,} more characters are not shown.)"]
    return quoted


def brief(value: object) -> str:
    """The beginning and end of what ``repr`` gives, at little cost however large the value is."""
    return _BRIEF.repr(value)


def json_line(value: object) -> str:
    """A value as JSON on one line, with all that cannot be printed escaped; it reads back equal.

    Raises:
        ValueError: A number that is not finite.
    """
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "".join(c if _shows(c) else json.dumps(c)[1:-1] for c in line)


def _shows(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
