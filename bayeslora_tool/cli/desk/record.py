"""Check the record, and take the labels out of it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from bayeslora_tool.cli.desk.opening import LEDGER, LedgerOption, opened
from bayeslora_tool.cli.terminal import err, friendly, out, write
from bayeslora_tool.quoting import one_line, visible


def verify(
    ledger: LedgerOption = LEDGER,
    head: Annotated[
        str | None, typer.Option(help="Hash that an earlier `verify` has shown, noted elsewhere.")
    ] = None,
) -> None:
    """Check that nothing was changed behind the ledger's back. Exit code 1: something was.

    Every change is hashed with the one before. Who may write to the database could write all of
    them anew; so note the hash that this shows where they cannot, and give it as --head next time.
    """
    with opened(ledger) as found:
        damages = found.verify(head)
        seq, last = (0, "") if damages else found.head()
    for damage in damages:
        out.print(Text(f"{one_line(damage.where)}:", "red"), end=" ")
        out.print(visible(damage.what), markup=False, highlight=False)
    if damages:
        raise typer.Exit(1)
    out.print(
        f"{seq} events, all as they were written; head {last or '-'}",
        highlight=False,
        soft_wrap=True,
    )


def export(
    ledger: LedgerOption = LEDGER,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            dir_okay=False,
            help="File to write: .jsonl, .csv or .parquet; default: JSON lines to stdout.",
        ),
    ] = None,
    labelled: Annotated[
        bool,
        typer.Option(help="Only what has a text and a reviewer's label: to train with."),
    ] = False,
) -> None:
    """Write what people decided: labels of the hardest texts there are.

    A row has the text, the model's label and the reviewer's (null where they named none: a reject,
    a tool call), the probability with which the text came before a person, who decided, and when.
    Reviews that expired have no reviewer and are left out; of erased ones the text is gone.

    Examples: bayeslora desk export -o labels.jsonl --labelled;
    bayeslora train --train labels.jsonl --label-column reviewer_label ...
    """
    with opened(ledger) as found:
        from bayeslora_tool.desk.exporting import exported, json_lines, write_export

        rows = map(exported, found.decided())
        if labelled:
            rows = (row for row in rows if row["text"] and row["reviewer_label"])  # type: ignore[assignment]
        if output is None:
            lines = json_lines(rows)
            while some := "".join(islice(lines, 500)):
                write(some)
            return
        n = write_export(rows, output)
    err.print(f"{n} written to {output}", markup=False, highlight=False)


def erase(
    retain: Annotated[
        float, typer.Option(min=0, help="Days for which reviews are kept after they are settled.")
    ],
    ledger: LedgerOption = LEDGER,
) -> None:
    """Erase what people wrote from reviews that were settled long ago; the record still holds.

    Gone are the text, the request, the reason, the answer and its message. What stays: who decided
    what and when, the labels of model and reviewer, and the scores. `bayeslora desk apply --watch
    --retain DAYS` does it once a minute.

    Example: bayeslora desk erase --retain 30
    """
    with opened(ledger) as found:
        n = found.erase(retain * 86_400)
    out.print(f"{n} erased", highlight=False)


def new_key() -> None:
    """Print a new key, with which a ledger encrypts what people wrote: see BAYESLORA_DESK_KEY.

    Keep it where the ledger is not: what it has closed is lost without it. To take another, put
    the new one first and the old one behind a comma.

    Example: export BAYESLORA_DESK_KEY=$(bayeslora desk new-key)
    """
    with friendly():
        from bayeslora_tool.desk.seal import new_key

        write(new_key() + "\n")
