"""What was said on a thread, so that a reviewer knows what a question is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, convert_to_messages

from bayeslora_tool.quoting import json_line

LATEST = 20
"""Turns that a review keeps."""

LONGEST = 2000
"""Characters of each."""


_EXCHANGES = "clarifications"  # after the prefix of a gate within another graph


class Turn(TypedDict):
    """One message."""

    by: str
    """``user``, ``agent``, or the name of a tool."""

    text: str


def conversation(values: object) -> list[Turn]:
    """The latest turns of a state, the last one last; system prompts are left out.

    Args:
        values: Of a thread, or of a step in it: with ``messages``, as objects or as a server gives
            them, or with the questions and answers of a gate.
    """
    if not isinstance(values, Mapping):
        return []
    return [turn for turn in _turns(values) if turn["text"].strip()][-LATEST:]


def _turns(values: Mapping[Any, Any]) -> Iterator[Turn]:
    messages = values.get("messages")
    if isinstance(messages, list) and messages:
        try:
            told = convert_to_messages(messages)
        except (ValueError, TypeError, NotImplementedError):  # of a kind that LangChain lacks
            return
        yield from (_turn(one) for one in told if not isinstance(one, SystemMessage))
        return
    of_a_gate = (n for n in values if isinstance(n, str) and n.endswith(_EXCHANGES))
    name = next(of_a_gate, _EXCHANGES)
    exchanges = values.get(name)
    if not exchanges:
        return
    yield Turn(by="user", text=_cut(values.get(f"{name.removesuffix(_EXCHANGES)}text")))
    for one in exchanges:
        yield Turn(by="agent", text=_cut(one["question"]))
        yield Turn(by="user", text=_cut(one["answer"]))


def _turn(message: BaseMessage) -> Turn:
    lines = [str(message.text)]
    if isinstance(message, AIMessage):
        lines += [f"{call['name']} {json_line(call['args'])}" for call in message.tool_calls]
    by = {"human": "user", "ai": "agent"}.get(message.type) or message.name or message.type
    return Turn(by=by, text=_cut("\n".join(filter(None, lines))))


def _cut(text: object) -> str:
    whole = "" if text is None else str(text)
    return whole if len(whole) <= LONGEST else whole[:LONGEST] + "..."
