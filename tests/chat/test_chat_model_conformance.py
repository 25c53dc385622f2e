"""LangChain's own standard tests for chat models; nothing of them is overridden."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from bayeslora_tool.chat.chat_model import ChatBayesLoRA
from tests.chat.fake_language_model import FakeLanguageModel


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatBayesLoRA

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": FakeLanguageModel(lambda _: "Hello.")}
