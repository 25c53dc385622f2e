"""Answers as types: what a graph checks before an answer counts, and what clients see of it.

LangGraph's ``interrupt(..., response_schema=<type>)`` publishes the type's JSON schema and checks
each answer against the type before it saves it, so a wrong one is refused and may be sent anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import PlainValidator, WithJsonSchema

from bayeslora_tool.review.answers import (
    LEGACY,
    Asked,
    actions,
    read_decisions,
    read_review,
    read_rewriting,
)
from bayeslora_tool.review.clarification import read_clarification
from bayeslora_tool.review.requests import DecisionType

Kind = Literal["clarification", "review", "rewriting", "decisions"]

_READ: dict[str, Callable[[object, Mapping[str, Any]], Any]] = {
    "clarification": read_clarification,
    "review": read_review,
    "rewriting": read_rewriting,
    "decisions": read_decisions,
}
_MARK = "urn:bayeslora-tool:"  # in `$id`, so that a question is known for ours by its schema
_WORDS = {"type": "string", "pattern": r"\S"}
_MAYBE = {"type": ["string", "null"]}


def answer_type(
    kind: Kind, request: Mapping[str, Any], args_schema: Mapping[str, Any] | None = None
) -> Any:
    """The type of the answers to one request; a value of it is what the answer's reader gives.

    Args:
        kind: Which reader: ``read_clarification``, ``read_review``, ``read_rewriting`` or
            ``read_decisions``.
        request: What is asked.
        args_schema: JSON schema of an edit's arguments, without ``$ref``, to be shown; the readers
            do not check it.
    """

    def answer(given: object) -> Any:  # what errors call it
        return _READ[kind](given, request)

    schema = _schema(kind, request, args_schema)
    return Annotated[Any, PlainValidator(answer), WithJsonSchema(schema)]


def check_answer(request: Any, schema: Mapping[str, Any] | None, answer: object) -> None:
    """Refuse an answer that the graph would refuse, before anything hears of it.

    Args:
        request: The interrupt's value.
        schema: The interrupt's ``response_schema``; a question that is not ours is not judged.
        answer: As a person sent it.

    Raises:
        ValueError: No answer to this; the message says what may be said.
    """
    kind = str((schema or {}).get("$id", "")).removeprefix(_MARK)
    if kind in _READ:
        _READ[kind](answer, request)


def judged_elsewhere(schema: Mapping[str, Any] | None) -> bool:
    """Whether LangGraph may refuse an answer to a question that is not ours, by its type."""
    return schema is not None and not str(schema.get("$id", "")).startswith(_MARK)


def _schema(
    kind: Kind, request: Mapping[str, Any], args_schema: Mapping[str, Any] | None
) -> dict[str, Any]:
    asked = actions(request)
    decisions = [_one_of(_decision(a, args_schema, d) for d in a.allowed) for a in asked]
    legacy = [_one_of(_legacy(a, args_schema, w, d) for w, d in LEGACY.items() if d in a.allowed)
              for a in asked]  # fmt: skip
    forms: list[Any] = [_may_have(_object(decisions=_tuple(decisions)), "reviewer")]
    if len(asked) == 1:
        forms += decisions[0]["oneOf"]
    else:  # one answer to all, in the form of an older request
        forms.append(_tuple([_one_of(_for_all(asked))]))
    forms.append(_tuple(legacy))
    if kind == "clarification":
        forms.insert(0, _WORDS)
    return {"$id": _MARK + kind, "title": kind, "anyOf": forms}


def _decision(asked: Asked, shown: Any, kind: DecisionType) -> dict[str, Any]:
    if kind == "respond":
        return _may_have(_object(type={"const": kind}, message=_WORDS), "reviewer")
    decision = _object(type={"const": kind})
    if kind == "edit":
        action = _object(name={"const": asked.name}, args=_args(asked, shown))
        decision = _object(type={"const": kind}, edited_action=action)
    return _may_have(decision, "message", "reviewer")


def _legacy(asked: Asked, shown: Any, word: str, kind: DecisionType) -> dict[str, Any]:
    args: Any = {"edit": None, "respond": _WORDS}.get(kind, {})
    if args is None:
        args = _object(action={"const": asked.name}, args=_args(asked, shown))
    return _may_have(_object(type={"const": word}, args=args), "reviewer")


def _for_all(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    words = {f"decision_{i}": {"enum": ["approve", "reject"]} for i in range(1, len(asked) + 1)}
    form = _object(args=_object(**words))
    return [
        _object(type={"const": "accept"}, args={}),
        _object(type={"const": "ignore"}, args={}),
        _object(type={"const": "edit"}, args=form),
    ]


def _args(asked: Asked, shown: Any) -> Any:
    return shown or asked.args_schema or {"type": "object"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _may_have(schema: dict[str, Any], *names: str) -> dict[str, Any]:
    schema["properties"] |= dict.fromkeys(names, _MAYBE)
    return schema


def _tuple(items: list[dict[str, Any]]) -> dict[str, Any]:
    n = len(items)
    return {"type": "array", "prefixItems": items, "minItems": n, "maxItems": n}


def _one_of(kinds: Any) -> dict[str, Any]:
    return {"oneOf": list(kinds)}
