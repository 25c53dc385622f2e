from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.desk.ledger import Ledger
from tests.desk.filed import Later
from tests.desk.postgres import Postgres, unavailable


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    if reason := unavailable():
        pytest.skip(reason)
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Where a new ledger may be made."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres").database()
    return str(tmp_path / "desk.sqlite")


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new ledger in SQLite, to be copied."""
    file = tmp_path_factory.mktemp("ledger") / "desk.sqlite"
    Ledger(file).close()
    return file


@pytest.fixture
def ledger(place: str, empty: Path) -> Iterator[Ledger]:
    if "://" not in place:
        shutil.copy(empty, place)
    made = Ledger(place)
    yield made
    made.close()


@pytest.fixture
def later(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Later:
    """Puts the database's clock, which stands still, forward by so many seconds."""
    now = [ledger.store.read(ledger.store.now)]
    monkeypatch.setattr(ledger.store, "now", lambda c: now[0])

    def leap(seconds: float) -> None:
        now[0] += round(1000 * seconds)

    return leap
