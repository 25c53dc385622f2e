from __future__ import annotations

import json
import math
import operator
from typing import Annotated, Any, TypedDict

import pytest
from bayeslora_tool.graphs.gate import create_gate_graph
from bayeslora_tool.graphs.runs import aresume, astart, pending, resume, start
from bayeslora_tool.graphs.workflow import Step, create_workflow_graph
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.clarification import CLARIFY_ACTION
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.fakes import FakeClassifier, by_words, make_prediction

CONFIG: Any = {"configurable": {"thread_id": "1"}}
APPROVE = {"type": "approve"}


def compiled(builder: Any) -> Any:
    return builder.compile(checkpointer=InMemorySaver())


def only(graph: Any) -> tuple[str, dict[str, Any]]:
    ((name, request),) = pending(graph, CONFIG).items()
    return name, request["action_requests"][0]


def by_number(text: str) -> Prediction:
    """Confidence is the number that the text ends with."""
    c = float(text.split()[-1])
    return make_prediction(confidence=c)


class Parent(TypedDict):
    request: str
    reply: str
    asked: Any
    answered: Any
    question: str  # the gate has a key of this name too
    trail: Annotated[list[str], operator.add]


def parent(fake: FakeClassifier, policy: Policy) -> Any:
    builder = StateGraph(Parent)
    for name, text, outcome in [("in", "request", "asked"), ("out", "reply", "answered")]:
        gate = create_gate_graph(classifier=fake, policy=policy, text_key=text, outcome_key=outcome)
        builder.add_node(name, gate.compile())
    return builder


START_BOTH = {"request": "odd", "reply": "vague", "question": "mine", "trail": ["mine"]}


def test_gates_are_nodes_of_another_graph_and_touch_only_their_key(
    fake: FakeClassifier, policy: Policy
) -> None:
    builder = parent(fake, policy)
    builder.add_node("act", lambda state: {"trail": [state["asked"]["label"]]})
    builder.add_edge(START, "in")
    builder.add_edge("in", "act")
    builder.add_edge("act", "out")
    graph = compiled(builder)
    start(graph, START_BOTH, CONFIG)
    name, request = only(graph)
    assert request["name"] == REVIEW_ACTION
    state = resume(graph, CONFIG, {name: APPROVE})
    assert state["trail"] == ["mine", "yes"]
    name, request = only(graph)
    assert request["name"] == CLARIFY_ACTION
    state = resume(graph, CONFIG, {name: "clear"})
    assert state["asked"]["decided_by"] == "human"
    assert state["answered"]["decided_by"] == "user"
    assert state["question"] == "mine"
    assert set(state) == set(Parent.__annotations__)
    assert fake.seen == ["odd", "vague", "vague\nclear"]


def test_parallel_gates_wait_together_and_are_answered_one_by_one(
    fake: FakeClassifier, policy: Policy
) -> None:
    builder = parent(fake, policy)
    builder.add_edge(START, "in")
    builder.add_edge(START, "out")
    graph = compiled(builder)
    start(graph, START_BOTH, CONFIG)
    waiting = {r["action_requests"][0]["name"]: i for i, r in pending(graph, CONFIG).items()}
    resume(graph, CONFIG, {waiting[CLARIFY_ACTION]: "clear"})
    assert list(pending(graph, CONFIG)) == [waiting[REVIEW_ACTION]]
    state = resume(graph, CONFIG, {waiting[REVIEW_ACTION]: {"type": "reject"}})
    assert state["asked"]["decision"] == "reject"
    assert state["answered"]["text"] == "vague\nclear"
    assert sorted(fake.seen) == ["odd", "vague", "vague\nclear"]


class Crowded(TypedDict):
    """Has the names of all that the gate keeps for itself."""

    text: str
    key: str
    route: Any
    prediction: str
    result: str
    outcome: str


