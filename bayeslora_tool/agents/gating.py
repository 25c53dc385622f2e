"""What the gates of ``middleware.py`` share: score what the model wants and keep the record.

``after_model`` scores and keeps the records in the agent's private state. LangGraph runs a step
that asks a person again from its top: what was scored in the same step goes through ``once``.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any, NamedTuple, NotRequired

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import AnyMessage, ToolCall
from langgraph.errors import GraphBubbleUp

from bayeslora_tool.agents.decision_record import (
    EVENT,
    DecisionRecord,
    decision_record,
    escalated,
    failed,
    fingerprint,
    log_decision,
)
from bayeslora_tool.agents.dialogue import (
    declined,
    message_id,
    question_to_user,
    times_asked,
    user_request,
    with_answers,
)
from bayeslora_tool.graphs.once import aonce, once
from bayeslora_tool.graphs.scoring import (
    Predictor,
    ascore,
    check_classifier,
    check_timeout,
    score,
)
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.clarification import (
    default_question,
    put_question,
    why_declined,
    why_not_asked,
)

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langchain.agents.middleware.types import ModelRequest, PrivateStateAttr
    from langchain.agents.middleware.types import hook_config as hook_config
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[agents]"') from None


_LIKELIEST = 5  # labels whose probabilities the agent's state keeps


class GateState(AgentState[Any]):
    """The agent's state with the gate's records, which neither input nor output carries."""

    uncertainty_gate: NotRequired[Annotated[dict[str, dict[str, DecisionRecord]], PrivateStateAttr]]
    """By the gate's name and the call's fingerprint, for the calls of the last model message."""

    edited_calls: NotRequired[Annotated[dict[str, dict[str, Any]], PrivateStateAttr]]
    """A reviewer's arguments, by the fingerprint of the model's own call; all gates share it."""


class Reader(NamedTuple):
    """How a call is judged: what is scored for it, by whom, and what is sure enough."""

    text: Callable[[ToolCall, Any], str]
    classifier: Predictor
    policy: Policy


class Wanted(NamedTuple):
    """A score to take; calls with the same one share it."""

    text: str
    reader: Reader


class Gate(AgentMiddleware[GateState, Any, Any]):
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
        name: str | None = None,
    ) -> None:
        super().__init__()
        check_classifier(classifier)
        check_timeout(timeout)
        self.classifier: Predictor = classifier
        self.policy = policy
        self.timeout = timeout
        self.text = text
        self.ask = ask or default_question
        self._name = name or type(self).__name__

    @property
    def name(self) -> str:
        """Of the gate's steps in the graph."""
        return self._name

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]
    ) -> Any:
        """Call the model, unless the gate could not do its work.

        A call that was left without an answer gets one, or the model's provider would refuse.
        """
        self._check_request(request)
        return handler(request.override(messages=with_answers(request.messages)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[Any]]
    ) -> Any:
        """:meth:`wrap_model_call` for async runs."""
        self._check_request(request)
        return await handler(request.override(messages=with_answers(request.messages)))

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: GateState, runtime: Any) -> dict[str, Any]:
        """Score the pending calls; end the turn if the user must be asked."""
        return self._judge(state)

    @hook_config(can_jump_to=["end"])
    async def aafter_model(self, state: GateState, runtime: Any) -> dict[str, Any]:
        """:meth:`after_model` for async runs."""
        return await self._ajudge(state)

    def _judge(self, state: GateState) -> dict[str, Any]:
        calls, texts = self._to_score(state)
        scores = {want: self._score(*want) for want in _unique(texts)}
        update, events = self._route(state, calls, self._paired(calls, texts, scores))
        for event in events:
            _tell(event)
        return update

    async def _ajudge(self, state: GateState) -> dict[str, Any]:
        calls, texts = self._to_score(state)
        unique = _unique(texts)
        judged = await asyncio.gather(*(self._ascore(*want) for want in unique))
        scores = dict(zip(unique, judged, strict=True))
        update, events = self._route(state, calls, self._paired(calls, texts, scores))
        for event in events:
            await _atell(event)
        return update

    @abstractmethod
    def _check_request(self, request: ModelRequest[Any]) -> None:
        """Raise ValueError for an agent that cannot be gated as asked."""

    @abstractmethod
    def _calls(self, state: GateState) -> list[ToolCall]:
        """What to gate, as calls."""

    @abstractmethod
    def _put_off(self, messages: list[AnyMessage]) -> list[Any]:
        """Messages that take back what the model wants, before the user is asked."""

    def _records(self, state: Any) -> dict[str, DecisionRecord]:
        records: dict[str, DecisionRecord] = state.get("uncertainty_gate", {}).get(self.name, {})
        return records

    def _reader(self, call: ToolCall) -> Reader:
        """How a call is judged."""
        return Reader(self.text, self.classifier, self.policy)

    def _fitted(self, call: ToolCall, record: DecisionRecord) -> DecisionRecord:
        """The record of a text, for this very call."""
        return record

    def _to_score(self, state: GateState) -> tuple[list[ToolCall], list[Wanted | DecisionRecord]]:
        """The calls to gate, and for each one what is to be scored, or else its record."""
        calls = self._calls(state)
        texts: list[Wanted | DecisionRecord] = []
        for call in calls:
            text = self._text(call, state)
            texts.append(Wanted(text, self._reader(call)) if isinstance(text, str) else text)
        return calls, texts

    def _paired(
        self,
        calls: list[ToolCall],
        texts: list[Wanted | DecisionRecord],
        scores: dict[Wanted, DecisionRecord],
    ) -> list[DecisionRecord]:
        return [
            self._fitted(call, scores[text] if isinstance(text, Wanted) else text)
            for call, text in zip(calls, texts, strict=True)
        ]

    def _text(self, call: ToolCall, state: Any) -> str | DecisionRecord:
        try:
            text = self._reader(call).text(call, state)
            if not isinstance(text, str):
                raise TypeError(f"`text` gave {text!r:.80}, expected a str")
            return text
        except GraphBubbleUp:
            raise
        except Exception as error:  # fail closed
            return failed(None, f"{type(error).__name__}: {error}")

    def _judge_late(self, call: ToolCall, state: Any) -> DecisionRecord:
        """The verdict on a call that nobody saw when the model made its calls."""

        def judge() -> DecisionRecord:
            text, reader = self._text(call, state), self._reader(call)
            record = self._score(text, reader) if isinstance(text, str) else text
            record = self._at_the_door(self._fitted(call, record), state)
            _tell(log_decision(call["name"], record))
            return record

        return once(judge)

    async def _ajudge_late(self, call: ToolCall, state: Any) -> DecisionRecord:
        async def judge() -> DecisionRecord:
            text, reader = self._text(call, state), self._reader(call)
            record = await self._ascore(text, reader) if isinstance(text, str) else text
            record = self._at_the_door(self._fitted(call, record), state)
            await _atell(log_decision(call["name"], record))
            return record

        return await aonce(judge)

    def _at_the_door(self, record: DecisionRecord, state: Any) -> DecisionRecord:
        if (words := declined(state["messages"])) is not None:
            return escalated(record, why_declined(words), record["failure"])
        if record["action"] == "clarify":
            return escalated(record, "It is too late to ask the user.", None)
        return record

    # Each text is scored alone, so that it fails alone.
    def _score(self, text: str, reader: Reader) -> DecisionRecord:
        return decision_record(text, score(reader.classifier, text, self.timeout), reader.policy)

    async def _ascore(self, text: str, reader: Reader) -> DecisionRecord:
        if hasattr(reader.classifier, "apredict"):  # scores concurrent calls together
            scored = await ascore(reader.classifier, text, self.timeout)
            return decision_record(text, scored, reader.policy)
        return await asyncio.to_thread(self._score, text, reader)

    def _route(
        self, state: GateState, calls: list[ToolCall], records: list[DecisionRecord]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The update of the agent's state, and what to tell tracers."""
        question = None
        if declined(state["messages"]) is not None:
            why = why_declined("")  # events hear the reason, and never the user's words
            records = [escalated(record, why, record["failure"]) for record in records]
        vague = next((record for record in records if record["action"] == "clarify"), None)
        if vague is not None:
            question, instead = self._question(vague, times_asked(state["messages"]))
            if question is None:
                records = [
                    escalated(record, *instead) if record["action"] == "clarify" else record
                    for record in records
                ]
        judged = list(zip(calls, records, strict=True))
        message = message_id(state["messages"])
        kept = {fingerprint(call, message): _brief(record) for call, record in judged}
        update: dict[str, Any] = {
            "uncertainty_gate": {**state.get("uncertainty_gate", {}), self.name: kept}
        }
        if question is not None:
            update["messages"] = [
                *self._put_off(state["messages"]),
                question_to_user(question),
            ]
            update["jump_to"] = "end"
        return update, [log_decision(call["name"], record) for call, record in judged]

    def _question(
        self, record: DecisionRecord, asked: int
    ) -> tuple[str | None, tuple[str, str | None]]:
        """A question to the user, or else why a reviewer is asked, and what failed."""
        if asked >= self.policy.max_clarifications:
            return None, (why_not_asked(asked), None)
        assert record["prediction"] is not None
        assert record["text"] is not None
        try:
            question = put_question(self.ask, record["prediction"], record["text"])
        except GraphBubbleUp:
            raise
        except Exception as error:  # fail closed
            kind = type(error).__name__
            return None, (f"No question could be put ({kind}).", f"{kind}: {error}")
        return question, ("", None)


def _brief(record: DecisionRecord) -> DecisionRecord:
    """With the likeliest labels only: the agent's state is streamed and kept at each step."""
    if record["prediction"] is None:
        return record
    likeliest = sorted(record["prediction"]["probabilities"].items(), key=lambda item: -item[1])
    few = {**record["prediction"], "probabilities": dict(likeliest[:_LIKELIEST])}
    return {**record, "prediction": few}


def edited_call(call: ToolCall, state: Any) -> ToolCall:
    """The model's call as a reviewer left it, if one has edited it at any gate."""
    edits = state.get("edited_calls") or {}
    args = edits.get(fingerprint(call, message_id(state["messages"])))
    return call if args is None else ToolCall({**call, "args": args})


def _tell(event: dict[str, Any]) -> None:
    with suppress(RuntimeError):  # outside of a run there is nobody to tell
        dispatch_custom_event(EVENT, event)


async def _atell(event: dict[str, Any]) -> None:
    with suppress(RuntimeError):
        await adispatch_custom_event(EVENT, event)


def _unique(texts: list[Wanted | DecisionRecord]) -> list[Wanted]:
    return list(dict.fromkeys(text for text in texts if isinstance(text, Wanted)))
