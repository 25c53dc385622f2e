from __future__ import annotations

import re
import subprocess
import sys
from random import Random

import pytest

from bayeslora_tool.training import typos
from bayeslora_tool.training.typos import mistype, mistype_one, mistype_share

TEXT = "what's the weather like in their new restaurant"
BESIDE = {"a": "qwsz", "g": "ftyhbv", "p": "ol", "m": "njk", "q": "wa"}  # by eye


def slips(kind: typos.Kind, text: str = TEXT, n: int = 300) -> set[str]:
    found = {kind(text, Random(i)) for i in range(n)} - {None}
    return {text for text in found if text is not None}


def differing(a: str, b: str) -> list[int]:
    return [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]


class TestKinds:
    def test_a_neighbour_lies_beside_the_key(self) -> None:
        for key, others in BESIDE.items():
            assert set(typos._NEAR[key]) == set(others)
        for typed in slips(typos._neighbour):
            (i,) = differing(TEXT, typed)
            assert typed[i] in typos._NEAR[TEXT[i]]

    def test_swapped_letters_are_neighbours_in_a_word(self) -> None:
        for typed in slips(typos._swapped):
            i, j = differing(TEXT, typed)
            assert j == i + 1
            assert (typed[i], typed[j]) == (TEXT[j], TEXT[i])
            assert (TEXT[i] + TEXT[j]).isalpha() or "'" in TEXT[i : j + 1]

    def test_a_dropped_or_doubled_letter_is_one_of_the_texts(self) -> None:
        letters = [i for i, c in enumerate(TEXT) if c.isalpha()]
        assert slips(typos._dropped, n=2000) == {TEXT[:i] + TEXT[i + 1 :] for i in letters}
        assert slips(typos._doubled, n=2000) == {TEXT[:i] + TEXT[i] + TEXT[i:] for i in letters}

    def test_spaces_and_apostrophes_go_and_nothing_else(self) -> None:
        assert slips(typos._no_apostrophe) == {TEXT.replace("'", "")}
        words = TEXT.split()
        joined = {
            " ".join([*words[:i], words[i] + words[i + 1], *words[i + 2 :]])
            for i in range(len(words) - 1)
        }
        assert slips(typos._no_space) == joined
        assert {typed.replace(" ", "") for typed in slips(typos._split)} == {TEXT.replace(" ", "")}

    def test_other_words_and_case_leave_the_rest(self) -> None:
        assert slips(typos._otherwise, "hear me") == {"here me"}
        assert all(typed.casefold() == TEXT for typed in slips(typos._cased))
        for typed in slips(typos._filled):
            left = iter(typed)
            assert all(character in left for character in TEXT)  # in this order

    @pytest.mark.parametrize(
        "text", ["42", "no", "!?", "3pm 5th", "\N{CJK UNIFIED IDEOGRAPH-4E00}"]
    )
    def test_finds_no_place_where_all_is_to_be_kept(self, text: str) -> None:
        fingers = (typos._swapped, typos._neighbour, typos._added, typos._no_space, typos._split)
        assert all(not slips(kind, text, 20) for kind in fingers)


def test_numbers_and_negations_stay() -> None:
    text = "do not pay $250 at 7pm, pay twenty one and don't tip 15%"
    kept = re.compile(r"(?<!\w)(?:not|\$250|7pm|twenty|one|15%|don'?t)(?!\w)")
    for i in range(500):
        typed = mistype(text, Random(i), 2)
        assert [w.replace("'", "") for w in kept.findall(typed.lower())] == [
            "not", "$250", "7pm", "twenty", "one", "dont", "15%",
        ], typed  # fmt: skip


def test_each_slip_changes_the_text_where_it_can() -> None:
    assert all(mistype(TEXT, Random(i)) != TEXT for i in range(500))
    assert mistype(TEXT, Random(0), 0) == TEXT


def test_the_share_is_that_of_the_mistyped_texts() -> None:
    texts = [f"{TEXT} and {i}" for i in range(2000)]
    typed = mistype_share(texts, 0.3, 0)
    changed = sum(a != b for a, b in zip(texts, typed, strict=True))
    assert abs(changed / 2000 - 0.3) < 0.04  # four standard errors
    assert mistype_share(texts, 0.0, 0) == texts


def test_depends_on_seed_and_text_alone() -> None:
    typed = [mistype_one(TEXT, 1.0, f"{i}") for i in range(20)]
    assert len(set(typed)) > 15
    script = (
        "from bayeslora_tool.training.typos import mistype_one\n"
        f"print([mistype_one({TEXT!r}, 1.0, str(i)) for i in range(20)])"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert elsewhere.stdout.strip() == str(typed)
