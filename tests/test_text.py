from __future__ import annotations

import sys
import time
import tracemalloc
import unicodedata
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora_tool.text import beginning, check_text, must_be_read

MEGABYTES = 16_000_000
SPACES = st.text(" \n\t\u3000", min_size=1, max_size=12)
WORDS = st.text("ab", min_size=1, max_size=5)


class TestCheckText:
    @pytest.mark.parametrize(
        "invisible",
        [
            "\u200b",
            "\xad\xad",
            "\x1b\x07",
            "\u202e \u2066",
            "\ufe0f",
            "\u3164",
            "".join(chr(0xE0000 + ord(c)) for c in "tags"),
        ],
    )
    def test_where_nothing_is_to_be_seen_there_is_no_text(self, invisible: str) -> None:
        with pytest.raises(ValueError, match=r"line 3 holds only control or invisible characters"):
            check_text(invisible, "line 3")
        assert check_text(f"a{invisible}", "line 3") == f"a{invisible}"

    def test_no_control_format_or_space_character_is_seen_alone(self) -> None:
        # Unicode prints these although it calls them format characters.
        shown = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
        shown |= {*range(0x13430, 0x13440), 0xFFF9, 0xFFFA, 0xFFFB}
        for code in range(1, sys.maxunicode + 1):
            if unicodedata.category(chr(code)) in ("Cc", "Cf", "Zs", "Zl", "Zp"):
                if code in shown:
                    assert check_text(chr(code), "it")
                else:
                    with pytest.raises(ValueError, match="it "):
                        check_text(chr(code), "it")

    def test_a_surrogate_far_back_is_found_at_its_place(self) -> None:
        text = "é" * 3_000_000 + "\udc00"
        with pytest.raises(ValueError, match="a lone surrogate at 3000000,"):
            check_text(text, "it")

    @pytest.mark.parametrize("end", ["", "\ud800", "\0"])
    @pytest.mark.parametrize("unit", ["word ", "\u200b", " ", "😀"])
    def test_a_long_text_costs_little_time_and_memory(self, unit: str, end: str) -> None:
        text = unit * (MEGABYTES // len(unit)) + end
        tracemalloc.start()
        began = time.process_time()
        with suppress(ValueError):
            check_text(text, "it")
        spent = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert spent < 2
        assert peak < 20e6


class TestBeginning:
    @given(st.text(max_size=30))
    def test_within_the_limit_a_text_is_left_alone(self, text: str) -> None:
        assert beginning(text, 30) == (text, False)

    @settings(derandomize=True, database=None)
    @given(st.lists(st.tuples(WORDS, SPACES), min_size=1, max_size=30), st.integers(1, 40))
    def test_spaces_count_once_and_a_lost_word_is_told(
        self, pairs: list[tuple[str, str]], most: int
    ) -> None:
        text = "".join(word + spaces for word, spaces in pairs)
        head, more = beginning(text, most)
        if len(text) > most:
            short = "".join(word + spaces[0] for word, spaces in pairs)
            assert head == short[:most]
            assert more == bool(short[most:].strip())

    @pytest.mark.parametrize("unit", ["word ", "x", " ", "a\n\n", "\u200b"])
    def test_a_long_text_costs_little(self, unit: str) -> None:
        text = "word" + unit * (MEGABYTES // len(unit))
        began = time.process_time()
        head, _ = beginning(text, 16_384)
        assert time.process_time() - began < 2
        assert len(head) <= 16_384


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        ("a7éß中가ดअ", True),
        ("$€+<≠✓", True),
        ("😀👎🏽", True),
        ("\ue000\U0003fffe", True),  # private, and unknown to Unicode
        ("\u0336\u0338", True),  # strike a letter out
        ("\u0e48\u0940\u3099", True),  # marks that are part of a letter
        ("\U000e0061\U000e0101", True),  # hidden words
        (" \n\t\u3000\xa0", False),
        ("\x07\x1b\x85", False),
        ("\u200b\u200d\xad\u202e\ufeff\ufe0f", False),
        (".,;:!?—…“”\u2019«»¿・、。", False),
        ("\u0301\u0308\u0327", False),  # accents
    ],
)
def test_what_must_be_read(characters: str, expected: bool) -> None:
    assert {must_be_read(character) for character in characters} == {expected}
