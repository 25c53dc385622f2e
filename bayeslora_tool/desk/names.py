"""Names on record: of people and of groups, and the desk's own."""

from __future__ import annotations

from typing import Final

THE_DESK: Final = "the desk"
"""Who did what nobody did."""

_LONGEST = 200


def check_name(argument: str, name: object) -> None:
    """Refuse what can be nobody's name on record.

    Raises:
        ValueError: It is no short printable text, or the desk's own.
    """
    fine = isinstance(name, str) and name.strip() == name != "" and name.isprintable()
    if not fine or len(name) > _LONGEST or name == THE_DESK:  # type: ignore[arg-type]
        raise ValueError(
            f"`{argument}` (={name!r:.60}) must be a name: printable, of {_LONGEST} characters at "
            f"most, no space around it, and not {THE_DESK!r}"
        )
