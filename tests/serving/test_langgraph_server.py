"""The graph behind a real agent server, and the classifier that such servers start without."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph

from bayeslora_tool.policy import Policy, load_preset
from bayeslora_tool.serving.langgraph_server import create_served_graph
from bayeslora_tool.serving.lazy_classifier import LazyClassifier
from tests.conftest import ROOT
from tests.fakes import make_prediction
from tests.server_process import LOOPBACK, free_port, offline, running


@LOOPBACK
async def test_langgraph_dev_interrupts_and_resumes_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocking calls are forbidden in this server: had one happened, the first run would ask."""
    for module in ("langgraph_api", "langgraph_cli", "langgraph_sdk"):
        pytest.importorskip(module, reason='needs pip install "bayeslora-tool[server]"')
    from langgraph_sdk import get_client

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    port = free_port()
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
    command += ["--port", str(port), "--config", str(ROOT / "langgraph.json")]
    # A reviewer is asked, not the user.
    (tmp_path / "strict.yaml").write_text(
        (ROOT / "configs/sentiment.yaml")
        .read_text()
        .replace("on_low_confidence: clarify", "on_low_confidence: escalate")
    )
    env = offline(tmp_path) | {"BAYESLORA_PRESET": str(tmp_path / "strict.yaml")}
    with running(command, port, tmp_path, env) as log:
        async with get_client(url=f"http://127.0.0.1:{port}") as client:
            thread = (await client.threads.create())["thread_id"]

            async def run(**start: Any) -> Any:
                return await client.runs.wait(thread, "escalation", **start)

            state = await run(input={"text": "This movie was fantastic!"})
            assert state["outcome"]["decided_by"] == "model", state["route"]
            assert state["outcome"]["label"] == "positive"

            await run(input={"text": "I've seen better films"})
            found = await client.threads.get(thread)
            assert found["status"] == "interrupted"
            ((first,),) = found["interrupts"].values()
            (action,) = first["value"]["action_requests"]
            assert action["name"] == "act_on_label"

            # A new text over the question: the question is put again, and the text handed back.
            kept = await run(input={"text": "This movie was fantastic!"})
            assert kept["refused"] == ["This movie was fantastic!"]
            found = await client.threads.get(thread)
            assert found["status"] == "interrupted"
            ((first,),) = found["interrupts"].values()
            (action,) = first["value"]["action_requests"]
            assert action["args"]["text"] == "I've seen better films"
            assert "1 new text came" in action["description"]

            assert first["response_schema"]["title"] == "review"
            wrong = {"resume": {first["id"]: {"type": "no such decision"}}}
            await run(command=wrong)
            assert (await client.threads.get(thread))["status"] == "interrupted"
            ((again,),) = (await client.threads.get(thread))["interrupts"].values()
            assert "expected one decision" in again["value"]["action_requests"][0]["description"]
            assert again["id"] == first["id"]

            edit = {"name": "act_on_label", "args": {"label": "negative"}}
            answer = {"decisions": [{"type": "edit", "edited_action": edit}]}
            await run(command={"resume": {again["id"]: answer}})
            assert (await client.threads.get(thread))["status"] == "idle"
            outcome = (await client.threads.get_state(thread))["values"]["outcome"]
            assert (outcome["label"], outcome["decided_by"]) == ("negative", "human")

            for late in ({"type": "reject"}, {again["id"]: {"type": "reject"}}):
                state = await run(command={"resume": late})
                assert state["outcome"] == outcome  # changed nothing, and answers nothing later
            await run(input={"text": "I've seen better films"})
            assert (await client.threads.get(thread))["status"] == "interrupted"

            for graph in ("escalation", "chat"):
                (served,) = await client.assistants.search(graph_id=graph)
                schemas = await client.assistants.get_schemas(served["assistant_id"])
                for kind in ("input_schema", "output_schema", "state_schema"):
                    assert schemas[kind]["properties"], (graph, kind)
        assert "reached out" not in log.read_text()
        assert "BlockingError" not in log.read_text()


