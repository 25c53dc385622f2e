"""The graph as one side of a chat, in the shape that ``openevals`` drives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langgraph.types import Interrupt

from bayeslora_tool.graphs.runs import pending, resume, start
from bayeslora_tool.graphs.state import Outcome
from bayeslora_tool.review.clarification import CLARIFY_ACTION

_PATIENCE = 10
WAITING = "A person is looking at your request and will answer."


def as_simulation_app(
    graph: Any,
    *,
    review: Callable[[dict[str, Any]], Any] | None = None,
    say: Callable[[Outcome], str] | None = None,
) -> Callable[..., dict[str, str]]:
    """What ``openevals.simulators.run_multiturn_simulation(app=...)`` expects.

    Each call takes one message of the user: it answers the question that the thread waits with, or
    else starts the graph anew. A user's words never reach a review.

    Args:
        graph: An escalation graph, compiled with a checkpointer, sync.
        review: Answers a review, from its ``HITLRequest``; after ten answers that make no sense,
            a RuntimeError. None: the user is told to wait, and told again until someone resumes
            the thread.
        say: What the user reads at the end; by default the reviewer's message, or the label.

    Returns:
        ``app(message, *, thread_id) -> message``; messages are dicts with ``role`` and ``content``.
    """

    def app(message: Mapping[str, Any], *, thread_id: str, **_: Any) -> dict[str, str]:
        config: Any = {"configurable": {"thread_id": thread_id}}
        words = _words(message.get("content"))
        known = graph.get_state(config).metadata is not None
        waiting = [Interrupt(v, id=i) for i, v in pending(graph, config).items()] if known else []
        state: Mapping[str, Any]
        if not waiting:
            state = start(graph, {"text": words}, config)
        elif _asks_user(waiting[0].value):
            state = _answered(graph, config, waiting[0], words)
        else:
            state = {"__interrupt__": waiting}
        for _attempt in range(_PATIENCE):
            if not state.get("__interrupt__"):
                return _reply((say or _ending)(state["outcome"]))
            (asked,) = state["__interrupt__"]
            if _asks_user(asked.value):
                return _reply(asked.value["action_requests"][0]["args"]["question"])
            if review is None:
                return _reply(WAITING)
            state = _answered(graph, config, asked, review(asked.value))
        raise RuntimeError(
            f"`review` gave {_PATIENCE} answers in a row that make no sense; the thread "
            f"{thread_id!r} still waits for one"
        )

    return app


def _answered(graph: Any, config: Any, asked: Interrupt, answer: object) -> Mapping[str, Any]:
    try:
        return resume(graph, config, {asked.id: answer})
    except ValueError:  # no answer to this question, which waits on
        return {"__interrupt__": [asked]}


def _asks_user(request: Mapping[str, Any]) -> bool:
    return bool(request["action_requests"][0]["name"] == CLARIFY_ACTION)


def _words(content: object) -> str:
    """A message's text, also from a list of content parts."""
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, Mapping) else p for p in content]
        content = "\n".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        raise TypeError(f"the message's `content` must be a str, got {content!r:.60}")
    return content


def _reply(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def _ending(outcome: Outcome) -> str:
    if outcome["decision"] == "proceed":
        return f"Done: {outcome['label']}."
    return outcome["message"] or "Sorry, this is not something that I can do."
