"""Reads the doubt that an agent's own model left in its message about a call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, ToolCall

from bayeslora_tool.agents.decision_record import DecisionRecord, decision_record, escalated, failed
from bayeslora_tool.chat.call_doubt import AS_WRITTEN, OTHER
from bayeslora_tool.policy import Policy, decide
from bayeslora_tool.prediction import Prediction, check_predictions
from bayeslora_tool.review.clarification import Ask, asker
from bayeslora_tool.review.messages import Messages


class OwnDoubt:
    """Stands where a classifier does, in a gate that needs none."""

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Nothing is scored: the model has said its doubt.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a gate with signal='model' reads the model's own doubt, and no text")


def asker_of_tools(messages: Messages) -> Ask:
    """Asks which of the two likeliest tools is meant; that it is neither needs no name."""
    ask = asker(messages)

    def ask_of_tools(prediction: Prediction, text: str) -> str:
        tools = {name: p for name, p in prediction.probabilities.items() if name != OTHER}
        return ask(replace(prediction, probabilities=tools) if len(tools) > 1 else prediction, text)

    return ask_of_tools


def doubt_record(
    text: str,
    call: ToolCall,
    messages: Sequence[AnyMessage],
    policy: Policy,
    sure_arguments: Sequence[str],
) -> DecisionRecord:
    """The policy's word on a call, by the doubt of the model that made it.

    What has no doubt is escalated: a call of another model, and one that was added or changed since
    it was written.

    Args:
        text: What reviewers are shown as the request.
        call: To judge.
        messages: The conversation; the model's last message holds the doubt.
        policy: Thresholds and routes.
        sure_arguments: Arguments that must be as sure as the choice of the tool.
    """
    try:
        entry = _entry(call, messages)
        choice = _checked(entry["choice"], "the choice of the tool")
        arguments = {name: _argument(entry, name) for name in sure_arguments}
    except LookupError as missing:
        return failed(text, f"NoDoubt: {missing.args[0]}")
    except (TypeError, ValueError) as error:
        return failed(text, f"{type(error).__name__}: {error}")
    scored = {"prediction": choice.to_dict(), "failure": None, "latency": None}
    record = decision_record(text, scored, policy)
    if choice.label != call["name"]:
        why = f"The model takes '{choice.label}' for likelier than its call of `{call['name']}`."
        return {**record, "action": "escalate", "reason": why}
    if record["action"] != "proceed":
        return record
    for name, belief in arguments.items():
        decision = decide(belief, policy)
        why = f"Of its argument `{name}`: {decision.reason}"
        if belief.label != AS_WRITTEN:
            why = f"The model takes another value of `{name}` for likelier than the one it wrote."
        if decision.action != "proceed" or belief.label != AS_WRITTEN:
            return escalated(record, why, None)
    return record


def _entry(call: ToolCall, messages: Sequence[AnyMessage]) -> Mapping[str, Any]:
    message = next((m for m in reversed(messages) if isinstance(m, AIMessage)), None)
    doubt = {} if message is None else message.response_metadata.get("doubt")
    if not isinstance(doubt, Mapping) or not isinstance(doubt.get("calls"), list):
        raise LookupError(
            "the model that wrote the call says no doubt about it; let ChatBayesLoRA be the "
            "agent's model, without a fallback to another, or gate by a classifier"
        )
    entries = [each for each in doubt["calls"] if each["id"] == call["id"]]
    if len(entries) != 1:
        raise LookupError("the call was added after the model wrote its message")
    (entry,) = entries
    # Not by their values alone: True is 1.
    if _words(entry) != _words(call):
        raise LookupError("the call was changed after the model wrote it")
    if entry["choice"] is None:
        raise LookupError(f"the doubt of the call could not be measured: {entry['failure']}")
    return entry  # type: ignore[no-any-return]


def _words(call: Mapping[str, Any]) -> str:
    return json.dumps([call["name"], call["args"]], sort_keys=True)


def _argument(entry: Mapping[str, Any], name: str) -> Prediction:
    if name not in entry["args"]:
        raise LookupError(f"the call leaves `{name}` out, which must be sure")
    if name not in entry["arguments"]:
        raise LookupError(f"the doubt of `{name}` is not known: {entry['failure'] or 'not found'}")
    return _checked(entry["arguments"][name], f"`{name}`")


def _checked(values: Any, what: str) -> Prediction:
    try:
        (prediction,) = check_predictions([Prediction.from_dict(values)], 1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the doubt of {what} cannot be read: {error}") from None
    return prediction
