"""What users read: templates that a caller may translate. What reviewers read stays English."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import TypedDict, cast


class Messages(TypedDict, total=False):
    """Templates; each has the placeholders that its English one has."""

    question: str
    """Asks which of two labels is meant, and names the way out: ``{first}``, ``{second}``."""

    not_understood: str
    """Before a question that is put again: ``{problem}``, which stays English."""

    withheld: str
    """In place of an answer that a reviewer rejected."""

    withheld_because: str
    """The same, with what the reviewer wrote: ``{reason}``."""


MESSAGES: dict[str, Messages] = {
    "en": {
        "question": (
            'I am not sure what you mean. Is it about "{first}" or "{second}"? Tell me more, or '
            'say "neither".'
        ),
        "not_understood": "The last answer was not understood: {problem}",
        "withheld": "A reviewer withheld this answer.",
        "withheld_because": "A reviewer withheld this answer. Their reason: {reason}",
    },
    "de": {
        "question": (
            "Ich bin nicht sicher, was Sie meinen. Geht es um „{first}“ oder „{second}“? "
            "Sagen Sie mir mehr, oder antworten Sie „keins von beiden“."
        ),
        "not_understood": "Die letzte Antwort wurde nicht verstanden: {problem}",
        "withheld": "Diese Antwort wurde bei der Prüfung zurückgehalten.",
        "withheld_because": (
            "Diese Antwort wurde bei der Prüfung zurückgehalten. Begründung: {reason}"
        ),
    },
}
"""Ready ones, by language; for ``messages=`` of gates and graphs."""


def read_messages(given: Mapping[str, str] | None) -> Messages:
    """A whole set of templates; those that were not given are English.

    Args:
        given: Some of them, by the names in :class:`Messages`.

    Raises:
        TypeError: Not a mapping to str.
        ValueError: An unknown name, or other placeholders than those of the English template.
    """
    if given is None:
        return MESSAGES["en"]
    if not isinstance(given, Mapping):
        raise TypeError(f"`messages` must be a mapping of templates, got {given!r:.80}")
    english = cast(Mapping[str, str], MESSAGES["en"])
    for name, template in given.items():
        if name not in english:
            raise ValueError(f"`messages` has no {name!r:.80}; it has {', '.join(english)}")
        if not isinstance(template, str) or not template.strip():
            raise TypeError(f"`messages[{name!r}]` must be a text, got {template!r:.80}")
        wanted = _placeholders(english[name])
        try:
            found = _placeholders(template)
        except ValueError as error:
            raise ValueError(f"`messages[{name!r}]` is no template: {error}") from None
        if found != wanted:
            named = " and ".join(f"{{{one}}}" for one in sorted(wanted)) or "no placeholder"
            raise ValueError(
                f"`messages[{name!r}]` must have {named}, got {template!r:.80}; write braces that "
                f"are none as {{{{ and }}}}"
            )
    return cast(Messages, {**english, **given})


def _placeholders(template: str) -> set[str]:
    # A conversion or format of its own ("{first!r}", "{first:>9}") makes it another placeholder.
    return {
        f"{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}"
        for _, name, form, conversion in Formatter().parse(template)
        if name is not None
    }
