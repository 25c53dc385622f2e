"""Middleware for ``create_agent`` that stops a tool call when in doubt."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core.messages import AnyMessage, ToolCall, ToolMessage
from langchain_core.tools import BaseTool

from bayeslora_tool.agents.acts import Act, Labels, misfit, read_acts
from bayeslora_tool.agents.call_review import (
    Result,
    answer_call,
    instead,
    review_call,
    review_calls,
    tell_edit,
    with_args,
)
from bayeslora_tool.agents.decision_record import DecisionRecord, fingerprint, reviewed
from bayeslora_tool.agents.dialogue import message_id, pending_calls, user_request
from bayeslora_tool.agents.gating import Gate, edited_call, hook_config
from bayeslora_tool.agents.judging import GateState, Reader, Wanted
from bayeslora_tool.agents.own_doubt import OwnDoubt, asker_of_tools, doubt_record
from bayeslora_tool.agents.put_again import later_lines, next_turn
from bayeslora_tool.graphs.decision_event import tell, text_marks
from bayeslora_tool.graphs.question import forget_old_answer
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.requests import ALL_DECISIONS, DecisionType

if TYPE_CHECKING:  # gating.py says what to install where they are missing
    from langchain.agents.middleware import AgentState, ModelRequest, ToolCallRequest

__all__ = ["Act", "UncertaintyGate", "user_request"]

logger = logging.getLogger(__name__)


class UncertaintyGate(Gate):
    """Let sure tool calls run, ask the user about vague ones, and a reviewer about the rest.

    Proceed: the tool runs. Escalate: the run waits for a reviewer; approve, edit, reject and
    respond do what they do in LangChain's ``HumanInTheLoopMiddleware``, but an edit may change
    nothing except arguments, and those that the tool does not take are asked for again, for that
    call alone. Clarify: no pending call runs, and a question is put to the user.

    List it first: then it judges what the other middlewares leave and asks before they touch the
    call, and a retry of the tool does not ask the reviewer again. A call that was added or changed
    after the gate saw the model's message, by a reviewer at another gate or by a middleware, is
    judged when it reaches the gate. The agent needs a checkpointer. The model's final answer
    passes; see :class:`~bayeslora_tool.agents.answer_gate.AnswerGate`.

    Args:
        classifier: As for :class:`~bayeslora_tool.agents.gating.Gate`, like all others but four.
            None with ``signal="model"``.
        signal: ``classifier``: what the classifier reads in the text. ``model``: what the agent's
            own model, a :class:`~bayeslora_tool.chat.chat_model.ChatBayesLoRA`, said of its
            call: the doubt about the tool, and about the ``sure_arguments`` of its act. A call that
            the model did not write so, or another model did, is escalated; ``text`` is what
            reviewers are shown.
        tools: The tools to gate, as tools or names; None gates all. A name that the agent does not
            have raises a ValueError when its model is called. The gate's default name holds them.
        interrupt_mode: ``batched``: one interrupt for all doubtful calls of a message, before any
            call of it runs, with LangChain's ``HITLRequest``; its answer,
            ``{"decisions": [...]}``, has one decision for each, by position. ``per_call``: one
            interrupt for each, with LangChain's ``ToolApprovalRequest``, while sure calls run; each
            is answered by one decision under its interrupt's id.
        acts: The labels that may lead to each tool: ``{"freeze_account": {"freeze_account",
            "report_lost_card"}}``, as names, globs, a function, or an :class:`Act`. A sure label
            that does not fit the call escalates, and so does a call of a tool that is not named.
            None: only asked is whether the label is sure, never whether it fits. With
            ``signal="model"`` the labels are the tools, so an :class:`Act` names none, and has
            neither text nor classifier.
    """

    def __init__(
        self,
        classifier: Any,
        policy: Policy,
        *,
        signal: Literal["classifier", "model"] = "classifier",
        text: Callable[[ToolCall, AgentState[Any]], str] = user_request,
        tools: Iterable[str | BaseTool] | None = None,
        ask: Callable[[Prediction, str], str] | None = None,
        timeout: float | None = None,
        clarify: Literal["message", "interrupt"] | None = None,
        require_user_text: bool = False,
        interrupt_mode: Literal["batched", "per_call"] = "batched",
        acts: Mapping[str, Act | Labels] | None = None,
        messages: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> None:
        self.gated = None if tools is None else _names(tools)
        if name is None and self.gated is not None:
            # Not a number: it must be the same in each process that carries a thread on.
            named = re.sub("[:|]", "_", ", ".join(sorted(self.gated)))  # LangGraph's own characters
            name = f"{type(self).__name__}({named})"
        if signal not in ("classifier", "model"):
            raise ValueError(f"`signal` (={signal!r}) must be 'classifier' or 'model'")
        self.signal = signal
        if signal == "model":
            if classifier is not None or require_user_text or timeout is not None:
                raise ValueError(
                    "`signal='model'` reads the model's own doubt and scores no text; pass None as "
                    "the `classifier`, leave `require_user_text` and `timeout` out, or choose "
                    "signal='classifier'"
                )
            classifier = OwnDoubt()
        super().__init__(
            classifier,
            policy,
            text=text,
            ask=ask,
            timeout=timeout,
            clarify=clarify,
            require_user_text=require_user_text,
            messages=messages,
            name=name,
        )
        if interrupt_mode not in ("batched", "per_call"):
            raise ValueError(
                f"`interrupt_mode` (={interrupt_mode!r}) must be 'batched' or 'per_call'"
            )
        if signal == "model" and ask is None:
            self.ask = asker_of_tools(self.messages)
        self.interrupt_mode = interrupt_mode
        if isinstance(acts, Mapping):
            _check_acts(acts, signal)
        self.acts = None if acts is None else read_acts(acts, classifier)
        if acts is None and signal == "classifier":
            _say_once()

    @hook_config(can_jump_to=["end", "model"])
    def after_model(self, state: GateState, runtime: Any) -> dict[str, Any]:
        """Score the pending calls; ask the user or a reviewer if need be."""
        return self._reviewed(state, super().after_model(state, runtime))

    @hook_config(can_jump_to=["end", "model"])
    async def aafter_model(self, state: GateState, runtime: Any) -> dict[str, Any]:
        """:meth:`after_model` for async runs."""
        return self._reviewed(state, await super().aafter_model(state, runtime))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]
    ) -> Result:
        """Run the call, or what a reviewer makes of it."""
        if not self._gates(request.tool_call):
            return super().wrap_tool_call(request, handler)
        call, known = self._arrived(request)
        record = known or self._judge_late(call, request.state)
        settled = self._settle(request, call, record)
        if isinstance(settled, ToolMessage):
            return settled
        result = super().wrap_tool_call(settled, handler)
        return tell_edit(result, request.tool_call, settled.tool_call)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]
    ) -> Result:
        """:meth:`wrap_tool_call` for async runs."""
        if not self._gates(request.tool_call):
            return await super().awrap_tool_call(request, handler)
        call, known = self._arrived(request)
        record = known or await self._ajudge_late(call, request.state)
        settled = self._settle(request, call, record)
        if isinstance(settled, ToolMessage):
            return settled
        result = await super().awrap_tool_call(settled, handler)
        return tell_edit(result, request.tool_call, settled.tool_call)

    def _check_request(self, request: ModelRequest[Any]) -> None:
        # A misspelled name would leave its tool without a gate.
        has = [t.name if isinstance(t, BaseTool) else t.get("name") for t in request.tools]
        for argument, named in (("tools", self.gated), ("acts", self.acts)):
            if unknown := sorted(set(named or ()).difference(has)):
                raise ValueError(
                    f"`{argument}` of {self.name} names {', '.join(map(repr, unknown))}, but the "
                    f"agent has {', '.join(map(repr, has)) or 'no tools'}; correct the name, leave "
                    f"it out, or list the gate before a middleware that hides tools"
                )

    def _reader(self, call: ToolCall) -> Reader:
        act = (self.acts or {}).get(call["name"])
        if act is None:
            return super()._reader(call)
        return Reader(
            act.text or self.text, act.classifier or self.classifier, act.policy or self.policy
        )

    def _wanted(self, call: ToolCall, state: Any) -> Wanted | DecisionRecord:
        wanted = super()._wanted(call, state)
        if self.signal == "classifier" or not isinstance(wanted, Wanted):
            return wanted
        act = (self.acts or {}).get(call["name"])
        sure = () if act is None else act.sure_arguments
        return doubt_record(wanted.text, call, state["messages"], wanted.reader.policy, sure)

    def _misses_the_user(self, call: ToolCall) -> bool:
        return self.signal == "classifier" and super()._misses_the_user(call)

    def _fitted(self, call: ToolCall, record: DecisionRecord) -> DecisionRecord:
        if self.acts is None or record["action"] != "proceed":
            return record
        assert record["prediction"] is not None
        why = misfit(self.acts, call, record["prediction"], self.classifier)
        return record if why is None else {**record, "action": "escalate", "reason": why}

    @hook_config(can_jump_to=["model"])
    def after_agent(self, state: GateState, runtime: Any) -> dict[str, Any] | None:
        """Begin another turn, if messages came while a question waited."""
        return next_turn(state)

    def _unsettled(
        self, state: Mapping[str, Any], answered: frozenset[str]
    ) -> list[ToolCall] | None:
        records, message = self._records(state), message_id(state["messages"])
        waits, ran = False, []
        for call in self._calls(cast(GateState, state)):
            record = records.get(fingerprint(call, message))
            if record is None:  # the step that judges, and asks, was not through
                return []
            if record["action"] == "proceed" or record.get("approved"):
                ran.append(call)  # in the step that asked about others: what came of it is lost
            elif call["id"] not in answered:
                waits = True
        return ran if waits else None

    def _may_interrupt(self, state: GateState) -> bool:
        if self.interrupt_mode == "batched":
            return bool(self._calls(state))
        return super()._may_interrupt(state)

    def _allowed(self, call: ToolCall) -> Sequence[DecisionType]:
        act = (self.acts or {}).get(call["name"])
        return ALL_DECISIONS if act is None else act.allowed_decisions

    def _gates(self, call: ToolCall) -> bool:
        return self.gated is None or call["name"] in self.gated

    def _gated(self, state: GateState) -> list[ToolCall]:
        """The model's own calls."""
        return [call for call in pending_calls(state["messages"]) if self._gates(call)]

    def _calls(self, state: GateState) -> list[ToolCall]:
        return [edited_call(call, state) for call in self._gated(state)]

    def _put_off(self, messages: list[AnyMessage]) -> list[Any]:
        # Models refuse a history in which a call has no answer.
        why = "Not run: the user is asked first. Wait for what they say."
        return [answer_call(call, why, "error") for call in pending_calls(messages)]

    def _reviewed(self, state: GateState, update: dict[str, Any]) -> dict[str, Any]:
        """The update of the agent's state after a reviewer has seen all doubtful calls of it."""
        if self.interrupt_mode == "per_call" or not self._calls(state):
            return update
        message, records = message_id(state["messages"]), self._records(update)
        judged = [
            (own, call, records[fingerprint(call, message)])
            for own, call in zip(self._gated(state), self._calls(state), strict=True)
        ]
        doubtful = [row for row in judged if row[2]["action"] != "proceed"]
        if not doubtful or "jump_to" in update:
            return update
        later = later_lines(state)
        asked = [
            (call, [*self._lines(record, state, call), *later], self._allowed(call))
            for _, call, record in doubtful
        ]
        decisions = review_calls(asked)
        edits = {
            key: state["edited_calls"][key]
            for own, _, _ in judged
            if (key := fingerprint(own, message)) in state.get("edited_calls", {})
        }
        answers, seen = [], {}
        for (own, call, record), decision in zip(doubtful, decisions, strict=True):
            answer, said = instead(call, decision), reviewed(record, decision)
            tell(self._event(call, record, decision))
            if answer is not None:
                answers.append(answer)
                seen[fingerprint(call, message)] = said
                continue
            if decision["args"] is not None:
                call = ToolCall({**call, "args": decision["args"]})
                edits[fingerprint(own, message)] = decision["args"]
            seen[fingerprint(call, message)] = said
        gates = update["uncertainty_gate"]
        return {
            "uncertainty_gate": {**gates, self.name: {**records, **seen}},
            "edited_calls": edits,
            "messages": answers,
        }

    def _arrived(self, request: ToolCallRequest) -> tuple[ToolCall, DecisionRecord | None]:
        """The call with a reviewer's edit, and its record, if its text was scored."""
        forget_old_answer()
        call, records = edited_call(request.tool_call, request.state), self._records(request.state)
        record = records.get(fingerprint(call, message_id(request.state["messages"])))
        if record is not None or not records or self.signal == "model":
            return call, record
        text = self._text(call, request.state)
        digest = text_marks(text)["sha256"] if isinstance(text, str) else None
        same = next((r for r in records.values() if digest and r["sha256"] == digest), None)
        own = (act for act in (self.acts or {}).values() if act.classifier or act.policy)
        if same is None or any(own):  # the same text, but perhaps another's word on it
            return call, None
        # What was approved, and what fitted, was another call.
        other = DecisionRecord({**same, "approved": False, "reviewer": None, "message": None})
        return call, self._fitted(call, other)

    def _settle(
        self, request: ToolCallRequest, call: ToolCall, record: DecisionRecord
    ) -> ToolCallRequest | ToolMessage:
        problem = None
        try:
            edited = call["args"] if call["args"] != request.tool_call["args"] else None
            request = with_args(request, edited)
            if record["action"] == "proceed" or record.get("approved"):
                return request
        except ValueError as error:
            problem = str(error)
        return review_call(
            request,
            self._lines(record, request.state, call, request.tool_call),
            self._allowed(call),
            per_call=self.interrupt_mode == "per_call",
            problem=problem,
            heard=lambda decision: tell(self._event(call, record, decision)),
        )


