"""How the graph speaks with people.

Requests have LangChain's ``HITLRequest`` shape; answers come in any of the shapes that user
interfaces send and are normalised here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

from bayeslora_tool.dataset import check_text
from bayeslora_tool.prediction import Prediction

REVIEW_ACTION = "act_on_label"
CLARIFY_ACTION = "ask_user"

_THESE = r"(?: of (?:these|those|them|the two|the above))?"
_DECLINES = re.compile(
    r"(?:(?:no|nope|nah|sorry|well) )*"
    rf"(?:no|nope|nah|neither(?: one)?{_THESE}|none{_THESE}|not (?:these|those|either|any){_THESE}|"
    r"(?:its |it is )?something (?:else|different)|never ?mind)"
    r"(?: (?:sorry|thanks|thank you))?"
)

DecisionType = Literal["approve", "edit", "reject", "respond"]

# Words of the older HumanResponse shape for the same decisions.
_LEGACY: dict[str, DecisionType] = {
    "accept": "approve",
    "edit": "edit",
    "ignore": "reject",
    "response": "respond",
}


class Review(NamedTuple):
    """A reviewer's decision; ``label`` is what to act on (approve, edit)."""

    type: DecisionType
    label: str | None
    message: str | None


def review_request(
    *, text: str, prediction: Mapping[str, Any] | None, reason: str, problem: str | None
) -> dict[str, Any]:
    """A ``HITLRequest`` that asks a reviewer to settle one text.

    Args:
        text: What is to be decided about.
        prediction: ``Prediction.to_dict()``, or None if the text could not be scored; approving
            is then not offered, because there is nothing to approve.
        reason: Why a person is asked.
        problem: What was wrong with the reviewer's last answer, if this asks again.
    """
    args: dict[str, Any] = {"text": text, "label": None, "confidence": None, "variance": None}
    allowed: list[DecisionType] = ["edit", "reject", "respond"]
    if prediction is not None:
        args |= {key: prediction[key] for key in ("label", "confidence", "variance")}
        allowed.insert(0, "approve")
    lines = doubt_lines([reason], text, prediction)
    return ask_human(REVIEW_ACTION, args, allowed, lines, problem)


def doubt_lines(
    reasons: Sequence[str], text: str | None, prediction: Mapping[str, Any] | None
) -> list[str]:
    """What a reviewer reads: the reasons, and the text and its likeliest labels, if there are."""
    lines = list(reasons)
    if text is not None:
        lines.append(f"Text: {text}")
    if prediction is not None:
        likeliest = Prediction.from_dict(prediction).top(3)
        lines.append("Likeliest: " + ", ".join(f"{label} ({p:.3f})" for label, p in likeliest))
    return lines


def clarification_request(*, text: str, question: str, problem: str | None) -> dict[str, Any]:
    """A ``HITLRequest`` that asks the user, who may ``respond``, or ``reject`` what is offered."""
    args = {"text": text, "question": question}
    return ask_human(CLARIFY_ACTION, args, ["respond", "reject"], [question], problem)


def ask_human(
    name: str,
    args: Mapping[str, Any],
    allowed: list[DecisionType],
    lines: list[str],
    problem: str | None,
) -> dict[str, Any]:
    """A ``HITLRequest`` about one action; ``lines`` are what the person reads."""
    if problem is not None:
        lines = [f"The last answer was not understood: {problem}", *lines]
    return {
        "action_requests": [{"name": name, "args": dict(args), "description": "\n".join(lines)}],
        "review_configs": [{"action_name": name, "allowed_decisions": allowed}],
    }


def read_review(answer: object, request: Mapping[str, Any], labels: Sequence[str]) -> Review:
    """Understand a reviewer's answer.

    Args:
        answer: A ``HITLResponse`` (``{"decisions": [decision]}``), a bare decision
            (``{"type": "approve"}``), or a legacy ``[HumanResponse]``.
        request: What :func:`review_request` asked.
        labels: Valid labels for an edit; empty if unknown.

    Raises:
        ValueError: Nothing the reviewer may say here; the message says what may be said.
    """
    decision, kind, message = read_decision(answer, request)
    if kind == "approve":
        return Review(kind, request["action_requests"][0]["args"]["label"], message)
    if kind == "edit":
        return Review(kind, _edited_label(decision, request, labels), message)
    return Review(kind, None, message)


def read_decision(
    answer: object, request: Mapping[str, Any]
) -> tuple[Mapping[str, Any], DecisionType, str | None]:
    """A reviewer's decision as sent, its type and its message; ``respond`` always has one.

    Raises:
        ValueError: As :func:`read_review`, except that an edit is still to be read.
    """
    decision, kind = _decision(answer, request)
    message = decision.get("message")
    if message is not None and not isinstance(message, str):
        raise ValueError(f"`message` must be a str, got {message!r:.80}")
    if kind == "respond" and not (message and message.strip()):
        raise ValueError('to respond, give a non-empty text: {"type": "respond", "message": "..."}')
    return decision, kind, message


