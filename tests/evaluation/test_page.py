from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from bayeslora_tool.evaluation.metrics import Interval
from bayeslora_tool.evaluation.page import to_html
from bayeslora_tool.evaluation.report import Report


class Skeleton(HTMLParser):
    """The elements of a page with the names of their attributes, and its words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.words: list[str] = []
        self.alternatives: list[str | None] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, *(name for name, _ in attrs)))
        self.alternatives += [value for name, value in attrs if name == "alt"]

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment",))

    def handle_decl(self, decl: str) -> None:
        self.elements.append(("declaration",))

    def handle_pi(self, data: str) -> None:
        self.elements.append(("instruction",))


def page(word: str) -> str:
    """A report in which everything that comes from a file or an adapter is ``word``."""
    return to_html(
        Report(
            title=word,
            facts={word: word},
            intervals={
                f"{word} ({word})": Interval(0.1, 0.0, 0.2),
                f"{word}, whole": Interval(0.1, 0.0, 0.2),
            },
            gates=[{"gate": word, "coverage": 0.1, "risk": 0.1, "outside_proceeds": None,
                    "gain": 0.0}],
            sentences=[{"text": word, "label": word, "confidence": 0.5, "variance": 0.0,
                        "novelty": 0.5, "action": word}],
            routes={"inside": {"proceed": 0.5, "clarify": 0.2, "escalate": 0.3}, "risk": 0.1,
                    "n_proceeded": 5, "outside_stopped": 0.5},
            figures={word: b"png"},
            captions={word: word},
            paper=[{"claim": word, "paper": word, "here": word, "verdict": word}],
            baselines=[{word: word, "b": 0.5}],
            mistyped=[{"texts": word, "accuracy": 0.5, "coverage": 0.5, "risk": 0.1, "wrong": 1,
                       "proceeded": 10}],
        )
    )  # fmt: skip


HOSTILE: dict[str, Any] = {
    "script": "<script>alert(1)</script>",
    "end of the style": "</style></title></table><script src=//x>",
    "double quotes": '" onerror="alert(1)" x="',
    "single quotes": "' onerror='alert(1)' x='",
    "comment": "<!-- --><![CDATA[ <?x <!x",
    "entities": "&lt;b&gt; &amp;quot; &#60;b&#62;",
    "direction": "\u202e<b>\u2066\u2069</b>\u202c",
    "angle brackets": "<<a href='javascript:x'>>",
    "line breaks": "a\n<b\n>\r\n</td>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_element_or_attribute_comes_from_a_label_or_a_text(name: str) -> None:
    harmless, hostile = Skeleton(page("zzz")), Skeleton(page(HOSTILE[name]))
    assert hostile.elements == harmless.elements
    assert len(hostile.words) == len(harmless.words)
    shown = "".join(hostile.words)
    assert shown.count(HOSTILE[name]) == "".join(harmless.words).count("zzz")
    assert hostile.alternatives == [HOSTILE[name]]
