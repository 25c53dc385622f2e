"""What the gates of ``middleware.py`` share: score what the model wants and keep the record.

``after_model`` scores and keeps the records in the agent's private state. LangGraph runs a step
that asks a person again from its top: what was scored in the same step goes through ``once``.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from langchain_core.messages import AnyMessage, ToolCall
from langgraph.errors import GraphBubbleUp

from bayeslora_tool.agents.call_review import Result
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
    question_to_user,
    times_asked,
    unanswered,
    user_request,
    with_answers,
)
from bayeslora_tool.agents.put_again import marked, put_again
from bayeslora_tool.agents.subagents import (
    called_as_tool,
    handed_down,
    has_checkpointer,
    nested,
    on_behalf_of,
    users_answer,
)
from bayeslora_tool.graphs.decision_event import DecisionEvent, atell, tell
from bayeslora_tool.graphs.once import aonce, once
from bayeslora_tool.graphs.question import answer_to
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
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langchain.agents.middleware.types import ModelRequest, PrivateStateAttr, ToolCallRequest
    from langchain.agents.middleware.types import hook_config as hook_config
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
        super().__init__()
        check_classifier(classifier)
        check_timeout(timeout)
        if clarify not in ("message", "interrupt", None):
            raise ValueError(f"`clarify` (={clarify!r}) must be 'message', 'interrupt' or None")
        self.classifier: Predictor = classifier
        self.policy = policy
        self.timeout = timeout
        self.text = text
        self.clarify = clarify
        self.require_user_text = require_user_text
        self.messages = read_messages(messages)
        self.ask = ask or asker(self.messages)
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
    def _calls(self, state: GateState) -> list[ToolCall]:
        """What to gate, as calls."""

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
            text, reader = self._text(call, state), self._reader(call)
            record = self._score(text, reader) if isinstance(text, str) else text
            record = self._at_the_door(call, self._verdict(call, record), state)
            tell(self._event(call, record))
            return kept(record)

        return once(judge)

    async def _ajudge_late(self, call: ToolCall, state: Any) -> DecisionRecord:
        async def judge() -> DecisionRecord:
            text, reader = self._text(call, state), self._reader(call)
            record = await self._ascore(text, reader) if isinstance(text, str) else text
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


def edited_call(call: ToolCall, state: Any) -> ToolCall:
    """The model's call as a reviewer left it, if one has edited it at any gate."""
    edits = state.get("edited_calls") or {}
    args = edits.get(fingerprint(call, message_id(state["messages"])))
    return call if args is None else ToolCall({**call, "args": args})


def _unique(texts: list[Wanted | DecisionRecord]) -> list[Wanted]:
    return list(dict.fromkeys(text for text in texts if isinstance(text, Wanted)))
