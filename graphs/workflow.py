"""Several gated steps, one after another, with limits on what the whole run may risk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bayeslora_tool.graphs.act import act_node
from bayeslora_tool.graphs.gate import build_gate
from bayeslora_tool.graphs.scoring import Predictor
from bayeslora_tool.graphs.state import EscalationState, Outcome, Route
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from bayeslora_tool.policy import Policy
from bayeslora_tool.review.clarification import Ask


class WorkflowInput(TypedDict):
    """What a run starts from."""

    request: str


class Ending(TypedDict):
    """Why a run is over."""

    kind: Literal["finished", "stopped: rejected", "stopped: budget"]
    step: str | None
    """Where it stopped; None if it finished."""

    reason: str


class WorkflowState(WorkflowInput):
    """What a step may read: all that came before it."""

    outcomes: dict[str, Outcome]
    """How each step so far was settled, by name."""

    results: dict[str, Any]
    """What each step's ``act`` returned, or what a reviewer answered instead."""

    escalations: int
    """Reviews that people have settled."""

    error_probability: float
    """Bound on the probability that a step settled without a reviewer is wrong, see below."""

    ending: Ending | None
    """None while the run goes on."""


class _StepState(EscalationState, WorkflowState):
    pass


class _StepOutput(TypedDict):
    outcomes: dict[str, Outcome]
    results: dict[str, Any]
    escalations: int
    error_probability: float
    ending: Ending | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a workflow.

    Attributes:
        name: Of its node, its outcome and its result; unique.
        text: What is to be classified, from what came before; by default the request. Once read,
            it is kept, also over a resume. If it raises, a person decides.
        act: ``act(outcome, state)``, run when the step proceeds, with the promises of ``act`` in
            ``create_escalation_graph``; ``outcome["key"]`` is another for each step.
        classifier: None: the workflow's; the same holds for ``policy`` and ``ask``.
        policy: Thresholds and routes.
        ask: Puts the question to the user.
    """

    name: str
    text: Callable[[WorkflowState], str] = lambda state: state["request"]
    act: Callable[[Outcome, WorkflowState], Any] | None = None
    classifier: Predictor | None = None
    policy: Policy | None = None
    ask: Ask | None = None


def create_workflow_graph(
    *,
    steps: Sequence[Step],
    classifier: Predictor | None = None,
    policy: Policy | None = None,
    ask: Ask | None = None,
    timeout: float | None = None,
    messages: Mapping[str, str] | None = None,
    max_escalations: int | None = None,
    max_error_probability: float | None = None,
) -> StateGraph[WorkflowState, None, WorkflowInput, WorkflowState]:
    """An agent of several steps, each behind a gate of its own; compile it with a checkpointer.

    Start with ``{"request": ...}``. Each step is scored, decided and, where need be, reviewed like
    a text in ``create_escalation_graph``. A step that a reviewer rejects ends the run; one that a
    reviewer responds to does not act, its result is the reviewer's message, and the run goes on.

    The error of a run is bounded by Boole's inequality, which needs no independence: with ``c_k``
    the confidence of step k,

        P(any step settled without a reviewer is wrong) <= sum of (1 - c_k) over those steps,

    as far as the confidences are calibrated. A step that a reviewer settled adds nothing: people
    are taken at their word.

    Args:
        steps: At least one; names are unique.
        classifier: Of the steps that bring none, like ``policy`` and ``ask``.
        policy: Thresholds and routes.
        ask: Puts the question to the user.
        timeout: Of one scoring, in seconds, > 0.
        messages: What the user reads, as for ``create_escalation_graph``.
        max_escalations: Reviews in one run, >= 0. A step that needs one more is rejected unseen,
            ``decided_by`` "budget", and ends the run: nothing doubtful is done for want of
            reviewers. Questions to the user do not count. None: no limit.
        max_error_probability: Of the sum above, in [0, 1]. A step that would push it over the limit
            is escalated however sure it looks. None: no limit.

    Returns:
        An uncompiled graph.

    Raises:
        ValueError: No steps, a name twice, no classifier or policy for one, a limit out of range.
    """
    if not steps:
        raise ValueError("`steps` is empty; give at least one Step")
    if max_escalations is not None and not max_escalations >= 0:
        raise ValueError(f"`max_escalations` (={max_escalations!r}) must be >= 0, or None")
    if max_error_probability is not None and not 0 <= max_error_probability <= 1:
        raise ValueError(
            f"`max_error_probability` (={max_error_probability!r}) must be in [0, 1], or None"
        )

    def begin(state: WorkflowInput) -> dict[str, Any]:
        request = state.get("request")
        if not isinstance(request, str):
            raise TypeError(f"`request` must be a str, got {request!r:.60}")
        # A thread may have held another run before.
        return {
            "outcomes": {},
            "results": {},
            "escalations": 0,
            "error_probability": 0.0,
            "ending": None,
        }

    def finish(state: WorkflowState) -> dict[str, Any]:
        return {"ending": Ending(kind="finished", step=None, reason="Every step was settled.")}

    graph = StateGraph(WorkflowState, input_schema=WorkflowInput)
    graph.add_node("begin", begin)
    graph.add_edge(START, "begin")
    graph.add_edge("begin", steps[0].name)
    for step, after in zip(steps, [*(s.name for s in steps[1:]), "finish"], strict=True):
        chosen = step.classifier or classifier, step.policy or policy
        if chosen[0] is None or chosen[1] is None:
            missing = "classifier" if chosen[0] is None else "policy"
            raise ValueError(f"step {step.name!r} has no {missing}; give it one, or all of them")
        gate = build_gate(
            name=step.name,
            classifier=chosen[0],
            policy=chosen[1],
            ask=step.ask or ask,
            timeout=timeout,
            messages=messages,
            schemas=(_StepState, WorkflowState, _StepOutput),
            read=_read(step),
            limit=_limits(step.name, max_escalations, max_error_probability),
            settle=_ledger(step.name),
            act=_act(step),
        )
        graph.add_node(step.name, gate.compile())
        graph.add_conditional_edges(step.name, _next(after), [after, END])
    graph.add_node("finish", finish)
    graph.add_edge("finish", END)
    return graph


def _next(after: str) -> Callable[[WorkflowState], str]:
    return lambda state: after if state["ending"] is None else END


def _read(step: Step) -> Callable[[WorkflowState], str]:
    def read(state: WorkflowState) -> str:
        text = step.text(state)
        if not isinstance(text, str):
            raise TypeError(f"`text` of step {step.name!r} gave {text!r:.60}, expected a str")
        return text

    return read


def _limits(
    name: str, max_escalations: int | None, max_error: float | None
) -> Callable[[_StepState, Route, Mapping[str, Any] | None], Route]:
    def limit(state: _StepState, route: Route, prediction: Mapping[str, Any] | None) -> Route:
        action, reason = route["action"], route["reason"]
        if action == "proceed" and max_error is not None:
            assert prediction is not None
            total = state["error_probability"] + _doubt(prediction)
            if not total <= max_error:
                action = "escalate"
                reason += (
                    f" But the run's error probability would reach {total:.3g} (at most "
                    f"{max_error:.3g}), so a person must decide."
                )
        if action == "escalate":
            reason = f"Step '{name}': {reason}"
            if max_escalations is not None and state["escalations"] >= max_escalations:
                action = "stop"
                reason += f" No review is left (max_escalations={max_escalations}): the run stops."
        return Route(action=action, reason=reason)

    return limit


def _ledger(name: str) -> Callable[[_StepState, Outcome], dict[str, Any]]:
    def settle(state: _StepState, outcome: Outcome) -> dict[str, Any]:
        update: dict[str, Any] = {"outcomes": state["outcomes"] | {name: outcome}}
        if outcome["decided_by"] == "human":
            update["escalations"] = state["escalations"] + 1
        elif outcome["decision"] == "proceed":
            assert state["prediction"] is not None
            update["error_probability"] = state["error_probability"] + _doubt(state["prediction"])
        if outcome["decision"] == "respond":
            update["results"] = state["results"] | {name: outcome["message"]}
        if outcome["decision"] == "reject":
            unseen = outcome["decided_by"] == "budget"
            kind = "stopped: budget" if unseen else "stopped: rejected"
            update["ending"] = {"kind": kind, "step": name, "reason": outcome["reason"]}
        return update

    return settle


def _doubt(prediction: Mapping[str, Any]) -> float:
    return max(0.0, 1 - float(prediction["confidence"]))  # rounding may lift one over 1


def _act(step: Step) -> RunnableLambda[Any, dict[str, Any]] | None:
    if step.act is None:
        return None

    def arguments(state: _StepState) -> tuple[Outcome, WorkflowState]:
        assert state["outcome"] is not None
        seen = {key: state[key] for key in WorkflowState.__annotations__}  # type: ignore[literal-required]
        return state["outcome"], seen  # type: ignore[return-value]

    def update(state: _StepState, result: Any) -> dict[str, Any]:
        return {"results": state["results"] | {step.name: result}}

    return act_node(step.act, arguments, update)
