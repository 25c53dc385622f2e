from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.runs import abandon, pending, recover, resume, start
from langgraph.types import Command

from bayeslora_tool.policy import Policy
from tests.fakes import FakeClassifier
from tests.graphs.desk import APPROVE, CONFIG, REJECT, Desk, open_review, refused, two_gates


@pytest.mark.parametrize("call", [pending, recover, abandon])
def test_an_unknown_thread_is_refused(desk: Desk, call: Callable[..., Any]) -> None:
    assert "thread '1'" in refused("unknown", lambda: call(desk.graph, CONFIG))
    refused("unknown", lambda: resume(desk.graph, CONFIG, {"a" * 32: APPROVE}))
    assert desk.everything() == []


def test_a_missing_checkpointer_is_named(policy: Policy, fake: FakeClassifier) -> None:
    graph = create_escalation_graph(classifier=fake, policy=policy).compile()
    calls: list[Callable[[], Any]] = [
        lambda: start(graph, {"text": "clear"}, CONFIG),
        lambda: pending(graph, CONFIG),
        lambda: resume(graph, CONFIG, {"a" * 32: APPROVE}),
        lambda: recover(graph, CONFIG),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="no checkpointer"):
            call()
    assert fake.seen == []


@pytest.mark.parametrize("value", [{}, {"txt": "clear"}, {"text": None}, {"text": 5}, "clear"])
def test_an_input_without_text_does_not_act_on_the_last_one_again(desk: Desk, value: Any) -> None:
    start(desk.graph, {"text": "clear"}, CONFIG)
    before = desk.everything()
    with pytest.raises(TypeError, match=r"`value` must be .*text.*, got"):
        start(desk.graph, value, CONFIG)
    assert desk.everything() == before
    assert len(desk.acted) == 1


@pytest.mark.parametrize("value", [None, Command(resume="yes")])
def test_start_takes_inputs_only(desk: Desk, value: Any) -> None:
    with pytest.raises(TypeError, match="a new run's input"):
        start(desk.graph, value, CONFIG)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "names no thread"),
        ({"configurable": {"thread_id": "1", "checkpoint_ns": "gate:1"}}, "names a subgraph"),
        ({"configurable": {"thread_id": "1", "checkpoint_id": "x"}}, "old checkpoint"),
    ],
)
def test_a_config_must_name_a_thread_at_its_newest(desk: Desk, config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        start(desk.graph, {"text": "clear"}, config)


@pytest.mark.parametrize("answers", ["yes", ["approve"], None])
def test_answers_without_ids_are_refused(desk: Desk, answers: Any) -> None:
    open_review(desk)
    with pytest.raises(TypeError, match="`answers` must be"):
        resume(desk.graph, CONFIG, answers)
    with pytest.raises(ValueError, match="`answers` is empty"):
        resume(desk.graph, CONFIG, {})
    assert len(pending(desk.graph, CONFIG)) == 1


@pytest.mark.parametrize(
    "odd",
    [10**40, {"type": "reject", "n": 10**40}, object()],
    ids=["a great int", "one within", "no data"],
)
def test_an_answer_that_no_checkpoint_can_hold_is_refused_before_it_does_harm(
    desk: Desk, odd: Any
) -> None:
    name = open_review(desk)
    before = desk.everything()
    with pytest.raises(ValueError, match=f"the answer to {name} cannot be kept"):
        resume(desk.graph, CONFIG, {name: odd})
    assert desk.everything() == before
    assert resume(desk.graph, CONFIG, {name: APPROVE})["outcome"]["label"] == "yes"


def nested(levels: int) -> Any:
    value: Any = {"type": "reject"}
    for _ in range(levels):
        value = {"type": "reject", "n": value}
    return value


@pytest.mark.parametrize("levels", [100, *range(248, 262), 600, 100_000])
def test_of_two_answers_none_is_taken_where_one_is_nested_too_deep(levels: int) -> None:
    graph = two_gates()
    start(graph, {"text": "odd"}, CONFIG)
    first, second = pending(graph, CONFIG)
    try:
        state = resume(graph, CONFIG, {first: APPROVE, second: nested(levels)})
    except ValueError as error:
        assert f"the answer to {second} cannot be kept" in str(error)  # noqa: PT017
        assert set(pending(graph, CONFIG)) == {first, second}
        state = resume(graph, CONFIG, {first: APPROVE, second: REJECT})
    else:
        assert levels < 255
    assert {state["one"]["decision"], state["two"]["decision"]} == {"proceed", "reject"}
    assert graph.get_state(CONFIG).tasks == ()


def test_durability_is_not_an_option(desk: Desk) -> None:
    name = open_review(desk)
    with pytest.raises(TypeError, match="`durability` is 'sync'"):
        resume(desk.graph, CONFIG, {name: APPROVE}, durability="exit")
    assert list(pending(desk.graph, CONFIG)) == [name]
