from __future__ import annotations

import asyncio
import hashlib
import math
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason='needs pip install "bayeslora-tool[mcp]"')

import httpx
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.memory import create_connected_server_and_client_session as connected
from typer.testing import CliRunner

from bayeslora_tool.cli import app
from bayeslora_tool.inference.batching import MicroBatcher
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.serving import mcp_server
from bayeslora_tool.serving.lazy_classifier import LazyClassifier
from bayeslora_tool.serving.mcp_server import TOP_K, create_mcp_server
from tests.conftest import ROOT
from tests.fakes import Answers, FakeClassifier, make_prediction
from tests.server_process import LOOPBACK, free_port, offline, running

NAME = "classify_with_uncertainty"
SERVE_SENTIMENT = [
    "-c",
    "from bayeslora_tool.cli import app; app()",
    "serve-mcp",
    "-p",
    "sentiment",
]
HOSTILE = {421: {"Host": "evil.example"}, 403: {"Origin": "http://evil.example"}}
FIELDS = {"action", "reason", "label", "confidence", "variance", "novelty", "sureness",
          "probabilities"}  # fmt: skip


async def ask(session: ClientSession, text: Any) -> dict[str, Any]:
    result = await session.call_tool(NAME, {"text": text})
    assert not result.isError, result.content
    assert result.structuredContent is not None
    return result.structuredContent


async def test_the_tool_declares_what_it_takes_and_gives(
    fake: FakeClassifier, policy: Policy
) -> None:
    async with connected(create_mcp_server(classifier=fake, policy=policy)) as session:
        (tool,) = (await session.list_tools()).tools
    assert tool.name == NAME
    assert tool.description
    assert tool.description.endswith("Labels: yes, no.")
    assert "list" not in tool.description  # one text a call here
    assert tool.inputSchema["properties"]["text"]["type"] == "string"
    assert tool.outputSchema
    assert set(tool.outputSchema["required"]) == FIELDS
    assert all(field["description"] for field in tool.outputSchema["properties"].values())
    assert tool.annotations
    assert tool.annotations.readOnlyHint


async def test_the_answer_is_structured_and_stands_in_the_text_too(policy: Policy) -> None:
    labels = {"l0": 0.9} | {f"l{i}": (10 - i) / 450 for i in range(1, 10)}
    known = make_prediction(label="l0", probabilities=labels, novelty=0.25, sureness=0.75)
    server = create_mcp_server(classifier=Answers([known]), policy=policy)
    async with connected(server) as session:  # the client checks answers against the schema
        result = await session.call_tool(NAME, {"text": "hello"})
    assert result.structuredContent
    answer = result.structuredContent
    assert answer["reason"].startswith("Sure enough: 'l0' with confidence 0.900")
    assert answer | {"reason": ""} == {
        "action": "proceed",
        "reason": "",
        "label": "l0",
        "confidence": 0.9,
        "variance": 0.001,
        "novelty": 0.25,
        "sureness": 0.75,
        "probabilities": dict(list(labels.items())[:TOP_K]),
    }
    (block,) = result.content
    assert block.type == "text"
    assert '"action": "proceed"' in block.text


async def test_a_variance_that_does_not_exist_escalates_as_null(policy: Policy) -> None:
    without = make_prediction(
        estimator="deterministic", variance=math.nan, mutual_information=math.nan
    )
    async with connected(
        create_mcp_server(classifier=Answers([without]), policy=policy)
    ) as session:
        answer = await ask(session, "hello")
    assert answer["action"] == "escalate"
    assert "There is no variance to hold against `tau_var`" in answer["reason"]
    assert (answer["confidence"], answer["variance"], answer["novelty"]) == (0.9, None, None)


async def test_a_score_that_contradicts_itself_is_a_tool_error(policy: Policy) -> None:
    broken = make_prediction(confidence=0.99, probabilities={"yes": 0.1, "no": 0.9})
    async with connected(create_mcp_server(classifier=Answers([broken]), policy=policy)) as session:
        result = await session.call_tool(NAME, {"text": "hello"})
    assert result.isError
    assert result.content[0].type == "text"
    assert "do not act on it" in result.content[0].text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"text": "boom"}, "do not act on it: the model broke"), ({"text": 7}, "text"), ({}, "text")],
)
async def test_what_cannot_be_scored_is_a_tool_error(
    fake: FakeClassifier, policy: Policy, arguments: dict[str, Any], message: str
) -> None:
    async with connected(create_mcp_server(classifier=fake, policy=policy)) as session:
        result = await session.call_tool(NAME, arguments)
        assert result.isError
        assert result.content[0].type == "text"
        assert message in result.content[0].text
        assert (await ask(session, "clear"))["action"] == "proceed"  # and it goes on


async def test_concurrent_calls_are_scored_together(policy: Policy) -> None:
    class Batched:
        def __init__(self) -> None:
            self.sizes: list[int] = []
            self.batcher = MicroBatcher[str, str, Prediction](self.run, max_delay=0.5, max_items=20)

        def run(self, key: str, texts: list[str]) -> list[Prediction]:
            self.sizes.append(len(texts))
            return [make_prediction(label=text) for text in texts]

        async def apredict(self, texts: Sequence[str]) -> list[Prediction]:
            return await asyncio.wrap_future(self.batcher.submit("", texts))

    batched = Batched()
    async with connected(create_mcp_server(classifier=batched, policy=policy)) as session:
        answers = await asyncio.gather(*(ask(session, f"t{i}") for i in range(20)))
    batched.batcher.close()
    assert [answer["label"] for answer in answers] == [f"t{i}" for i in range(20)]
    assert sum(batched.sizes) == 20
    assert len(batched.sizes) <= 4


