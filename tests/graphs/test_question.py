"""An answer that one question refused is never taken for the answer to another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict

import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.gate import create_gate_graph
from bayeslora_tool.graphs.runs import recover, resume
from bayeslora_tool.graphs.workflow import Step, create_workflow_graph
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from bayeslora_tool.agents.answer_gate import AnswerGate
from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import APPROVE, CONFIG, POLICY
from tests.scripted_model import ScriptedModel, calls

TWO = {"decisions": [APPROVE, APPROVE]}
ANSWER = {"type": "edit", "edited_action": {"name": "final_answer", "args": {"answer": "x"}}}
LOOK = {"type": "edit", "edited_action": {"name": "look", "args": {"item": "x"}}}


class Case:
    """A graph that asks one question after another, and what was done."""

    def __init__(self, kind: str) -> None:
        self.did: list[Any] = []
        self.value: Any = {"messages": [("user", "odd")]}
        self.right: Any = APPROVE
        self.builder: Any
        getattr(self, kind)()

    def gate(self) -> None:
        self.value, self.wrong, self.right = {"text": "vague"}, APPROVE, "odd"
        self.builder = create_escalation_graph(
            classifier=FakeClassifier(by_words), policy=POLICY, act=self.did.append
        )

    def gate_as_a_node(self) -> None:
        class Outer(TypedDict):
            text: str
            outcome: Any

        self.value, self.wrong, self.right = {"text": "vague"}, APPROVE, "odd"
        gate = create_gate_graph(classifier=FakeClassifier(by_words), policy=POLICY)
        self.builder = StateGraph(Outer)
        self.builder.add_node("gate", gate.compile())
        self.builder.add_node("act", lambda state: self.did.append(state["outcome"]) or {})
        self.builder.add_edge(START, "gate")
        self.builder.add_edge("gate", "act")

    def workflow(self) -> None:
        self.value, self.wrong, self.right = {"request": "vague"}, APPROVE, "odd"
        self.builder = create_workflow_graph(
            steps=[Step(name="pay", act=lambda outcome, state: self.did.append(outcome))],
            classifier=FakeClassifier(by_words),
            policy=POLICY,
        )

    def batched(self) -> None:
        self.wrong = TWO
        self._agent(
            [UncertaintyGate(FakeClassifier(by_words), POLICY)],
            calls(("note", {"item": "a"})),
            calls(("order", {"item": "b"}), ("order", {"item": "c"}), start=2),
        )

    def per_call(self) -> None:
        self.wrong = LOOK
        gate = UncertaintyGate(FakeClassifier(by_words), POLICY, interrupt_mode="per_call")
        first, second = calls(("note", {"item": "a"})), calls(("look", {"item": "b"}), start=2)
        self._agent([gate], first, second)

    def two_gates_around_one_call(self) -> None:
        """The edit of the outer one gives the inner one another question, in the same task."""
        self.wrong = TWO
        self.right = {"type": "edit", "edited_action": {"name": "look", "args": {"item": "b"}}}
        gates = [
            UncertaintyGate(FakeClassifier(by_words), POLICY, name=name, interrupt_mode="per_call")
            for name in "ab"
        ]
        self._agent(gates, calls(("look", {"item": "a"})))

    def a_tool_that_asks(self) -> None:
        self.wrong = "yes"
        gate = UncertaintyGate(FakeClassifier(by_words), POLICY, interrupt_mode="per_call")
        self._agent([gate], calls(("ask", {})))

    def a_tool_that_asks_later(self) -> None:
        self.wrong = "yes"
        gate = UncertaintyGate(FakeClassifier(by_words), POLICY)
        self._agent([gate], calls(("ask", {})))

    def answers(self) -> None:
        self.wrong = ANSWER
        self._agent(
            [AnswerGate(FakeClassifier(by_words), POLICY),
             UncertaintyGate(FakeClassifier(by_words), POLICY)],
            calls(("note", {"item": "a"})),
        )  # fmt: skip

    def _agent(self, gates: list[Any], *script: AIMessage) -> None:
        @tool
        def note(item: str) -> str:
            """Harmless."""
            return "noted"

        @tool
        def order(item: str) -> str:
            """Order."""
            self.did.append(item)
            return "ordered"

        @tool
        def look(item: str) -> str:
            """Look."""
            self.did.append(item)
            return "seen"

        @tool
        def ask() -> str:
            """Ask."""
            self.did.append(interrupt("really?"))
            return "done"

        model = ScriptedModel(script=[*script, AIMessage("done")])
        agent: Any = create_agent(model, [note, order, look, ask], middleware=gates)
        # As a node of another graph, where LangGraph keeps an unheard answer the longest.
        self.builder = StateGraph(MessagesState)
        self.builder.add_node("agent", agent)
        self.builder.add_edge(START, "agent")


CASES = [
    "gate",
    "gate_as_a_node",
    "workflow",
    "batched",
    "per_call",
    "two_gates_around_one_call",
    "a_tool_that_asks",
    "a_tool_that_asks_later",
    "answers",
]
Go = Callable[[Any], Any]


@asynccontextmanager
async def running(kind: str, builder: Any, path: Path) -> AsyncIterator[Go]:
    file = str(path / "a.sqlite")
    if kind == "async sqlite":
        async with AsyncSqliteSaver.from_conn_string(file) as saver:
            graph = builder.compile(checkpointer=saver)
            yield lambda value: graph.ainvoke(value, CONFIG)
        return
    if kind == "sqlite":
        with SqliteSaver.from_conn_string(file) as saver:
            yield sync(builder.compile(checkpointer=saver))
        return
    graph = builder.compile(checkpointer=InMemorySaver())
    yield sync(graph) if kind == "memory" else (lambda value: graph.ainvoke(value, CONFIG))


def sync(graph: Any) -> Go:
    async def go(value: Any) -> Any:
        return graph.invoke(value, CONFIG)

    return go


@pytest.mark.parametrize("saver", ["memory", "sqlite", "async memory", "async sqlite"])
@pytest.mark.parametrize("kind", CASES)
async def test_what_one_question_refused_answers_no_other(
    kind: str, saver: str, tmp_path: Path
) -> None:
    case = Case(kind)
    async with running(saver, case.builder, tmp_path) as go:
        (first,) = (await go(case.value))["__interrupt__"]
        (again,) = (await go(Command(resume=case.wrong)))["__interrupt__"]
        assert again.id == first.id
        assert "The last answer was not understood" in str(again.value)
        state = await go(Command(resume={first.id: case.right}))
        (second,) = state["__interrupt__"]
        assert "The last answer was not understood" not in str(second.value)
        assert second.value != first.value
        assert case.did == []
        # Nor when the second question is put once more, by an answer to nothing.
        state = await go(Command(resume={"f" * 32: case.wrong}))
        assert [i.id for i in state["__interrupt__"]] == [second.id]
        assert case.did == []


@pytest.mark.parametrize("saver", ["memory", "sqlite", "async memory", "async sqlite"])
@pytest.mark.parametrize("kind", CASES)
async def test_a_right_answer_without_an_id_after_a_wrong_one_counts(
    kind: str, saver: str, tmp_path: Path
) -> None:
    case = Case(kind)
    async with running(saver, case.builder, tmp_path) as go:
        (first,) = (await go(case.value))["__interrupt__"]
        await go(Command(resume=case.wrong))
        (second,) = (await go(Command(resume=case.right)))["__interrupt__"]
        assert second.value != first.value
        assert case.did == []


async def test_what_answered_one_question_answers_no_other(tmp_path: Path) -> None:
    """LangGraph keeps an answer without an id after it was heard, too."""
    case = Case("workflow")
    async with running("memory", case.builder, tmp_path) as go:
        await go(case.value)
        (review,) = (await go(Command(resume={"type": "respond", "message": "odd"})))[
            "__interrupt__"
        ]
        await go(Command(resume={review.id: "garbage"}))
        state = await go(Command(resume={"f" * 32: "nothing"}))
        assert [i.id for i in state["__interrupt__"]] == [review.id]
        assert case.did == []


@pytest.mark.parametrize("saver", ["memory", "sqlite"])
def test_carrying_on_hands_an_old_answer_to_no_other_question(saver: str, tmp_path: Path) -> None:
    class Outer(TypedDict):
        text: str
        outcome: Any

    left = [1, 2]

    def breaks(state: Outer) -> dict[str, Any]:
        if left and left.pop():
            raise ConnectionError("no answer")
        return {}

    gate = create_gate_graph(classifier=FakeClassifier(by_words), policy=POLICY)
    builder = StateGraph(Outer)
    builder.add_node("gate", gate.compile())
    builder.add_node("breaks", breaks)
    builder.add_edge(START, "gate")
    builder.add_edge(START, "breaks")
    with SqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as sqlite:
        graph: Any = builder.compile(checkpointer=sqlite if saver == "sqlite" else InMemorySaver())
        with pytest.raises(ConnectionError):
            graph.invoke({"text": "vague"}, CONFIG)
        with pytest.raises(ConnectionError):
            graph.invoke(Command(resume={"type": "respond", "message": "odd"}), CONFIG)
        state = recover(graph, CONFIG)
        (asked,) = state["__interrupt__"]
        assert asked.value["action_requests"][0]["name"] == REVIEW_ACTION
        assert resume(graph, CONFIG, {asked.id: APPROVE})["outcome"]["text"] == "vague\nodd"
