from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import pending, recover, resume, start
from bayeslora_tool.graphs.thread import ThreadError
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from tests.graphs.desk import (
    APPROVE,
    CONFIG,
    EDIT_TO_NO,
    REJECT,
    Desk,
    FullDisk,
    die_with_answer,
    open_review,
    refused,
    two_gates,
)


def race(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call returned or raised, all begun at once."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        gate.wait()
        try:
            return call()
        except ThreadError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_of_reviewers_who_answer_at_once_in_one_process_one_is_heard() -> None:
    desk = Desk(act=lambda outcome: time.sleep(0.02))
    for _ in range(20):
        name = open_review(desk)
        results = race([partial(resume, desk.graph, CONFIG, {name: APPROVE})] * 4)
        assert sum(isinstance(r, dict) for r in results) == 1
        assert {r.problem for r in results if isinstance(r, ThreadError)} <= {"busy", "not pending"}


def test_of_reviewers_in_processes_that_share_only_the_database_one_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bayeslora_tool.graphs.turn._alone", lambda *_: nullcontext())
    acted: list[Any] = []
    file = str(tmp_path / "a.sqlite")
    with SqliteSaver.from_conn_string(file) as one, SqliteSaver.from_conn_string(file) as other:
        desks = [Desk(saver, acted.append) for saver in (one, other)]
        for round_ in range(1, 16):
            name = open_review(desks[round_ % 2])
            results = race([partial(resume, d.graph, CONFIG, {name: APPROVE}) for d in desks])
            assert sum(isinstance(r, dict) for r in results) == 1
            assert len(acted) == round_


def test_an_answer_whose_process_died_is_carried_out_and_no_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = open_review(desk)

    die_with_answer(desk.graph, {name: EDIT_TO_NO}, monkeypatch)
    assert pending(desk.graph, CONFIG) == {}
    refused("not pending", lambda: resume(desk.graph, CONFIG, {name: APPROVE}))
    refused("unfinished", lambda: start(desk.graph, {"text": "clear"}, CONFIG))
    assert recover(desk.graph, CONFIG)["outcome"]["label"] == "no"
    assert len(desk.acted) == 1


def test_of_two_answers_the_one_that_came_too_late_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = two_gates()
    start(graph, {"text": "odd"}, CONFIG)
    first, second = pending(graph, CONFIG)
    put, others = graph.checkpointer.put_writes, []

    def overtaken(config: Any, writes: Any, name: str, *rest: Any) -> None:
        if name == second and not others:
            others.append(name)
            put(config, [(writes[0][0], writes[0][1] | {"by": "other", "answer": REJECT})], name)
        put(config, writes, name, *rest)

    monkeypatch.setattr(graph.checkpointer, "put_writes", overtaken)
    both = {first: APPROVE, second: APPROVE}
    message = refused("not pending", lambda: resume(graph, CONFIG, both))
    assert f"answered {second}" in message
    assert f"those to {first} count" in message
    state = recover(graph, CONFIG)
    assert {state["one"]["decision"], state["two"]["decision"]} == {"proceed", "reject"}


def test_an_answer_that_was_heard_but_not_saved_is_not_lost() -> None:
    saver = FullDisk()
    desk = Desk(saver)
    name = open_review(desk)
    saver.left = 1  # for the turn
    with pytest.raises(OSError, match="disk full"):
        resume(desk.graph, CONFIG, {name: EDIT_TO_NO})
    saver.left = 1000
    refused("not pending", lambda: resume(desk.graph, CONFIG, {name: APPROVE}))
    assert recover(desk.graph, CONFIG)["outcome"]["label"] == "no"


def test_an_answer_that_anothers_typed_question_refuses_may_be_given_again() -> None:
    def ask(state: dict[str, Any]) -> dict[str, Any]:
        return {"n": interrupt("how many?", response_schema=int)}

    builder: Any = StateGraph(dict)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    graph = builder.compile(checkpointer=InMemorySaver())
    start(graph, {"go": 1}, CONFIG)
    (name,) = pending(graph, CONFIG)
    with pytest.raises(ValueError, match="int"):
        resume(graph, CONFIG, {name: "many"})
    assert list(pending(graph, CONFIG)) == [name]
    assert resume(graph, CONFIG, {name: 3}) == {"n": 3}
    refused("finished", lambda: recover(graph, CONFIG))
