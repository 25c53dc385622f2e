"""The gate: score, decide, then proceed, ask the user, or call a human; its outcome is a record.

Each node that interrupts does so first: LangGraph runs a node again from its top on resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_type_hints
from uuid import uuid4

from bayeslora_tool.graphs.decision_event import DecisionEvent, decision_event, tell, text_marks
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
    brief,
    full_text,
)
from langchain_core.messages import HumanMessage, convert_to_messages
from langchain_core.runnables import RunnableLambda
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from bayeslora_tool.policy import Policy, chosen_for_audit, decide, policy_fingerprint
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.answers import Review
from bayeslora_tool.review.clarification import (
    Ask,
    asker,
    clarification_request,
    put_question,
    why_declined,
    why_not_asked,
)
from bayeslora_tool.review.messages import read_messages
from bayeslora_tool.review.requests import review_request

RESERVED = "gate__"
"""Begins the keys of a gate that shares its state with its parent."""


def create_gate_graph(
    *,
    classifier: Predictor,
    policy: Policy,
    ask: Ask | None = None,
    timeout: float | None = None,
    text_key: str = "text",
    outcome_key: str = "outcome",
    messages: Mapping[str, str] | None = None,
) -> StateGraph[Any, None, Any, Any]:
    """The gate alone, as a node of your graph: ``parent.add_node("gate", gate.compile())``.

    It shares two keys with its parent, and nothing else gets in or out: it reads the text from
    ``text_key`` and writes an :class:`Outcome` to ``outcome_key``; both must be in the parent's
    state. A ``text_key`` that holds messages (``"messages"``) gives the user's last one; if there
    is none, a reviewer decides. Gates with different ``outcome_key`` may run in parallel.
    Interrupts surface in the parent, whose checkpointer keeps the gate's progress too, and are
    answered through it.

    Args:
        classifier: As for :func:`create_escalation_graph`, like ``policy``, ``ask``, ``timeout``,
            ``messages``.
        policy: Thresholds and routes.
        ask: Puts the question to the user.
        timeout: Of one scoring, in seconds, > 0.
        text_key: A key of the parent's state, which holds a str or messages.
        outcome_key: Another. The gate's events bear its name.
        messages: What the user reads.

    Returns:
        An uncompiled graph; compile it without a checkpointer.

    Raises:
        TypeError: ``classifier`` cannot predict.
        ValueError: ``timeout`` out of range, the same key twice, or one that begins with
            ``gate__``, as those do that the gate uses for itself.
    """
    for name, key in (("text_key", text_key), ("outcome_key", outcome_key)):
        if key.startswith(RESERVED):
            raise ValueError(
                f"`{name}` (={key!r}) must not begin with {RESERVED!r}, as the gate's own keys do"
            )
    if text_key == outcome_key:
        raise ValueError(f"`text_key` and `outcome_key` (={text_key!r}) must be two keys")
    reads: Any = TypedDict("GateInput", {text_key: Any})  # type: ignore[misc]
    writes: Any = TypedDict("GateOutput", {outcome_key: Outcome})  # type: ignore[misc]
    keys = {RESERVED + key: kind for key, kind in get_type_hints(EscalationState).items()}
    keys |= {text_key: Any, outcome_key: Outcome}
    holds: Any = TypedDict("GateState", keys)  # type: ignore[misc]
    return build_gate(
        name=outcome_key,
        classifier=classifier,
        policy=policy,
        ask=ask,
        timeout=timeout,
        messages=messages,
        schemas=(holds, reads, writes),
        read=lambda state: _text_in(state.get(text_key)),
        text_key=text_key,
        settle=lambda state, outcome: {outcome_key: outcome},
        prefix=RESERVED,
    )


def _text_in(value: Any) -> Any:
    """The text itself, or the user's last message."""
    if not isinstance(value, list | tuple):
        return value
    for message in reversed(convert_to_messages(value)):
        # What other software says in the user's name, such as a summary, is marked as such.
        if isinstance(message, HumanMessage) and "lc_source" not in message.additional_kwargs:
            return str(message.text)
    raise ValueError("no message of the user")


