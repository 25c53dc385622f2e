from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import resume, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.types import Command

from bayeslora_tool.review.clarification import CLARIFY_ACTION
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import EDIT_TO_NO, build, on, waiting

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too
    | st.sampled_from(["approve", "edit", "reject", "respond", "accept", "ignore", "response"])
    | st.sampled_from([REVIEW_ACTION, CLARIFY_ACTION, "yes", "no", "label", "text"])
)
KEYS = st.sampled_from(
    ["type", "message", "args", "decisions", "edited_action", "name", "action", "label", "text"]
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=8,
)
NEARLY = st.builds(
    lambda kind, rest, wrap: wrap({"type": kind} | rest),
    st.sampled_from(["approve", "edit", "reject", "respond", "accept", "ignore", "response"]),
    st.dictionaries(KEYS.filter(lambda key: key != "type"), ANYTHING, max_size=3),
    st.sampled_from([lambda d: d, lambda d: [d], lambda d: {"decisions": [d]}]),
)
PAYLOADS = 20
EXAMPLES = 100  # 2,000 payloads in all


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(ANYTHING | NEARLY, min_size=PAYLOADS, max_size=PAYLOADS))
@pytest.mark.slow
def test_no_payload_of_a_reviewer_crashes_or_poisons_a_thread(payloads: list[Any]) -> None:
    acted: list[Any] = []
    fake = FakeClassifier(by_words)
    graph = build(fake, act=lambda outcome: acted.append(outcome["label"]))
    start(graph, {"text": "odd"}, on(1))
    texts = proceeded = 1
    for payload in payloads:
        question = waiting(graph)
        before = repr(list(graph.checkpointer.list(on(1))))  # as text, since nan is not nan
        try:
            outcome = resume(graph, on(1), {question[0]: payload})["outcome"]
        except ValueError:
            assert repr(list(graph.checkpointer.list(on(1)))) == before  # and nothing claimed
            graph.invoke(Command(resume={question[0]: payload}), on(1))
            name, again = waiting(graph)
            assert (name, again["args"]) == (question[0], question[1]["args"])
            assert again["description"].startswith("The last answer was not understood: ")
            continue
        assert (outcome["decision"], outcome["label"]) in [
            *(("proceed", label) for label in fake.labels),
            ("reject", None),
            ("respond", None),
        ]
        proceeded += outcome["decision"] == "proceed"
        start(graph, {"text": "odd"}, on(1))
        texts += 1
    name, _ = waiting(graph)
    state = resume(graph, on(1), {name: EDIT_TO_NO})
    assert state["outcome"]["label"] == "no"
    assert len(acted) == proceeded
    assert len(fake.seen) == texts


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(ANYTHING | NEARLY)
def test_no_payload_of_a_user_crashes_or_poisons_a_thread(payload: Any) -> None:
    graph = build(FakeClassifier(by_words))
    start(graph, {"text": "vague"}, on(1))
    name, _ = waiting(graph)
    by, state = "user", {"outcome": None, "clarifications": []}
    with suppress(ValueError):
        state = resume(graph, on(1), {name: payload})
    if state["outcome"] is None:
        name, asked = waiting(graph)
        by = "human" if asked["name"] == REVIEW_ACTION else "user"
        declined = state["clarifications"] and state["clarifications"][-1]["declined"]
        assert (by == "human") == bool(declined)
        state = resume(graph, on(1), {name: "clear" if by == "user" else EDIT_TO_NO})
    assert state["outcome"]["decided_by"] == by
