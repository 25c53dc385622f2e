"""What a thread asks reviewers, with what its gate has found out: the content of a review.

The request comes from the interrupt, and with it all that a reviewer is shown. What is for the
record (score, policy, key) stands in the state around it, as far as the gate is one of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import PregelTask, StateSnapshot

from bayeslora_tool.agents.decision_record import fingerprint
from bayeslora_tool.agents.dialogue import final_answer, message_id, user_request
from bayeslora_tool.desk.answer import for_reviewers, tools_of
from bayeslora_tool.desk.conversation import conversation
from bayeslora_tool.desk.review import Question
from bayeslora_tool.graphs.decision_event import text_marks
from bayeslora_tool.graphs.gate import RESERVED
from bayeslora_tool.graphs.once import given_before
from bayeslora_tool.graphs.state import full_text
from bayeslora_tool.graphs.thread import ThreadView


class _Found(NamedTuple):
    """What a gate knows of one question."""

    key: str | None = None
    text: str | None = None
    reason: str | None = None
    prediction: Mapping[str, Any] | None = None
    policy: str | None = None


def questions(graph: str, view: ThreadView, saver: BaseCheckpointSaver[Any]) -> list[Question]:
    """What a thread asks reviewers now.

    Args:
        graph: Name of the graph.
        view: Of the thread.
        saver: The graph's checkpointer.
    """
    thread = str(view.snapshot.config["configurable"]["thread_id"])
    asked = []
    for place, step in _steps(view.snapshot):
        for interrupt in step.interrupts:
            request = view.waiting.get(interrupt.id)
            if not for_reviewers(request):
                continue
            assert request is not None
            found = (
                found_in_graph(place.values) or _of_agent(place, step, request, saver) or _Found()
            )
            asked.append(
                Question(
                    graph=graph,
                    thread=thread,
                    interrupt=interrupt.id,
                    request=request,
                    schema=view.schemas[interrupt.id],
                    tool=tools_of(request),
                    conversation=conversation(place.values),
                    **found._asdict(),
                )
            )
    return asked


def _steps(place: StateSnapshot) -> Iterator[tuple[StateSnapshot, PregelTask]]:
    """Each step that waits, innermost, with the state around it."""
    for step in place.tasks:
        if isinstance(step.state, StateSnapshot) and step.state.tasks:
            yield from _steps(step.state)
        elif step.result is None:
            yield place, step


def found_in_graph(values: Any) -> _Found | None:
    """What the state of a gate that is a graph says of its question; None: it is none."""
    if not isinstance(values, Mapping):
        return None
    prefix = RESERVED if f"{RESERVED}key" in values else ""
    own: Any = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    if not {"key", "route", "prediction", "clarifications"} <= own.keys():
        return None
    reasons = [own["route"] and own["route"]["reason"], own.get("failure")]
    return _Found(
        key=own["key"],
        text=full_text(own),
        reason=" ".join(reason for reason in reasons if reason) or None,
        prediction=own["prediction"],
        policy=own.get("policy"),
    )


def _of_agent(
    place: StateSnapshot,
    step: PregelTask,
    request: Mapping[str, Any],
    saver: BaseCheckpointSaver[Any],
) -> _Found | None:
    """From the records of an agent's gates; of several doubtful calls, the first with a score."""
    values = place.values if isinstance(place.values, Mapping) else {}
    messages = values.get("messages") or []
    last = next((one for one in reversed(messages) if isinstance(one, AIMessage)), None)
    if last is None:
        return None
    where = place.config["configurable"]
    given = given_before(saver, where["thread_id"], where.get("checkpoint_ns", ""), step)
    # A gate that asks about all calls at once does so before its records are in the state.
    update = given[0] if isinstance(given, list | tuple) and given else {}
    gates = update if isinstance(update, Mapping) and "uncertainty_gate" in update else values
    calls = [*last.tool_calls, *filter(None, [final_answer(messages)])]
    wanted = request.get("tool_call_id")
    keys = {fingerprint(c, message_id(messages)) for c in calls if wanted in (None, c["id"])}
    records = [
        record
        for gate in (gates.get("uncertainty_gate") or {}).values()
        for key, record in gate.items()
        if key in keys and record["action"] != "proceed"
    ]
    if not records:
        return None
    record = next((one for one in records if one["prediction"] is not None), records[0])
    return _Found(
        key=record.get("key"),
        text=_text(record["sha256"], calls[0], values),
        reason=record["reason"],
        prediction=record["prediction"],
        policy=record["policy"],
    )


def _text(digest: str | None, call: Any, values: Any) -> str | None:
    """What was scored: a record has its hash only."""
    texts = [str(one.text) for one in values["messages"] if isinstance(one, HumanMessage)]
    with suppress(ValueError):
        texts.insert(0, user_request(call, values))
    return next((text for text in texts if text_marks(text)["sha256"] == digest), None)
