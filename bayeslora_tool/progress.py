"""How long work says how far it is. Knows no terminal; ``cli/terminal.py`` has a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

# ``with progress(what, total) as advance`` begins a stage; ``advance(n)``: n more are done.
Advance = Callable[[int], Any]
Progress = Callable[[str, int], AbstractContextManager[Advance]]


@contextmanager
def silent(what: str, total: int) -> Iterator[Advance]:
    """Progress that nobody sees."""
    yield lambda n: None
