"""What reviewers answer, in any shape that user interfaces send; normalised here, nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, TypedDict, TypeGuard

from bayeslora_tool.review.older_request import answer_for_each, same
from bayeslora_tool.review.requests import ALL_DECISIONS, DecisionType

# Words of the older HumanResponse shape for the same decisions.
LEGACY: dict[str, DecisionType] = {
    "accept": "approve",
    "edit": "edit",
    "ignore": "reject",
    "response": "respond",
}


class Decision(TypedDict):
    """A reviewer's word on one action, in plain data."""

    type: DecisionType
    message: str | None
    """Never empty with ``respond``."""

    args: dict[str, Any] | None
    """The action's new arguments, of an ``edit`` alone; nobody has checked them yet."""

    reviewer: str | None
    """Who says so, by their own word; ``graphs/question.py`` asks the run's config first."""


class Review(NamedTuple):
    """A reviewer's decision; ``label`` is what to act on (approve, edit)."""

    type: DecisionType
    label: str | None
    message: str | None
    reviewer: str | None = None


class Asked(NamedTuple):
    """One action of a request, and what may be said to it."""

    name: str
    args: Mapping[str, Any]
    allowed: Sequence[DecisionType]
    args_schema: Mapping[str, Any] | None


def actions(request: Mapping[str, Any]) -> list[Asked]:
    """What a ``HITLRequest``, or a ``ToolApprovalRequest``, asks about."""
    if "action_requests" not in request:
        allowed = request.get("allowed_decisions", ALL_DECISIONS)
        return [Asked(request["name"], request["args"], allowed, None)]
    pairs = zip(request["action_requests"], request["review_configs"], strict=True)
    return [
        Asked(action["name"], action["args"], c["allowed_decisions"], c.get("args_schema"))
        for action, c in pairs
    ]


def read_decisions(answer: object, request: Mapping[str, Any]) -> list[Decision]:
    """A decision about each action of the request, by position.

    Args:
        answer: A ``HITLResponse`` (``{"decisions": [decision, ...]}``), a list of decisions or of
            legacy ``HumanResponse``, or, about one action, a bare decision
            (``{"type": "approve"}``). The answer, or a decision of it, may name its
            ``reviewer``.
        request: What was asked.

    Raises:
        ValueError: Nothing the reviewer may say here; the message says what may be said.
    """
    asked = actions(request)
    by = answer.get("reviewer") if isinstance(answer, Mapping) else None
    if isinstance(answer, Mapping) and "decisions" in answer:
        answer = answer["decisions"]
    given = answer if isinstance(answer, list | tuple) else [answer]
    if len(given) == 1 < len(asked) and _is_older(given[0]):
        given = answer_for_each(given[0], request["action_requests"])
    if len(given) != len(asked):
        raise ValueError(f"got {len(given)} decisions; {_expected(asked)}")
    return [_read(one, action, asked, by) for one, action in zip(given, asked, strict=True)]


def read_review(answer: object, request: Mapping[str, Any]) -> Review:
    """Understand the answer to ``review_request``.

    Raises:
        ValueError: As :func:`read_decisions`, or no such label.
    """
    (decision,), (asked,) = read_decisions(answer, request), actions(request)
    label = None
    if decision["type"] == "approve":
        label = asked.args["label"]
    if decision["type"] == "edit":
        label = _edited_label(decision, asked)
    return Review(decision["type"], label, decision["message"], decision["reviewer"])


def read_rewriting(answer: object, request: Mapping[str, Any]) -> Decision:
    """A decision about a final answer, whose edit gives ``answer`` some text and nothing else.

    Raises:
        ValueError: As :func:`read_decisions`, or another edit.
    """
    (decision,), (asked,) = read_decisions(answer, request), actions(request)
    args = decision["args"]
    if args is not None:
        text = args.get("answer")
        if args.keys() != {"answer"} or not isinstance(text, str) or not text.strip():
            shape = _edit_shape(asked.name, '"answer": "..."')
            raise ValueError(f"an edit must give `answer` some text and nothing else; send {shape}")
    return decision


