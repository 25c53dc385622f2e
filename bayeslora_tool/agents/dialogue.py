"""Reads an agent's conversation: what the user wants, and what the model would do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall, ToolMessage

from bayeslora_tool.agents.subagents import conversation, pressed_neither
from bayeslora_tool.review.phrases import assents, declines

FINAL_ANSWER = "final_answer"

_QUESTION = "bayeslora_question"


def user_request(call: ToolCall, state: Any) -> str:
    """What a gate scores unless told otherwise: the user's request, whatever the call.

    That is the user's last message and, if it answers a question of the gate, the messages that
    led to the question, a line each, without an answer like "neither". A "yes" or "go ahead" to a
    question of the agent is no request: the one that the agent asked about is meant, for one act.
    What the model wrote is left out: a model's own words sound surer than the request they came
    from. So is the task that another agent wrote for this one, if the user's words came with it
    (:func:`~bayeslora_tool.agents.subagents.on_behalf_of`).

    Raises:
        ValueError: The conversation holds no message of the user, or their consent was for an act
            that has run since.
    """
    found = _request(state["messages"])
    if not found.words:
        raise ValueError("the conversation holds no message of the user to score")
    if found.consented and found.acted:
        raise ValueError("the user's consent was for one act, which has run; ask them again")
    return "\n".join(found.words if declined(state["messages"]) is None else found.words[:-1])


def times_asked(messages: Sequence[AnyMessage]) -> int:
    """How often a gate has asked the user about the present request."""
    return _request(messages).asked


def unanswered(messages: Sequence[AnyMessage]) -> bool:
    """Whether a gate has asked the user, who has not said anything since."""
    return _request(messages).unanswered


def declined(messages: Sequence[AnyMessage]) -> str | None:
    """What the user said to a gate's last question, if it means none of what that offers."""
    found = _request(messages)
    return found.words[-1] if found.asked and found.declined else None


def question_to_user(question: str) -> AIMessage:
    """A message that later turns know for a gate's question."""
    return AIMessage(question, additional_kwargs={"lc_source": _QUESTION})


def pending_calls(messages: Sequence[AnyMessage]) -> list[ToolCall]:
    """The calls of the model's last message that have no answer yet."""
    answered = set()
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            return [call for call in message.tool_calls if call["id"] not in answered]
        if isinstance(message, ToolMessage):
            answered.add(message.tool_call_id)
    return []


def with_answers(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """The conversation as models take it: no call without an answer.

    A run that was given up, or thrown away by a new message, leaves such calls.
    """
    whole: list[AnyMessage] = []
    for i, message in enumerate(messages):
        whole.append(message)
        if not isinstance(message, AIMessage):
            continue
        answered = set()
        for later in messages[i + 1 :]:
            if isinstance(later, AIMessage):
                break
            if isinstance(later, ToolMessage):
                answered.add(later.tool_call_id)
        whole += [left(call) for call in message.tool_calls if call["id"] not in answered]
    return whole


def left(call: ToolCall) -> ToolMessage:
    """The answer to a call of which nobody knows what came."""
    why = (
        "Not run: the turn was given up before this call was settled. If it did start, what came "
        "of it is not known; find out before you make it again."
    )
    return ToolMessage(why, name=call["name"], tool_call_id=call["id"] or "", status="error")


def message_id(messages: Sequence[AnyMessage]) -> str | None:
    """The id of the model's last message."""
    return next((m.id for m in reversed(messages) if isinstance(m, AIMessage)), None)


def final_answer(messages: Sequence[AnyMessage]) -> ToolCall | None:
    """The model's last message as a call of ``final_answer``, if it ends the turn.

    None if it calls tools, or is a gate's question.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, AIMessage) or last.tool_calls or _source(last) == _QUESTION:
        return None
    return ToolCall(name=FINAL_ANSWER, args={"answer": str(last.text)}, id=last.id)


def _source(message: AnyMessage) -> Any:
    return message.additional_kwargs.get("lc_source")


class _Request(NamedTuple):
    """The user's words about the present request, and what came of it so far."""

    words: list[str]
    asked: int
    """Questions of a gate about it."""

    consented: bool
    """The user has said yes to a question of the agent about it."""

    acted: bool
    """A tool has run since the user spoke last."""

    declined: bool
    """The user's last words mean none of what a question offers."""

    unanswered: bool
    """A gate has asked since the user spoke last: a supervisor may have kept the question."""


def _request(messages: Sequence[AnyMessage]) -> _Request:
    words: list[str] = []
    said: list[str] = []  # by the user, one message after another
    asked, consented, acted, no, unanswered = 0, False, False, False, False
    for message in reversed(conversation(messages)):
        if isinstance(message, HumanMessage):
            if _source(message) is not None:  # a summary
                break
            if not said and not words and not consented:
                no = pressed_neither(message) or declines(str(message.text))
            said.insert(0, str(message.text))
        elif not said:
            unanswered |= _source(message) == _QUESTION and not words and not consented
            ran = isinstance(message, ToolMessage) and message.status != "error"
            acted |= ran and not words and not consented
        elif isinstance(message, AIMessage | ToolMessage):
            if _source(message) == _QUESTION:
                words, said = said + words, []
                asked += 1
            elif not words and not consented and _asks(message) and assents(said[-1]):
                said, consented = [], True
            else:  # the turn before was another request
                break
    return _Request(said[-1:] + words, asked, consented, acted, no, unanswered)


def _asks(message: AnyMessage) -> bool:
    return (
        isinstance(message, AIMessage)
        and not message.tool_calls
        and str(message.text).rstrip().endswith(("?", "\uff1f"))
    )