def test_a_parents_state_may_have_the_names_of_the_gates_own_keys(
    fake: FakeClassifier, policy: Policy
) -> None:
    gate = create_gate_graph(classifier=fake, policy=policy, text_key="key", outcome_key="route")
    builder = StateGraph(Crowded)
    builder.add_node("gate", gate.compile())
    builder.add_edge(START, "gate")
    graph = compiled(builder)
    mine = {"text": "t", "prediction": "p", "result": "r", "outcome": "o"}
    start(graph, {"key": "vague", **mine}, CONFIG)
    name, _ = only(graph)
    resume(graph, CONFIG, {name: "odd"})
    name, request = only(graph)
    assert request["args"]["text"] == "vague\nodd"
    state = resume(graph, CONFIG, {name: APPROVE})
    assert (state["route"]["label"], state["route"]["decided_by"]) == ("yes", "human")
    assert {key: state[key] for key in mine} == mine
    assert state["key"] == "vague"


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"outcome_key": "gate__route"}, r"`outcome_key` \(='gate__route'\) must not begin"),
        ({"text_key": "x", "outcome_key": "x"}, r"\(='x'\) must be two keys"),
    ],
)
def test_keys_that_would_clash_are_refused(
    fake: FakeClassifier, policy: Policy, keys: dict[str, str], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        create_gate_graph(classifier=fake, policy=policy, **keys)  # type: ignore[arg-type]


class Chat(MessagesState):
    outcome: Any


def chat(fake: FakeClassifier, policy: Policy) -> Any:
    builder = StateGraph(Chat)
    gate = create_gate_graph(classifier=fake, policy=policy, text_key="messages")
    builder.add_node("gate", gate.compile())
    builder.add_edge(START, "gate")
    return compiled(builder)


SUMMARY = HumanMessage("clear, in short", additional_kwargs={"lc_source": "summarization"})


@pytest.mark.parametrize(
    ("messages", "scored"),
    [
        ([("user", "odd"), ("ai", "sure?"), ("user", "clear"), ("ai", "well")], "clear"),
        ([HumanMessage([{"type": "text", "text": "clear "}, {"type": "text", "text": "now"}])],
         "clear now"),
        ([("user", "clear"), SUMMARY], "clear"),
    ],
)  # fmt: skip
def test_a_gate_reads_the_users_last_message(
    fake: FakeClassifier, policy: Policy, messages: list[Any], scored: str
) -> None:
    state = start(chat(fake, policy), {"messages": messages}, CONFIG)
    assert state["outcome"]["decided_by"] == "model"
    assert fake.seen == [scored]
    assert len(state["messages"]) == len(messages)


@pytest.mark.parametrize("messages", [[], [("ai", "clear")], [SUMMARY]])
def test_without_a_message_of_the_user_a_reviewer_decides(
    fake: FakeClassifier, policy: Policy, messages: list[Any]
) -> None:
    graph = chat(fake, policy)
    start(graph, {"messages": messages}, CONFIG)
    _, request = only(graph)
    assert "no message of the user" in request["description"]
    assert fake.seen == []


def test_later_steps_see_what_came_before_and_keys_differ(
    fake: FakeClassifier, policy: Policy
) -> None:
    steps = [
        Step(name="first", act=lambda outcome, state: f"{outcome['label']} to {state['request']}"),
        Step(
            name="second",
            text=lambda state: f"odd: {state['results']['first']}",
            act=lambda outcome, state: list(state["outcomes"]),
        ),
        Step(name="third", text=lambda state: state["outcomes"]["second"]["text"]),
    ]
    graph = compiled(create_workflow_graph(steps=steps, classifier=fake, policy=policy))
    state = start(graph, {"request": "hello"}, CONFIG)
    assert state["ending"] is None
    name, request = only(graph)
    assert request["args"]["text"] == "odd: yes to hello"
    assert request["description"].startswith("Step 'second': ")
    resume(graph, CONFIG, {name: APPROVE})
    name, _ = only(graph)
    state = resume(graph, CONFIG, {name: APPROVE})
    assert state["ending"]["kind"] == "finished"
    assert state["results"] == {"first": "yes to hello", "second": ["first", "second"]}
    assert state["escalations"] == 2
    assert len({outcome["key"] for outcome in state["outcomes"].values()}) == 3
    assert fake.seen == ["hello", "odd: yes to hello", "odd: yes to hello"]
    assert json.loads(json.dumps(state)) == state


def test_each_step_may_bring_its_own_classifier_policy_and_question(policy: Policy) -> None:
    mine, theirs = FakeClassifier(by_words), FakeClassifier(by_words)
    steps = [
        Step(name="strict", policy=Policy(0.95, 0.01, on_low_confidence="escalate")),
        Step(
            name="other",
            classifier=theirs,
            text=lambda state: "vague",
            ask=lambda prediction, text: f"{text}?",
        ),
    ]
    graph = compiled(create_workflow_graph(steps=steps, classifier=mine, policy=policy))
    start(graph, {"request": "clear"}, CONFIG)
    name, request = only(graph)
    assert "0.900 (< 0.95)" in request["description"]
    resume(graph, CONFIG, {name: APPROVE})
    name, request = only(graph)
    assert request["args"]["question"] == "vague?"
    state = resume(graph, CONFIG, {name: "clear"})
    assert state["ending"]["kind"] == "finished"
    assert (mine.seen, theirs.seen) == (["clear"], ["vague", "vague\nclear"])


def test_a_rejected_step_ends_the_run_and_nothing_after_it_happens(
    fake: FakeClassifier, policy: Policy
) -> None:
    acted: list[str] = []
    steps = [
        Step(name=name, act=lambda outcome, state, name=name: acted.append(name)) for name in "ab"
    ]
    graph = compiled(create_workflow_graph(steps=steps, classifier=fake, policy=policy))
    start(graph, {"request": "odd"}, CONFIG)
    name, _ = only(graph)
    state = resume(graph, CONFIG, {name: {"type": "reject", "message": "no"}})
    assert (state["ending"]["kind"], state["ending"]["step"]) == ("stopped: rejected", "a")
    assert "Reviewer: no" in state["ending"]["reason"]
    assert acted == []
    assert fake.seen == ["odd"]


def test_a_reviewers_answer_stands_in_for_the_result(fake: FakeClassifier, policy: Policy) -> None:
    steps = [
        Step(name="a", act=lambda outcome, state: "never"),
        Step(name="b", text=lambda state: state["results"]["a"]),
    ]
    graph = compiled(create_workflow_graph(steps=steps, classifier=fake, policy=policy))
    start(graph, {"request": "odd"}, CONFIG)
    name, _ = only(graph)
    state = resume(graph, CONFIG, {name: {"type": "respond", "message": "call them"}})
    assert state["results"] == {"a": "call them"}
    assert state["outcomes"]["b"]["text"] == "call them"
    assert state["ending"]["kind"] == "finished"


@pytest.mark.parametrize("reviews", [0, 1, 2])
def test_past_the_review_budget_the_run_stops_and_asks_nobody(
    fake: FakeClassifier, policy: Policy, reviews: int
) -> None:
    acted: list[str] = []
    steps = [
        Step(name=name, act=lambda outcome, state, name=name: acted.append(name)) for name in "abc"
    ]
    graph = compiled(
        create_workflow_graph(steps=steps, classifier=fake, policy=policy, max_escalations=reviews)
    )
    state = start(graph, {"request": "odd"}, CONFIG)
    for _ in range(reviews):
        name, _ = only(graph)
        with pytest.raises(ValueError, match="was not taken"):  # which uses up no review
            resume(graph, CONFIG, {name: "garbage"})
        state = resume(graph, CONFIG, {name: APPROVE})
    assert pending(graph, CONFIG) == {}
    stopped = "abc"[reviews]
    assert (state["ending"]["kind"], state["ending"]["step"]) == ("stopped: budget", stopped)
    assert f"max_escalations={reviews}" in state["ending"]["reason"]
    assert state["outcomes"][stopped]["decided_by"] == "budget"
    assert acted == list("abc"[:reviews])
    assert state["escalations"] == reviews


def test_a_failed_scoring_is_not_let_through_for_want_of_reviews(
    fake: FakeClassifier, policy: Policy
) -> None:
    graph = compiled(
        create_workflow_graph(
            steps=[Step(name="a")], classifier=fake, policy=policy, max_escalations=0
        )
    )
    state = start(graph, {"request": "boom"}, CONFIG)
    assert state["ending"]["kind"] == "stopped: budget"
    assert "the model broke" in state["ending"]["reason"]


def test_error_probability_sums_over_unreviewed_steps_and_never_passes_its_limit() -> None:
    """Confidences 0.9, 0.95, 0.9, 0.99 with a limit of 0.17: the third would make it 0.25."""
    confidences = [0.9, 0.95, 0.9, 0.99]
    steps = [
        Step(name=f"s{i}", text=lambda state, c=c: f"text {c}") for i, c in enumerate(confidences)
    ]
    graph = compiled(
        create_workflow_graph(
            steps=steps,
            classifier=FakeClassifier(by_number),
            policy=Policy(0.8, 0.01),
            max_error_probability=0.17,
        )
    )
    state = start(graph, {"request": ""}, CONFIG)
    assert state["error_probability"] == pytest.approx(0.15)
    name, request = only(graph)
    assert request["args"]["confidence"] == 0.9
    assert "would reach 0.25 (at most 0.17)" in request["description"]
    assert "Sure enough" in request["description"]
    state = resume(graph, CONFIG, {name: APPROVE})
    # The reviewer's step added nothing, so the surer fourth still fits.
    assert state["error_probability"] == pytest.approx(0.16)
    assert state["outcomes"]["s3"]["decided_by"] == "model"


def test_a_user_who_was_asked_does_not_make_the_model_right() -> None:
    graph = compiled(
        create_workflow_graph(
            steps=[Step(name="a")],
            classifier=FakeClassifier(by_number),
            policy=Policy(0.8, 0.01),
            max_error_probability=0.15,
        )
    )
    start(graph, {"request": "0.5"}, CONFIG)
    name, request = only(graph)
    assert request["name"] == CLARIFY_ACTION
    resume(graph, CONFIG, {name: "0.82"})
    _, request = only(graph)
    assert request["name"] == REVIEW_ACTION
    assert "would reach 0.18" in request["description"]


def test_both_limits_together_stop_a_sure_step(policy: Policy) -> None:
    graph = compiled(
        create_workflow_graph(
            steps=[Step(name="a", act=lambda outcome, state: pytest.fail("acted"))],
            classifier=FakeClassifier(by_number),
            policy=policy,
            max_escalations=0,
            max_error_probability=0.0,
        )
    )
    state = start(graph, {"request": "0.999"}, CONFIG)
    assert state["ending"]["kind"] == "stopped: budget"


def test_a_thread_forgets_its_last_run(fake: FakeClassifier, policy: Policy) -> None:
    graph = compiled(
        create_workflow_graph(
            steps=[Step(name="a")], classifier=fake, policy=policy, max_escalations=0
        )
    )
    assert start(graph, {"request": "odd"}, CONFIG)["ending"]["kind"] == "stopped: budget"
    state = start(graph, {"request": "clear"}, CONFIG)
    assert state["ending"]["kind"] == "finished"
    assert state["error_probability"] == pytest.approx(0.1)


def broken(state: Any) -> str:
    return state["results"]["nobody"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (broken, "there is no text: KeyError: 'nobody'"),
        (lambda state: None, "there is no text: TypeError: `text` of step 'a' gave None"),
    ],
)
def test_a_step_without_a_text_goes_to_a_person(
    fake: FakeClassifier, policy: Policy, text: Any, reason: str
) -> None:
    steps = [Step(name="a", text=text)]
    graph = compiled(create_workflow_graph(steps=steps, classifier=fake, policy=policy))
    start(graph, {"request": "clear"}, CONFIG)
    name, request = only(graph)
    assert reason in request["description"]
    resume(graph, CONFIG, {name: {"type": "respond", "message": "by hand"}})
    assert graph.get_state(CONFIG).values["results"] == {"a": "by hand"}
    assert fake.seen == []


