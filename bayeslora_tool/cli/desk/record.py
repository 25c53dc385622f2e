"""Check the record, and take the labels out of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayeslora_tool.cli.desk.opening import LEDGER, LedgerOption, opened
from bayeslora_tool.cli.terminal import err, out, write
from bayeslora_tool.quoting import json_line, visible

if TYPE_CHECKING:
    from bayeslora_tool.desk import FiledReview


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
        out.print(f"[red]{damage.where}[/]:", end=" ")
        out.print(visible(damage.what), markup=False, highlight=False)
    if damages:
        raise typer.Exit(1)
    out.print(f"{seq} events, all as they were written; head {last or '-'}", highlight=False)


def export(
    ledger: LedgerOption = LEDGER,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="File to write; default: stdout."),
    ] = None,
) -> None:
    """Write what people decided as JSON lines: labels of the hardest texts there are.

    A line has the text, the model's label and the reviewer's (null where they named none: a reject,
    a tool call), who decided, and when. Reviews that expired have no reviewer and are left out.

    Example: bayeslora desk export -o labels.jsonl
    """
    with opened(ledger) as found:
        lines = [_exported(review) for review in found.reviews("decided", "applied")]
        lines.sort(key=lambda line: line["when"])
        text = "".join(json_line(line) + "\n" for line in lines)
        if output is None:
            write(text)
            return
        output.write_text(text, encoding="utf-8")
    err.print(f"{len(lines)} written to {output}", highlight=False)


def _exported(review: FiledReview) -> dict[str, Any]:
    from bayeslora_tool.desk.answer import said

    word = said(review.request, review.answer)
    assert review.decided_at is not None
    return {
        "text": review.text,
        "model_label": review.label,
        "confidence": review.confidence,
        "decision": word.decision,
        "reviewer_label": word.label,
        "message": word.message,
        "who": review.decided_by,
        "when": review.decided_at.isoformat(),
        "tool": review.tool,
        "graph": review.graph,
        "thread": review.thread,
        "key": review.key,
        "policy": review.policy,
        "scored_by": review.scored_by,
        "review": review.id,
    }
