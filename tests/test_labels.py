from __future__ import annotations

import pytest

from bayeslora_tool.text import check_label


@pytest.mark.parametrize(
    "label", ["bad", "R&D", "<50 euro", 'it\'s "so"', "日本語", "größer als", "❤", "a" * 200]
)
def test_a_name_that_shows_as_itself_is_a_label(label: str) -> None:
    assert check_label(label, "it") == label


@pytest.mark.parametrize(
    "label",
    ["", " ", " bad", "bad ", "b\nad", "b\tad", "b\0ad",
     "\x1b[31m", "\x7f", "\u202edab", "b\u200dad",
     "\ufeffbad", "b\u2028ad", "b\xa0ad", "\ud800", "\ue000", "a" * 201],
)  # fmt: skip
def test_one_that_does_not_is_none(label: str) -> None:
    with pytest.raises(ValueError, match=r"labels\[1\] .*rename it") as caught:
        check_label(label, "labels[1]")
    assert str(caught.value).isprintable()


def test_a_number_is_none() -> None:
    with pytest.raises(TypeError, match=r"it must be a str, got int \(7\)"):
        check_label(7, "it")