def test_a_gate_names_the_key_that_holds_no_text(fake: FakeClassifier, policy: Policy) -> None:
    builder = parent(fake, policy)
    builder.add_edge(START, "in")
    with pytest.raises(TypeError, match=r"`request` must be a str, got 3"):
        start(compiled(builder), {**START_BOTH, "request": 3}, CONFIG)


async def test_async_steps(fake: FakeClassifier, policy: Policy) -> None:
    async def act(outcome: Any, state: Any) -> str:
        return f"did {outcome['label']}"

    graph = compiled(
        create_workflow_graph(steps=[Step(name="a", act=act)], classifier=fake, policy=policy)
    )
    await astart(graph, {"request": "odd"}, CONFIG)
    name, _ = only(graph)
    state = await aresume(graph, CONFIG, {name: APPROVE})
    assert state["results"] == {"a": "did yes"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": []}, "`steps` is empty"),
        ({"steps": [Step(name="a"), Step(name="a")]}, "a"),
        ({"classifier": None}, "step 'a' has no classifier"),
        ({"policy": None}, "step 'a' has no policy"),
        ({"max_escalations": -1}, r"`max_escalations` \(=-1\) must be >= 0"),
        ({"max_error_probability": 1.5}, r"`max_error_probability` \(=1.5\) must be in"),
        ({"max_error_probability": float("nan")}, r"\(=nan\) must be in"),
        ({"timeout": 0}, r"`timeout` \(=0\) must be > 0"),
        ({"timeout": math.inf}, r"`timeout` \(=inf\) must be > 0"),
    ],
)
def test_nonsense_is_refused_when_building(
    fake: FakeClassifier, policy: Policy, options: dict[str, Any], message: str
) -> None:
    right: dict[str, Any] = {"steps": [Step(name="a")], "classifier": fake, "policy": policy}
    with pytest.raises(ValueError, match=message):
        create_workflow_graph(**right | options)
