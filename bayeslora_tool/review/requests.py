"""What people are asked: requests in LangChain's ``HITLRequest`` shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bayeslora_tool.prediction import Prediction
from bayeslora_tool.quoting import block, unrendered

REVIEW_ACTION = "act_on_label"
"""The action of a request that goes to a reviewer; an edit must name it."""

DecisionType = Literal["approve", "edit", "reject", "respond"]


def review_request(
    *, text: str, prediction: Mapping[str, Any] | None, reason: str, problem: str | None
) -> dict[str, Any]:
    """A ``HITLRequest`` that asks a reviewer to settle one text.

    Args:
        text: What is to be decided about.
        prediction: ``Prediction.to_dict()``, or None if the text could not be scored; approving
            is then not offered, because there is nothing to approve.
        reason: Why a person is asked.
        problem: What was wrong with the reviewer's last answer, if this asks again.
    """
    args: dict[str, Any] = {"text": text, "label": None, "confidence": None, "variance": None}
    allowed: list[DecisionType] = ["edit", "reject", "respond"]
    if prediction is not None:
        args |= {key: prediction[key] for key in ("label", "confidence", "variance")}
        allowed.insert(0, "approve")
    lines = doubt_lines([reason], text, prediction)
    return ask_human(REVIEW_ACTION, args, allowed, lines, problem)


def doubt_lines(
    reasons: Sequence[str], text: str | None, prediction: Mapping[str, Any] | None
) -> list[str]:
    """What a reviewer reads: the reasons, and the likeliest labels and the text, if there are.

    The text comes last and marked, so nothing in it passes for one of the lines before it.
    """
    lines = [unrendered(reason) for reason in reasons]
    if prediction is not None:
        likeliest = Prediction.from_dict(prediction).top(3)
        named = ", ".join(f"{label} ({p:.3f})" for label, p in likeliest)
        lines.append(unrendered(f"Likeliest: {named}"))
    if text is not None:
        lines += ["Text:", *block(text)]
    return lines


def ask_human(
    name: str,
    args: Mapping[str, Any],
    allowed: list[DecisionType],
    lines: list[str],
    problem: str | None,
) -> dict[str, Any]:
    """A ``HITLRequest`` about one action; ``lines`` are what the person reads."""
    if problem is not None:
        lines = [f"The last answer was not understood: {unrendered(problem)}", *lines]
    return {
        "action_requests": [{"name": name, "args": dict(args), "description": "\n".join(lines)}],
        "review_configs": [{"action_name": name, "allowed_decisions": allowed}],
    }
