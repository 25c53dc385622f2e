from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import (
    aabandon,
    abandon,
    apending,
    arecover,
    aresume,
    astart,
    pending,
    recover,
    resume,
    start,
)
from bayeslora_tool.graphs.thread import ThreadError
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import APPROVE, CONFIG, Desk, FullDisk, build, open_review, refused


def test_an_answer_by_id_settles_the_review(desk: Desk) -> None:
    name = open_review(desk)
    assert pending(desk.graph, CONFIG)[name]["action_requests"][0]["args"]["text"] == "odd"
    state = resume(desk.graph, CONFIG, {name: APPROVE})
    assert state["outcome"]["decided_by"] == "human"
    assert pending(desk.graph, CONFIG) == {}
    assert desk.acted == [state["outcome"]]


def test_a_second_answer_is_refused_and_changes_nothing(desk: Desk) -> None:
    name = open_review(desk)
    resume(desk.graph, CONFIG, {name: APPROVE})
    before = desk.everything()
    message = refused("not pending", lambda: resume(desk.graph, CONFIG, {name: APPROVE}))
    assert "answered already" in message
    assert desk.everything() == before
    assert len(desk.acted) == 1


def test_what_is_no_answer_is_refused_with_what_to_send_and_nothing_is_taken(desk: Desk) -> None:
    name = open_review(desk)
    before = desk.everything()
    with pytest.raises(
        ValueError, match=f"answer to {name} was not taken: .* expected one decision"
    ):
        resume(desk.graph, CONFIG, {name: "garbage"})
    assert desk.everything() == before
    resume(desk.graph, CONFIG, {name: APPROVE})
    assert len(desk.acted) == 1


def test_an_id_of_a_question_before_does_not_answer_the_next(desk: Desk) -> None:
    first = open_review(desk, "vague")
    resume(desk.graph, CONFIG, {first: "odd"})
    (second,) = pending(desk.graph, CONFIG)
    message = refused("not pending", lambda: resume(desk.graph, CONFIG, {first: APPROVE}))
    assert second in message
    assert desk.acted == []


def test_one_wrong_id_among_right_ones_takes_no_answer(desk: Desk) -> None:
    name = open_review(desk)
    refused("not pending", lambda: resume(desk.graph, CONFIG, {name: APPROVE, "f" * 32: APPROVE}))
    assert list(pending(desk.graph, CONFIG)) == [name]
    resume(desk.graph, CONFIG, {name: APPROVE})  # and claims nothing


def test_a_new_input_does_not_replace_a_pending_review(desk: Desk) -> None:
    name = open_review(desk)
    before = desk.everything()
    message = refused("pending", lambda: start(desk.graph, {"text": "clear"}, CONFIG))
    assert name in message
    assert desk.everything() == before
    assert desk.fake.seen == ["odd"]
    refused("pending", lambda: recover(desk.graph, CONFIG))


def test_a_thread_serves_one_run_after_another_with_new_keys(desk: Desk) -> None:
    for text in ("clear one", "clear two"):
        start(desk.graph, {"text": text}, CONFIG)
    resume(desk.graph, CONFIG, {open_review(desk): APPROVE})
    assert [outcome["text"] for outcome in desk.acted] == ["clear one", "clear two", "odd"]
    assert len({outcome["key"] for outcome in desk.acted}) == 3


def test_an_action_that_broke_off_is_recovered_with_the_same_key() -> None:
    keys: list[str] = []

    def act(outcome: Any) -> str:
        keys.append(outcome["key"])
        if len(keys) < 3:
            raise ConnectionError("no answer")
        return "done"

    desk = Desk(act=act)
    name = open_review(desk)
    with pytest.raises(ConnectionError):
        resume(desk.graph, CONFIG, {name: APPROVE})
    message = refused("unfinished", lambda: start(desk.graph, {"text": "clear"}, CONFIG))
    assert "broke off in act" in message
    refused("not pending", lambda: resume(desk.graph, CONFIG, {name: APPROVE}))
    with pytest.raises(ConnectionError):
        recover(desk.graph, CONFIG)
    assert recover(desk.graph, CONFIG)["result"] == "done"
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert desk.fake.seen == ["odd"]
    refused("finished", lambda: recover(desk.graph, CONFIG))


def test_what_is_abandoned_is_gone_and_the_thread_is_free(desk: Desk) -> None:
    name = open_review(desk)
    abandon(desk.graph, CONFIG)
    refused("not pending", lambda: resume(desk.graph, CONFIG, {name: APPROVE}))
    refused("finished", lambda: abandon(desk.graph, CONFIG))
    with pytest.raises(TypeError, match="`text` must be a str"):
        desk.graph.invoke({"text": 5}, CONFIG)
    abandon(desk.graph, CONFIG)
    assert start(desk.graph, {"text": "clear"}, CONFIG)["outcome"]["label"] == "yes"
    assert len(desk.acted) == 1


async def test_async_has_the_same_promises(tmp_path: Path) -> None:
    keys: list[str] = []

    async def act(outcome: Any) -> str:
        keys.append(outcome["key"])
        if len(keys) == 1:
            raise ConnectionError("no answer")
        return "done"

    async def refuses(problem: str, call: Any) -> None:
        with pytest.raises(ThreadError) as caught:
            await call
        assert caught.value.problem == problem

    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as saver:
        graph = Desk(saver, act).graph
        await refuses("unknown", apending(graph, CONFIG))
        await astart(graph, {"text": "odd"}, CONFIG)
        (name,) = await apending(graph, CONFIG)
        await refuses("pending", astart(graph, {"text": "clear"}, CONFIG))
        with pytest.raises(ConnectionError):
            await aresume(graph, CONFIG, {name: APPROVE})
        await refuses("not pending", aresume(graph, CONFIG, {name: APPROVE}))
        assert (await arecover(graph, CONFIG))["result"] == "done"
        await refuses("finished", arecover(graph, CONFIG))
        await astart(graph, {"text": "odd"}, CONFIG)
        await aabandon(graph, CONFIG)
        assert await apending(graph, CONFIG) == {}
    assert len(set(keys)) == 1


@pytest.mark.parametrize("left", range(7))  # the first two of them keep the turn
def test_a_step_that_is_done_but_not_saved_is_not_the_end(left: int) -> None:
    saver = FullDisk()
    desk = Desk(saver)
    saver.left = left
    with pytest.raises(OSError, match="disk full"):
        start(desk.graph, {"text": "clear"}, CONFIG)
    saver.left = 1000
    if left <= 2:  # not even the input was kept
        start(desk.graph, {"text": "clear"}, CONFIG)
    else:
        refused("unfinished", lambda: start(desk.graph, {"text": "odd"}, CONFIG))
        recover(desk.graph, CONFIG)
    assert [outcome["text"] for outcome in desk.acted] == ["clear"]


async def test_on_an_async_checkpointer_the_sync_functions_name_their_twins(tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        graph = build(FakeClassifier(by_words), saver=saver)
        await astart(graph, {"text": "odd"}, CONFIG)
        with pytest.raises(TypeError, match="await the async twin: astart, apending"):
            pending(graph, CONFIG)
        assert len(await apending(graph, CONFIG)) == 1