def test_importing_the_served_graph_loads_no_model() -> None:
    code = """
        import sys
        from bayeslora_tool.serving.langgraph_server import graph
        assert "torch" not in sys.modules
        print(type(graph).__name__)  # uncompiled: the server brings its checkpointer
    """
    env = {k: v for k, v in os.environ.items() if k != "BAYESLORA_PRESET"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "StateGraph", done.stderr


def test_every_graph_has_schemas() -> None:
    from bayeslora_tool.serving.bank_chat import graph as chat
    from bayeslora_tool.serving.langgraph_server import graph

    for served, key in ((graph.compile(), "text"), (chat, "messages")):
        assert key in served.get_input_jsonschema()["properties"]
        assert key in served.get_output_jsonschema()["properties"]


async def test_the_chat_asks_about_doubtful_calls_once_and_runs_what_is_approved() -> None:
    from langgraph.types import Command

    from bayeslora_tool.serving.bank_chat import create_bank_chat

    class Balance:
        def predict(self, texts: list[str]) -> list[Any]:
            shares = {"balance": 0.9, "transfer": 0.1}
            doubt = [0.2 if "odd" in text else 0.001 for text in texts]
            return [
                make_prediction(label="balance", variance=v, probabilities=shares) for v in doubt
            ]

    chat = create_bank_chat(Balance(), Policy(0.8, 0.01), InMemorySaver())
    on = {"configurable": {"thread_id": "1"}}
    state = await chat.ainvoke({"messages": [("user", "my balance?")]}, on)
    assert state["messages"][-1].text == "The balance is 1204."
    state = await chat.ainvoke({"messages": [("user", "odd: freeze, send 5 to Ada")]}, on)
    assert len(state["__interrupt__"][0].value["action_requests"]) == 2
    state = await chat.ainvoke({"messages": [("user", "my balance?")]}, on)
    assert len(state["__interrupt__"][0].value["action_requests"]) == 2
    answer = {"decisions": [{"type": "approve"}, {"type": "reject"}]}
    state = await chat.ainvoke(Command(resume=answer), on)
    said = [message.text for message in state["messages"]]
    assert any("The account is frozen" in text for text in said)
    assert not any("sent to Ada" in text for text in said)
    assert said[-1] == "The balance is 1204."
    # A sure label that does not lead to the tool stops it, too.
    state = await chat.ainvoke({"messages": [("user", "freeze it")]}, on)
    (action,) = state["__interrupt__"][0].value["action_requests"]
    assert "reads as 'balance'" in action["description"]


def test_an_unknown_preset_stops_the_server_at_once() -> None:
    with pytest.raises(ValueError, match="unknown preset 'nope'; bundled: "):
        create_served_graph("nope")


@pytest.mark.parametrize("name", ["sentiment", "intents"])
def test_labels_are_known_before_the_model_is(name: str) -> None:
    classifier = LazyClassifier(load_preset(name))
    labels = classifier.labels
    assert classifier._loaded is None
    assert classifier.load().labels == labels


def test_an_unknown_adapter_is_refused_before_any_text_comes(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("adapter: nowhere\npolicy: {tau_conf: 0.9, tau_var: 0.01}\n")
    with pytest.raises(FileNotFoundError, match="no adapter 'nowhere'"):
        create_served_graph(preset)


def test_callers_that_come_together_load_it_once(
    sentiment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bayeslora_tool.classifier import BayesLoRAClassifier

    loads = []

    def load(*args: Any, **options: Any) -> Any:
        loads.append((args, options))
        time.sleep(0.05)  # so that the others meet it under way
        return sentiment

    monkeypatch.setattr(BayesLoRAClassifier, "from_pretrained", load)
    preset = load_preset("sentiment")
    classifier = LazyClassifier(preset)
    with ThreadPoolExecutor(8) as pool:
        sync = list(pool.map(lambda _: classifier.predict(["a fine film"]), range(8)))

    async def together() -> list[Any]:
        return await asyncio.gather(*(classifier.apredict(["a fine film"]) for _ in range(8)))

    assert {p[0].label for p in [*sync, *asyncio.run(together())]} == {"positive"}
    assert loads == [((preset.adapter,), {"scoring": preset.scoring, "policy": preset.policy})]


async def test_a_model_that_does_not_load_escalates_and_is_tried_again(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(ROOT / "bayeslora_tool" / "adapters" / "sentiment", adapter)
    weights = adapter / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"adapter: {adapter}\npolicy: {{tau_conf: 0.9, tau_var: 0.01}}\n")
    builder = create_served_graph(preset)
    assert isinstance(builder, StateGraph)
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    start = {"text": "This movie was fantastic!"}
    state = await graph.ainvoke(start, {"configurable": {"thread_id": "1"}})
    reason = state["__interrupt__"][0].value["action_requests"][0]["description"]
    assert "could not be scored (ValueError" in reason
    assert "no adapter_model.safetensors" in reason
    (tmp_path / "elsewhere").rename(weights)
    state = await graph.ainvoke(start, {"configurable": {"thread_id": "2"}})
    assert state["outcome"]["label"] == "positive"
