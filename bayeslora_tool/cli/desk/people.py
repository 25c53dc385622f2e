"""Let people in, and out."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from bayeslora_tool.cli.desk.opening import LEDGER, LedgerOption, opened
from bayeslora_tool.cli.terminal import err, out, write
from bayeslora_tool.quoting import one_line

PersonArgument = Annotated[str, typer.Argument(metavar="NAME", help="As it is on record.")]


def add_reviewer(
    name: PersonArgument,
    groups: Annotated[
        str,
        typer.Option(help="Whose reviews they get beside everybody's, with commas: cards,loans."),
    ] = "",
    role: Annotated[
        str,
        typer.Option(
            help="reviewer: decides what is for their groups or for everybody; lead: decides all; "
            "auditor: reads all."
        ),
    ] = "reviewer",
    ledger: LedgerOption = LEDGER,
) -> None:
    """Let somebody sign in, and print their token, this once: the ledger keeps a hash of it.

    Example: bayeslora desk add-reviewer ann --groups cards,loans
    """
    given: Any = role
    with opened(ledger, create=True) as found:
        token = found.people.add(name, given, [one.strip() for one in groups.split(",") if one])
    err.print("their token, shown this once:", highlight=False)
    write(token + "\n")


def reviewers(ledger: LedgerOption = LEDGER) -> None:
    """List who may sign in."""
    with opened(ledger) as found:
        people = found.people.all()
    table = Table("name", "role", "groups", box=None)
    for person in people:
        groups = one_line(", ".join(sorted(person.groups)))
        table.add_row(Text(one_line(person.name)), person.role, Text(groups or "-"))
    out.print(table)
    if not people:
        err.print("nobody; `add-reviewer` lets somebody in", highlight=False)


def remove_reviewer(name: PersonArgument, ledger: LedgerOption = LEDGER) -> None:
    """Let somebody sign in no longer; where they are signed in, that is over."""
    with opened(ledger) as found:
        found.people.remove(name)
    out.print(Text(f"{one_line(name)} is out"))
