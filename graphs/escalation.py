"""The gate with an action behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bayeslora_tool.graphs.act import act_node
from bayeslora_tool.graphs.gate import build_gate
from bayeslora_tool.graphs.scoring import Predictor
from bayeslora_tool.graphs.state import EscalationInput, EscalationState, Outcome, Route
from langgraph.graph import StateGraph

from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import unknown_label
from bayeslora_tool.review.clarification import Ask


def create_escalation_graph(
    *,
    classifier: Predictor,
    policy: Policy,
    act: Callable[[Outcome], Any] | Mapping[str, Callable[[Outcome], Any]] | None = None,
    ask: Ask | None = None,
    timeout: float | None = None,
    messages: Mapping[str, str] | None = None,
) -> StateGraph[EscalationState, None, EscalationInput, EscalationState]:
    """The gate with your action behind it; compile it with a checkpointer (interrupts need one).

    Start with ``{"text": ...}``; a thread may be used for one text after another. A run that needs
    a person stops with an interrupt whose value is a LangChain ``HITLRequest``; answer it by its id
    with ``resume`` (``runs.py``; the shapes are in the room ``review``). It ends with
    ``state["outcome"]``.

    Args:
        classifier: Anything with ``predict(texts) -> list[Prediction]``. What it cannot score is
            escalated with the error as the reason.
        policy: Thresholds and routes.
        act: Your action, or one for each label: ``{"freeze_account": freeze}``; a sure label that
            none is for escalates, and if a reviewer lets it pass, nothing is done. Called with the
            outcome once a label is settled; what it returns is ``state["result"]``: plain data, for
            what no checkpoint can hold is put into words. Sync, or async for ``ainvoke``. It runs
            *at least* once: a process that dies in it, or just after, runs it again on
            ``recover``. No checkpointer can prevent that, so give ``outcome["key"]``, the same in
            each re-execution and another for each text, to whatever you call, or look first whether
            the key was seen. The key outlives a kill only if checkpoints are written before the
            next node runs (``durability="sync"``, which ``start`` and ``resume`` set).
        ask: ``ask(prediction, text) -> question`` for the user; by default the question names the
            two likeliest labels. To any question, "neither" and its like bring a reviewer.
        timeout: Seconds, > 0, that one scoring may take before a person decides instead.
        messages: What the user reads, in another language: templates by name, such as
            ``MESSAGES["de"]`` of the room ``review``; those left out are English. What reviewers
            read is English.

    Returns:
        An uncompiled graph.

    Raises:
        TypeError: ``classifier`` cannot predict.
        ValueError: ``timeout`` out of range, or ``messages`` that do not fit.
    """
    node, limit = None, None
    if isinstance(act, Mapping):
        act, limit = _by_label(act, tuple(getattr(classifier, "labels", ())))
    if act is not None:
        node = act_node(act, lambda state: (state["outcome"],), lambda _, it: {"result": it})
    return build_gate(
        name="escalation",
        classifier=classifier,
        policy=policy,
        ask=ask,
        timeout=timeout,
        messages=messages,
        act=node,
        limit=limit,
        schemas=(EscalationState, EscalationInput, EscalationState),
        read=lambda state: state.get("text"),
        settle=lambda state, outcome: {"outcome": outcome},
    )


def _by_label(
    acts: Mapping[str, Callable[[Outcome], Any]], labels: Sequence[str]
) -> tuple[Callable[[Outcome], Any], Callable[..., Route]]:
    """One action out of many, and what escalates a label that none is for."""
    for label in acts:
        if labels and label not in labels:
            raise ValueError(f"`act`: {unknown_label(label, labels)}")

    def act(outcome: Outcome) -> Any:
        chosen = acts.get(outcome["label"] or "")
        return chosen(outcome) if chosen else f"nothing done: no action is for {outcome['label']!r}"

    def limit(state: Any, route: Route, prediction: Mapping[str, Any] | None) -> Route:
        if route["action"] != "proceed" or (prediction and prediction["label"] in acts):
            return route
        label = prediction and prediction["label"]
        reason = f"{route['reason']} But no action is for {label!r}, so a person must decide."
        return Route(action="escalate", reason=reason)

    return act, limit
