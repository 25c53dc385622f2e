"""What was decided about one text or tool call, in plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired

from langchain_core.messages import ToolCall

from bayeslora_tool.graphs.decision_event import (
    DecisionEvent,
    TextMarks,
    decision_event,
    text_marks,
)
from bayeslora_tool.graphs.state import brief
from bayeslora_tool.policy import Action, Policy, chosen_for_audit, decide, policy_fingerprint
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.answers import Decision
from bayeslora_tool.review.requests import doubt_lines


class DecisionRecord(TextMarks):
    """What was decided about one text, on its own or behind a tool call."""

    action: Action
    reason: str
    failure: str | None
    """What went wrong, in full. Reviewers see it; events do not, since it may quote the text."""

    prediction: dict[str, Any] | None
    """``Prediction.to_dict()``, None if there is no score."""

    latency: float | None
    """Seconds that the scoring took."""

    policy: str | None
    """Fingerprint of the policy."""

    text: NotRequired[str]
    """What was scored; a state keeps only its marks."""

    key: NotRequired[str]
    """Of the call, and of its audit."""

    audit: NotRequired[bool]
    """The call runs, and somebody should label it: see ``Policy.audit_rate``."""

    audit_rate: NotRequired[float]
    """The policy's."""

    approved: NotRequired[bool]
    """A reviewer has let this very call run."""

    reviewer: NotRequired[str | None]
    """Who has seen it, as far as is known."""

    message: NotRequired[str | None]
    """What they wrote."""


def decision_record(text: str, scored: Mapping[str, Any], policy: Policy) -> DecisionRecord:
    """The policy's word on one text.

    Args:
        text: What was scored.
        scored: ``{"prediction", "failure"}`` from ``graphs/scoring.py``.
        policy: Thresholds and routes.
    """
    marks = text_marks(text)
    if scored["failure"] is not None:
        record = failed(text, scored["failure"])
    else:
        decision = decide(Prediction.from_dict(scored["prediction"]), policy)
        record = DecisionRecord(
            action=decision.action,
            reason=decision.reason,
            failure=None,
            prediction=scored["prediction"],
            latency=None,
            policy=None,
            text=text,
            sha256=marks["sha256"],
            length=marks["length"],
        )
    return {**record, "latency": scored["latency"], "policy": policy_fingerprint(policy)}


def failed(text: str | None, failure: str) -> DecisionRecord:
    """The record on what has no score; ``failure`` starts with the kind of error and a colon."""
    kind, marks = failure.partition(":")[0], text_marks(text)
    record = DecisionRecord(
        action="escalate",
        reason=f"The call could not be scored ({kind}). A person must decide.",
        failure=failure,
        prediction=None,
        latency=None,
        policy=None,
        sha256=marks["sha256"],
        length=marks["length"],
    )
    return record if text is None else {**record, "text": text}


def kept(record: DecisionRecord) -> DecisionRecord:
    """What a state may hold of a record, since it is streamed and kept at each step."""
    few = {key: value for key, value in record.items() if key != "text"}
    if record["prediction"] is not None:
        few["prediction"] = brief(record["prediction"])
    return few  # type: ignore[return-value]


def reviewed(record: DecisionRecord, decision: Decision) -> DecisionRecord:
    """The same record with a reviewer's word on it."""
    approved = decision["type"] in ("approve", "edit")
    by, message = decision["reviewer"], decision["message"]
    return {**record, "approved": approved, "reviewer": by, "message": message}


def with_key(record: DecisionRecord, key: str, policy: Policy) -> DecisionRecord:
    """The same record with its key, and whether it is one to be audited."""
    audit = record["action"] == "proceed" and chosen_for_audit(key, policy)
    return {**record, "key": key, "audit": audit, "audit_rate": policy.audit_rate}


def escalated(record: DecisionRecord, reason: str, failure: str | None) -> DecisionRecord:
    """The same record, but for a reviewer, with one more reason."""
    both = f"{record['reason']} {reason}"
    return {**record, "action": "escalate", "reason": both, "failure": failure}


def fingerprint(call: ToolCall, message: str | None) -> str:
    """Of the whole call and its message's id: a record holds for nothing but what was scored."""
    whole = repr((message, call["id"], call["name"], call["args"]))
    return str(text_marks(whole)["sha256"])


def review_lines(record: DecisionRecord, *texts: object) -> list[str]:
    """What a reviewer reads about it.

    Args:
        record: Of a call.
        texts: What the gate reads for the call now; the one that was scored is shown.
    """
    reasons = [record["reason"]]
    if record["failure"] is not None:
        reasons.append(record["failure"])
    read = (text for text in texts if isinstance(text, str))
    shown = next((text for text in read if text_marks(text)["sha256"] == record["sha256"]), None)
    if shown is None and record["sha256"] is not None:
        reasons.append("The text that was scored cannot be shown: it reads otherwise now.")
    return doubt_lines(reasons, shown, record["prediction"])


def record_event(
    record: DecisionRecord, *, gate: str | None, tool: str, said: Decision | None = None
) -> DecisionEvent:
    """Log a record, and give the event that tracers hear of it: see ``DecisionEvent``."""
    return decision_event(
        gate=gate,
        tool=tool,
        action=record["action"],
        reason=record["reason"],
        prediction=record["prediction"],
        text=record,
        latency=record["latency"],
        policy=record["policy"],
        key=record.get("key"),
        audit=record.get("audit", False),
        audit_rate=record.get("audit_rate"),
        said=said,
    )
