"""Other processes at the same threads, which may be killed, and what they write down."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from bayeslora_tool.graphs.workflow import Step, create_workflow_graph
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from bayeslora_tool.agents.middleware import UncertaintyGate
from tests.conftest import ROOT
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import POLICY, build
from tests.scripted_model import ScriptedModel, calls

PRELUDE = """
    import os, signal, sys, time
    from concurrent.futures import ThreadPoolExecutor
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.sqlite import SqliteSaver
    from bayeslora_tool.graphs.escalation import create_escalation_graph
    from bayeslora_tool.graphs.runs import pending, recover, resume, start
    from bayeslora_tool.graphs.thread import ThreadError
    from tests.graphs.desk import *
    from tests.graphs.processes import *

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    with start_python(script, *arguments) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(script, process.returncode, out, err)


def start_python(script: str, *arguments: str) -> subprocess.Popen[str]:
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Diary:
    """Lines that several processes write, and that survive their death."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def write(self, line: str) -> None:
        with self.file.open("a") as file:
            file.write(line + "\n")

    def lines(self, kind: str) -> list[str]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(kind)]

    def classify(self) -> FakeClassifier:
        def answer(text: str) -> Any:
            self.write(f"score {text}")
            return by_words(text)

        return FakeClassifier(answer)


def acting(diary: Diary, saver: Any, then: Any) -> dict[str, Any]:
    """The graphs under test, whose action notes its key and then does ``then``."""

    def act(outcome: Any, state: Any = None) -> str:
        diary.write(f"act {outcome['key']} {outcome['label']}")
        then()
        return f"did {outcome['label']}"

    def before(outcome: Any, state: Any) -> str:
        diary.write("before")
        return "odd"

    steps = [
        Step(name="first", text=lambda state: "clear", act=before),
        Step(name="second", act=act),
    ]
    workflow = create_workflow_graph(steps=steps, classifier=diary.classify(), policy=POLICY)
    return {
        "escalation": build(diary.classify(), saver=saver, act=act),
        "workflow": workflow.compile(checkpointer=saver),
    }


ORDER = calls(("order", {"item": "tea"}))


def gated_agent(diary: Diary, saver: Any, then: Any, *script: AIMessage) -> Any:
    """An agent that orders tea; the tool notes it and then does ``then``."""

    @tool
    def order(item: str) -> str:
        """Order it."""
        diary.write(f"act {item}")
        then()
        return f"ordered {item}"

    return create_agent(
        ScriptedModel(script=list(script)),
        [order],
        middleware=[UncertaintyGate(diary.classify(), POLICY)],
        checkpointer=saver,
    )
