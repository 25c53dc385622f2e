"""Middleware for ``create_agent`` that stops the final answer when in doubt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AnyMessage, RemoveMessage, ToolCall

from bayeslora_tool.agents.call_review import review_answer
from bayeslora_tool.agents.decision_record import DecisionRecord, fingerprint
from bayeslora_tool.agents.dialogue import final_answer, message_id
from bayeslora_tool.agents.gating import Gate
from bayeslora_tool.agents.judging import GateState
from bayeslora_tool.graphs.decision_event import tell

if TYPE_CHECKING:  # gating.py says what to install where they are missing
    from langchain.agents.middleware import ModelRequest


class AnswerGate(Gate):
    """Let answers to sure requests pass, ask the user about vague ones, a reviewer about the rest.

    Unless ``text`` says otherwise, the user's request is scored, not the model's answer. The
    message that ends the model's turn is reviewed like a call of ``final_answer`` with the
    argument ``answer``: approve lets it pass, edit and respond put other words in its place,
    reject withholds it. Clarify takes the answer back and puts a question to the user instead.
    It may stand beside an :class:`~bayeslora_tool.agents.middleware.UncertaintyGate`, which is
    blind to answers.

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
        call, known = self._ending(state)
        if call is None:
            return None
        return self._settle(call, known or self._judge_late(call, state), state)

    async def aafter_agent(self, state: GateState, runtime: Any) -> dict[str, Any] | None:
        """:meth:`after_agent` for async runs."""
        call, known = self._ending(state)
        if call is None:
            return None
        return self._settle(call, known or await self._ajudge_late(call, state), state)

    def _ending(self, state: GateState) -> tuple[ToolCall | None, DecisionRecord | None]:
        """The answer and its record, if it is what the gate has seen."""
        call = final_answer(state["messages"])
        if call is None:
            return None, None
        key = fingerprint(call, message_id(state["messages"]))
        return call, self._records(state).get(key)

    def _settle(
        self, call: ToolCall, record: DecisionRecord, state: GateState
    ) -> dict[str, Any] | None:
        if record["action"] == "proceed":
            return None
        answer, decision = review_answer(call, self._lines(record, state, call), self.messages)
        tell(self._event(call, record, decision))
        if answer == call["args"]["answer"]:
            return None
        # The same id: it takes the place of the model's.
        return {"messages": [AIMessage(answer, id=call["id"])]}

    def _calls(self, state: GateState) -> list[ToolCall]:
        call = final_answer(state["messages"])
        return [] if call is None else [call]

    def _put_off(self, messages: list[AnyMessage]) -> list[Any]:
        return [RemoveMessage(str(messages[-1].id))]
