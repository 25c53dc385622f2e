"""A bank's chat agent for ``langgraph dev``, to see the gate at work in agent-chat-ui.

Everything but the gate is a stand-in: the model follows rules, the tools do nothing. Put yours in
their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import tool

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy, load_preset
from bayeslora_tool.serving.lazy_classifier import LazyClassifier

ACTS = {
    "freeze_account": {"freeze_account", "report_lost_card", "report_fraud"},
    "transfer_money": {"transfer", "pay_bill"},
    "show_balance": {"balance"},
}
"""The labels that may lead to each tool."""


@tool
def freeze_account(reason: str) -> str:
    """Freeze the customer's account."""
    return f"The account is frozen ({reason})."


@tool
def transfer_money(to: str, amount: float) -> str:
    """Send money to somebody."""
    return f"{amount:g} sent to {to}."


@tool
def show_balance() -> str:
    """Tell the customer what is in the account."""
    return "The balance is 1204."


class RuleChat(BaseChatModel):
    """Calls the tools that a message has words for: as rash as a model can be."""

    @property
    def _llm_type(self) -> str:
        return "rules"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """The same model: it knows its tools."""
        return self.bind(**kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=_reply(messages))])


def _reply(messages: Sequence[BaseMessage]) -> AIMessage:
    results: list[str] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        results.insert(0, str(message.text))
    if results:
        return AIMessage("\n\n".join(results))
    calls = _wanted(str(messages[-1].text))
    numbered = [
        ToolCall(name=name, args=args, id=f"call-{len(messages)}-{i}", type="tool_call")
        for i, (name, args) in enumerate(calls)
    ]
    words = "" if calls else "I can freeze your account, send money, and tell you your balance."
    return AIMessage(words, tool_calls=numbered)


def _wanted(text: str) -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, dict[str, Any]]] = []
    if re.search(r"\b(freeze|block|lost|stolen|touch)\b", text, re.IGNORECASE):
        calls.append(("freeze_account", {"reason": text}))
    if re.search(r"\b(send|transfer|pay)\b", text, re.IGNORECASE):
        amount = re.search(r"\d+(?:\.\d+)?", text)
        to = re.search(r"\bto ([A-Z]\w*)", text)
        args = {"to": to[1] if to else "unknown", "amount": float(amount[0]) if amount else 0.0}
        calls.append(("transfer_money", args))
    if re.search(r"\bbalance\b", text, re.IGNORECASE):
        calls.append(("show_balance", {}))
    return calls


def create_bank_chat(classifier: Any, policy: Policy, checkpointer: Any = None) -> Any:
    """The agent, compiled; start with ``{"messages": [...]}``.

    Args:
        classifier: Of the labels in :data:`ACTS`.
        policy: Thresholds and routes.
        checkpointer: None where a server brings its own.
    """
    gate = UncertaintyGate(classifier, policy, acts=ACTS)
    tools = [freeze_account, transfer_money, show_balance]
    return create_agent(RuleChat(), tools, middleware=[gate], checkpointer=checkpointer)


_preset = load_preset("intents")
# It moves money: who is in doubt asks a reviewer, not the customer.
_policy = replace(_preset.policy, on_low_confidence="escalate")
graph = create_bank_chat(LazyClassifier(_preset), _policy)
