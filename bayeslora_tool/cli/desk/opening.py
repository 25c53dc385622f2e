"""Which ledger a command is about, and what its arguments are called."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bayeslora_tool.cli.terminal import friendly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bayeslora_tool.desk import Ledger

LedgerOption = Annotated[
    str,
    typer.Option(
        "--ledger",
        "-l",
        envvar="BAYESLORA_LEDGER",
        help="A file (SQLite), or postgresql+psycopg://user@host/name.",
    ),
]
NameArgument = Annotated[
    str, typer.Argument(metavar="REVIEW", help="Id of a review, or how it begins.")
]
ByOption = Annotated[
    str, typer.Option("--by", envvar="BAYESLORA_REVIEWER", help="Who you are; it is recorded.")
]
LEDGER: Final = "desk.sqlite"


@contextmanager
def opened(place: str, *, create: bool = False) -> Iterator[Ledger]:
    """A ledger for as long as a command takes; it must be there, unless it may be made."""
    with friendly():
        from bayeslora_tool.desk import Ledger

        with Ledger(place, create=create) as ledger:
            yield ledger


def from_json(name: str, text: str) -> Any:
    """The value of an argument in JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} (={text!r:.60}) is no JSON: {error}") from None
