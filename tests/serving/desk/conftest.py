from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bayeslora_tool.desk.ledger import Ledger
from tests.desk.filed import CHEAP
from tests.serving.desk.door import Door


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "desk.sqlite") as made:
        made.people.hasher = CHEAP
        yield made


@pytest.fixture
def door(ledger: Ledger) -> Door:
    return Door(ledger)
