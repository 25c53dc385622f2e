"""One tool call or final answer before a reviewer: ask, understand, and do what they say.

Decisions mean what they mean in LangChain's ``HumanInTheLoopMiddleware``, so that user interfaces
made for it work here; an edit may change nothing but valid arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

from langchain_core.messages import ToolCall, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command, interrupt
from pydantic import BaseModel, ValidationError

from bayeslora_tool.review.answers import read_decision, read_edit
from bayeslora_tool.review.requests import DecisionType, ask_human

Result = ToolMessage | Command[Any]
T = TypeVar("T")

_ALLOWED: list[DecisionType] = ["approve", "edit", "reject", "respond"]
_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def review_call(request: ToolCallRequest, lines: list[str]) -> ToolCallRequest | ToolMessage:
    """Interrupt for one call until a reviewer's answer makes sense.

    Args:
        request: The call. Nothing may have happened before: the caller runs again on resume.
        lines: What the reviewer reads.

    Returns:
        The call to run, or what the model hears in place of the tool's result.
    """
    call = request.tool_call
    return _ask_until(call, lines, lambda answer, asked: _obeyed(answer, asked, request))


def review_answer(call: ToolCall, lines: list[str]) -> str:
    """Interrupt for a model's final answer until a reviewer's answer makes sense.

    Args:
        call: From ``dialogue.final_answer``.
        lines: As in :func:`review_call`.

    Returns:
        What the user gets to read.
    """
    original: str = call["args"]["answer"]

    def read(answer: object, asked: Mapping[str, Any]) -> str:
        decision, kind, message = read_decision(answer, asked)
        if kind == "approve":
            return original
        if kind == "respond":
            return message or ""
        if kind == "reject":
            return f"A reviewer withheld this answer.{_reason(message)}"
        shape = f'{{"name": "{call["name"]}", "args": {{"answer": "..."}}}}'
        shape = f'{{"type": "edit", "edited_action": {shape}}}'
        args = read_edit(decision, call["name"], shape)
        text = args.get("answer")
        if args.keys() != {"answer"} or not isinstance(text, str) or not text.strip():
            raise ValueError(f"an edit must give `answer` some text and nothing else; send {shape}")
        return text

    return _ask_until(call, lines, read)


def _ask_until(
    call: ToolCall, lines: list[str], read: Callable[[object, Mapping[str, Any]], T]
) -> T:
    """What ``read`` makes of the first answer over which it raises no ValueError."""
    problem = None
    # A re-run replays the answers so far in their order and so comes to the same question.
    while True:
        asked = ask_human(call["name"], call["args"], _ALLOWED, lines, problem)
        answer = interrupt(asked)
        try:
            return read(answer, asked)
        except ValueError as error:
            problem = str(error)


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


def _obeyed(
    answer: object, asked: Mapping[str, Any], request: ToolCallRequest
) -> ToolCallRequest | ToolMessage:
    call = request.tool_call
    decision, kind, message = read_decision(answer, asked)
    if kind == "approve":
        return request
    if kind == "edit":
        edited = f'{{"name": "{call["name"]}", "args": {{...}}}}'
        shape = f'{{"type": "edit", "edited_action": {edited}}}'
        args = read_edit(decision, call["name"], shape)
        try:
            _check_args(request.tool, args)
        except ValueError:
            raise
        except Exception as error:  # a schema or a validator that breaks may not break the thread
            why = f"{type(error).__name__}: {error}"
            raise ValueError(f"the arguments cannot be checked ({why})") from None
        return request.override(tool_call={**call, "args": args})
    if kind == "respond":
        return answer_call(call, message or "", "success")
    return answer_call(
        call,
        f"A reviewer rejected this call of `{call['name']}`, so it was not run. Do not make it "
        f"again unless the user asks for it.{_reason(message)}",
        "error",
    )


def _check_args(tool: BaseTool | None, args: Mapping[Any, Any]) -> None:
    """Raise ValueError unless a model might have sent these arguments.

    Arguments that the tool hides from the model (an injected user id) are unknown here, too. Of a
    tool with a JSON schema (MCP), the names and the outer types are checked.
    """
    for key in args:
        if not isinstance(key, str):
            raise ValueError(f"argument names must be str, got {key!r:.80}")
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
