"""Answers as the ledger keeps them, and what they say of the label."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite
from typing import Any, NamedTuple

from bayeslora_tool.desk.review import canonical, storable
from bayeslora_tool.review.answer_types import judged_elsewhere
from bayeslora_tool.review.answers import actions, read_decisions, read_review
from bayeslora_tool.review.clarification import CLARIFY_ACTION
from bayeslora_tool.review.requests import REVIEW_ACTION

_LATE = "Nobody decided in time."
_DEEPEST = 64  # levels of an answer


class Said(NamedTuple):
    """A reviewer's word, in short."""

    decision: str
    """``approve`` and so on; of several calls, each."""

    label: str | None
    """What they take the text for; None where they did not say."""

    message: str | None


def for_reviewers(request: object) -> bool:
    """Whether an interrupt's value asks a reviewer, in a shape that people's answers are known of.

    Questions to the user are not the desk's.
    """
    if not isinstance(request, Mapping):
        return False
    if "action_requests" not in request and request.get("type") != "tool_approval":
        return False
    try:
        asked = actions(request)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return bool(asked) and all(action.name != CLARIFY_ACTION for action in asked)


def tools_of(request: Mapping[str, Any]) -> str:
    """What a request is about: the names of its actions."""
    return ", ".join(action.name for action in actions(request))


def shown_scores(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Text, label, confidence and variance, where a request of ours shows them."""
    asked = actions(request)
    return asked[0].args if len(asked) == 1 and asked[0].name == REVIEW_ACTION else {}


def signed(answer: Any, by: str, schema: Mapping[str, Any] | None) -> Any:
    """The answer with who gives it, in place of who it says it is from.

    Args:
        answer: In any shape.
        by: Who gives it.
        schema: Of what was asked; an answer to a question that is not ours stays as it is.
    """
    if schema is None or judged_elsewhere(schema):
        return answer
    if isinstance(answer, list | tuple):
        answer = {"decisions": list(answer)}
    if not isinstance(answer, Mapping):
        return answer
    if isinstance(answer.get("decisions"), list | tuple):
        answer = {**answer, "decisions": [_unsigned(one) for one in answer["decisions"]]}
    return {**answer, "reviewer": by}


def check_plain(answer: Any) -> None:
    """Refuse an answer that cannot be sent on as JSON, or is nested deeper than others can read.

    Raises:
        ValueError: It has such a number, or so many levels.
    """
    level = [answer]
    for _ in range(_DEEPEST):
        if any(isinstance(one, float) and not isfinite(one) for one in level):
            raise ValueError("the answer has a number in it that is not finite, which is no JSON")
        inner = (one.values() if isinstance(one, Mapping) else one for one in level
                 if isinstance(one, Mapping | list | tuple))  # fmt: skip
        level = [value for values in inner for value in values]
        if not level:
            return
    raise ValueError(f"the answer is nested more than {_DEEPEST} deep")


def rejection(request: Mapping[str, Any]) -> Any:
    """What answers where nobody did; None where nothing may be rejected."""
    asked = actions(request)
    if not all("reject" in action.allowed for action in asked):
        return None
    one = {"type": "reject", "message": _LATE}
    return {"decisions": [one] * len(asked)} if "action_requests" in request else one


def meaning(request: Mapping[str, Any], answer: Any) -> str:
    """What two answers to a request have in common if they agree: all but who gave them, and why.

    A reply in words agrees with the same words.
    """
    try:
        decisions: Any = read_decisions(answer, request)
    except (KeyError, TypeError, ValueError):  # to a question that is not ours
        return canonical(answer)
    return canonical([
        {**one, "reviewer": None, "message": one["message"] if one["type"] == "respond" else None}
        for one in decisions
    ])  # fmt: skip


def columns_of(request: str | None, answer: str | None) -> dict[str, str | None]:
    """The columns ``decision`` and ``reviewer_label`` of an answer, both as JSON."""
    word = None
    if request is not None and answer is not None:
        word = said(json.loads(request), json.loads(answer))
    label = word.label if word is not None and storable(word.label) else None
    return {"decision": word and word.decision, "reviewer_label": label}


def said(request: Mapping[str, Any], answer: Any) -> Said | None:
    """What an answer says; None if it is erased, or of a graph with answers of its own kind."""
    # What another's question takes for an answer may be of any shape.
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        decisions = read_decisions(answer, request)
        label = read_review(answer, request).label if tools_of(request) == REVIEW_ACTION else None
        messages = [one["message"] for one in decisions if one["message"]]
        return Said(", ".join(one["type"] for one in decisions), label, "; ".join(messages) or None)
    return None


def _unsigned(decision: Any) -> Any:
    if not isinstance(decision, Mapping):
        return decision
    return {key: value for key, value in decision.items() if key != "reviewer"}