@asynccontextmanager
async def started(command: Sequence[str], folder: Path) -> AsyncIterator[tuple[Any, list[Any]]]:
    """A session with a server of ours over stdio, and all it got that is not the protocol."""
    strange: list[Any] = []

    async def handle(message: Any) -> None:
        if isinstance(message, Exception):
            strange.append(message)

    server = StdioServerParameters(command=sys.executable, args=[*command], env=offline(folder))
    with (folder / "stderr.log").open("w") as log:
        async with (
            stdio_client(server, errlog=log) as streams,
            ClientSession(*streams, message_handler=handle) as session,
        ):
            await session.initialize()
            yield session, strange


async def test_serve_mcp_over_stdio(tmp_path: Path) -> None:
    async with started(SERVE_SENTIMENT, tmp_path) as (session, strange):
        (tool,) = (await session.list_tools()).tools
        assert tool.description.endswith("Labels: negative, positive.")
        answer = await ask(session, "This movie was fantastic!")
        assert (answer["action"], answer["label"]) == ("proceed", "positive")
        assert (await ask(session, "I've seen better films"))["action"] == "clarify"
        empty = await session.call_tool(NAME, {"text": " "})
        assert empty.isError
        assert "empty or only whitespace" in empty.content[0].text
    assert strange == []
    log = (tmp_path / "stderr.log").read_text()
    assert "reached out" not in log
    assert "fantastic" not in log
    digest = hashlib.sha256(b"This movie was fantastic!").hexdigest()
    assert digest in log


async def test_a_stray_print_does_not_reach_the_client(tmp_path: Path) -> None:
    code = """
        from bayeslora_tool.serving.mcp_server import serve
        from bayeslora_tool.policy import Policy
        from tests.fakes import make_prediction

        class Noisy:
            def predict(self, texts):
                print("loading 100%")
                return [make_prediction() for _ in texts]

        serve(classifier=Noisy(), policy=Policy(0.8, 0.01))
    """
    root = str(ROOT)
    command = ["-c", f"import sys; sys.path.append({root!r})\n" + textwrap.dedent(code)]
    async with started(command, tmp_path) as (session, strange):
        assert (await ask(session, "hello"))["action"] == "proceed"
    assert strange == []
    assert "loading 100%" in (tmp_path / "stderr.log").read_text()


@LOOPBACK
async def test_serve_mcp_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_mcp_adapters")
    from langchain_mcp_adapters.client import MultiServerMCPClient

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    command = [sys.executable, *SERVE_SENTIMENT, "--transport", "http", "--port", str(port)]
    with running(command, port, tmp_path, offline(tmp_path)) as log:
        async with (
            streamable_http_client(url) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            hello = await session.initialize()
            assert hello.serverInfo.version == version("bayeslora-tool")
            texts = ["This movie was fantastic!", "I've seen better films"] * 4
            answers = await asyncio.gather(*(ask(session, text) for text in texts))
            assert [answer["action"] for answer in answers] == ["proceed", "clarify"] * 4

        client = MultiServerMCPClient({"bayeslora": {"transport": "http", "url": url}})
        (tool,) = await client.get_tools()
        call = {"type": "tool_call", "id": "1", "name": NAME, "args": {"text": texts[0]}}
        message = await tool.ainvoke(call)
        structured = message.artifact["structured_content"]
        assert structured["confidence"] == pytest.approx(answers[0]["confidence"], abs=1e-5)
        assert structured.keys() == FIELDS
        assert '"action": "proceed"' in message.text
        message = await tool.ainvoke(call | {"args": {"text": ""}})
        assert message.status == "error"
        assert "do not act" in message.text

        async with httpx.AsyncClient() as web:  # a page that points its own name at loopback
            for refused, headers in HOSTILE.items():
                answer = await web.post(url, headers=headers, json={})
                assert answer.status_code == refused
        assert "reached out" not in log.read_text()
        assert "fantastic" not in log.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "nope"], "unknown preset 'nope'; bundled: "),
        (["--transport", "smoke"], "smoke"),
        (["--port", "0"], "equal to 1"),
    ],
)
def test_bad_options_say_what_would_do(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["serve-mcp", *options])
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("warm", [True, False])
def test_warm_loads_the_model_before_it_serves(warm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(LazyClassifier, "load", lambda self: done.append("load"))
    monkeypatch.setattr(mcp_server, "serve", lambda **settings: done.append("serve"))
    result = CliRunner().invoke(app, ["serve-mcp", *(["--warm"] if warm else [])])
    assert result.exit_code == 0, result.output
    assert done == [*(["load"] if warm else []), "serve"]


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bayeslora_tool.serving.mcp_server")
    monkeypatch.setitem(sys.modules, "mcp.server.fastmcp", None)
    result = CliRunner().invoke(app, ["serve-mcp"])
    assert result.exit_code == 2
    assert 'pip install "bayeslora-tool[mcp]"' in result.output
