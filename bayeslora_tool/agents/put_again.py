"""A question that waits outlives a new message: it is put again, and the message waits instead.

LangGraph drops the step that asked when a new input comes, and keeps the state before it: the
model's message, whose calls nobody has judged. So the model's next turn gives that message again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from langchain.agents.middleware.types import ExtendedModelResponse, ModelResponse
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    RemoveMessage,
    ToolCall,
    ToolMessage,
)
from langgraph.types import Command

from bayeslora_tool.agents.dialogue import left
from bayeslora_tool.graphs.state import OPEN
from bayeslora_tool.quoting import block

LATER = "bayeslora_later"
"""Of the agent's state: the messages that came while a question waited."""

Unsettled = Callable[[Mapping[str, Any], frozenset[str]], list[ToolCall] | None]
"""Of a state's last message, but for the calls that were answered: the calls that ran beside a
question which waits; None if none does."""


def put_again(state: Mapping[str, Any], unsettled: Unsettled) -> ExtendedModelResponse[Any] | None:
    """The model's last message once more, if new messages came over a question about its calls."""
    messages: Sequence[AnyMessage] = state["messages"]
    at = max((i for i, m in enumerate(messages) if isinstance(m, AIMessage)), default=None)
    if at is None or messages[at].id is None or messages[at].id != state.get(OPEN):
        return None
    last, after = messages[at], messages[at + 1 :]
    assert isinstance(last, AIMessage)
    # Some clients say for the tools that all went well, when the user goes on without an answer.
    later = [m for m in after if not isinstance(m, ToolMessage)]
    answered = frozenset(m.tool_call_id for m in after if isinstance(m, ToolMessage))
    ran = unsettled({**state, "messages": messages[: at + 1]}, answered) if later else None
    if ran is None:
        return None
    update = {
        "messages": [RemoveMessage(m.id or "") for m in after],
        LATER: [*(state.get(LATER) or []), *later],
    }
    return ExtendedModelResponse(ModelResponse([last, *map(left, ran)]), Command(update=update))


def marked(response: ModelResponse[Any]) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
    """A model's response, after which the state knows whose calls are to be judged, if any are."""
    said = [m for m in response.result if isinstance(m, AIMessage)]
    if not said or not said[-1].tool_calls:
        return response
    said[-1].id = said[-1].id or str(uuid4())
    return ExtendedModelResponse(response, Command(update={OPEN: said[-1].id}))


def next_turn(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """At the end of a turn, another one with the messages that have waited."""
    if not (later := state.get(LATER)):
        return None
    return {"messages": later, LATER: [], "jump_to": "model"}


def later_lines(state: Mapping[str, Any]) -> list[str]:
    """What a reviewer reads of the messages that wait."""
    said = [str(m.text) for m in state.get(LATER) or [] if isinstance(m, HumanMessage)]
    if not said:
        return []
    return ["", "Since this was asked, the user wrote, and waits:", *block("\n".join(said))]
