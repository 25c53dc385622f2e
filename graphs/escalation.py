"""The escalation state machine: score, decide, then proceed, ask the user, or call a human.

Each node that interrupts does nothing else: LangGraph runs a node again from its top on resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from typing import Any, Literal, Protocol

from bayeslora_tool.graphs.review import (
    clarification_request,
    read_clarification,
    read_review,
    review_request,
)
from bayeslora_tool.graphs.state import (
    Clarification,
    EscalationInput,
    EscalationState,
    Outcome,
    full_text,
)
from langchain_core.runnables import RunnableLambda
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from bayeslora_tool.policy import Policy, decide
from bayeslora_tool.prediction import Prediction


class Predictor(Protocol):
    """Anything that classifies texts with doubt."""

    def predict(self, texts: list[str], /) -> Sequence[Prediction]:
        """One prediction a text, in order."""
        ...


def create_escalation_graph(
    *,
    classifier: Predictor,
    policy: Policy,
    act: Callable[[Outcome], Any] | None = None,
    ask: Callable[[Prediction, str], str] | None = None,
) -> StateGraph[EscalationState, None, EscalationInput, EscalationState]:
    """Build the graph; compile it with a checkpointer of yours (interrupts need one).

    Start with ``{"text": ...}``; a thread may be used for one text after another. A run that needs
    a person stops with an interrupt whose value is a LangChain ``HITLRequest``; resume it with
    ``Command(resume=...)`` (see ``review.py`` for the shapes; never None or ``{}``, which LangGraph
    itself misreads). It ends with ``state["outcome"]``.

    Args:
        classifier: Anything with ``predict(texts) -> list[Prediction]``. What it cannot score is
            escalated with the error as the reason.
        policy: Thresholds and routes.
        act: Your action, called with the outcome once a label is settled; what it returns (plain
            data) is ``state["result"]``. Sync, or async for ``ainvoke``. It may run again after a
            crash: make it idempotent.
        ask: ``ask(prediction, text) -> question`` for the user; by default the question names the
            two likeliest labels.

    Returns:
        An uncompiled graph.
    """
    known = tuple(getattr(classifier, "labels", ()))

    def receive(state: EscalationInput) -> dict[str, Any]:
        text = state.get("text")
        if not isinstance(text, str):
            raise TypeError(f'`text` must be a str, got {text!r:.60}; start with {{"text": "..."}}')
        # A thread may have held another text before; nothing of it may reach this one.
        fresh: dict[str, Any] = dict.fromkeys(
            ("prediction", "failure", "route", "question", "problem", "outcome", "result")
        )
        return fresh | {"clarifications": []}

    # Fail closed: whatever goes wrong while scoring, a person sees it.
    def score(state: EscalationState) -> dict[str, Any]:
        try:
            return _scored(classifier.predict([full_text(state)]))
        except GraphBubbleUp:
            raise
        except Exception as error:
            return _unscored(error)

    async def ascore(state: EscalationState) -> dict[str, Any]:
        try:
            return _scored(await classifier.apredict([full_text(state)]))  # type: ignore[attr-defined]
        except GraphBubbleUp:
            raise
        except Exception as error:
            return _unscored(error)

    def route(state: EscalationState) -> dict[str, Any]:
        if state["prediction"] is None:
            reason = f"The text could not be scored ({state['failure']}). A person must decide."
            return {"route": {"action": "escalate", "reason": reason}}
        prediction = Prediction.from_dict(state["prediction"])
        decision = decide(prediction, policy)
        action, reason, question = decision.action, decision.reason, None
        if action == "clarify":
            if len(state["clarifications"]) >= policy.max_clarifications:
                action = "escalate"
                reason += f" The user was asked {len(state['clarifications'])} times already."
            else:
                try:
                    question = (ask or _default_question)(prediction, full_text(state))
                except GraphBubbleUp:
                    raise
                except Exception as error:  # fail closed
                    action = "escalate"
                    reason += f" No question could be put ({type(error).__name__}: {error})."
        return {"route": {"action": action, "reason": reason}, "question": question}

    def proceed(state: EscalationState) -> dict[str, Any]:
        assert state["prediction"] is not None
        by: Literal["model", "user"] = "user" if state["clarifications"] else "model"
        return {"outcome": _outcome(state, "proceed", state["prediction"]["label"], by)}

    def clarify(state: EscalationState) -> dict[str, Any]:
        question = state["question"] or ""
        request = clarification_request(
            text=full_text(state), question=question, problem=state["problem"]
        )
        answer = interrupt(request)
        try:
            words = read_clarification(answer, request)
        except ValueError as error:
            return {"problem": str(error)}
        said = Clarification(question=question, answer=words)
        return {"problem": None, "clarifications": [*state["clarifications"], said]}

    def escalate(state: EscalationState) -> dict[str, Any]:
        assert state["route"] is not None
        prediction = state["prediction"]
        request = review_request(
            text=full_text(state),
            prediction=prediction,
            reason=state["route"]["reason"],
            problem=state["problem"],
        )
        answer = interrupt(request)
        labels = known or (tuple(prediction["probabilities"]) if prediction else ())
        try:
            review = read_review(answer, request, labels)
        except ValueError as error:
            return {"problem": str(error)}
        decision: Literal["proceed", "reject", "respond"] = (
            review.type if review.type in ("reject", "respond") else "proceed"
        )
        outcome = _outcome(state, decision, review.label, "human", review.message)
        return {"problem": None, "outcome": outcome}

    def run_action(state: EscalationState) -> dict[str, Any]:
        assert act is not None
        assert state["outcome"] is not None
        return {"result": act(state["outcome"])}

    async def arun_action(state: EscalationState) -> dict[str, Any]:
        assert act is not None
        assert state["outcome"] is not None
        return {"result": await act(state["outcome"])}

    def after_escalate(state: EscalationState) -> str:
        if state["outcome"] is None:
            return "escalate"
        return "act" if act and state["outcome"]["decision"] == "proceed" else END

    graph = StateGraph(EscalationState, input_schema=EscalationInput)
    graph.add_node("receive", receive)
    # Concurrent async runs are scored together, if the classifier can.
    batched = hasattr(classifier, "apredict")
    graph.add_node("score", RunnableLambda(score, ascore) if batched else score)
    graph.add_node("decide", route)
    graph.add_node("proceed", proceed)
    graph.add_node("clarify", clarify)
    graph.add_node("escalate", escalate)
    graph.add_edge(START, "receive")
    graph.add_edge("receive", "score")
    graph.add_edge("score", "decide")
    graph.add_conditional_edges(
        "decide",
        lambda state: state["route"]["action"],
        ["proceed", "clarify", "escalate"],
    )
    graph.add_conditional_edges(
        "clarify", lambda state: "clarify" if state["problem"] else "score", ["clarify", "score"]
    )
    graph.add_conditional_edges(
        "escalate", after_escalate, ["escalate", *(["act"] if act else []), END]
    )
    if act is not None:
        graph.add_node("act", arun_action if iscoroutinefunction(act) else run_action)
        graph.add_edge("proceed", "act")
        graph.add_edge("act", END)
    else:
        graph.add_edge("proceed", END)
    return graph


def _scored(predictions: Sequence[Prediction]) -> dict[str, Any]:
    (prediction,) = predictions
    return {"prediction": prediction.to_dict(), "failure": None}


def _unscored(error: Exception) -> dict[str, Any]:
    return {"prediction": None, "failure": f"{type(error).__name__}: {error}"}


def _default_question(prediction: Prediction, text: str) -> str:
    first, second = (label.replace("_", " ") for label, _ in prediction.top(2))
    return f'I am not sure what you mean. Is it about "{first}" or "{second}", or something else?'


def _outcome(
    state: EscalationState,
    decision: Literal["proceed", "reject", "respond"],
    label: str | None,
    by: Literal["model", "user", "human"],
    message: str | None = None,
) -> Outcome:
    assert state["route"] is not None
    reason = state["route"]["reason"]
    return Outcome(
        decision=decision,
        label=label,
        decided_by=by,
        reason=f"{reason} Reviewer: {message}" if message else reason,
        message=message,
        text=full_text(state),
    )
