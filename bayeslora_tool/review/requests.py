"""What people are asked: requests in LangChain's ``HITLRequest`` shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bayeslora_tool.prediction import Prediction
from bayeslora_tool.quoting import block, unrendered
from bayeslora_tool.review.messages import MESSAGES
from bayeslora_tool.review.older_request import older_request

REVIEW_ACTION = "act_on_label"
"""The action of a request that goes to a reviewer; an edit must name it."""

DecisionType = Literal["approve", "edit", "reject", "respond"]
ALL_DECISIONS: list[DecisionType] = ["approve", "edit", "reject", "respond"]


def review_request(
    *, text: str, prediction: Mapping[str, Any] | None, reason: str, labels: Sequence[str]
) -> dict[str, Any]:
    """A ``HITLRequest`` that asks a reviewer to settle one text.

    Args:
        text: What is to be decided about.
        prediction: ``Prediction.to_dict()``, or None if the text could not be scored; approving
            is then not offered, because there is nothing to approve.
        reason: Why a person is asked.
        labels: Valid labels for an edit; empty if unknown.
    """
    args: dict[str, Any] = {"text": text, "label": None, "confidence": None, "variance": None}
    allowed = [kind for kind in ALL_DECISIONS if prediction is not None or kind != "approve"]
    if prediction is not None:
        args |= {key: prediction[key] for key in ("label", "confidence", "variance")}
    label = {"enum": list(labels)} if labels else {"type": "string", "pattern": r"\S"}
    schema = {"type": "object", "properties": {"label": label}, "required": ["label"]}
    lines = doubt_lines([reason], text, prediction)
    return hitl_request(ask_about(REVIEW_ACTION, args, lines, allowed, schema))


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


def ask_about(
    name: str,
    args: Mapping[str, Any],
    lines: Sequence[str],
    allowed: Sequence[DecisionType] = ALL_DECISIONS,
    args_schema: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """An action for :func:`hitl_request`, and what may be decided about it.

    Args:
        name: Of the action.
        args: Of the action.
        lines: What the person reads.
        allowed: Decisions.
        args_schema: JSON schema of the arguments that an edit gives.
    """
    config: dict[str, Any] = {"action_name": name, "allowed_decisions": list(allowed)}
    if args_schema is not None:
        config["args_schema"] = dict(args_schema)
    return {"name": name, "args": dict(args), "description": "\n".join(lines)}, config


def hitl_request(*asked: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """LangChain's ``HITLRequest`` about one or more actions, which is answered by position.

    It has the keys of the older ``HumanInterrupt``, too.
    """
    actions, configs = [action for action, _ in asked], [config for _, config in asked]
    request = {"action_requests": actions, "review_configs": configs}
    return request | older_request(actions, configs)


def tool_approval(
    call: Mapping[str, Any], lines: Sequence[str], allowed: Sequence[DecisionType] = ALL_DECISIONS
) -> dict[str, Any]:
    """LangChain's ``ToolApprovalRequest`` about one call, which is answered by one decision.

    What may be decided stands in the interrupt's schema; if that is not all, also beside.
    """
    request = {
        "type": "tool_approval",
        "tool_call_id": call["id"],
        "name": call["name"],
        "args": call["args"],
        "description": "\n".join(lines),
    }
    if set(allowed) != set(ALL_DECISIONS):
        request["allowed_decisions"] = list(allowed)
    return request


def asked_again(
    request: Mapping[str, Any], problem: str, said: str = MESSAGES["en"]["not_understood"]
) -> dict[str, Any]:
    """The same request, which says first what was wrong with the last answer.

    Args:
        request: What was asked.
        problem: Of the answer.
        said: The template of it.
    """
    if "action_requests" not in request:
        told = said.format(problem=unrendered(problem))
        return {**request, "description": f"{told}\n{request['description']}"}
    first, *others = request["action_requests"]
    actions = [asked_again(first, problem, said), *others]
    older = older_request(actions, request["review_configs"])
    return {**request, "action_requests": actions, **older}
