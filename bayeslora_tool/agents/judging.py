"""What a gate thinks of the calls that a model wants to make, and why.

Knows the agent's conversation and no step of the agent; ``gating.py`` says when to judge.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, NotRequired

from langchain_core.messages import AnyMessage, ToolCall
from langgraph.errors import GraphBubbleUp

from bayeslora_tool.agents.decision_record import (
    DecisionRecord,
    decision_record,
    escalated,
    failed,
    fingerprint,
    kept,
    record_event,
    review_lines,
    with_key,
)
from bayeslora_tool.agents.dialogue import (
    declined,
    message_id,
    times_asked,
    unanswered,
    user_request,
)
from bayeslora_tool.agents.subagents import called_as_tool, handed_down
from bayeslora_tool.graphs.decision_event import DecisionEvent, atell, tell
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
from bayeslora_tool.review.answers import Decision
from bayeslora_tool.review.clarification import (
    asker,
    clarification_request,
    put_question,
    why_declined,
    why_not_again,
    why_not_asked,
)
from bayeslora_tool.review.messages import read_messages

try:
    from langchain.agents.middleware import AgentState
    from langchain.agents.middleware.types import PrivateStateAttr
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[agents]"') from None


def _latest(_: str | None, said: str | None) -> str | None:
    return said  # each of several gates says it, and the same


class GateState(AgentState[Any]):
    """The agent's state with the gate's records, which neither input nor output carries."""

    uncertainty_gate: NotRequired[Annotated[dict[str, dict[str, DecisionRecord]], PrivateStateAttr]]
    """By the gate's name and the call's fingerprint, for the calls of the last model message."""

    edited_calls: NotRequired[Annotated[dict[str, dict[str, Any]], PrivateStateAttr]]
    """A reviewer's arguments, by the fingerprint of the model's own call; all gates share it."""

    bayeslora_open: NotRequired[Annotated[str | None, PrivateStateAttr, _latest]]
    """The id of the model's last message, until it is given up."""

    bayeslora_later: NotRequired[Annotated[list[AnyMessage], PrivateStateAttr]]
    """Messages that came while a question waited; they begin the next turn."""


class Reader(NamedTuple):
    """How a call is judged: what is scored for it, by whom, and what is sure enough."""

    text: Callable[[ToolCall, Any], str]
    classifier: Predictor
    policy: Policy


class Wanted(NamedTuple):
    """A score to take; calls with the same one share it."""

    text: str
    reader: Reader