def read_edit(decision: Mapping[str, Any], name: str, shape: str) -> dict[str, Any]:
    """The arguments of an ``edit`` decision, which may not change the action itself.

    Args:
        decision: From :func:`read_decision`.
        name: The action that was asked about.
        shape: What to send, for the error messages.

    Raises:
        ValueError: No such edit, or one of another action.
    """
    action = decision.get("edited_action")
    args = action.get("args") if isinstance(action, Mapping) else None
    if not isinstance(action, Mapping) or not isinstance(args, Mapping):
        raise ValueError(f"to edit, send {shape}")
    if action.get("name") != name:
        raise ValueError(f"an edit may not change the action {name!r}; send {shape}")
    return dict(args)


def declines(answer: str) -> bool:
    """Whether a user means none of what a question offers, and says no more, in English.

    For example: Neither. / no, none of those / something else / never mind.
    """
    words = re.findall(r"\w+", re.sub("['\u2019]", "", answer.casefold()))
    return _DECLINES.fullmatch(" ".join(words)) is not None


def why_not_asked(asked: int) -> str:
    """The reason for a reviewer where ``max_clarifications`` is reached."""
    if not asked:
        return "The user is not to be asked (max_clarifications=0)."
    return f"The user was asked {asked} times already."


def why_declined(words: str) -> str:
    """The reason for a reviewer, who reads what the user said."""
    return "The user said that it is none of these" + (f" ({words!r})." if words else ".")


def read_clarification(answer: object, request: Mapping[str, Any]) -> tuple[str, bool]:
    """The user's words, from a plain string or from a decision in any shape.

    Returns:
        The words, and whether the user declines what the question offers: in these words, or by
        ``reject``, which alone may come without any.

    Raises:
        ValueError: No words in it, or some that no classifier can read.
    """
    rejects = False
    if not isinstance(answer, str):
        decision, kind = _decision(answer, request)
        answer, rejects = decision.get("message"), kind == "reject"
    if rejects and not answer:
        return "", True
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(
            'answer with a non-empty text, or {"type": "respond", "message": "..."}, or '
            '{"type": "reject"} if it is none of these'
        )
    words = check_text(answer, "your answer").strip()
    return words, rejects or declines(words)


def _decision(answer: object, request: Mapping[str, Any]) -> tuple[Mapping[str, Any], DecisionType]:
    allowed = request["review_configs"][0]["allowed_decisions"]
    expected = (
        f"expected one decision: a dict whose `type` is one of {', '.join(allowed)}, "
        f'alone or in {{"decisions": [...]}}'
    )
    if isinstance(answer, Mapping) and "decisions" in answer:
        answer = answer["decisions"]
    if isinstance(answer, list | tuple):
        if len(answer) != 1:
            raise ValueError(f"got {len(answer)} decisions; {expected}")
        answer = answer[0]
    if not isinstance(answer, Mapping):
        raise ValueError(f"got {answer!r:.80}; {expected}")
    kind = answer.get("type")
    if isinstance(kind, str) and "args" in answer and kind in _LEGACY:
        answer, kind = _from_legacy(answer), _LEGACY[kind]
    if not isinstance(kind, str) or kind not in allowed:
        raise ValueError(f"`type` is {kind!r:.80}; {expected}")
    return answer, kind  # type: ignore[return-value]  # checked: kind is in allowed


def _from_legacy(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    args = answer["args"]
    if answer["type"] == "edit" and isinstance(args, Mapping):
        return {"edited_action": {"name": args.get("action"), "args": args.get("args")}}
    # Agent Inbox accepts with the untouched action as `args`.
    return {"message": args if isinstance(args, str) else None}


def _edited_label(
    decision: Mapping[str, Any], request: Mapping[str, Any], labels: Sequence[str]
) -> str:
    asked = request["action_requests"][0]
    name = asked["name"]
    edited = f'{{"name": "{name}", "args": {{"label": "..."}}}}'
    shape = f'{{"type": "edit", "edited_action": {edited}}}'
    args = read_edit(decision, name, shape)
    for key, value in args.items():
        # As str: user interfaces with text fields send back 0.9 as "0.9".
        if key != "label" and (key not in asked["args"] or str(asked["args"][key]) != str(value)):
            raise ValueError(f"an edit may change `label` only, not {key!r:.80}; send {shape}")
    label = args.get("label")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"`label` is {label!r:.80}; send {shape}")
    if labels and label not in labels:
        near = get_close_matches(label, labels, n=3) or list(labels[:5])
        raise ValueError(
            f"unknown label {label!r:.80}; near are {', '.join(near)} ({len(labels)} in all)"
        )
    return label
