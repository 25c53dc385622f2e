"""What every command shares: its two consoles, its options, how it shows progress and errors."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from bayeslora_tool.quoting import visible

out = Console()
err = Console(stderr=True)

_SECONDS = 30  # between two signs of life where stderr is no terminal

PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        "-p",
        help="Bundled preset (sentiment, intents, cautious) or a YAML file.",
    ),
]


@contextmanager
def friendly() -> Iterator[None]:
    """Bad input is a line on stderr and exit code 2, not a traceback.

    A reader of stdout that has seen enough (``| head``) is no error: it ends as by SIGPIPE.
    """
    try:
        yield
    except BrokenPipeError:
        # What is buffered still would fail when Python closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
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
def progress(what: str, total: int | None) -> Iterator[Callable[[int], Any]]:
    """A stage of so many steps (None: nobody knows); yields what to call with the number done.

    A bar on stderr, or where that is no terminal a line at the start and now and then.
    """
    if err.is_terminal:
        from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

        counted = SpinnerColumn(), "{task.description}: {task.completed:.0f}", TimeElapsedColumn()
        columns = counted if total is None else Progress.get_default_columns()
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda n: bar.advance(task, n)
        return
    done, said = 0, time.monotonic()

    def advance(n: int) -> None:
        nonlocal done, said
        done += n
        if time.monotonic() - said > _SECONDS:
            said = time.monotonic()
            err.print(f"{what}: {done}{f' of {total}' if total else ''}", highlight=False)

    if total:
        err.print(f"{what}: {total}", highlight=False)
    yield advance


def into_a_file() -> bool:
    """Whether stdout is redirected into a file."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):  # no stdout, or not a real one
        return False


def printed(content: RenderableType) -> str:
    """What printing it on stdout would write."""
    with out.capture() as capture:
        out.print(content)
    return capture.get()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """An interrupt (Ctrl-C) waits for the end of this."""
    asked: list[tuple[int, FrameType | None]] = []
    before = signal.signal(signal.SIGINT, lambda *signalled: asked.append(signalled))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked and callable(before):  # else it was to be ignored
        before(*asked[0])


def write(content: str) -> None:
    """Write all of it to stdout, now.

    Raises:
        BrokenPipeError: Nobody reads on.
    """
    sys.stdout.flush()
    left = memoryview(content.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))
    while left:  # unbuffered (PYTHONUNBUFFERED), a signal ends a write halfway
        left = left[sys.stdout.buffer.write(left) :]
    sys.stdout.buffer.flush()