class Judge:
    """Scores calls, routes them by the policy, and keeps the records.

    Its arguments are those of :class:`~bayeslora_tool.agents.gating.Gate` with the same names.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the gate, which its records are kept under."""

    def __init__(
        self,
        classifier: Any,
        policy: Policy,
        *,
        text: Callable[[ToolCall, AgentState[Any]], str],
        ask: Callable[[Prediction, str], str] | None,
        timeout: float | None,
        require_user_text: bool,
        messages: Mapping[str, str] | None,
    ) -> None:
        super().__init__()
        check_classifier(classifier)
        check_timeout(timeout)
        self.classifier: Predictor = classifier
        self.policy = policy
        self.timeout = timeout
        self.text = text
        self.require_user_text = require_user_text
        self.messages = read_messages(messages)
        self.ask = ask or asker(self.messages)

    @abstractmethod
    def _calls(self, state: GateState) -> list[ToolCall]:
        """What to gate, as calls."""

    def _judge(self, state: GateState) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The update of the agent's state, and the request to the user if they are to be asked."""
        calls, texts = self._to_score(state)
        scores = {want: self._score(*want) for want in _unique(texts)}
        update, request, events = self._route(state, calls, self._paired(calls, texts, scores))
        for event in events:
            tell(event)
        return update, request

    async def _ajudge(self, state: GateState) -> tuple[dict[str, Any], dict[str, Any] | None]:
        calls, texts = self._to_score(state)
        unique = _unique(texts)
        judged = await asyncio.gather(*(self._ascore(*want) for want in unique))
        scores = dict(zip(unique, judged, strict=True))
        update, request, events = self._route(state, calls, self._paired(calls, texts, scores))
        for event in events:
            await atell(event)
        return update, request

    def _reader(self, call: ToolCall) -> Reader:
        """How a call is judged."""
        return Reader(self.text, self.classifier, self.policy)

    def _fitted(self, call: ToolCall, record: DecisionRecord) -> DecisionRecord:
        """The record of a text, for this very call."""
        return record

    def _to_score(self, state: GateState) -> tuple[list[ToolCall], list[Wanted | DecisionRecord]]:
        """The calls to gate, and for each one what is to be scored, or else its record."""
        calls = self._calls(state)
        return calls, [self._wanted(call, state) for call in calls]

    def _wanted(self, call: ToolCall, state: Any) -> Wanted | DecisionRecord:
        """What is to be scored for a call, or else its record."""
        text = self._text(call, state)
        return Wanted(text, self._reader(call)) if isinstance(text, str) else text

    def _paired(
        self,
        calls: list[ToolCall],
        texts: list[Wanted | DecisionRecord],
        scores: dict[Wanted, DecisionRecord],
    ) -> list[DecisionRecord]:
        return [
            self._verdict(call, scores[text] if isinstance(text, Wanted) else text)
            for call, text in zip(calls, texts, strict=True)
        ]

    def _verdict(self, call: ToolCall, record: DecisionRecord) -> DecisionRecord:
        record = self._fitted(call, record)
        if self._misses_the_user(call) and record["failure"] is None:
            said = "Scored is the task that another agent wrote, not the user's words."
            record = {**record, "reason": f"{record['reason']} {said}"}
        return record

    def _misses_the_user(self, call: ToolCall) -> bool:
        return self._reader(call).text is user_request and called_as_tool() and not handed_down()

    def _text(self, call: ToolCall, state: Any) -> str | DecisionRecord:
        try:
            if self.require_user_text and self._misses_the_user(call):
                raise ValueError("the user's words did not come with the other agent's task")
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
            wanted = self._wanted(call, state)
            record = self._score(*wanted) if isinstance(wanted, Wanted) else wanted
            record = self._at_the_door(call, self._verdict(call, record), state)
            tell(self._event(call, record))
            return kept(record)

        return once(judge)

    async def _ajudge_late(self, call: ToolCall, state: Any) -> DecisionRecord:
        async def judge() -> DecisionRecord:
            wanted = self._wanted(call, state)
            record = await self._ascore(*wanted) if isinstance(wanted, Wanted) else wanted
            record = self._at_the_door(call, self._verdict(call, record), state)
            await atell(self._event(call, record))
            return kept(record)

        return await aonce(judge)

    def _marked(self, call: ToolCall, record: DecisionRecord, state: Any) -> DecisionRecord:
        key = fingerprint(call, message_id(state["messages"]))
        return with_key(record, key, self._reader(call).policy)

    def _at_the_door(self, call: ToolCall, record: DecisionRecord, state: Any) -> DecisionRecord:
        if (words := declined(state["messages"])) is not None:
            record = escalated(record, why_declined(words), record["failure"])
        elif record["action"] == "clarify":
            record = escalated(record, "It is too late to ask the user.", None)
        return self._marked(call, record, state)

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
    ) -> tuple[dict[str, Any], dict[str, Any] | None, list[DecisionEvent]]:
        """The update of the agent's state, the request to the user, and what to tell tracers."""
        request = None
        if declined(state["messages"]) is not None:
            why = why_declined("")  # events hear the reason, and never the user's words
            records = [escalated(record, why, record["failure"]) for record in records]
        vague = next((record for record in records if record["action"] == "clarify"), None)
        if vague is not None:
            request, instead = self._question(vague, state["messages"])
            if request is None:
                records = [
                    escalated(record, *instead) if record["action"] == "clarify" else record
                    for record in records
                ]
        judged = [
            (call, self._marked(call, record, state))
            for call, record in zip(calls, records, strict=True)
        ]
        records_kept = {record["key"]: kept(record) for _, record in judged}
        update: dict[str, Any] = {
            "uncertainty_gate": {**state.get("uncertainty_gate", {}), self.name: records_kept}
        }
        return update, request, [self._event(call, record) for call, record in judged]

    def _lines(self, record: DecisionRecord, state: Any, *calls: ToolCall) -> list[str]:
        """What a reviewer reads; the state keeps no text, so it is read again."""
        return review_lines(record, *(self._text(call, state) for call in calls))

    def _event(
        self, call: ToolCall, record: DecisionRecord, said: Decision | None = None
    ) -> DecisionEvent:
        return record_event(record, gate=self.name, tool=call["name"], said=said)

    def _question(
        self, record: DecisionRecord, messages: list[AnyMessage]
    ) -> tuple[dict[str, Any] | None, tuple[str, str | None]]:
        """The request to the user, or else why a reviewer is asked, and what failed."""
        asked = times_asked(messages)
        if asked >= self.policy.max_clarifications:
            return None, (why_not_asked(asked), None)
        if unanswered(messages):
            return None, (why_not_again(), None)
        assert record["prediction"] is not None
        try:
            question = put_question(self.ask, record["prediction"], record["text"])
        except GraphBubbleUp:
            raise
        except Exception as error:  # fail closed
            kind = type(error).__name__
            return None, (f"No question could be put ({kind}).", f"{kind}: {error}")
        return clarification_request(text=record["text"], question=question), ("", None)


def _unique(texts: list[Wanted | DecisionRecord]) -> list[Wanted]:
    return list(dict.fromkeys(text for text in texts if isinstance(text, Wanted)))
