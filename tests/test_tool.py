from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.prebuilt import ToolNode

from bayeslora_tool import BayesLoRATool
from bayeslora_tool.policy import Policy
from tests.conftest import FakeClassifier


@pytest.fixture
def tool(fake: FakeClassifier, policy: Policy) -> BayesLoRATool:
    return BayesLoRATool(classifier=fake, policy=policy)


def call(text: Any) -> dict[str, Any]:
    return {
        "type": "tool_call",
        "id": "1",
        "name": "classify_with_uncertainty",
        "args": {"text": text},
    }


def test_content_reads_alone_and_artifact_is_complete(tool: BayesLoRATool) -> None:
    message = tool.invoke(call("vague"))
    assert message.content.startswith("action=clarify label=yes confidence=0.600 variance=0.001:")
    (result,) = message.artifact["results"]
    assert result["text"] == "vague"
    assert result["prediction"]["probabilities"] == {"yes": 0.6, "no": 0.4}
    assert result["decision"]["action"] == "clarify"
    assert json.loads(json.dumps(message.artifact)) == message.artifact
    assert tool.invoke({"text": "vague"}) == message.content


def test_a_list_gives_a_line_each_in_order(tool: BayesLoRATool) -> None:
    message = tool.invoke(call(["clear", "odd", "vague"]))
    lines = message.content.splitlines()
    assert [line.split()[1] for line in lines] == [
        "action=proceed",
        "action=escalate",
        "action=clarify",
    ]
    assert len(message.artifact["results"]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("boom", "the model broke"), ([], "empty list"), (7, "text"), ({"a": 1}, "text")],
)
def test_errors_are_messages_for_the_model(tool: BayesLoRATool, text: Any, message: str) -> None:
    result = tool.invoke(call(text))
    assert result.status == "error"
    assert message in result.content


async def test_async_gives_the_same(tool: BayesLoRATool) -> None:
    assert await tool.ainvoke(call("odd")) == tool.invoke(call("odd"))
    assert (await tool.ainvoke(call("boom"))).status == "error"


class ScriptedModel(GenericFakeChatModel):
    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self


def test_in_an_agent(tool: BayesLoRATool) -> None:
    script = [AIMessage("", tool_calls=[call("odd")]), AIMessage("I will ask a person.")]
    agent: Any = create_agent(ScriptedModel(messages=iter(script)), tools=[tool])
    messages = agent.invoke({"messages": [("user", "do it")]})["messages"]
    answer = next(m for m in messages if isinstance(m, ToolMessage))
    assert answer.content.startswith("action=escalate")
    assert answer.artifact["results"][0]["decision"]["action"] == "escalate"
    assert messages[-1].content == "I will ask a person."


def test_in_a_tool_node(tool: BayesLoRATool) -> None:
    from langgraph.graph import START, MessagesState, StateGraph

    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([tool]))
    graph.add_edge(START, "tools")
    message = AIMessage("", tool_calls=[call("clear"), {**call("boom"), "id": "2"}])
    first, second = graph.compile().invoke({"messages": [message]})["messages"][1:]
    assert first.content.startswith("action=proceed")
    assert second.status == "error"


def test_real_classifier_reports_bad_text_to_the_model(sentiment: Any) -> None:
    tool = BayesLoRATool(classifier=sentiment, policy=Policy.from_preset("sentiment"))
    message = tool.invoke(call(["a fine film", " "]))
    assert message.status == "error"
    assert "texts[1] is empty" in message.content
    assert "do not act" in message.content
