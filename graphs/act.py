"""The node that acts: it calls the user's function, and keeps what that gives."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from inspect import isawaitable, iscoroutine
from typing import Any

from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import run_in_executor
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

logger = logging.getLogger(__name__)
_SERDE = JsonPlusSerializer()


def act_node(
    act: Callable[..., Any],
    arguments: Callable[[Any], tuple[Any, ...]],
    update: Callable[[Any, Any], dict[str, Any]],
) -> RunnableLambda[Any, dict[str, Any]]:
    """A node that calls ``act`` and does nothing else.

    Args:
        act: Sync or async.
        arguments: What to call it with, from the state.
        update: Of the state, from state and result.
    """

    def run(state: Any) -> dict[str, Any]:
        result = act(*arguments(state))
        if isawaitable(result):
            if iscoroutine(result):
                result.close()
            raise TypeError("`act` is async; run the graph with ainvoke, astart or aresume")
        return update(state, storable(result))

    async def arun(state: Any) -> dict[str, Any]:
        # Only its result tells a lambda around an async function from a sync one, which would
        # hold up the event loop if it were called here.
        result = await _to_its_end(run_in_executor(None, act, *arguments(state)))
        return update(state, storable(await result if isawaitable(result) else result))

    return RunnableLambda(run, arun)


def storable(result: Any) -> Any:
    """What a checkpoint can hold of a result: itself, its plain form, or a sentence about it.

    The action has been done. An error here would leave the thread before it, and do it again.
    """
    problem = _unstorable(result)
    if problem is None:
        return result
    with suppress(TypeError, ValueError, RecursionError):
        plain = json.loads(json.dumps(result, default=_plain))
        if _unstorable(plain) is None:
            return plain
    kind = f"{type(result).__module__}.{type(result).__qualname__}"
    logger.error("`act` gave a %s, which no checkpoint can hold", kind)
    return (
        f"`act` ran, but no checkpoint can hold the {kind} that it gave ({problem:.200}); return "
        f"plain data: str, float, int of 64 bits, list, dict"
    )


def _unstorable(value: Any) -> str | None:
    try:
        _SERDE.dumps_typed(value)
    except Exception as error:  # of whatever kind the serializer raises
        return f"{type(error).__name__}: {error}"
    return None


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, torch's tensors
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no plain form")


async def _to_its_end(work: Any) -> Any:
    """Await what cannot be cancelled; a cancellation meanwhile is raised when it is done.

    A function in a thread goes on whatever happens here. Were the run over before it is, a recovery
    would call it a second time beside the first.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen, so that nobody logs it
        raise cancelled
    return task.result()
