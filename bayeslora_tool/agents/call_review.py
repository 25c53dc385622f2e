"""One tool call or final answer before a reviewer: ask, understand, and do what they say.

Decisions mean what they mean in LangChain's ``HumanInTheLoopMiddleware``, so that user interfaces
made for it work here; an edit may change nothing but valid arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.json_schema import dereference_refs
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command
from pydantic import BaseModel, ValidationError

from bayeslora_tool.graphs.question import answer_to
from bayeslora_tool.review.answers import Decision
from bayeslora_tool.review.messages import Messages
from bayeslora_tool.review.requests import (
    DecisionType,
    ask_about,
    asked_again,
    hitl_request,
    tool_approval,
)

Result = ToolMessage | Command[Any]

_ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "pattern": r"\S"}},
    "required": ["answer"],
    "additionalProperties": False,
}
_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def review_calls(
    doubtful: Sequence[tuple[ToolCall, Sequence[str], Sequence[DecisionType]]],
) -> list[Decision]:
    """Interrupt once for several calls, each with what the reviewer reads and may decide.

    No edit is checked.
    """
    asked = (ask_about(call["name"], call["args"], lines, may) for call, lines, may in doubtful)
    decisions: list[Decision] = answer_to(hitl_request(*asked), "decisions")
    return decisions


def review_call(
    request: ToolCallRequest,
    lines: Sequence[str],
    allowed: Sequence[DecisionType],
    *,
    per_call: bool,
    problem: str | None = None,
    heard: Callable[[Decision], None] = lambda decision: None,
) -> ToolCallRequest | ToolMessage:
    """Interrupt for one call, and again where the tool would not take a reviewer's arguments.

    Args:
        request: The call. Nothing may have happened before: the caller runs again on resume.
        lines: What the reviewer reads.
        allowed: What the reviewer may decide.
        per_call: Ask with a ``ToolApprovalRequest``, not a ``HITLRequest``.
        problem: What the tool would not take, if this asks again.
        heard: Called with the decision that counts.

    Returns:
        The call to run, or what the model hears in place of the tool's result.
    """
    call = request.tool_call
    shown = _schema(request.tool)
    # A re-run replays the answers so far in their order and so comes to the same question.
    while True:
        if per_call:
            asked = tool_approval(call, lines, allowed)
        else:
            asked = hitl_request(ask_about(call["name"], call["args"], lines, allowed))
        if problem is not None:
            asked = asked_again(asked, problem)
        (decision,) = answer_to(asked, "decisions", shown)
        try:
            settled = instead(call, decision) or with_args(request, decision["args"])
        except ValueError as error:
            problem = str(error)
        else:
            heard(decision)
            return settled


def review_answer(call: ToolCall, lines: Sequence[str], messages: Messages) -> tuple[str, Decision]:
    """Interrupt for a model's final answer.

    Args:
        call: From ``dialogue.final_answer``.
        lines: As in :func:`review_call`.
        messages: What the user reads.

    Returns:
        What the user gets to read, and the decision.
    """
    asked = hitl_request(ask_about(call["name"], call["args"], lines, args_schema=_ANSWER_SCHEMA))
    decision: Decision = answer_to(asked, "rewriting")
    reason = decision["message"]
    if decision["type"] == "reject":
        withheld = messages["withheld_because"].format(reason=reason)
        return withheld if reason else messages["withheld"], decision
    if decision["type"] == "respond":
        return reason or "", decision
    return (decision["args"] or call["args"])["answer"], decision


def instead(call: ToolCall, decision: Decision) -> ToolMessage | None:
    """What the model hears in place of the tool's result; None if the call is to run."""
    if decision["type"] == "respond":
        return answer_call(call, decision["message"] or "", "success")
    if decision["type"] == "reject":
        return answer_call(
            call,
            f"A reviewer rejected this call of `{call['name']}`, so it was not run. Do not make it "
            f"again unless the user asks for it.{_reason(decision['message'])}",
            "error",
        )
    return None


