"""What every command shares: its two consoles, its options, how it shows progress and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from bayeslora_tool.quoting import visible

out = Console()
err = Console(stderr=True)

PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        "-p",
        help="Bundled preset (sentiment, intents, cautious) or a YAML file.",
    ),
]
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", "-a", help="Instead of the preset's: bundled name, folder, hub id."),
]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", help="Backbone folder or hub name, instead of the adapter's."),
]


@contextmanager
def friendly() -> Iterator[None]:
    """Bad input is a line on stderr and exit code 2, not a traceback."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        err.print("[bold red]error:[/]", end=" ")
        err.print(visible(str(error)), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Call it with what begins now: a spinner on a terminal, else a line a stage."""
    if not err.is_terminal:
        yield err.print
        return
    with err.status("starting") as status:
        yield status.update


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """A bar on stderr for work of some length; yields what to call with the number done."""
    from rich.progress import Progress

    with Progress(console=err, transient=True, disable=total <= 64) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


@contextmanager
def bars() -> Iterator[Callable[[str, int], AbstractContextManager[Callable[[int], Any]]]]:
    """A bar on stderr for each stage."""
    from rich.progress import Progress

    with Progress(console=err, transient=True, disable=not err.is_terminal) as shown:

        @contextmanager
        def bar(what: str, total: int) -> Iterator[Callable[[int], Any]]:
            task = shown.add_task(what, total=total)
            yield lambda n: shown.advance(task, n)

        yield bar
