"""What the gate decided about one tool call, in plain data. Knows no agent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypedDict

from langchain_core.messages import ToolCall

from bayeslora_tool.policy import Action, Policy, decide
from bayeslora_tool.prediction import Prediction


class Verdict(TypedDict):
    """What the gate decided about one tool call."""

    action: Action
    reason: str
    failure: str | None
    """What went wrong, in full. Reviewers see it; events do not, since it may quote the text."""

    text: str | None
    """What was scored."""

    prediction: dict[str, Any] | None
    """``Prediction.to_dict()``, None if there is no score."""


UNSCORED = Verdict(
    action="escalate",
    reason="The gate has not scored this call: it was added or changed after the gate saw the "
    "model's message. List the gate first in `middleware`.",
    failure=None,
    text=None,
    prediction=None,
)


def verdict_on(text: str, scored: Mapping[str, Any], policy: Policy) -> Verdict:
    """The policy's word on one text.

    Args:
        text: What was scored.
        scored: ``{"prediction", "failure"}`` from ``graphs/scoring.py``.
        policy: Thresholds and routes.
    """
    if scored["failure"] is not None:
        return failed(text, scored["failure"])
    decision = decide(Prediction.from_dict(scored["prediction"]), policy)
    return Verdict(
        action=decision.action,
        reason=decision.reason,
        failure=None,
        text=text,
        prediction=scored["prediction"],
    )


def failed(text: str | None, failure: str) -> Verdict:
    """The verdict on what has no score; ``failure`` starts with the kind of error and a colon."""
    kind = failure.partition(":")[0]
    reason = f"The call could not be scored ({kind}). A person must decide."
    return Verdict(action="escalate", reason=reason, failure=failure, text=text, prediction=None)


def escalated(verdict: Verdict, reason: str, failure: str | None) -> Verdict:
    """The same verdict, but for a reviewer, with one more reason."""
    both = f"{verdict['reason']} {reason}"
    return {**verdict, "action": "escalate", "reason": both, "failure": failure}


def fingerprint(call: ToolCall) -> str:
    """Of the whole call: a verdict holds for nothing but what was scored."""
    whole = repr((call["id"], call["name"], call["args"]))
    return hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()


def review_lines(verdict: Verdict) -> list[str]:
    """What a reviewer reads about it."""
    lines = [verdict["reason"]]
    if verdict["failure"] is not None:
        lines.append(verdict["failure"])
    if verdict["text"] is not None:
        lines.append(f"Text: {verdict['text']}")
    if verdict["prediction"] is not None:
        likeliest = Prediction.from_dict(verdict["prediction"]).top(3)
        lines.append("Likeliest: " + ", ".join(f"{label} ({p:.3f})" for label, p in likeliest))
    return lines


def event_of(call: ToolCall, verdict: Verdict) -> dict[str, Any]:
    """What tracers hear about it: never the text, only its SHA-256 and length in characters."""
    prediction, text = verdict["prediction"] or {}, verdict["text"]
    digest = None
    if text is not None:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return {
        "tool": call["name"],
        "action": verdict["action"],
        "reason": verdict["reason"],
        "confidence": prediction.get("confidence"),
        "variance": prediction.get("variance"),
        "sha256": digest,
        "length": None if text is None else len(text),
    }