@cache
def _say_once() -> None:
    logger.warning(
        "UncertaintyGate without `acts` asks whether the label is sure, not whether it fits the "
        "tool that is called; name the labels that may lead to each tool (`bayeslora bind` "
        "proposes them)"
    )


def _check_acts(acts: Mapping[str, Act | Labels], signal: str) -> None:
    for tool, act in acts.items():
        if signal == "classifier":
            if isinstance(act, Act) and act.sure_arguments:
                raise ValueError(
                    f"`acts[{tool!r}].sure_arguments`: only the model that wrote a call doubts its "
                    f"arguments; choose signal='model', or leave them out"
                )
        elif not isinstance(act, Act) or any(
            given is not None for given in (act.labels, act.text, act.classifier)
        ):
            raise ValueError(
                f"`acts[{tool!r}]`: with signal='model' the label is the tool itself; give an Act "
                f"without labels, text and classifier"
            )


def _names(tools: Iterable[str | BaseTool]) -> frozenset[str]:
    if isinstance(tools, str):
        raise TypeError(f"`tools` (={tools!r}) must be a list of tools or names, not one str")
    names = [tool.name if isinstance(tool, BaseTool) else tool for tool in tools]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"`tools` must hold tools or their names, got {name!r:.80}")
    return frozenset(names)
