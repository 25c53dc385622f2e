"""What was decided about one text or tool call, in plain data."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, NotRequired

from langchain_core.messages import ToolCall
from typing_extensions import TypedDict

from bayeslora_tool.policy import Action, Policy, decide
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.requests import doubt_lines

EVENT = "bayeslora_decision"
"""Name of the custom event that each decision sends to LangChain's callbacks."""

logger = logging.getLogger(__name__)


class DecisionRecord(TypedDict):
    """What was decided about one text, on its own or behind a tool call."""

    action: Action
    reason: str
    failure: str | None
    """What went wrong, in full. Reviewers see it; events do not, since it may quote the text."""

    text: str | None
    """What was scored."""

    prediction: dict[str, Any] | None
    """``Prediction.to_dict()``, None if there is no score."""

    approved: NotRequired[bool]
    """A reviewer has let this very call run."""


def decision_record(text: str, scored: Mapping[str, Any], policy: Policy) -> DecisionRecord:
    """The policy's word on one text.

    Args:
        text: What was scored.
        scored: ``{"prediction", "failure"}`` from ``graphs/scoring.py``.
        policy: Thresholds and routes.
    """
    if scored["failure"] is not None:
        return failed(text, scored["failure"])
    decision = decide(Prediction.from_dict(scored["prediction"]), policy)
    return DecisionRecord(
        action=decision.action,
        reason=decision.reason,
        failure=None,
        text=text,
        prediction=scored["prediction"],
    )


def failed(text: str | None, failure: str) -> DecisionRecord:
    """The record on what has no score; ``failure`` starts with the kind of error and a colon."""
    kind = failure.partition(":")[0]
    reason = f"The call could not be scored ({kind}). A person must decide."
    return DecisionRecord(
        action="escalate", reason=reason, failure=failure, text=text, prediction=None
    )


def escalated(record: DecisionRecord, reason: str, failure: str | None) -> DecisionRecord:
    """The same record, but for a reviewer, with one more reason."""
    both = f"{record['reason']} {reason}"
    return {**record, "action": "escalate", "reason": both, "failure": failure}


def fingerprint(call: ToolCall, message: str | None) -> str:
    """Of the whole call and its message's id: a record holds for nothing but what was scored."""
    return _sha256(repr((message, call["id"], call["name"], call["args"])))


def review_lines(record: DecisionRecord) -> list[str]:
    """What a reviewer reads about it."""
    reasons = [record["reason"]]
    if record["failure"] is not None:
        reasons.append(record["failure"])
    return doubt_lines(reasons, record["text"], record["prediction"])


def log_decision(tool: str, record: DecisionRecord) -> dict[str, Any]:
    """Log a record, and give the event that tracers hear of it.

    Neither holds the text, only its SHA-256 and length in characters.
    """
    prediction, text = record["prediction"] or {}, record["text"]
    event = {
        "tool": tool,
        "action": record["action"],
        "reason": record["reason"],
        "label": prediction.get("label"),
        "confidence": prediction.get("confidence"),
        "variance": prediction.get("variance"),
        "sha256": None if text is None else _sha256(text),
        "length": None if text is None else len(text),
    }
    logger.info("%s: %s", EVENT, event)
    return event


def _sha256(text: str) -> str:
    # A lone surrogate has no UTF-8 form, but may come from a model.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
