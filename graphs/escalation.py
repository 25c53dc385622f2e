"""The gate with an action behind it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable, iscoroutine
from typing import Any

from bayeslora_tool.graphs.gate import build_gate
from bayeslora_tool.graphs.scoring import Predictor
from bayeslora_tool.graphs.state import EscalationInput, EscalationState, Outcome
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import run_in_executor
from langgraph.graph import StateGraph

from bayeslora_tool.policy import Policy
from bayeslora_tool.review.clarification import Ask


def create_escalation_graph(
    *,
    classifier: Predictor,
    policy: Policy,
    act: Callable[[Outcome], Any] | None = None,
    ask: Ask | None = None,
    timeout: float | None = None,
) -> StateGraph[EscalationState, None, EscalationInput, EscalationState]:
    """The gate with your action behind it; compile it with a checkpointer (interrupts need one).

    Start with ``{"text": ...}``; a thread may be used for one text after another. A run that needs
    a person stops with an interrupt whose value is a LangChain ``HITLRequest``; answer it by its id
    with ``resume`` (``resume.py``; the shapes are in ``review.py``). It ends with
    ``state["outcome"]``.

    Args:
        classifier: Anything with ``predict(texts) -> list[Prediction]``. What it cannot score is
            escalated with the error as the reason.
        policy: Thresholds and routes.
        act: Your action, called with the outcome once a label is settled; what it returns (plain
            data) is ``state["result"]``. Sync, or async for ``ainvoke``. It runs *at least* once: a
            process that dies in it, or just after, runs it again on ``recover``. No checkpointer
            can prevent that, so give ``outcome["key"]``, the same in each re-execution and another
            for each text, to whatever you call, or look first whether the key was seen. The key
            outlives a kill only if checkpoints are written before the next node runs
            (``durability="sync"``, which ``start`` and ``resume`` set).
        ask: ``ask(prediction, text) -> question`` for the user; by default the question names the
            two likeliest labels. To any question, "neither" and its like bring a reviewer.
        timeout: Seconds, > 0, that one scoring may take before a person decides instead.

    Returns:
        An uncompiled graph.

    Raises:
        TypeError: ``classifier`` cannot predict.
        ValueError: ``timeout`` out of range.
    """
    node = None
    if act is not None:
        node = act_node(act, lambda state: (state["outcome"],), lambda _, it: {"result": it})
    return build_gate(
        classifier=classifier,
        policy=policy,
        ask=ask,
        timeout=timeout,
        act=node,
        schemas=(EscalationState, EscalationInput, EscalationState),
        read=lambda state: state.get("text"),
        settle=lambda state, outcome: {"outcome": outcome},
    )


def act_node(
    act: Callable[..., Any],
    arguments: Callable[[Any], tuple[Any, ...]],
    update: Callable[[Any, Any], dict[str, Any]],
) -> RunnableLambda[Any, dict[str, Any]]:
    """A node that calls ``act`` and does nothing else."""

    def run(state: Any) -> dict[str, Any]:
        result = act(*arguments(state))
        if isawaitable(result):
            if iscoroutine(result):
                result.close()
            raise TypeError("`act` is async; run the graph with ainvoke, astart or aresume")
        return update(state, result)

    async def arun(state: Any) -> dict[str, Any]:
        # Only its result tells a lambda around an async function from a sync one, which would
        # hold up the event loop if it were called here.
        result = await run_in_executor(None, act, *arguments(state))
        return update(state, await result if isawaitable(result) else result)

    return RunnableLambda(run, arun)