def build_gate(
    *,
    name: str,
    classifier: Predictor,
    policy: Policy,
    ask: Ask | None,
    timeout: float | None,
    messages: Mapping[str, str] | None,
    schemas: tuple[Any, Any, Any],
    read: Callable[[Any], Any],
    settle: Callable[[Any, Outcome], dict[str, Any]],
    text_key: str = "text",
    limit: Callable[[Any, Route, Mapping[str, Any] | None], Route] | None = None,
    act: Any = None,
    prefix: str = "",
) -> StateGraph[Any, None, Any, Any]:
    """The nodes that every graph here is made of.

    Args:
        name: What events call the gate.
        classifier: See :func:`create_escalation_graph`, like ``policy``, ``ask``, ``timeout``,
            ``messages``.
        policy: Thresholds and routes.
        ask: Puts the question to the user.
        timeout: Of one scoring.
        messages: What the user reads.
        schemas: Of the state (EscalationState and more), of the input, of the output.
        read: The text, from what came in; if it raises, a person decides.
        settle: What else to update beside ``outcome``, from state and outcome.
        text_key: What the text is called where it comes from.
        limit: May send a route (given the prediction, as a dict) elsewhere, also to ``stop``.
        act: A node to run after ``outcome["decision"] == "proceed"``.
        prefix: Of the keys of EscalationState in the first schema; what else it holds, ``read`` and
            ``settle`` alone see.
    """
    check_classifier(classifier)
    check_timeout(timeout)
    words = read_messages(messages)
    put = ask or asker(words)
    known = tuple(getattr(classifier, "labels", ()))
    fingerprint = policy_fingerprint(policy)

    def own(state: Any) -> Any:
        if not prefix:
            return state
        return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}

    def update(state: Any, changes: dict[str, Any]) -> dict[str, Any]:
        if outcome := changes.get("outcome"):
            changes = {**changes, OPEN: None}
        settled = {} if outcome is None else settle(state, outcome)
        return {prefix + key: value for key, value in changes.items()} | settled

    def node(work: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        return lambda state: update(state, work(own(state)))

    def event(state: EscalationState, action: str, **found: Any) -> DecisionEvent:
        return decision_event(
            gate=name,
            action=action,
            key=state["key"],
            audit=action == "proceed" and chosen_for_audit(state["key"], policy),
            audit_rate=policy.audit_rate,
            prediction=state["prediction"],
            text=text_marks(full_text(state) or None),
            latency=state["latency"],
            policy=fingerprint,
            **found,
        )

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
            ("prediction", "latency", "route", "question", "outcome", "result", OPEN)
        )
        fresh |= {"text": text, "failure": failure, "key": uuid4().hex, "clarifications": []}
        return update(state, fresh | {"refused": [], "policy": fingerprint})

    def put_again(raw: Any) -> dict[str, Any]:
        # The new text may stand in the old one's place, and LangGraph has dropped the question.
        state, came = own(raw), raw.get(text_key)
        new = [came] if isinstance(came, str) and came != state[OPEN] else []
        return update(raw, {"text": state[OPEN], "refused": [*state["refused"], *new]})

    def opening(state: EscalationState) -> str:
        return "receive" if state.get(OPEN) is None else "put_again"

    def scored(state: EscalationState, found: dict[str, Any]) -> dict[str, Any]:
        """Of all probabilities, what only they tell: the policy's word, and a question."""
        values = found["prediction"]
        found |= {"route": None, "question": None}
        if values is None:
            return found
        decision = decide(Prediction.from_dict(values), policy)
        found["route"] = Route(action=decision.action, reason=decision.reason)
        asked = len(state["clarifications"])
        if decision.action == "clarify" and asked < policy.max_clarifications:
            try:
                found["question"] = put_question(put, values, full_text(state))
            except GraphBubbleUp:
                raise
            except Exception as error:  # fail closed
                found["failure"] = f"{type(error).__name__}: {error}"
        if known:  # or else these are the only labels that a reviewer can be offered
            found["prediction"] = brief(values)
        return found

    def score_text(state: EscalationState) -> dict[str, Any]:
        return scored(state, score(classifier, full_text(state), timeout))

    async def ascore_text(raw: Any) -> dict[str, Any]:
        state = own(raw)
        return update(raw, scored(state, await ascore(classifier, full_text(state), timeout)))

    def after_receive(state: EscalationState) -> str:
        return "score" if state["failure"] is None else "decide"

    def route(state: EscalationState) -> dict[str, Any]:
        said, told = _route(state, policy)
        if limit is not None and said["action"] != "clarify":
            told = limit(state, Route(action=said["action"], reason=told), state["prediction"])[
                "reason"
            ]
            said = limit(state, said, state["prediction"])
        tell(event(state, action=said["action"], reason=told))
        asks = said["action"] in ("clarify", "escalate")
        return {"route": said, OPEN: state["text"] if asks else None}

    def proceed(state: EscalationState) -> dict[str, Any]:
        assert state["prediction"] is not None
        by: Literal["model", "user"] = "user" if state["clarifications"] else "model"
        outcome = _outcome(state, "proceed", state["prediction"]["label"], by, policy)
        return {"outcome": {**outcome, "audit": chosen_for_audit(state["key"], policy)}}

    def stop(state: EscalationState) -> dict[str, Any]:
        return {"outcome": _outcome(state, "reject", None, "budget", policy)}

    def clarify(state: EscalationState) -> dict[str, Any]:
        question = state["question"] or ""
        shown = " ".join([question, *_refusal(state)])
        request = clarification_request(text=full_text(state), question=shown)
        given, declined = answer_to(
            request, "clarification", not_understood=words["not_understood"]
        )
        said = Clarification(question=question, answer=given, declined=declined)
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
        tell(event(state, action="escalate", reason="A reviewer decided.", said=review))
        decision: Literal["proceed", "reject", "respond"] = (
            review.type if review.type in ("reject", "respond") else "proceed"
        )
        return {"outcome": _outcome(state, decision, review.label, "human", policy, review)}

    def after_clarify(state: EscalationState) -> str:
        return "decide" if state["clarifications"][-1]["declined"] else "score"

    def after_escalate(state: EscalationState) -> str:
        assert state["outcome"] is not None
        return "act" if act and state["outcome"]["decision"] == "proceed" else END

    def chosen(state: EscalationState) -> str:
        assert state["route"] is not None
        return state["route"]["action"]

    def edge(where: Callable[[Any], str]) -> Callable[[Any], str]:
        return lambda state: where(own(state))

    graph = StateGraph(schemas[0], input_schema=schemas[1], output_schema=schemas[2])
    graph.add_node("receive", receive, input_schema=schemas[1])
    graph.add_node("put_again", put_again, input_schema=schemas[0])
    # Concurrent async runs are scored together, if the classifier can.
    batched = hasattr(classifier, "apredict")
    scoring: Any = RunnableLambda(node(score_text), ascore_text) if batched else node(score_text)
    graph.add_node("score", scoring, input_schema=schemas[0])
    graph.add_node("decide", node(route), input_schema=schemas[0])
    graph.add_node("proceed", node(proceed), input_schema=schemas[0])
    graph.add_node("clarify", node(clarify), input_schema=schemas[0])
    graph.add_node("escalate", node(escalate), input_schema=schemas[0])
    graph.add_conditional_edges(START, edge(opening), ["receive", "put_again"])
    graph.add_conditional_edges("put_again", edge(chosen), ["clarify", "escalate"])
    graph.add_conditional_edges("receive", edge(after_receive), ["score", "decide"])
    graph.add_edge("score", "decide")
    routes = ["proceed", "clarify", "escalate"]
    if limit is not None:
        routes.append("stop")
        graph.add_node("stop", node(stop), input_schema=schemas[0])
        graph.add_edge("stop", END)
    graph.add_conditional_edges("decide", edge(chosen), routes)
    graph.add_conditional_edges("clarify", edge(after_clarify), ["score", "decide"])
    graph.add_conditional_edges("escalate", edge(after_escalate), [*(["act"] if act else []), END])
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


