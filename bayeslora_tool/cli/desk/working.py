"""Carry out what was decided, and file what was missed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bayeslora_tool.cli.importing import imported
from bayeslora_tool.cli.terminal import friendly, out
from bayeslora_tool.quoting import one_line

if TYPE_CHECKING:
    from bayeslora_tool.desk import Desk

DeskArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:NAME",
        help="Your Desk, with the graphs that it watches; the module's code runs.",
    ),
]


def apply(
    desk: DeskArgument,
    keep_on: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until interrupted (Ctrl-C).")
    ] = False,
    takeover: Annotated[
        bool,
        typer.Option(help="Processes on other machines that were at these threads are gone."),
    ] = False,
    retain: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --watch: days after which what people wrote is erased from settled reviews.",
        ),
    ] = None,
) -> None:
    """Carry decisions out on their threads. Exit code 1: one of them failed.

    Example: bayeslora desk apply my_app:desk --watch
    """
    with friendly():
        found = _desk(desk)
        if keep_on:
            from threading import Event

            try:
                found.work(Event(), retain=None if retain is None else 86_400 * retain)
            except KeyboardInterrupt:
                return
        done = found.apply(takeover=takeover)
        for one in done:
            out.print(one.review, one.result, end=" ", highlight=False)
            out.print(one_line(one.problem or ""), markup=False, highlight=False)
        out.print(f"{sum(one.result == 'applied' for one in done)} applied", highlight=False)
    if any(one.result == "failed" for one in done):
        raise typer.Exit(1)


def sync(desk: DeskArgument) -> None:
    """File what waits in the checkpointers and was missed; withdraw what was settled elsewhere.

    Example: bayeslora desk sync my_app:desk
    """
    with friendly():
        done = _desk(desk).sync()
    out.print(f"{done.filed} filed, {done.withdrawn} withdrawn", highlight=False)


def _desk(spec: str) -> Desk:
    from bayeslora_tool.desk import Desk

    found = imported("MODULE:NAME", spec)
    if not isinstance(found, Desk):
        raise TypeError(f"{spec} must be a Desk that watches your graphs, got {found!r:.80}")
    return found
