"""What proceeded and was drawn for an audit, as reviews that block nothing.

A gate's event says that there is one; what is asked comes from the checkpoints of its thread, which
outlive the process that the event was told in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from pydantic import TypeAdapter

from bayeslora_tool.agents.decision_record import fingerprint
from bayeslora_tool.agents.dialogue import final_answer, user_request
from bayeslora_tool.desk.review import Question
from bayeslora_tool.graphs.decision_event import text_marks
from bayeslora_tool.review.answer_types import answer_type
from bayeslora_tool.review.requests import REVIEW_ACTION, ask_about, doubt_lines, hitl_request

_DEEPEST = 8  # levels of a state
_NEWEST = 30  # checkpoints
_LIKE_A_PREDICTION = {"label", "confidence", "variance", "probabilities"}


@dataclass
class _Audit:
    """What is known of one, so far."""

    rate: float | None = None
    label: str | None = None
    text: str | None = None
    sha256: str | None = None
    prediction: Mapping[str, Any] | None = None
    policy: str | None = None
    tool: str | None = None
    message: bool = False
    """It is a call's, or an answer's, so the conversation has more of it."""

    @property
    def whole(self) -> bool:
        """Whether no older checkpoint could say more."""
        told = self.text is not None and self.prediction is not None
        return told and (self.tool is not None or not self.message)


def audit_keys(values: Mapping[str, Any]) -> set[str]:
    """The keys of the audits that a state shows."""
    return {str(place["key"]) for place in _audits(values)}


def audits(
    graph: str,
    thread: str,
    saver: BaseCheckpointSaver[Any],
    keys: Collection[str],
    labels: Sequence[str],
) -> list[Question]:
    """The audits of a thread under these keys, as reviews to be filed.

    Args:
        graph: Name of the graph.
        thread: Of the checkpointer.
        saver: The graph's checkpointer.
        keys: Of the audits.
        labels: That may be given; empty: any.
    """
    found = {key: _Audit() for key in keys}
    shown: set[str] = set()
    # The newest first, as they most often say all; and then all of them twice, since what says
    # which text was read may come before what says that it was.
    for limit in (_NEWEST, None, None):
        # To the end: an async checkpointer cannot be left in the middle.
        for saved in saver.list({"configurable": {"thread_id": thread}}, limit=limit):
            shown |= _take(saved.checkpoint["channel_values"], found)
        if shown == found.keys() and all(audit.whole for audit in found.values()):
            break
    return [_question(graph, thread, key, found[key], labels) for key in sorted(shown)]


def _take(values: Mapping[str, Any], found: Mapping[str, _Audit]) -> set[str]:
    """Learn what one state says of the audits; the keys of those that it shows."""
    shown = set()
    for place in _audits(values):
        if (audit := found.get(place["key"])) is not None:
            shown.add(str(place["key"]))
            # An outcome, a record of a gate in an agent, or a tool's artifact.
            audit.rate = place["audit_rate"]
            audit.message |= "sha256" in place
            for name in ("label", "text", "sha256", "prediction", "policy"):
                if getattr(audit, name) is None:
                    setattr(audit, name, place.get(name))
    for place in _dicts(values, _DEEPEST):
        _beside(place, found)
    messages = values.get("messages")
    if isinstance(messages, list):
        _in_conversation(messages, values, found)
    return shown


def _audits(values: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for place in _dicts(values, _DEEPEST):
        if place.get("audit") is True and "audit_rate" in place and "key" in place:
            yield place


def _dicts(value: Any, deep: int) -> Iterator[Mapping[str, Any]]:
    """All dicts in a state, also in what tools handed back."""
    if isinstance(value, ToolMessage):
        value = value.artifact
    if deep == 0 or value is None or isinstance(value, str | BaseMessage):
        return
    if isinstance(value, Mapping):
        yield value
        for one in value.values():
            yield from _dicts(one, deep - 1)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _dicts(one, deep - 1)


def _beside(place: Mapping[str, Any], found: Mapping[str, _Audit]) -> None:
    """An outcome has no score; the state of its gate has, under the same key."""
    for name in place:
        if not (isinstance(name, str) and name.endswith("key") and isinstance(place[name], str)):
            continue
        audit, prefix = found.get(place[name]), name.removesuffix("key")
        score = place.get(f"{prefix}prediction")
        if audit is None or not (isinstance(score, Mapping) and score.keys() >= _LIKE_A_PREDICTION):
            continue
        audit.prediction = audit.prediction or score
        audit.policy = audit.policy or place.get(f"{prefix}policy")


def _in_conversation(
    messages: Sequence[Any], values: Mapping[str, Any], found: Mapping[str, _Audit]
) -> None:
    """The texts that were scored, of which a record has the hash, and the calls that ran."""
    open_ones = {key: audit for key, audit in found.items() if not audit.whole}
    if not open_ones:
        return
    texts = [str(one.text) for one in messages if isinstance(one, HumanMessage)]
    with suppress(ValueError):
        texts.append(user_request({"name": "", "args": {}, "id": None}, values))
    by_hash = {text_marks(text)["sha256"]: text for text in texts}
    calls: dict[str, str] = {}
    for i, message in enumerate(messages):
        if isinstance(message, AIMessage):
            answer = final_answer(messages[: i + 1])
            for call in [*message.tool_calls, *([answer] if answer else [])]:
                calls[fingerprint(call, message.id)] = call["name"]
    for key, audit in open_ones.items():
        audit.text = audit.text or by_hash.get(audit.sha256)
        audit.tool = audit.tool or calls.get(key)


def _question(graph: str, thread: str, key: str, audit: _Audit, labels: Sequence[str]) -> Question:
    prediction, text = audit.prediction, audit.text
    label = audit.label or (prediction["label"] if prediction else None)
    reason = "It has proceeded, and was drawn for an audit: is the label right?"
    reasons = [reason, "Approve it, edit it to the right one, or reject it if none fits."]
    if text is None:
        reasons.append("The text that was scored cannot be shown: see the thread.")
    args = {"text": text, "label": label, "confidence": None, "variance": None}
    if prediction is not None:
        args |= {name: prediction[name] for name in ("confidence", "variance")}
    valid: dict[str, Any] = (
        {"enum": list(labels)} if labels else {"type": "string", "pattern": r"\S"}
    )
    asked = {"type": "object", "properties": {"label": valid}, "required": ["label"]}
    lines = doubt_lines(reasons, text, prediction)
    request = hitl_request(
        ask_about(REVIEW_ACTION, args, lines, ("approve", "edit", "reject"), asked)
    )
    return Question(
        graph=graph,
        thread=thread,
        interrupt=f"audit {key}",
        request=request,
        schema=TypeAdapter(answer_type("review", request)).json_schema(),
        tool=audit.tool or REVIEW_ACTION,
        key=key,
        text=text,
        reason=reason,
        prediction=prediction,
        policy=audit.policy,
        audit=True,
        inclusion=audit.rate,
    )
