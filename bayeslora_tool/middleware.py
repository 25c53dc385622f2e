"""UncertaintyGate: middleware for ``create_agent`` that stops a tool call only when in doubt.

Scoring and asking lie in two steps of the agent. ``after_model`` scores the calls and keeps the
verdicts in the agent's private state; ``wrap_tool_call`` reads them and may interrupt. LangGraph
runs an interrupted step again from its top, but never a finished one: nothing is scored twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Annotated, Any, NotRequired

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp

from bayeslora_tool.call_review import Result, answer_call, review_call, tell_edit
from bayeslora_tool.graphs.gate import default_question
from bayeslora_tool.graphs.scoring import Predictor, ascore, check_timeout, score
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.tool import EVENT
from bayeslora_tool.verdict import (
    UNSCORED,
    Verdict,
    escalated,
    event_of,
    failed,
    fingerprint,
    review_lines,
    verdict_on,
)

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ToolCallRequest
    from langchain.agents.middleware.types import PrivateStateAttr, hook_config
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[agents]"') from None

_QUESTION = "bayeslora_question"


class GateState(AgentState[Any]):
    """The agent's state with the gate's verdicts, which neither input nor output carries."""

    uncertainty_gate: NotRequired[Annotated[dict[str, dict[str, Verdict]], PrivateStateAttr]]
    """By the gate's name and the call's fingerprint, for the calls of the last model message."""


def user_request(call: ToolCall, state: AgentState[Any]) -> str:
    """What the gate scores unless told otherwise: the user's request, whatever the call.

    That is the user's last message and, if it answers a question of the gate, the messages that
    led to the question, a line each. What the model wrote is left out: a model's own words sound
    surer than the request they came from.

    Raises:
        ValueError: The conversation holds no message of the user.
    """
    words, _ = _request(state["messages"])
    if not words:
        raise ValueError("the conversation holds no message of the user to score")
    return "\n".join(words)


class UncertaintyGate(AgentMiddleware[GateState, Any, Any]):
    """Let sure tool calls run, ask the user about vague ones, and a reviewer about the rest.

    Proceed: the tool runs. Escalate: the call alone interrupts with a ``HITLRequest`` (parallel
    calls with one each, answered by interrupt id); approve, edit, reject and respond do what they
    do in LangChain's ``HumanInTheLoopMiddleware``, but an edit may change nothing except valid
    arguments, and an answer that makes no sense is asked for again. Clarify: no pending call
    runs, and the turn ends with a question to the user.

    List it first: then it judges what the other middlewares leave and asks before they touch the
    call, and a retry of the tool does not ask the reviewer again. A call that reaches it without a
    verdict, or changed since, is escalated. The agent needs a checkpointer.

    Args:
        classifier: Anything with ``predict(texts) -> list[Prediction]``; async runs use
            ``apredict``, if there is one. What it cannot score is escalated with the error as the
            reason.
        policy: Thresholds and routes. The user is asked about one request at most
            ``max_clarifications`` times in a row; after that, a reviewer is.
        text: ``text(tool_call, state) -> str``, what to score for a call. Calls with the same text
            share one score.
        tools: The tools to gate, as tools or names; None gates all.
        ask: ``ask(prediction, text) -> question`` for the user; by default the question names the
            two likeliest labels.
        timeout: Seconds, > 0, after which a score that has not come is given up and its call
            escalated; None waits. A ``predict`` that hangs keeps its thread until it returns.
        name: Tells two gates of one agent apart.

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
        tools: Iterable[str | BaseTool] | None = None,
        ask: Callable[[Prediction, str], str] | None = None,
        timeout: float | None = None,
        name: str = "UncertaintyGate",
    ) -> None:
        super().__init__()
        if not callable(getattr(classifier, "predict", None)):
            raise TypeError(
                f"`classifier` must have predict(texts) -> list[Prediction], got {classifier!r:.80}"
            )
        check_timeout(timeout)
        self.classifier: Predictor = classifier
        self.policy = policy
        self.timeout = timeout
        self.text = text
        self.gated = None if tools is None else _names(tools)
        self.ask = ask or default_question
        self._name = name

    @property
    def name(self) -> str:
        """Of the gate's steps in the graph."""
        return self._name

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: GateState, runtime: Any) -> dict[str, Any]:
        """Score the pending calls; end the turn if the user must be asked."""
        calls, texts = self._to_score(state)
        scores = {text: self._score(text) for text in _unique(texts)}
        update, events = self._route(state, calls, _paired(texts, scores))
        for event in events:
            with suppress(RuntimeError):  # outside of a run there is nobody to tell
                dispatch_custom_event(EVENT, event)
        return update

    @hook_config(can_jump_to=["end"])
    async def aafter_model(self, state: GateState, runtime: Any) -> dict[str, Any]:
        """:meth:`after_model` for async runs."""
        calls, texts = self._to_score(state)
        unique = _unique(texts)
        judged = await asyncio.gather(*map(self._ascore, unique))
        scores = dict(zip(unique, judged, strict=True))
        update, events = self._route(state, calls, _paired(texts, scores))
        for event in events:
            with suppress(RuntimeError):
                await adispatch_custom_event(EVENT, event)
        return update

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

    def _gates(self, call: ToolCall) -> bool:
        return self.gated is None or call["name"] in self.gated

    def _to_score(self, state: GateState) -> tuple[list[ToolCall], list[str | Verdict]]:
        """The calls to gate, and each one's text, or its verdict if it has none."""
        calls = [call for call in _pending(state["messages"]) if self._gates(call)]
        texts: list[str | Verdict] = []
        for call in calls:
            try:
                text = self.text(call, state)
                if not isinstance(text, str):
                    raise TypeError(f"`text` gave {text!r:.80}, expected a str")
                texts.append(text)
            except GraphBubbleUp:
                raise
            except Exception as error:  # fail closed
                texts.append(failed(None, f"{type(error).__name__}: {error}"))
        return calls, texts

    # Each text is scored alone, so that it fails alone.
    def _score(self, text: str) -> Verdict:
        return verdict_on(text, score(self.classifier, text, self.timeout), self.policy)

    async def _ascore(self, text: str) -> Verdict:
        if hasattr(self.classifier, "apredict"):  # scores concurrent calls together
            scored = await ascore(self.classifier, text, self.timeout)
            return verdict_on(text, scored, self.policy)
        return await asyncio.to_thread(self._score, text)

    def _route(
        self, state: GateState, calls: list[ToolCall], verdicts: list[Verdict]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The update of the agent's state, and what to tell tracers."""
        question = None
        vague = next((verdict for verdict in verdicts if verdict["action"] == "clarify"), None)
        if vague is not None:
            question, instead = self._question(vague, _request(state["messages"])[1])
            if question is None:
                verdicts = [
                    escalated(verdict, *instead) if verdict["action"] == "clarify" else verdict
                    for verdict in verdicts
                ]
        judged = list(zip(calls, verdicts, strict=True))
        kept = {fingerprint(call): verdict for call, verdict in judged}
        update: dict[str, Any] = {
            "uncertainty_gate": {**state.get("uncertainty_gate", {}), self.name: kept}
        }
        if question is not None:
            # Models refuse a history in which a call has no answer.
            put_off = "Not run: the user is asked first. Wait for what they say."
            update["messages"] = [
                *(answer_call(call, put_off, "error") for call in _pending(state["messages"])),
                AIMessage(question, additional_kwargs={"lc_source": _QUESTION}),
            ]
            update["jump_to"] = "end"
        return update, [event_of(call, verdict) for call, verdict in judged]

    def _question(self, verdict: Verdict, asked: int) -> tuple[str | None, tuple[str, str | None]]:
        """A question to the user, or else why a reviewer is asked, and what failed."""
        if asked >= self.policy.max_clarifications:
            return None, (f"The user was asked {asked} times already.", None)
        assert verdict["prediction"] is not None
        assert verdict["text"] is not None
        try:
            question = self.ask(Prediction.from_dict(verdict["prediction"]), verdict["text"])
            if not isinstance(question, str) or not question.strip():
                raise TypeError(f"`ask` gave {question!r:.80}, expected a question")
        except GraphBubbleUp:
            raise
        except Exception as error:  # fail closed
            kind = type(error).__name__
            return None, (f"No question could be put ({kind}).", f"{kind}: {error}")
        return question, ("", None)

    def _settle(self, request: ToolCallRequest) -> ToolCallRequest | ToolMessage:
        call = request.tool_call
        if not self._gates(call):
            return request
        verdicts = request.state.get("uncertainty_gate", {}).get(self.name, {})
        verdict = verdicts.get(fingerprint(call), UNSCORED)
        return (
            request
            if verdict["action"] == "proceed"
            else review_call(request, review_lines(verdict))
        )


def _names(tools: Iterable[str | BaseTool]) -> frozenset[str]:
    if isinstance(tools, str):
        raise TypeError(f"`tools` (={tools!r}) must be a list of tools or names, not one str")
    names = [tool.name if isinstance(tool, BaseTool) else tool for tool in tools]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"`tools` must hold tools or their names, got {name!r:.80}")
    return frozenset(names)


def _unique(texts: list[str | Verdict]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if isinstance(text, str)))


def _paired(texts: list[str | Verdict], scores: dict[str, Verdict]) -> list[Verdict]:
    return [scores[text] if isinstance(text, str) else text for text in texts]


def _pending(messages: Sequence[AnyMessage]) -> list[ToolCall]:
    """The calls of the model's last message that have no answer yet."""
    answered = set()
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            return [call for call in message.tool_calls if call["id"] not in answered]
        if isinstance(message, ToolMessage):
            answered.add(message.tool_call_id)
    return []


def _request(messages: Sequence[AnyMessage]) -> tuple[list[str], int]:
    """The user's words that make up the present request, and how often the gate asked about it."""
    words: list[str] = []
    asked = 0
    # Backwards through the turn that a message of the user started, whatever happened in it.
    in_turn = True
    for message in reversed(messages):
        source = message.additional_kwargs.get("lc_source")
        if isinstance(message, HumanMessage):
            if source is not None or not in_turn:  # a summary, or another request
                break
            words.insert(0, str(message.text))
            in_turn = False
        elif not in_turn:
            if source != _QUESTION:  # the turn before was another request
                break
            asked += 1
            in_turn = True
    return words, asked
