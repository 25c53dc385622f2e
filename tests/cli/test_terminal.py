from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from bayeslora_tool.cli import terminal


def told(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, total: int | None) -> str:
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=80)
    monkeypatch.setattr(terminal, "err", console)
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with terminal.progress("scoring", total) as advance:
        for _ in range(8):
            advance(25)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ten seconds 25 are done, and half a minute goes by between two lines."""
    lines = told(monkeypatch, is_terminal=False, total=200).splitlines()
    assert lines[0] == "scoring: 200"
    assert 1 <= len(lines) - 1 <= 2
    assert all(line.endswith("of 200") for line in lines[1:])
    assert "of" not in told(monkeypatch, is_terminal=False, total=None)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "━" in told(monkeypatch, is_terminal=True, total=200)
    assert "scoring: 200" in told(monkeypatch, is_terminal=True, total=None)
