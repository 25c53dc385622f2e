"""Texts as a column of pandas, datasets or NumPy: what has a length and an order of strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from bayeslora_tool.inference.encoding import check_texts
from tests.test_classifier import same

TEXTS = ["a good film", "a bad film"]


class Series:
    """As pandas' has it: no Sequence, indexed by its own labels."""

    ndim = 1

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = dict(enumerate(values, start=100))

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values.values())

    def __getitem__(self, label: int) -> Any:
        return self.values[label]

    def keys(self) -> Any:
        return self.values.keys()


class Frame:
    """As pandas' has it: iterates over the names of its columns."""

    ndim = 2

    def __init__(self, **columns: Series) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class Column(Sequence[str]):
    """As datasets' has it: a lazy Sequence."""

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, key: Any) -> Any:
        return TEXTS[key]


@pytest.mark.parametrize(
    "column",
    [Series(TEXTS), Column(), np.array(TEXTS), np.array(TEXTS, dtype=object), tuple(TEXTS)],
    ids=lambda column: type(column).__name__,
)
async def test_a_column_is_a_list(tiny: Any, column: Any) -> None:
    checked = check_texts(column)
    assert checked == TEXTS
    assert {type(text) for text in checked} == {str}
    expected = tiny.predict(TEXTS)
    for found in (tiny.predict(column), await tiny.apredict(column)):
        assert all(same(p, q) for p, q in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "texts",
    [
        Frame(text=Series(TEXTS), label=Series(["good", "bad"])),
        np.array([TEXTS]),
        {"text": "a good film"},
        {"a good film", "a bad film"},
        b"a good film",
        iter(TEXTS),
        (text for text in TEXTS),
        np.array("a good film"),
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_what_has_no_length_order_or_single_column_is_refused(texts: Any) -> None:
    with pytest.raises(TypeError, match="`texts` must be a list of strings, got"):
        check_texts(texts)


def test_a_missing_value_names_its_row() -> None:
    with pytest.raises(TypeError, match=r"texts\[1\] must be a str, got float \(nan\)"):
        check_texts(Series(["a good film", float("nan")]))  # type: ignore[arg-type]