def with_args(request: ToolCallRequest, args: dict[str, Any] | None) -> ToolCallRequest:
    """The same call with a reviewer's arguments, if they gave some.

    Raises:
        ValueError: The tool would not take them.
    """
    if args is None:
        return request
    try:
        _check_args(request.tool, args)
    except ValueError:
        raise
    except Exception as error:  # a schema or a validator that breaks may not break the thread
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"the arguments cannot be checked ({why})") from None
    return request.override(tool_call={**request.tool_call, "args": args})


def _reason(message: str | None) -> str:
    return f" Their reason: {message}" if message else ""


def answer_call(call: ToolCall, content: str, status: Literal["success", "error"]) -> ToolMessage:
    """A message in place of the tool's result."""
    return ToolMessage(content, name=call["name"], tool_call_id=call["id"] or "", status=status)


def tell_edit(result: Result, asked: ToolCall, ran: ToolCall) -> Result:
    """Let the model know that its call ran with a reviewer's arguments, if it did.

    Its own message keeps the call it made, so without a note it would take the result for that
    call's, or make the call again.
    """
    if ran["args"] == asked["args"]:
        return result
    note = (
        f"A reviewer changed this call before it ran, on purpose; do not repeat the original. "
        f"It ran with {json.dumps(ran['args'], default=str, skipkeys=True)}."
    )
    if isinstance(result, ToolMessage):
        return _noted(result, note)
    if not isinstance(result, Command) or not isinstance(result.update, dict):
        return result
    messages = result.update.get("messages")
    if not isinstance(messages, list):
        return result
    noted = [
        _noted(message, note)
        if isinstance(message, ToolMessage) and message.tool_call_id == asked["id"]
        else message
        for message in messages
    ]
    return replace(result, update={**result.update, "messages": noted})


def _noted(message: ToolMessage, note: str) -> ToolMessage:
    content: Any = message.content
    if isinstance(content, str):
        content = f"{note}\n{content}"
    else:
        content = [{"type": "text", "text": note}, *content]
    return message.model_copy(update={"content": content})


def _schema(tool: BaseTool | None) -> dict[str, Any] | None:
    """JSON schema of what a model may send, to be shown; None if there is none to be had."""
    try:
        schema: Any = tool.tool_call_schema if tool is not None else None
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            schema = schema.model_json_schema()
        if not isinstance(schema, dict):
            return None
        # Pydantic looks for references in its own definitions and nowhere else.
        shown = {k: v for k, v in dereference_refs(schema).items() if k != "$defs"}
        return None if "'$ref'" in str(shown) else shown
    # What pydantic, or a tool's own schema, raises; edits of such a tool are refused, with why.
    except (AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError):
        return None


def _check_args(tool: BaseTool | None, args: Mapping[Any, Any]) -> None:
    """Raise ValueError unless a model might have sent these arguments.

    Arguments that the tool hides from the model (an injected user id) are unknown here, too. Of a
    tool with a JSON schema (MCP), the names and the outer types are checked.
    """
    schema: Any = tool.tool_call_schema if tool is not None else None
    model = schema if isinstance(schema, type) and issubclass(schema, BaseModel) else None
    shape = model.model_json_schema() if model else schema
    if tool is None or not isinstance(shape, dict):
        return
    known = shape.get("properties", {})
    unknown = [key for key in args if key not in known]
    if unknown and not shape.get("additionalProperties"):
        raise ValueError(
            f"`{tool.name}` has no argument {unknown[0]!r:.80}; it has {', '.join(known) or 'none'}"
        )
    missing = [key for key in shape.get("required", []) if key not in args]
    if missing:
        raise ValueError(f"`{tool.name}` needs the argument {missing[0]!r}; send all arguments")
    if model is not None:
        try:
            model.model_validate(dict(args))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            problem = f"argument {where!r}: {first['msg']}, got {first['input']!r:.80}"
            raise ValueError(problem) from None
        return
    for key, value in args.items():
        kinds = known.get(key, {}).get("type", [])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if kinds and not any(_is(value, kind) for kind in kinds):
            raise ValueError(f"argument {key!r} must be {' or '.join(kinds)}, got {value!r:.80}")


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool) and kind in ("integer", "number"):
        return False
    return isinstance(value, _JSON_TYPES.get(kind, object))
