"""A chat model that says what a script tells it: agents run in tests without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr


class ScriptedModel(BaseChatModel):
    """Replays messages in order and remembers what it was asked; thread-safe it is not.

    Args:
        script: One message a model call.
    """

    script: list[AIMessage]
    _heard: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    @property
    def heard(self) -> list[list[BaseMessage]]:
        """The messages of each call so far."""
        return self._heard

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        """The same model with the tools among its arguments, as real ones do."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        said = len(self._heard)
        if said >= len(self.script):
            raise RuntimeError(f"the script has {said} messages, and this is call {said + 1}")
        self._heard.append(list(messages))
        # A copy, as each answer of a real model is a message of its own.
        message = self.script[said].model_copy(deep=True)
        return ChatResult(generations=[ChatGeneration(message=message)])


def calls(*wanted: tuple[str, dict[str, Any]], start: int = 1) -> AIMessage:
    """A message that calls tools, with ids "1", "2", ..."""
    return AIMessage(
        "",
        tool_calls=[
            {"name": name, "args": args, "id": str(i), "type": "tool_call"}
            for i, (name, args) in enumerate(wanted, start=start)
        ],
    )
