"""Graphs that wait for people, how they are answered and how they break off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.gate import create_gate_graph
from bayeslora_tool.graphs.runs import pending, resume, start
from bayeslora_tool.graphs.thread import ThreadError
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from bayeslora_tool.policy import Policy
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.fakes import FakeClassifier, by_words

POLICY = Policy(tau_conf=0.8, tau_var=0.01)
CONFIG: Any = {"configurable": {"thread_id": "1"}}
APPROVE = {"type": "approve"}
REJECT = {"type": "reject"}
EDIT_TO_NO = {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {"label": "no"}}}


def on(thread: object) -> Any:
    return {"configurable": {"thread_id": str(thread)}}


def build(classifier: Any, policy: Policy = POLICY, *, saver: Any = None, **options: Any) -> Any:
    graph = create_escalation_graph(classifier=classifier, policy=policy, **options)
    return graph.compile(checkpointer=saver or InMemorySaver())


def request_of(state: dict[str, Any]) -> dict[str, Any]:
    (interrupt,) = state["__interrupt__"]
    return interrupt.value


def waiting(graph: Any, thread: object = 1) -> tuple[str, dict[str, Any]]:
    ((name, request),) = pending(graph, on(thread)).items()
    return name, request["action_requests"][0]


class Desk:
    """A graph that waits for a review, and what it did."""

    def __init__(self, saver: Any = None, act: Callable[[Any], Any] | None = None) -> None:
        self.acted: list[Any] = []
        self.fake = FakeClassifier(by_words)
        self.graph = build(self.fake, saver=saver, act=act or self.acted.append)

    def everything(self) -> Any:
        """All that the checkpointer holds on the thread."""
        return list(self.graph.checkpointer.list(CONFIG))


class TwoGates(TypedDict):
    text: str
    one: Any
    two: Any


def two_gates() -> Any:
    """A graph that asks two reviewers at once."""
    builder = StateGraph(TwoGates)
    for key in ("one", "two"):
        gate = create_gate_graph(
            classifier=FakeClassifier(by_words), policy=POLICY, outcome_key=key
        )
        builder.add_node(f"gate_{key}", gate.compile())
        builder.add_edge(START, f"gate_{key}")
    return builder.compile(checkpointer=InMemorySaver())


def refused(problem: str, call: Callable[[], Any]) -> str:
    with pytest.raises(ThreadError) as caught:
        call()
    assert caught.value.problem == problem
    return str(caught.value)


def open_review(desk: Desk, text: str = "odd") -> str:
    start(desk.graph, {"text": text}, CONFIG)
    (name,) = pending(desk.graph, CONFIG)
    return name


def die_with_answer(graph: Any, answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim the answers, and end before the graph hears them."""

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(graph), "invoke", die)
        with pytest.raises(KeyboardInterrupt):
            resume(graph, CONFIG, answers)


class FullDisk(InMemorySaver):
    """Has room for so many more checkpoints."""

    left = 1000

    def put(self, *arguments: Any) -> Any:
        if self.left == 0:
            raise OSError("disk full")
        self.left -= 1
        return super().put(*arguments)
