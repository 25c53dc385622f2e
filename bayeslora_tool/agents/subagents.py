"""What an agent knows of the conversation around it, when another one has called it.

An agent that is called as a tool hears the calling model's words for the task, never the user's.
So the user's words travel beside the call, in a context variable: in the process, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from langchain_core.messages import AnyMessage, HumanMessage
from langgraph._internal._constants import CONFIG_KEY_CHECKPOINTER
from langgraph.config import get_config

from bayeslora_tool.graphs.once import ONCE

_ANSWER = "bayeslora_answer"
_TOOLS = "tools"  # what `create_agent` calls the node that runs them


class _Caller(NamedTuple):
    """Who runs this agent as a tool."""

    namespace: tuple[str, ...]
    """Of the step that runs the tool; a gate there is no subagent's."""

    messages: Sequence[AnyMessage]
    above: _Caller | None


_called_by: ContextVar[_Caller | None] = ContextVar("bayeslora_caller", default=None)


@contextmanager
def on_behalf_of(messages: Sequence[AnyMessage]) -> Iterator[None]:
    """Let the gates of agents that are called within hear the user, and not their caller's task.

    A gate of the calling agent does this for each of its tools. Without one, do it in the tool:
    ``with on_behalf_of(state["messages"]): inner.invoke(...)``.

    Args:
        messages: The calling agent's conversation, with the user's words in it.
    """
    token = _called_by.set(_Caller(_namespace(), conversation(messages), _caller()))
    try:
        yield
    finally:
        _called_by.reset(token)


def conversation(messages: Sequence[AnyMessage]) -> Sequence[AnyMessage]:
    """An agent's conversation, behind that of the agent which called it, if it was handed down.

    Of the human messages in it, the user wrote those alone that answer a gate's question.
    """
    caller = _caller()
    if caller is None:
        return messages
    own = (m for m in messages if not isinstance(m, HumanMessage) or _ANSWER in _kw(m))
    return [*caller.messages, *own]


def users_answer(words: str, declined: bool) -> HumanMessage:
    """What the user said to a gate's question, as a message of the agent's conversation."""
    said = "declined" if declined else "said"
    return HumanMessage(words or "neither", additional_kwargs={_ANSWER: said})


def pressed_neither(message: AnyMessage) -> bool:
    """Whether the user declined what a question offers, whatever the words."""
    return _kw(message).get(_ANSWER) == "declined"


def handed_down() -> bool:
    """Whether the user's words came with the call."""
    return _caller() is not None


def called_as_tool() -> bool:
    """Whether another agent has called this one as a tool."""
    outside = [level.partition(":")[0] for level in _namespace()[:-1]]
    return handed_down() or _TOOLS in outside


def nested() -> bool:
    """Whether this agent runs within another graph."""
    return handed_down() or len(_namespace()) > 1


def has_checkpointer() -> bool:
    """Whether an interrupt can be kept; outside of a run, that is not known."""
    try:
        return bool(get_config()["configurable"].get(CONFIG_KEY_CHECKPOINTER))
    except RuntimeError:
        return True


def _kw(message: AnyMessage) -> dict[str, Any]:
    return message.additional_kwargs


def _caller() -> _Caller | None:
    caller, here = _called_by.get(), _namespace()
    while caller is not None and caller.namespace == here:
        caller = caller.above
    return caller


def _namespace() -> tuple[str, ...]:
    """The steps that run, from the outermost graph's to the agent's own."""
    try:
        levels = get_config()["configurable"].get("checkpoint_ns", "").split("|")
    except RuntimeError:  # outside of a run
        return ()
    # Without `once`, and without the counters of a step's subgraphs.
    return tuple(one for one in levels if one.partition(":")[0] != ONCE and not one.isdigit())
