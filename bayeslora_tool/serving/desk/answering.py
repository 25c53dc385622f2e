"""From a review's form to the answer that its graph expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.review.answers import read_decisions
from bayeslora_tool.serving.desk.arguments import check, read
from bayeslora_tool.serving.desk.showing import about_label, args_schema, calls, pickable


def answer_of(review: FiledReview, sent: Mapping[str, Any]) -> dict[str, Any]:
    """The answer that a form gives: to one action bare, to several by position.

    Args:
        review: That it answers.
        sent: ``decision`` for all actions, or ``decision-0`` and so on for each; ``message``, or
            ``message-0``; of an edit the arguments, or ``pick`` (``pick-other``): which of the
            labels that may be picked, or ``label``.

    Raises:
        ValueError: Something is missing, or does not fit; the message says what.
    """
    decisions = []
    for index, action in enumerate(calls(review)):
        kind = _word(sent, "decision") or _word(sent, f"decision-{index}")
        if not kind:
            raise ValueError(f"say what to do about {action.name}: {', '.join(action.allowed)}")
        one: dict[str, Any] = {"type": kind}
        if kind == "edit":
            if about_label(action):
                args: dict[str, Any] = {"label": _label(review, sent)}
            else:
                args = read(action.args, args_schema(review, index), sent, index)
            one["edited_action"] = {"name": action.name, "args": args}
        words = _word(sent, f"message-{index}") or _word(sent, "message")
        if words:
            one["message"] = words.replace("\r\n", "\n")
        decisions.append(one)
    return decisions[0] if len(decisions) == 1 else {"decisions": decisions}


def check_edits(review: FiledReview, answer: Any) -> None:
    """Refuse edited arguments that their tool's schema does not allow, as a form does.

    Args:
        review: That is answered.
        answer: In any shape; one that says nothing here is refused elsewhere.

    Raises:
        ValueError: They do not fit; the message says which.
    """
    try:
        decisions = read_decisions(answer, review.request)
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    for index, (action, decision) in enumerate(zip(calls(review), decisions, strict=True)):
        if decision["type"] == "edit" and not about_label(action):
            check(decision["args"] or {}, args_schema(review, index))


def _label(review: FiledReview, sent: Mapping[str, Any]) -> str:
    if label := _word(sent, "label"):
        return label
    known = dict(enumerate(pickable(review)))
    number = _word(sent, "pick-other") or _word(sent, "pick")
    if not number.isdecimal() or int(number) not in known:
        raise ValueError("pick the label that you mean")
    return known[int(number)]


def _word(sent: Mapping[str, Any], name: str) -> str:
    value = sent.get(name)
    return value if isinstance(value, str) and value.strip() else ""
