from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from bayeslora_tool.review.answer_types import answer_type, check_answer
from bayeslora_tool.review.clarification import CLARIFY_ACTION, clarification_request
from bayeslora_tool.review.requests import (
    REVIEW_ACTION,
    ask_about,
    hitl_request,
    review_request,
    tool_approval,
)
from tests.fakes import make_prediction
from tests.review.test_payloads import ANYTHING, NEARLY

APPROVE = {"type": "approve"}
REJECT = {"type": "reject"}
ANSWER_ARGS = {
    "type": "object",
    "properties": {"answer": {"type": "string", "pattern": r"\S"}},
    "required": ["answer"],
    "additionalProperties": False,
}


def scored(labels: Any = ("yes", "no")) -> Any:
    prediction = make_prediction().to_dict()
    return review_request(text="x", prediction=prediction, reason="r", labels=labels)


QUESTIONS: dict[str, tuple[Any, Any]] = {
    "clarification": ("clarification", clarification_request(text="x", question="q?")),
    "review": ("review", scored()),
    "review without labels": ("review", scored(())),
    "review of what has no score": (
        "review",
        review_request(text="x", prediction=None, reason="r", labels=("yes", "no")),
    ),
    "rewriting": (
        "rewriting",
        hitl_request(ask_about("final_answer", {"answer": "a"}, [], args_schema=ANSWER_ARGS)),
    ),
    "two calls": (
        "decisions",
        hitl_request(ask_about(REVIEW_ACTION, {}, []), ask_about(CLARIFY_ACTION, {}, [])),
    ),
    "one call": ("decisions", tool_approval({"id": "1", "name": REVIEW_ACTION, "args": {}}, [])),
}


def is_taken(question: str, answer: Any) -> bool:
    kind, request = QUESTIONS[question]
    try:
        TypeAdapter(answer_type(kind, request)).validate_python(answer)
    except ValidationError:
        return False
    return True


def schema_of(question: str) -> dict[str, Any]:
    kind, request = QUESTIONS[question]
    return TypeAdapter(answer_type(kind, request)).json_schema()


def label(name: str) -> dict[str, Any]:
    action = {"name": REVIEW_ACTION, "args": {"label": name}}
    return {"type": "edit", "edited_action": action}


GOOD: list[tuple[str, Any]] = [
    ("clarification", "clear"),
    ("clarification", {"type": "respond", "message": "clear"}),
    ("clarification", {"type": "reject"}),
    ("clarification", {"decisions": [REJECT]}),
    ("clarification", [{"type": "response", "args": "clear"}]),
    ("review", APPROVE),
    ("review", {"decisions": [label("no")]}),
    ("review", [{"type": "accept", "args": None}]),
    ("review without labels", label("any")),
    ("review of what has no score", label("no")),
    ("rewriting", {"type": "edit",
                   "edited_action": {"name": "final_answer", "args": {"answer": "b"}}}),
    ("two calls", {"decisions": [APPROVE, REJECT]}),
    ("two calls", [{"type": "accept", "args": None}, {"type": "ignore", "args": None}]),
    ("one call", APPROVE),
    ("one call", {"decisions": [APPROVE]}),
]  # fmt: skip
BAD: list[tuple[str, Any]] = [
    ("clarification", " "),
    ("clarification", APPROVE),
    ("review", "yes"),
    ("review", label("maybe")),
    ("review", {"decisions": [APPROVE, APPROVE]}),
    ("review of what has no score", APPROVE),
    ("rewriting", {"type": "edit",
                   "edited_action": {"name": "final_answer", "args": {"answer": "b", "n": 1}}}),
    ("two calls", APPROVE),
    ("two calls", {"decisions": [APPROVE]}),
    ("one call", {"type": "edit", "edited_action": {"name": "other", "args": {}}}),
]  # fmt: skip


@pytest.mark.parametrize(("question", "answer"), GOOD)
def test_what_clients_send_fits_the_type_and_the_schema_that_they_see(
    question: str, answer: Any
) -> None:
    assert is_taken(question, answer)
    assert Draft202012Validator(schema_of(question)).is_valid(answer)


@pytest.mark.parametrize(("question", "answer"), BAD)
def test_what_the_type_refuses_the_schema_refuses_too(question: str, answer: Any) -> None:
    assert not is_taken(question, answer)
    assert not Draft202012Validator(schema_of(question)).is_valid(answer)


@pytest.mark.parametrize("question", QUESTIONS)
@settings(max_examples=200, deadline=None)
@given(answer=ANYTHING | NEARLY)
def test_before_and_in_the_graph_the_same_is_refused(question: str, answer: Any) -> None:
    taken = is_taken(question, answer)
    _, request = QUESTIONS[question]
    if taken:
        check_answer(request, schema_of(question), answer)
        return
    with pytest.raises(ValueError, match=r"."):
        check_answer(request, schema_of(question), answer)


@pytest.mark.parametrize("question", QUESTIONS)
def test_schemas_are_valid(question: str) -> None:
    Draft202012Validator.check_schema(schema_of(question))


def test_the_labels_are_offered_for_an_edit() -> None:
    assert "{'enum': ['yes', 'no']}" in str(schema_of("review"))


@pytest.mark.parametrize("schema", [None, {}, {"type": "string"}, {"$id": "urn:other:review"}])
def test_a_question_that_is_not_ours_is_not_judged(schema: Any) -> None:
    check_answer("really?", schema, object())
