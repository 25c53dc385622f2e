"""Carry out what was decided, and file what was missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from bayeslora_tool.cli.desk.opening import LEDGER, LedgerOption
from bayeslora_tool.cli.importing import imported
from bayeslora_tool.cli.terminal import friendly, out
from bayeslora_tool.quoting import one_line

DeskArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODULE:NAME",
        help="Your Desk, with the graphs that it watches; the module's code runs.",
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option("--server", help="Instead: the address of a LangGraph server, with --ledger."),
]


def apply(
    desk: DeskArgument = None,
    server: ServerOption = None,
    ledger: LedgerOption = LEDGER,
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

    Examples: bayeslora desk apply my_app:desk --watch;
    bayeslora desk apply --server http://127.0.0.1:2024 --watch
    """
    with friendly(), _found(desk, server, ledger) as found:
        if server is not None and takeover:
            raise ValueError("--takeover is for MODULE:NAME: a server knows its own processes")
        if takeover and keep_on:
            raise ValueError("--takeover is said once, by hand: first without --watch, then watch")
        if retain is not None and not keep_on:
            raise ValueError("--retain goes with --watch; `bayeslora desk erase` erases once")
        if keep_on:
            from threading import Event

            try:
                found.work(Event(), retain=None if retain is None else 86_400 * retain)
            except KeyboardInterrupt:
                return
        done = found.apply(takeover=takeover) if desk else found.apply()
        for one in done:
            out.print(one.review, one.result, end=" ", highlight=False)
            out.print(one_line(one.problem or ""), markup=False, highlight=False)
        out.print(f"{sum(one.result == 'applied' for one in done)} applied", highlight=False)
    if any(one.result == "failed" for one in done):
        raise typer.Exit(1)


def sync(
    desk: DeskArgument = None, server: ServerOption = None, ledger: LedgerOption = LEDGER
) -> None:
    """File what waits in the checkpointers and was missed; withdraw what was settled elsewhere.

    Examples: bayeslora desk sync my_app:desk; bayeslora desk sync --server http://127.0.0.1:2024
    """
    with friendly(), _found(desk, server, ledger) as found:
        done = found.sync()
    out.print(f"{done.filed} filed, {done.withdrawn} withdrawn", highlight=False)


@contextmanager
def _found(spec: str | None, url: str | None, ledger: str) -> Iterator[Any]:
    from bayeslora_tool.desk import Desk, Ledger, Server

    if (spec is None) == (url is None):
        raise ValueError("give either MODULE:NAME, your Desk, or --server with an address")
    if url is not None:
        from httpx import HTTPError

        try:
            with Ledger(ledger) as opened, Server(opened, url) as server:
                yield server
        except HTTPError as error:
            raise ValueError(f"the server {url} does not answer: {error}") from None
        return
    assert spec is not None
    found = imported("MODULE:NAME", spec)
    if not isinstance(found, Desk):
        raise TypeError(f"{spec} must be a Desk that watches your graphs, got {found!r:.80}")
    yield found