def _expected(asked: Sequence[Asked]) -> str:
    if len(asked) == 1:
        return (
            f"expected one decision: a dict whose `type` is one of {', '.join(asked[0].allowed)}, "
            f'alone or in {{"decisions": [...]}}'
        )
    named = "; ".join(f"{action.name} ({', '.join(action.allowed)})" for action in asked)
    return (
        f'expected {{"decisions": [...]}} with {len(asked)} decisions, in this order: {named}; '
        f"each a dict with such a `type`"
    )


def _read(answer: object, action: Asked, asked: Sequence[Asked], by: object) -> Decision:
    if not isinstance(answer, Mapping):
        raise ValueError(f"got {answer!r:.80}; {_expected(asked)}")
    kind, by = answer.get("type"), answer.get("reviewer", by)
    if _is_older(answer):
        answer, kind = _from_legacy(answer, action), LEGACY[answer["type"]]
    if not isinstance(kind, str) or kind not in action.allowed:
        raise ValueError(f"`type` is {kind!r:.80}; {_expected(asked)}")
    message = answer.get("message")
    if message is not None and not isinstance(message, str):
        raise ValueError(f"`message` must be a str, got {message!r:.80}")
    if by is not None and not isinstance(by, str):
        raise ValueError(f"`reviewer` must be a str, got {by!r:.80}")
    if kind == "respond" and not (message and message.strip()):
        raise ValueError('to respond, give a non-empty text: {"type": "respond", "message": "..."}')
    args = _edited_args(answer, action.name) if kind == "edit" else None
    allowed: DecisionType = kind  # type: ignore[assignment]  # it is one of them
    return Decision(type=allowed, message=message, args=args, reviewer=by)


def _is_older(answer: object) -> TypeGuard[Mapping[str, Any]]:
    kind = answer.get("type") if isinstance(answer, Mapping) and "args" in answer else None
    return isinstance(kind, str) and kind in LEGACY


def _from_legacy(answer: Mapping[str, Any], asked: Asked) -> Mapping[str, Any]:
    args = answer["args"]
    if answer["type"] == "edit" and isinstance(args, Mapping):
        action = {"name": args.get("action"), "args": args.get("args")}
        return {"edited_action": action, "message": answer.get("message")}
    # Agent Inbox accepts with the untouched action as `args`.
    if answer["type"] == "accept" and isinstance(args, Mapping):
        shown = args.get("args", {})
        known = isinstance(shown, Mapping) and all(
            key in asked.args and same(value, asked.args[key]) for key, value in shown.items()
        )
        if args.get("action", asked.name) != asked.name or not known:
            raise ValueError(f"this accepts something else than the {asked.name!r} asked about")
    return {"message": args if isinstance(args, str) else None}


def _edit_shape(name: str, args: str) -> str:
    return f'{{"type": "edit", "edited_action": {{"name": "{name}", "args": {{{args}}}}}}}'


def _edited_args(answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    action = answer.get("edited_action")
    args = action.get("args") if isinstance(action, Mapping) else None
    if not isinstance(action, Mapping) or not isinstance(args, Mapping):
        raise ValueError(f"to edit, send {_edit_shape(name, '...')}")
    if action.get("name") != name:
        raise ValueError(
            f"an edit may not change the action {name!r}; send {_edit_shape(name, '...')}"
        )
    for key in args:
        if not isinstance(key, str):
            raise ValueError(f"argument names must be str, got {key!r:.80}")
    return dict(args)


def _edited_label(decision: Decision, asked: Asked) -> str:
    shape = _edit_shape(asked.name, '"label": "..."')
    args = decision["args"] or {}
    for key, value in args.items():
        # As str: user interfaces with text fields send back 0.9 as "0.9".
        if key != "label" and (key not in asked.args or str(asked.args[key]) != str(value)):
            raise ValueError(f"an edit may change `label` only, not {key!r:.80}; send {shape}")
    label = args.get("label")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"`label` is {label!r:.80}; send {shape}")
    labels = (asked.args_schema or {}).get("properties", {}).get("label", {}).get("enum", [])
    if labels and label not in labels:
        near = get_close_matches(label, labels, n=3) or list(labels[:5])
        raise ValueError(
            f"unknown label {label!r:.80}; near are {', '.join(near)} ({len(labels)} in all)"
        )
    return label
