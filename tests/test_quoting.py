from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayeslora_tool.quoting import MARK, block, brief, json_line, one_line, unrendered, visible

ANY = st.text(
    st.characters(exclude_categories=())
    | st.sampled_from("\n\r\x1b\x85\u2028\u202e\u2066\u200b\x7f\x9b![](<>`#|")
)
every_text = settings(max_examples=500, derandomize=True, database=None)
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def categories(text: str) -> set[str]:
    return {unicodedata.category(character) for character in text}


@every_text
@given(ANY)
def test_no_control_character_survives(text: str) -> None:
    shown = [one_line(text), unrendered(text), *block(text), *visible(text).split("\n")]
    assert not any(categories(line) & INVISIBLE for line in shown)


@every_text
@given(ANY)
def test_each_line_of_a_block_is_marked_whatever_counts_as_a_line(text: str) -> None:
    empty, *lines = "\n".join(block(text)).splitlines()
    assert not empty  # or Markdown would take the block for a paragraph that goes on
    assert lines
    assert all(line.startswith(MARK) for line in lines)


@every_text
@given(ANY, st.integers(1, 20))
def test_one_line_is_one_and_no_longer_than_asked(text: str, most: int) -> None:
    assert len(one_line(text, most).splitlines()) <= 1
    printable = "".join(c for c in text if c.isprintable())
    assert one_line(printable) == printable
    assert len(one_line(printable, most)) <= most


@every_text
@given(st.dictionaries(ANY, ANY | st.integers() | st.booleans() | st.none()))
def test_json_reads_back_and_cannot_move_a_cursor(value: dict[str, Any]) -> None:
    line = json_line(value)
    assert json.loads(line) == value
    assert not categories(line) & INVISIBLE


def test_what_can_be_read_is_left_as_it_is() -> None:
    text = "naïve “quotes” — 中文 かな हिन्दी 😀 €5\u3000\xa0wide"
    assert visible(text) == one_line(text) == text
    assert json.loads(json_line(text)) == text
    assert text in json_line(text)
    assert block("one\r\n\ntwo") == ["", "    | one", "    | ", "    | two"]


def test_what_cannot_is_written_as_python_does() -> None:
    assert one_line("a\x1b[31m\u202eb\nc\U000e0041") == r"a\x1b[31m\u202eb\nc\U000e0041"


def test_a_long_text_is_cut_and_the_rest_counted() -> None:
    assert block("x" * 25, 10) == [
        "",
        "    | " + "x" * 10,
        "",
        "(15 more characters are not shown.)",
    ]
    assert one_line("x" * 25, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    "markup",
    [
        "![x](https://example.org/a.png)",
        "[click](https://example.org)",
        "a <img src=x onerror=y> b",
        "</div><script>",
        "<!-- hidden -->",
        "\\<img src=x>",
        "!\\[x\\](y) [x]\\(y)",
        "``` \n![x](y)\n```",
        "<details>\n<summary>",
    ],
)
def test_markdown_renders_nothing_of_it(markup: str) -> None:
    from markdown_it import MarkdownIt

    page = MarkdownIt("commonmark")
    lines = "\n".join(["Text:", *block(markup)])
    for shown in (f"Because: {unrendered(markup)}", lines):
        html = page.render(shown)
        assert not any(tag in html for tag in ("<img", "<a ", "<script", "</div", "<!--", "<det"))
    assert page.render(lines).startswith("<p>Text:</p>\n<pre><code>|")


def test_brief_is_brief() -> None:
    assert brief("abc\x1b") == r"'abc\x1b'"
    for large in ("x" * 10**7, ["x" * 10**6] * 10**4, {"a": ["b" * 10**6]}, b"x" * 10**5):
        assert len(brief(large)) < 500
