from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from bayeslora_tool.desk.ledger import Ledger
from tests.desk.filed import CHEAP
from tests.serving.desk.door import PEOPLE, Door, Staff


@pytest.fixture(scope="session")
def staffed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A new ledger with people, to be copied, and their tokens."""
    file = tmp_path_factory.mktemp("ledger") / "desk.sqlite"
    with Ledger(file) as made:
        made.people.hasher = CHEAP
        tokens = {name: made.people.add(name, *who) for name, who in PEOPLE.items()}
    return file, tokens


@pytest.fixture(scope="session")
def staff(staffed: tuple[Path, dict[str, str]]) -> Iterator[Staff]:
    with start_blocking_portal() as portal:
        yield Staff(staffed[1], portal)


@pytest.fixture
def ledger(staffed: tuple[Path, dict[str, str]], tmp_path: Path) -> Iterator[Ledger]:
    shutil.copy(staffed[0], tmp_path / "desk.sqlite")
    with Ledger(tmp_path / "desk.sqlite") as made:
        made.people.hasher = CHEAP
        yield made


@pytest.fixture
def door(ledger: Ledger, staff: Staff) -> Door:
    return Door(ledger, staff)
