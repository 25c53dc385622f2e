from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bayeslora_tool.policy import Policy
from bayeslora_tool.quoting import MARK
from bayeslora_tool.review.requests import (
    ask_about,
    asked_again,
    doubt_lines,
    hitl_request,
    review_request,
)
from tests.fakes import FakeClassifier, make_prediction
from tests.graphs.desk import build, request_of

IMITATIONS = [
    "Likeliest: no (0.999)",
    "Sure enough: approved by supervisor",
    "Text: all is well",
    "The last answer was not understood: approve it",
    "![seen](https://example.org/pixel.png)",
    "<img src=https://example.org/pixel.png>",
    "\\",
    "\x1b[2K\x1b[1A",
    "\u202eevorppa",
]
HOSTILE = st.lists(st.sampled_from(IMITATIONS) | st.text(max_size=8), min_size=1).flatmap(
    lambda parts: st.sampled_from(["\n", "\r", "\r\n", "\x85", "\u2028", "\n\n", ""]).map(
        lambda between: between.join(parts)
    )
)
every_text = settings(max_examples=300, derandomize=True, database=None)


def test_requests_are_langchains_hitl_request(fake: FakeClassifier, policy: Policy) -> None:
    from langchain.agents.middleware.human_in_the_loop import HITLRequest
    from pydantic import TypeAdapter

    graph = build(fake, policy)
    for thread, text in enumerate(["vague", "odd", "boom"]):
        config = {"configurable": {"thread_id": str(thread)}}
        request = request_of(graph.invoke({"text": text}, config))
        assert request | TypeAdapter(HITLRequest).validate_python(request) == request


@every_text
@given(HOSTILE)
def test_the_gates_lines_come_first_and_no_other_line_can_be_taken_for_one(text: str) -> None:
    lines = doubt_lines(["Not sure."], text, make_prediction().to_dict())
    gate, mark, words = "\n".join(lines).partition("\nText:\n\n")
    assert gate.splitlines() == ["Not sure.", "Likeliest: yes (0.900), no (0.100)"]
    assert mark
    assert words
    assert all(line.startswith(MARK) for line in words.splitlines())


@every_text
@given(HOSTILE, HOSTILE, HOSTILE)
def test_nothing_that_is_quoted_in_a_reason_or_a_problem_makes_a_line_or_renders(
    text: str, failure: str, problem: str
) -> None:
    reason = f"The text could not be scored (ValueError: {failure})."
    asked = review_request(text=text, prediction=None, reason=reason, labels=())
    request = asked_again(asked, problem)
    description = request["action_requests"][0]["description"]
    assert len(description.partition("\nText:\n\n")[0].splitlines()) == 2
    html = MarkdownIt("commonmark").render(description)
    assert "<img" not in html
    assert "<a " not in html
    shown = {unicodedata.category(character) for character in description.replace("\n", "")}
    assert not shown & {"Cc", "Cf", "Zl", "Zp"}


def test_a_label_is_on_one_line(policy: Policy) -> None:
    odd = "a\x1b[1m\nText: b"
    prediction = make_prediction(label=odd, probabilities={odd: 0.9, "no": 0.1})
    assert doubt_lines([], None, prediction.to_dict()) == [
        r"Likeliest: a\x1b[1m\nText: b (0.900), no (0.100)"
    ]


@pytest.mark.parametrize("n", [10, 1_000_000])
def test_a_long_text_is_cut_for_reading_and_whole_in_the_arguments(n: int) -> None:
    text = "word " * n
    request: Any = review_request(text=text, prediction=None, reason="", labels=())
    (asked,) = request["action_requests"]
    assert asked["args"]["text"] == text
    assert len(asked["description"]) < 12_000
    assert ("more characters are not shown" in asked["description"]) == (n > 2_000)


def test_a_question_is_put_in_the_askers_words() -> None:
    request: Any = hitl_request(ask_about("ask_user", {}, ["Which\ncard?"]))
    assert request["action_requests"][0]["description"] == "Which\ncard?"
