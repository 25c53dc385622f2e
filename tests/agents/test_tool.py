from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from bayeslora_tool.graphs.decision_event import EVENT
from langchain.agents import create_agent
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.errors import GraphInterrupt
from langgraph.prebuilt import ToolNode

from bayeslora_tool import BayesLoRATool
from bayeslora_tool.policy import Policy, decide, policy_fingerprint
from tests.fakes import FakeClassifier, by_words, make_prediction

POLICY = Policy(0.8, 0.01)  # the fixture's


@pytest.fixture
def tool(fake: FakeClassifier, policy: Policy) -> BayesLoRATool:
    return BayesLoRATool(classifier=fake, policy=policy)


def keyless(artifact: Any) -> list[dict[str, Any]]:
    """The results without their keys, of which no two are the same."""
    return [{k: v for k, v in result.items() if k != "key"} for result in artifact["results"]]


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
    later, now = await tool.ainvoke(call("odd")), tool.invoke(call("odd"))
    assert later.content == now.content
    assert keyless(later.artifact) == keyless(now.artifact)
    assert (await tool.ainvoke(call("boom"))).status == "error"


@pytest.mark.parametrize("answers", [[], [make_prediction()] * 2, ["yes"], None], ids=repr)
async def test_a_classifier_that_answers_nonsense_is_an_error_message(
    policy: Policy, answers: Any
) -> None:
    class Broken:
        def predict(self, texts: list[str]) -> Any:
            return answers

    tool = BayesLoRATool(classifier=Broken(), policy=policy)
    for message in (tool.invoke(call("x")), await tool.ainvoke(call("x"))):
        assert message.status == "error"
        assert "do not act" in message.content


def test_an_interrupt_is_no_error(policy: Policy) -> None:
    class Asks:
        def predict(self, texts: list[str]) -> Any:
            raise GraphInterrupt

    with pytest.raises(GraphInterrupt):
        BayesLoRATool(classifier=Asks(), policy=policy).invoke(call("x"))


def test_the_description_names_the_labels(policy: Policy, fake: FakeClassifier) -> None:
    def described(**options: Any) -> str:
        tool = BayesLoRATool(policy=policy, **options)
        return str(convert_to_openai_tool(tool)["function"]["description"])

    assert described(classifier=fake).endswith("hand over to a person. Labels: yes, no.")
    assert described(classifier=fake, description="mine") == "mine"
    fake.labels = tuple(f"l{i}" for i in range(150))  # type: ignore[assignment]
    assert described(classifier=fake).endswith("l18, l19 and 130 more.")
    assert "Labels" not in described(classifier=object())


class ScriptedModel(BaseChatModel):
    """Says what it was told to, and remembers the tools it was given."""

    script: list[AIMessage]
    bound: list[Any]
    _llm_type: str = "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        self.bound[:] = [convert_to_openai_tool(tool)["function"] for tool in tools]
        return self

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.script.pop(0))])


def script() -> ScriptedModel:
    messages = [AIMessage("", tool_calls=[call("odd")]), AIMessage("I will ask a person.")]
    return ScriptedModel(script=messages, bound=[])


def test_a_model_it_is_bound_to_sees_when_and_how_to_call_it(tool: BayesLoRATool) -> None:
    model = script()
    message = model.bind_tools([tool]).invoke("do it")
    (schema,) = model.bound
    assert schema["name"] == "classify_with_uncertainty"
    assert "before any step that depends on what a text means" in schema["description"]
    assert list(schema["parameters"]["properties"]) == ["text"]  # and nothing injected
    assert tool.invoke(message.tool_calls[0]).content.startswith("action=escalate")


@pytest.mark.parametrize("is_async", [False, True])
async def test_in_an_agent(tool: BayesLoRATool, is_async: bool) -> None:
    model = script()
    agent: Any = create_agent(model, tools=[tool])
    request = {"messages": [("user", "do it")]}
    messages = (await agent.ainvoke(request) if is_async else agent.invoke(request))["messages"]
    assert model.bound[0]["name"] == tool.name
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


def expected(text: str, variance: float, action: str) -> dict[str, Any]:
    return {
        "gate": None,
        "tool": "classify_with_uncertainty",
        "action": action,
        "reason": decide(by_words(text), POLICY).reason,
        "label": "yes",
        "confidence": 0.9,
        "variance": variance,
        "novelty": None,
        "thread": None,
        "policy": policy_fingerprint(POLICY),
        "decision": None,
        "reviewer": None,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "length": len(text),
        "audit": False,
        "audit_rate": 0.0,
    }


def timeless(event: Any) -> dict[str, Any]:
    """An event without its latency, which is a time, and its key, of which no two are the same."""
    assert 0 <= event["latency"] < 60
    assert event["key"]
    return {name: value for name, value in event.items() if name not in ("latency", "key")}


class Listener(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.heard.append((name, timeless(data)))


class AsyncListener(AsyncCallbackHandler, Listener):  # type: ignore[misc]
    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:  # type: ignore[override]
        self.heard.append((name, timeless(data)))


class TestEvents:
    @pytest.mark.parametrize("listener", [Listener, AsyncListener])
    async def test_callbacks_hear_of_each_decision(
        self, tool: BayesLoRATool, listener: Callable[[], Any]
    ) -> None:
        events = [
            (EVENT, expected("clear", 0.001, "proceed")),
            (EVENT, expected("odd", 0.2, "escalate")),
        ]
        for_sync, for_async = listener(), listener()
        tool.invoke(call(["clear", "odd"]), {"callbacks": [for_sync]})
        assert for_sync.heard == events
        await tool.ainvoke(call(["clear", "odd"]), {"callbacks": [for_async]})
        assert for_async.heard == events

    async def test_an_agents_stream_carries_them(self, tool: BayesLoRATool) -> None:
        agent: Any = create_agent(script(), tools=[tool])
        request = {"messages": [("user", "do it")]}
        events = [
            event
            async for event in agent.astream_events(request, version="v2")
            if event["event"] == "on_custom_event"
        ]
        assert [event["name"] for event in events] == [EVENT]
        assert timeless(events[0]["data"]) == expected("odd", 0.2, "escalate")
        assert events[0]["metadata"]["langgraph_node"] == "tools"

    async def test_none_are_needed(self, tool: BayesLoRATool) -> None:
        """Called as a plain function, outside any run."""
        content, artifact = tool._run("odd")
        assert content.startswith("action=escalate")
        again, same = await tool._arun("odd")
        assert (again, keyless(same)) == (content, keyless(artifact))


async def test_logs_name_a_text_and_never_hold_it(
    tool: BayesLoRATool, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = ["4929 1234 odd", "4929 1234 boom", "4929 1234 \ud800"]
    with caplog.at_level(logging.DEBUG):
        for secret in secrets:
            tool.invoke(call(secret))
            await tool.ainvoke(call(secret))
    assert len([r for r in caplog.records if r.name == "bayeslora_tool.graphs.decision_event"]) == 6
    for secret in secrets:
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        assert caplog.text.count(f"'sha256': '{digest}', 'length': {len(secret)}") == 2
    assert "4929 1234" not in caplog.text
