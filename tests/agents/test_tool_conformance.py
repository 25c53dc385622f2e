"""LangChain's own standard tests for tools; nothing of them is overridden."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from bayeslora_tool import BayesLoRATool, Policy
from tests.fakes import FakeClassifier, by_words


class _WithAFake:
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return BayesLoRATool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        policy = Policy(tau_conf=0.8, tau_var=0.01)
        return {"classifier": FakeClassifier(by_words), "policy": policy}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"text": "vague"}


class TestUnit(_WithAFake, ToolsUnitTests):
    pass


class TestIntegration(_WithAFake, ToolsIntegrationTests):
    pass


class _WithTheBundledAdapter:
    """A tool that exists already, over a real model, asked about several texts at once."""

    @pytest.fixture(autouse=True)
    def _load(self, sentiment: Any) -> None:
        self.built = BayesLoRATool(classifier=sentiment, policy=Policy.from_preset("sentiment"))

    @property
    def tool_constructor(self) -> BaseTool:
        return self.built

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"text": ["a fine film", "I've seen better films"]}


class TestUnitWithTheBundledAdapter(_WithTheBundledAdapter, ToolsUnitTests):
    pass


class TestIntegrationWithTheBundledAdapter(_WithTheBundledAdapter, ToolsIntegrationTests):
    pass
