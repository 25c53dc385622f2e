"""What the gates of ``middleware.py`` share: when an agent's steps are judged, and who is asked.

``after_model`` judges and keeps the records in the agent's private state. LangGraph runs a step
that asks a person again from its top: what was scored in the same step goes through ``once``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from langchain_core.messages import AnyMessage, ToolCall

from bayeslora_tool.agents.call_review import Result
from bayeslora_tool.agents.decision_record import DecisionRecord, fingerprint
from bayeslora_tool.agents.dialogue import (
    message_id,
    question_to_user,
    user_request,
    with_answers,
)
from bayeslora_tool.agents.judging import GateState, Judge
from bayeslora_tool.agents.put_again import marked, put_again
from bayeslora_tool.agents.subagents import (
    called_as_tool,
    has_checkpointer,
    nested,
    on_behalf_of,
    users_answer,
)
from bayeslora_tool.graphs.once import aonce, once
from bayeslora_tool.graphs.question import answer_to
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langchain.agents.middleware.types import ModelRequest, ToolCallRequest
    from langchain.agents.middleware.types import hook_config as hook_config
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[agents]"') from None


class Gate(Judge, AgentMiddleware[GateState, Any, Any]):
    """Scores what the model wants after each of its messages; see the classes built on it.

    Args:
        classifier: Anything with ``predict(texts) -> list[Prediction]``; async runs use
            ``apredict``, if there is one. What it cannot score is escalated with the error as the
            reason.
        policy: Thresholds and routes. The user is asked about one request at most
            ``max_clarifications`` times in a row; after that, a reviewer is.
        text: ``text(tool_call, state) -> str``, what to score for a call; a final answer comes as
            a call of ``final_answer`` with the argument ``answer``. Calls with the same text share
            one score.
        ask: ``ask(prediction, text) -> question`` for the user; by default the question names the
            two likeliest labels. To any question, "neither" and its like bring a reviewer.
        timeout: Seconds, > 0, after which a score that has not come is given up and its call
            escalated; None waits. A ``predict`` that hangs keeps its thread until it returns.
        clarify: How the user is asked. ``message``: by a message that ends the turn; the next
            message of the user is the answer. ``interrupt``: by an interrupt, which reaches the
            user through whatever graph is around the agent; the model goes on with the answer.
            None: by an interrupt if the agent runs within another graph, which may keep the message
            to itself. An agent that was called as a tool always asks by an interrupt.
        require_user_text: Escalate if the agent was called as a tool and the user's words did not
            come with the call (:func:`~bayeslora_tool.agents.subagents.on_behalf_of`). False: the
            task that the calling model wrote is scored then, and the reason says so. It concerns
            the default ``text`` only.
        messages: What the user reads, in another language: templates by name, such as
            ``MESSAGES["de"]`` of the room ``review``. What reviewers and models read is English.
        name: Of the gate's steps, and what its records are kept under: two gates of one agent need
            two. By default, that of the class.

    Raises:
        TypeError, ValueError: An argument of the wrong kind or out of range.
    """

    state_schema = GateState

    def __init__(
        self,
        classifier: Any,
        policy: Policy,
        *,
        text: Callable[[ToolCall, AgentState[Any]], str] = user_request,
        ask: Callable[[Prediction, str], str] | None = None,
        timeout: float | None = None,
        clarify: Literal["message", "interrupt"] | None = None,
        require_user_text: bool = False,
        messages: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        if clarify not in ("message", "interrupt", None):
            raise ValueError(f"`clarify` (={clarify!r}) must be 'message', 'interrupt' or None")
        super().__init__(
            classifier,
            policy,
            text=text,
            ask=ask,
            timeout=timeout,
            require_user_text=require_user_text,
            messages=messages,
        )
        self.clarify = clarify
        self._name = name or type(self).__name__

    @property
    def name(self) -> str:
        """Of the gate's steps in the graph."""
        return self._name

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]
    ) -> Any:
        """Call the model, unless the gate could not do its work.

        A call that was left without an answer gets one, or the model's provider would refuse. If a
        question about its last calls still waits, the model is not called: they come again.
        """
        self._check_agent(request)
        if (again := put_again(request.state, self._unsettled)) is not None:
            return again
        return marked(handler(request.override(messages=with_answers(request.messages))))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[Any]]
    ) -> Any:
        """:meth:`wrap_model_call` for async runs."""
        self._check_agent(request)
        if (again := put_again(request.state, self._unsettled)) is not None:
            return again
        request = request.override(messages=with_answers(request.messages))
        return marked(await handler(request))

    @hook_config(can_jump_to=["end", "model"])
    def after_model(self, state: GateState, runtime: Any) -> dict[str, Any]:
        """Score what the model wants; ask the user if need be."""
        if not self._may_interrupt(state):
            return self._settled(state, *self._judge(state), None)
        update, request = once(lambda: self._judge(state))
        if request is None or not self._asks_by_interrupt():
            return self._settled(state, update, request, None)
        answer = once(lambda: self._answer(request))
        return self._settled(state, update, request, answer)

    @hook_config(can_jump_to=["end", "model"])
    async def aafter_model(self, state: GateState, runtime: Any) -> dict[str, Any]:
        """:meth:`after_model` for async runs."""
        if not self._may_interrupt(state):
            return self._settled(state, *await self._ajudge(state), None)
        update, request = await aonce(lambda: self._ajudge(state))
        if request is None or not self._asks_by_interrupt():
            return self._settled(state, update, request, None)

        async def ask() -> Any:
            return self._answer(request)

        return self._settled(state, update, request, await aonce(ask))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]
    ) -> Result:
        """Run the call; if its tool is an agent, the gates in it hear the user."""
        with on_behalf_of(request.state["messages"]):
            return handler(request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]
    ) -> Result:
        """:meth:`wrap_tool_call` for async runs."""
        with on_behalf_of(request.state["messages"]):
            return await handler(request)

    def _check_agent(self, request: ModelRequest[Any]) -> None:
        self._check_request(request)
        if not has_checkpointer():
            raise ValueError(
                f"the agent has no checkpointer, so {self.name} can ask nobody: give create_agent "
                f"one (checkpointer=InMemorySaver()), or the graph around it"
            )

    def _answer(self, request: Mapping[str, Any]) -> Any:
        words = self.messages["not_understood"]
        return answer_to(request, "clarification", not_understood=words)

    def _asks_by_interrupt(self) -> bool:
        if called_as_tool():
            return True
        return nested() if self.clarify is None else self.clarify == "interrupt"

    def _may_interrupt(self, state: GateState) -> bool:
        """Whether the step that judges may ask somebody, and so run again."""
        return bool(self._calls(state)) and self._asks_by_interrupt()

    def _settled(
        self,
        state: GateState,
        update: dict[str, Any],
        request: Mapping[str, Any] | None,
        answer: Any,
    ) -> dict[str, Any]:
        """The update with the question to the user in it, and with their answer, if it is here."""
        if request is None:
            return update
        question = request["action_requests"][0]["args"]["question"]
        messages = [*self._put_off(state["messages"]), question_to_user(question)]
        if answer is None:
            return {**update, "messages": messages, "jump_to": "end"}
        return {**update, "messages": [*messages, users_answer(*answer)], "jump_to": "model"}

    @abstractmethod
    def _check_request(self, request: ModelRequest[Any]) -> None:
        """Raise ValueError for an agent that cannot be gated as asked."""

    @abstractmethod
    def _put_off(self, messages: list[AnyMessage]) -> list[Any]:
        """Messages that take back what the model wants, before the user is asked."""

    def _unsettled(
        self, state: Mapping[str, Any], answered: frozenset[str]
    ) -> list[ToolCall] | None:
        """The calls that ran beside a question of this gate which waits; None if none does."""
        return None

    def _records(self, state: Any) -> dict[str, DecisionRecord]:
        records: dict[str, DecisionRecord] = state.get("uncertainty_gate", {}).get(self.name, {})
        return records


def edited_call(call: ToolCall, state: Any) -> ToolCall:
    """The model's call as a reviewer left it, if one has edited it at any gate."""
    edits = state.get("edited_calls") or {}
    args = edits.get(fingerprint(call, message_id(state["messages"])))
    return call if args is None else ToolCall({**call, "args": args})