def _route(state: EscalationState, policy: Policy) -> tuple[Route, str]:
    """Where to, and why; the reason once more without what may quote the text, for events."""
    route, failure = state["route"], state["failure"] or ""
    kind = failure.partition(":")[0]
    if state["prediction"] is None or route is None:
        lost = [
            f"The text could not be scored ({why}). A person must decide."
            for why in (failure, kind)
        ]
        return Route(action="escalate", reason=lost[0]), lost[1]
    reason, asked = route["reason"], len(state["clarifications"])
    if asked and (last := state["clarifications"][-1])["declined"]:
        whole = f"{reason} {why_declined(last['answer'])}"
        return Route(action="escalate", reason=whole), f"{reason} {why_declined('')}"
    if route["action"] != "clarify" or state["question"] is not None:
        return route, reason
    if asked >= policy.max_clarifications:
        whole = f"{reason} {why_not_asked(asked)}"
        return Route(action="escalate", reason=whole), whole
    lost = [f"{reason} No question could be put ({why})." for why in (failure, kind)]
    return Route(action="escalate", reason=lost[0]), lost[1]


def _outcome(
    state: EscalationState,
    decision: Literal["proceed", "reject", "respond"],
    label: str | None,
    by: Literal["model", "user", "human", "budget"],
    policy: Policy,
    review: Review | None = None,
) -> Outcome:
    assert state["route"] is not None
    reason = state["route"]["reason"]
    message = review.message if review else None
    return Outcome(
        decision=decision,
        label=label,
        decided_by=by,
        reason=f"{reason} Reviewer: {message}" if message else reason,
        message=message,
        reviewer=review.reviewer if review else None,
        text=full_text(state),
        key=state["key"],
        audit=False,
        audit_rate=policy.audit_rate,
    )
