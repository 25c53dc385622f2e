"""Times in words, the same on the page and in a terminal."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A time span in words: the largest unit of it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
