"""Each usual family of backbones, from its publisher's files to predictions, and the page on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backbones import FAMILIES, REFUSED
from tests.support import HEADER, measure, shown, table

KINDS = FAMILIES | REFUSED


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_family_is_supported_as_the_page_says(kind: str, tmp_path: Path) -> None:
    row = measure(kind, tmp_path)
    (_, _, line) = table([row]).splitlines()
    assert line in shown().splitlines()
    computed = {row.monte_carlo, row.linearized, row.adaptive, row.train}
    assert computed == ({"yes"} if kind in FAMILIES else {"", "refused"})


def test_the_page_shows_each_family_once() -> None:
    lines = [line.split(" | ") for line in shown().splitlines()]
    assert lines[0][1] == HEADER[1]
    names = [line[0].removeprefix("| ") for line in lines[2:]]
    assert names == [family.title for family in KINDS.values()]
