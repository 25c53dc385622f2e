"""Middleware for ``create_agent`` that stops a tool call or the final answer when in doubt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AnyMessage, RemoveMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from bayeslora_tool.agents.call_review import (
    Result,
    answer_call,
    review_answer,
    review_call,
    tell_edit,
)
from bayeslora_tool.agents.decision_record import review_lines
from bayeslora_tool.agents.dialogue import final_answer, pending_calls, user_request
from bayeslora_tool.agents.gating import Gate, GateState
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction

if TYPE_CHECKING:  # gating.py says what to install where they are missing
    from langchain.agents.middleware import AgentState, ModelRequest, ToolCallRequest

__all__ = ["AnswerGate", "UncertaintyGate", "user_request"]


class UncertaintyGate(Gate):
    """Let sure tool calls run, ask the user about vague ones, and a reviewer about the rest.

    Proceed: the tool runs. Escalate: the call alone interrupts with a ``HITLRequest`` (parallel
    calls with one each, answered by interrupt id); approve, edit, reject and respond do what they
    do in LangChain's ``HumanInTheLoopMiddleware``, but an edit may change nothing except valid
    arguments, and an answer that makes no sense is asked for again. Clarify: no pending call
    runs, and the turn ends with a question to the user.

    List it first: then it judges what the other middlewares leave and asks before they touch the
    call, and a retry of the tool does not ask the reviewer again. A call that reaches it without a
    record, or changed since, is escalated. The agent needs a checkpointer. The model's final
    answer passes; see :class:`AnswerGate`.

    Args:
        classifier: As for :class:`~bayeslora_tool.agents.gating.Gate`, like all others but one.
        tools: The tools to gate, as tools or names; None gates all. A name that the agent does not
            have raises a ValueError when its model is called.
    """

    def __init__(
        self,
        classifier: Any,
        policy: Policy,
        *,
        text: Callable[[ToolCall, AgentState[Any]], str] = user_request,
        tools: Iterable[str | BaseTool] | None = None,
        ask: Callable[[Prediction, str], str] | None = None,
        timeout: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(classifier, policy, text=text, ask=ask, timeout=timeout, name=name)
        self.gated = None if tools is None else _names(tools)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]
    ) -> Result:
        """Run the call, or what a reviewer makes of it."""
        settled = self._settle(request)
        if isinstance(settled, ToolMessage):
            return settled
        return tell_edit(handler(settled), request.tool_call, settled.tool_call)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]
    ) -> Result:
        """:meth:`wrap_tool_call` for async runs."""
        settled = self._settle(request)
        if isinstance(settled, ToolMessage):
            return settled
        return tell_edit(await handler(settled), request.tool_call, settled.tool_call)

    def _check_request(self, request: ModelRequest[Any]) -> None:
        # A misspelled name would leave its tool without a gate.
        has = [t.name if isinstance(t, BaseTool) else t.get("name") for t in request.tools]
        unknown = sorted((self.gated or frozenset()).difference(has))
        if unknown:
            raise ValueError(
                f"`tools` of {self.name} names {', '.join(map(repr, unknown))}, but the agent has "
                f"{', '.join(map(repr, has)) or 'no tools'}; correct the name, leave `tools` out "
                f"to gate all, or list the gate before a middleware that hides tools"
            )

    def _gates(self, call: ToolCall) -> bool:
        return self.gated is None or call["name"] in self.gated

    def _calls(self, messages: list[AnyMessage]) -> list[ToolCall]:
        return [call for call in pending_calls(messages) if self._gates(call)]

    def _put_off(self, messages: list[AnyMessage]) -> list[Any]:
        # Models refuse a history in which a call has no answer.
        why = "Not run: the user is asked first. Wait for what they say."
        return [answer_call(call, why, "error") for call in pending_calls(messages)]

    def _settle(self, request: ToolCallRequest) -> ToolCallRequest | ToolMessage:
        call = request.tool_call
        if not self._gates(call):
            return request
        record = self._record(request.state, call)
        if record["action"] == "proceed":
            return request
        return review_call(request, review_lines(record))


class AnswerGate(Gate):
    """Let answers to sure requests pass, ask the user about vague ones, a reviewer about the rest.

    Unless ``text`` says otherwise, the user's request is scored, not the model's answer. The
    message that ends the model's turn is reviewed like a call of ``final_answer`` with the
    argument ``answer``: approve lets it pass, edit and respond put other words in its place,
    reject withholds it. Clarify takes the answer back and puts a question to the user instead.
    It may stand beside an :class:`UncertaintyGate`, which is blind to answers.

    Tokens that are streamed while the model writes are seen before the gate is, and what a
    ``return_direct`` tool returns is no message of the model's: gate that tool. A structured
    response (``response_format=``) cannot be withheld this way, so it raises a ValueError.
    Arguments: those of :class:`~bayeslora_tool.agents.gating.Gate`.
    """

    def _check_request(self, request: ModelRequest[Any]) -> None:
        if request.response_format is not None:
            raise ValueError(
                f"{self.name} cannot withhold a structured response; leave `response_format` out, "
                f"or gate the agent as a whole with create_gate_graph"
            )

    def after_agent(self, state: GateState, runtime: Any) -> dict[str, Any] | None:
        """Ask the reviewer about the answer, if in doubt."""
        call = final_answer(state["messages"])
        if call is None:
            return None
        record = self._record(state, call)
        if record["action"] == "proceed":
            return None
        answer = review_answer(call, review_lines(record))
        if answer == call["args"]["answer"]:
            return None
        # The same id: it takes the place of the model's.
        return {"messages": [AIMessage(answer, id=call["id"])]}

    def _calls(self, messages: list[AnyMessage]) -> list[ToolCall]:
        call = final_answer(messages)
        return [] if call is None else [call]

    def _put_off(self, messages: list[AnyMessage]) -> list[Any]:
        return [RemoveMessage(str(messages[-1].id))]


def _names(tools: Iterable[str | BaseTool]) -> frozenset[str]:
    if isinstance(tools, str):
        raise TypeError(f"`tools` (={tools!r}) must be a list of tools or names, not one str")
    names = [tool.name if isinstance(tool, BaseTool) else tool for tool in tools]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"`tools` must hold tools or their names, got {name!r:.80}")
    return frozenset(names)
