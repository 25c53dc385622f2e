"""How long work says how far it is. Knows no terminal; ``cli/terminal.py`` has a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

# ``with progress(what, total) as advance`` begins a stage, ``advance(n)`` says that n more are done.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], Any]]]


@contextmanager
def silent(what: str, total: int) -> Iterator[Callable[[int], Any]]:
    """Progress that nobody sees."""
    yield lambda n: None
