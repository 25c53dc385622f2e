"""What a step has worked out is not worked out again when the step runs again on resume.

LangGraph runs an interrupted step again from its top, but never a finished subgraph within it: that
gives again what it gave.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bayeslora_tool.graphs.decision_event import streaming_outside
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import PregelTask
from typing_extensions import TypedDict

T = TypeVar("T")

ONCE = "bayeslora_once"
"""The node within a step in which the work is done."""


class _State(TypedDict):
    given: Any


def _work(state: _State) -> _State:
    work: Any = get_runtime().context
    return {"given": work()}


async def _awork(state: _State) -> _State:
    work: Any = get_runtime().context
    return {"given": await work()}


_builder = StateGraph(_State)
_builder.add_node(ONCE, RunnableLambda(_work, _awork))
_builder.add_edge(START, ONCE)
_builder.add_edge(ONCE, END)
_graph: Any = _builder.compile()  # takes its caller's checkpointer


def given_before(
    saver: BaseCheckpointSaver[Any], thread: str, namespace: str, step: PregelTask
) -> Any:
    """What the first :func:`once` of a step that waits has given; None if there is none.

    Args:
        saver: The checkpointer.
        thread: Its thread.
        namespace: Of the graph that the step is of; empty for the outermost.
        step: That waits.
    """
    place = "|".join([*([namespace] if namespace else []), f"{step.name}:{step.id}"])
    found = saver.get_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": place}})
    return found.checkpoint["channel_values"].get("given") if found else None


def once(work: Callable[[], T]) -> T:
    """The result of ``work()``, plain data or messages; what it raises is not kept.

    Call it always or never at the same place of a step: LangGraph counts.
    """
    with streaming_outside():
        result: T = _graph.invoke({"given": None}, context=work)["given"]
    return result


async def aonce(work: Callable[[], Awaitable[T]]) -> T:
    """:func:`once` for async runs."""
    with streaming_outside():
        result: T = (await _graph.ainvoke({"given": None}, context=work))["given"]
    return result
