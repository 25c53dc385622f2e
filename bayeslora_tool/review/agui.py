"""What people are asked as AG-UI's interrupts, and their answers back. Pure: knows no transport.

AG-UI 1.0 ends a run with ``RUN_FINISHED``, whose ``outcome`` lists its interrupts, and begins the
next with ``resume``. Its interrupts are an envelope of their own around what is
asked, so LangChain's requests stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bayeslora_tool.review.answers import actions

_OURS = "bayeslora_tool"  # in `metadata`


def agui_interrupts(interrupts: Iterable[Any]) -> list[dict[str, Any]]:
    """LangGraph's interrupts as AG-UI's, in plain data.

    A ``ToolApprovalRequest`` (``interrupt_mode="per_call"``) is bound to its call: ``tool_call``
    with ``toolCallId``, answered in AG-UI's own way (``approved``, ``editedArgs``). All else is
    ``input_required``, answered by ``responseSchema``. The request itself stands in ``metadata``.
    Nothing expires here, so ``expiresAt`` is left out; of a review at a desk it is known
    (``FiledReview.to_ag_ui``).

    Args:
        interrupts: From ``graph.get_state(config).interrupts`` or ``state["__interrupt__"]``.
    """
    return [_exported(one) for one in interrupts]


def agui_answers(resume: Sequence[Mapping[str, Any]], interrupts: Iterable[Any]) -> dict[str, Any]:
    """AG-UI's answers for ``resume`` in ``graphs/runs.py``, or ``Command(resume=...)``.

    What was cancelled is rejected: nothing is done that nobody agreed to.

    Args:
        resume: ``RunAgentInput.resume``: ``interruptId``, ``status`` and ``payload`` of each.
        interrupts: That wait, as for :func:`agui_interrupts`.

    Raises:
        ValueError: An interrupt that does not wait, one that is left out or answered twice, or an
            answer that is none.
    """
    waiting = {one.id: one.value for one in interrupts}
    answers: dict[str, Any] = {}
    for entry in resume:
        name = str(entry.get("interruptId"))
        if name not in waiting or name in answers:
            why = "is answered twice" if name in answers else "does not wait"
            raise ValueError(f"`interruptId` (={name!r:.80}) {why}; {_wait(waiting)}")
        answers[name] = _answer(entry, waiting[name])
    if left := [name for name in waiting if name not in answers]:
        raise ValueError(f"`resume` leaves out {', '.join(left)}; {_wait(waiting)}")
    return answers


def _exported(interrupt: Any) -> dict[str, Any]:
    value, schema = interrupt.value, interrupt.response_schema
    found: dict[str, Any] = {"id": interrupt.id, "reason": "input_required"}
    if _bound(value):
        found |= {
            "reason": "tool_call",
            "message": value["description"],
            "toolCallId": value["tool_call_id"],
        }
        schema = _approval(schema)
    elif isinstance(value, Mapping) and "action_requests" in value:
        asked = [action["description"] for action in value["action_requests"]]
        found["message"] = "\n\n".join(asked)
    else:  # not ours
        found["reason"] = "langgraph:interrupt"
    if schema is not None:
        found["responseSchema"] = schema
    return found | {"metadata": {_OURS: value}}


def _answer(entry: Mapping[str, Any], value: Any) -> Any:
    status, payload = entry.get("status"), entry.get("payload")
    ours = isinstance(value, Mapping) and ("action_requests" in value or _bound(value))
    if status == "cancelled" and ours:
        rejected = [{"type": "reject"} for _ in actions(value)]
        return rejected[0] if len(rejected) == 1 else {"decisions": rejected}
    if status != "resolved":
        raise ValueError(f"`status` (={status!r:.80}) must be 'resolved' or, of a question of "
                         f"ours, 'cancelled'")  # fmt: skip
    if not _bound(value) or not isinstance(payload, Mapping) or "type" in payload:
        return payload
    approved, args = payload.get("approved"), payload.get("editedArgs")
    if not isinstance(approved, bool) or not (args is None or isinstance(args, Mapping)):
        raise ValueError(
            f'`payload` (={payload!r:.80}) must be {{"approved": true or false}}, with '
            f"`editedArgs` as an object if the call's arguments are to be others"
        )
    if not approved:
        return {"type": "reject", "message": payload.get("message")}
    if args is None:
        return {"type": "approve"}
    return {"type": "edit", "edited_action": {"name": value["name"], "args": dict(args)}}


def _bound(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") == "tool_approval"


def _approval(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """AG-UI's schema for a call; ``editedArgs`` in it says that the call may be edited."""
    properties: dict[str, Any] = {"approved": {"type": "boolean"}, "message": {"type": "string"}}
    for form in (schema or {}).get("anyOf", ()):
        known = form.get("properties", {})
        if known.get("type") == {"const": "edit"} and "edited_action" in known:
            properties["editedArgs"] = known["edited_action"]["properties"]["args"]
            break
    return {"type": "object", "properties": properties, "required": ["approved"]}


def _wait(waiting: Mapping[str, Any]) -> str:
    return f"waiting: {', '.join(waiting) or 'none'}"
