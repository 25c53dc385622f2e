"""What reviewers answer, in any shape that user interfaces send; normalised here, nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from bayeslora_tool.review.requests import DecisionType

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
    decision, kind = plain_decision(answer, request)
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


def plain_decision(
    answer: object, request: Mapping[str, Any]
) -> tuple[Mapping[str, Any], DecisionType]:
    """A decision in LangChain's shape, and its type, from an answer in any.

    Raises:
        ValueError: Not one decision, or one that is not allowed here.
    """
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
