"""The gate: score, decide, then proceed, ask the user, or call a human; its outcome is a record.

Each node that interrupts does nothing else: LangGraph runs a node again from its top on resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal
from uuid import uuid4

from bayeslora_tool.graphs.question import answer_to
from bayeslora_tool.graphs.scoring import (
    Predictor,
    ascore,
    check_classifier,
    check_timeout,
    score,
)
from bayeslora_tool.graphs.state import (
    OPEN,
    Clarification,
    EscalationState,
    Outcome,
    Route,
    full_text,
)
from langchain_core.runnables import RunnableLambda
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from bayeslora_tool.policy import Policy, decide
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.answers import Review
from bayeslora_tool.review.clarification import (
    Ask,
    clarification_request,
    default_question,
    put_question,
    why_declined,
    why_not_asked,
)
from bayeslora_tool.review.requests import review_request


def create_gate_graph(
    *,
    classifier: Predictor,
    policy: Policy,
    ask: Ask | None = None,
    timeout: float | None = None,
    text_key: str = "text",
    outcome_key: str = "outcome",
) -> StateGraph[Any, None, Any, Any]:
    """The gate alone, as a node of your graph: ``parent.add_node("gate", gate.compile())``.

    It shares two keys with its parent, and nothing else gets in or out: it reads the text from
    ``text_key`` (a str) and writes an :class:`Outcome` to ``outcome_key``; both must be in the
    parent's state. Gates with different ``outcome_key`` may run in parallel. Interrupts surface in
    the parent, whose checkpointer keeps the gate's progress too, and are answered through it.

    Args:
        classifier: As for :func:`create_escalation_graph`, like ``policy``, ``ask``, ``timeout``.
        policy: Thresholds and routes.
        ask: Puts the question to the user.
        timeout: Of one scoring, in seconds, > 0.
        text_key: A key of the parent's state.
        outcome_key: Another.

    Returns:
        An uncompiled graph; compile it without a checkpointer.

    Raises:
        TypeError: ``classifier`` cannot predict.
        ValueError: ``timeout`` out of range, or a key that the gate uses for itself.
    """
    for name, key, own in (("text_key", text_key, "text"), ("outcome_key", outcome_key, "outcome")):
        if key != own and key in EscalationState.__annotations__:
            taken = ", ".join(EscalationState.__annotations__)
            raise ValueError(f"`{name}` (={key!r}) is a key of the gate itself; avoid {taken}")
    reads: Any = TypedDict("GateInput", {text_key: str})  # type: ignore[misc]
    writes: Any = TypedDict("GateOutput", {outcome_key: Outcome})  # type: ignore[misc]
    keys = EscalationState.__annotations__ | {text_key: str, outcome_key: Outcome}
    holds: Any = TypedDict("GateState", keys)  # type: ignore[misc]
    return build_gate(
        classifier=classifier,
        policy=policy,
        ask=ask,
        timeout=timeout,
        schemas=(holds, reads, writes),
        read=lambda state: state.get(text_key),
        text_key=text_key,
        settle=lambda state, outcome: {outcome_key: outcome},
    )


def build_gate(
    *,
    classifier: Predictor,
    policy: Policy,
    ask: Ask | None,
    timeout: float | None,
    schemas: tuple[Any, Any, Any],
    read: Callable[[Any], Any],
    settle: Callable[[Any, Outcome], dict[str, Any]],
    text_key: str = "text",
    limit: Callable[[Any, Route, Mapping[str, Any] | None], Route] | None = None,
    act: Any = None,
) -> StateGraph[Any, None, Any, Any]:
    """The nodes that every graph here is made of.

    Args:
        classifier: See :func:`create_escalation_graph`, like ``policy``, ``ask``, ``timeout``.
        policy: Thresholds and routes.
        ask: Puts the question to the user.
        timeout: Of one scoring.
        schemas: Of the state (EscalationState and more), of the input, of the output.
        read: The text, from what came in; if it raises, a person decides.
        settle: What else to update beside ``outcome``, from state and outcome.
        text_key: What the text is called where it comes from.
        limit: May send a route (given the prediction, as a dict) elsewhere, also to ``stop``.
        act: A node to run after ``outcome["decision"] == "proceed"``.
    """
    check_classifier(classifier)
    check_timeout(timeout)
    known = tuple(getattr(classifier, "labels", ()))

    def receive(state: Any) -> dict[str, Any]:
        failure = None
        try:
            text = read(state)
        except GraphBubbleUp:
            raise
        except Exception as error:  # fail closed
            text, failure = "", f"there is no text: {type(error).__name__}: {error}"
        if not isinstance(text, str):
            raise TypeError(
                f'`{text_key}` must be a str, got {text!r:.60}; start with {{"{text_key}": "..."}}'
            )
        # A thread may have held another text before; nothing of it may reach this one.
        fresh: dict[str, Any] = dict.fromkeys(
            ("prediction", "route", "question", "outcome", "result", OPEN)
        )
        fresh |= {"text": text, "failure": failure, "key": uuid4().hex, "clarifications": []}
        return fresh | {"refused": []}

    def put_again(state: EscalationState) -> dict[str, Any]:
        # The new text may stand in the old one's place, and LangGraph has dropped the question.
        came: Any = state.get(text_key)
        new = [came] if isinstance(came, str) and came != state[OPEN] else []
        return {"text": state[OPEN], "refused": [*state["refused"], *new]}

    def opening(state: EscalationState) -> str:
        return "receive" if state.get(OPEN) is None else "put_again"

    def score_text(state: EscalationState) -> dict[str, Any]:
        return score(classifier, full_text(state), timeout)

    async def ascore_text(state: EscalationState) -> dict[str, Any]:
        return await ascore(classifier, full_text(state), timeout)

    def after_receive(state: EscalationState) -> str:
        return "score" if state["failure"] is None else "decide"

    def route(state: EscalationState) -> dict[str, Any]:
        said, question = _policy_route(state, policy), None
        if said["action"] == "clarify":
            try:
                assert state["prediction"] is not None
                question = put_question(
                    ask or default_question, state["prediction"], full_text(state)
                )
            except GraphBubbleUp:
                raise
            except Exception as error:  # fail closed
                lost = (
                    f"{said['reason']} No question could be put ({type(error).__name__}: {error})."
                )
                said = Route(action="escalate", reason=lost)
        if limit is not None and said["action"] != "clarify":
            said = limit(state, said, state["prediction"])
        asks = said["action"] in ("clarify", "escalate")
        return {"route": said, "question": question, OPEN: state["text"] if asks else None}

    def settled(state: EscalationState, outcome: Outcome) -> dict[str, Any]:
        return {"outcome": outcome, OPEN: None} | settle(state, outcome)

    def proceed(state: EscalationState) -> dict[str, Any]:
        assert state["prediction"] is not None
        by: Literal["model", "user"] = "user" if state["clarifications"] else "model"
        return settled(state, _outcome(state, "proceed", state["prediction"]["label"], by))

    def stop(state: EscalationState) -> dict[str, Any]:
        return settled(state, _outcome(state, "reject", None, "budget"))

    def clarify(state: EscalationState) -> dict[str, Any]:
        question = state["question"] or ""
        shown = " ".join([question, *_refusal(state)])
        request = clarification_request(text=full_text(state), question=shown)
        words, declined = answer_to(request, "clarification")
        said = Clarification(question=question, answer=words, declined=declined)
        return {"clarifications": [*state["clarifications"], said], OPEN: None}

    def escalate(state: EscalationState) -> dict[str, Any]:
        assert state["route"] is not None
        prediction = state["prediction"]
        request = review_request(
            text=full_text(state),
            prediction=prediction,
            reason=" ".join([state["route"]["reason"], *_refusal(state)]),
            labels=known or (tuple(prediction["probabilities"]) if prediction else ()),
        )
        review: Review = answer_to(request, "review")
        decision: Literal["proceed", "reject", "respond"] = (
            review.type if review.type in ("reject", "respond") else "proceed"
        )
        return settled(state, _outcome(state, decision, review.label, "human", review.message))

    def asked(state: EscalationState) -> str:
        assert state["route"] is not None
        return state["route"]["action"]

    def after_clarify(state: EscalationState) -> str:
        return "decide" if state["clarifications"][-1]["declined"] else "score"

    def after_escalate(state: EscalationState) -> str:
        assert state["outcome"] is not None
        return "act" if act and state["outcome"]["decision"] == "proceed" else END

    graph = StateGraph(schemas[0], input_schema=schemas[1], output_schema=schemas[2])
    graph.add_node("receive", receive, input_schema=schemas[1])
    graph.add_node("put_again", put_again, input_schema=schemas[0])
    # Concurrent async runs are scored together, if the classifier can.
    batched = hasattr(classifier, "apredict")
    graph.add_node("score", RunnableLambda(score_text, ascore_text) if batched else score_text)
    # Without the schema, LangGraph would hide the keys that an annotation does not name.
    graph.add_node("decide", route, input_schema=schemas[0])
    graph.add_node("proceed", proceed, input_schema=schemas[0])
    graph.add_node("clarify", clarify)
    graph.add_node("escalate", escalate, input_schema=schemas[0])
    graph.add_conditional_edges(START, opening, ["receive", "put_again"])
    graph.add_conditional_edges("put_again", asked, ["clarify", "escalate"])
    graph.add_conditional_edges("receive", after_receive, ["score", "decide"])
    graph.add_edge("score", "decide")
    routes = ["proceed", "clarify", "escalate"]
    if limit is not None:
        routes.append("stop")
        graph.add_node("stop", stop, input_schema=schemas[0])
        graph.add_edge("stop", END)
    graph.add_conditional_edges("decide", asked, routes)
    graph.add_conditional_edges("clarify", after_clarify, ["score", "decide"])
    graph.add_conditional_edges("escalate", after_escalate, [*(["act"] if act else []), END])
    if act is not None:
        graph.add_node("act", act)
        graph.add_edge("act", END)
    graph.add_edge("proceed", "act" if act else END)
    return graph


def _refusal(state: EscalationState) -> list[str]:
    """What whoever is asked hears of texts that were not taken."""
    if not (n := len(state["refused"])):
        return []
    came = "1 new text came" if n == 1 else f"{n} new texts came"
    return [f"{came} while this waits and was not taken: send it again when this is settled."]


def _policy_route(state: EscalationState, policy: Policy) -> Route:
    if state["prediction"] is None:
        reason = f"The text could not be scored ({state['failure']}). A person must decide."
        return Route(action="escalate", reason=reason)
    decision = decide(Prediction.from_dict(state["prediction"]), policy)
    asked = len(state["clarifications"])
    if asked and (last := state["clarifications"][-1])["declined"]:
        why = why_declined(last["answer"])
        return Route(action="escalate", reason=f"{decision.reason} {why}")
    if decision.action == "clarify" and asked >= policy.max_clarifications:
        return Route(action="escalate", reason=f"{decision.reason} {why_not_asked(asked)}")
    return Route(action=decision.action, reason=decision.reason)


def _outcome(
    state: EscalationState,
    decision: Literal["proceed", "reject", "respond"],
    label: str | None,
    by: Literal["model", "user", "human", "budget"],
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
        key=state["key"],
    )
