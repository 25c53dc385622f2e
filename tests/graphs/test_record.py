from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from bayeslora_tool.graphs import record
from bayeslora_tool.graphs.runs import (
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
from bayeslora_tool.graphs.script import run
from bayeslora_tool.graphs.thread import ThreadError
from bayeslora_tool.graphs.workflow import Step, create_workflow_graph
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import APPROVE, CONFIG, POLICY, Desk, build, on, open_review, refused
from tests.graphs.processes import Diary, run_python

HOUR = 3600 * 10**9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets this machine's clock so far off, as in a process that has given no checkpoint yet."""

    def put(nanoseconds: int) -> None:
        import time

        wrong = SimpleNamespace(time_ns=lambda: time.time_ns() + nanoseconds)
        monkeypatch.setattr(checkpoint_ids, "time", wrong)
        monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)

    return put


def test_a_new_run_on_a_host_whose_clock_is_behind_is_seen_everywhere(clock: Any) -> None:
    desk = Desk()
    clock(HOUR)
    start(desk.graph, {"text": "clear"}, CONFIG)
    clock(0)
    start(desk.graph, {"text": "odd"}, CONFIG)
    ((name, request),) = pending(desk.graph, CONFIG).items()
    assert request["action_requests"][0]["args"]["text"] == "odd"
    refused("pending", lambda: start(desk.graph, {"text": "next"}, CONFIG))
    resume(desk.graph, CONFIG, {name: APPROVE})
    assert [outcome["text"] for outcome in desk.acted] == ["clear", "odd"]


def test_an_answer_given_on_a_host_whose_clock_is_behind_ends_the_run(clock: Any) -> None:
    desk = Desk()
    clock(HOUR)
    name = open_review(desk)
    clock(-HOUR)
    assert resume(desk.graph, CONFIG, {name: APPROVE})["outcome"]["decision"] == "proceed"
    refused("finished", lambda: recover(desk.graph, CONFIG))
    assert len(desk.acted) == 1


def test_a_question_within_a_subgraph_outlives_a_clock_that_is_behind(clock: Any) -> None:
    acted: list[str] = []
    steps = [Step(name=name, act=lambda o, s: acted.append(o["key"])) for name in ("a", "b")]
    graph: Any = create_workflow_graph(
        steps=steps, classifier=FakeClassifier(by_words), policy=POLICY
    ).compile(checkpointer=InMemorySaver())
    clock(HOUR)
    start(graph, {"request": "odd"}, CONFIG)
    for step in ("a", "b"):
        clock(0)
        ((name, _),) = pending(graph, CONFIG).items()
        state = resume(graph, CONFIG, {name: APPROVE})
        assert state["outcomes"][step]["decided_by"] == "human"
    assert len(set(acted)) == len(acted) == 2


def workflow(name: str, saver: Any) -> Any:
    builder = create_workflow_graph(
        steps=[Step(name=name)], classifier=FakeClassifier(by_words), policy=POLICY
    )
    return builder.compile(checkpointer=saver)


def test_a_question_of_an_earlier_version_of_the_graph_is_not_thrown_away() -> None:
    saver = InMemorySaver()
    start(workflow("old", saver), {"request": "odd"}, CONFIG)
    (name,) = pending(workflow("old", saver), CONFIG)
    new = workflow("new", saver)
    for refuse in (
        lambda: pending(new, CONFIG),
        lambda: start(new, {"request": "clear"}, CONFIG),
        lambda: resume(new, CONFIG, {name: APPROVE}),
        lambda: recover(new, CONFIG),
    ):
        assert name in refused("foreign", refuse)
    assert list(pending(workflow("old", saver), CONFIG)) == [name]  # nothing was changed
    abandon(new, CONFIG)
    assert start(new, {"request": "clear"}, CONFIG)["ending"]["kind"] == "finished"


def test_a_run_that_broke_off_in_a_step_that_is_no_more_is_not_thrown_away(tmp_path: Path) -> None:
    script = """
        def graph(name, act):
            step = Step(name=name, act=act)
            builder = create_workflow_graph(
                steps=[step], classifier=FakeClassifier(by_words), policy=POLICY
            )
            return builder.compile(checkpointer=saver)

        with SqliteSaver.from_conn_string(sys.argv[1]) as saver:
            start(graph("old", die), {"request": "clear"}, CONFIG)
    """
    database = str(tmp_path / "runs.sqlite")
    assert run_python(script, database).returncode == -9
    with SqliteSaver.from_conn_string(database) as saver:
        new = workflow("new", saver)
        refused("foreign", lambda: start(new, {"request": "clear"}, CONFIG))
        refused("foreign", lambda: recover(new, CONFIG))
        abandon(new, CONFIG)
        assert start(new, {"request": "clear"}, CONFIG)["ending"]["kind"] == "finished"


@pytest.mark.parametrize("connections", [1, 2])
def test_an_event_that_comes_twice_at_once_starts_one_run(tmp_path: Path, connections: int) -> None:
    database, rounds = str(tmp_path / "runs.sqlite"), 30
    acted: list[str] = []
    with (
        SqliteSaver.from_conn_string(database) as first,
        SqliteSaver.from_conn_string(database) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        act = lambda outcome: acted.append(outcome["key"])  # noqa: E731
        graphs = [
            build(FakeClassifier(by_words), saver=saver, act=act)
            for saver in ([first, second] if connections == 2 else [first, first])
        ]
        for i in range(rounds):
            together = threading.Barrier(2)

            def begin(graph: Any, i: int = i, together: threading.Barrier = together) -> str:
                together.wait()
                try:
                    start(graph, {"text": "odd"}, on(i))
                except ThreadError as error:
                    return error.problem
                return "started"

            found = sorted(pool.map(begin, graphs))
            assert found[0] in ("busy", "pending")
            assert found[1] == "started"
            (name,) = pending(graphs[0], on(i))
            resume(graphs[1], on(i), {name: APPROVE})
    assert len(acted) == len(set(acted)) == rounds


async def test_an_action_whose_run_is_cancelled_is_not_repeated_beside_itself(
    tmp_path: Path,
) -> None:
    going, most, let_go = [0], [0], threading.Event()

    def act(outcome: Any) -> str:
        going[0] += 1
        most[0] = max(most[0], going[0])
        let_go.wait(5)
        going[0] -= 1
        return "done"

    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "runs.sqlite")) as saver:
        graph = build(FakeClassifier(by_words), saver=saver, act=act)
        await astart(graph, {"text": "odd"}, CONFIG)
        (name,) = await apending(graph, CONFIG)
        running = asyncio.create_task(aresume(graph, CONFIG, {name: APPROVE}))
        while not going[0]:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.sleep(0.05)
        with pytest.raises(ThreadError) as caught:
            await arecover(graph, CONFIG)
        assert caught.value.problem == "busy"
        let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await arecover(graph, CONFIG))["result"] == "done"
    assert most == [1]


def test_a_run_of_a_process_that_lives_is_left_alone_and_of_a_dead_one_carried_on(
    tmp_path: Path,
) -> None:
    database, diary = str(tmp_path / "runs.sqlite"), Diary(str(tmp_path / "diary"))
    script = """
        with SqliteSaver.from_conn_string(sys.argv[1]) as saver:
            graph = build(FakeClassifier(by_words), saver=saver, act=act)
            start(graph, {"text": "clear"}, CONFIG)
    """
    from tests.graphs.processes import start_python

    slow = """
        def act(_):
            Diary(sys.argv[2]).write("acting")
            time.sleep(60)
    """
    with start_python(slow + script, database, str(diary.file)) as process:
        while not diary.lines("acting"):
            assert process.poll() is None
        with SqliteSaver.from_conn_string(database) as saver:
            graph = build(FakeClassifier(by_words), saver=saver, act=lambda _: "carried on")
            message = refused("busy", lambda: recover(graph, CONFIG))
            assert f"process {process.pid}" in message
            assert "takeover" not in message
            process.kill()
            process.communicate()
            assert recover(graph, CONFIG)["result"] == "carried on"


def test_a_run_of_another_machine_is_taken_over_on_the_callers_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    with monkeypatch.context() as patch:
        patch.setattr(record, "_host", lambda: "elsewhere boot pid")
        patch.setattr(record, "end", None)

        def die(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("bayeslora_tool.graphs.turn.end", die)
        with pytest.raises(KeyboardInterrupt):
            start(desk.graph, {"text": "odd"}, CONFIG)
    (name,) = pending(desk.graph, CONFIG)
    message = refused("busy", lambda: resume(desk.graph, CONFIG, {name: APPROVE}))
    assert "elsewhere" in message
    assert "takeover=True" in message
    state = resume(desk.graph, CONFIG, {name: APPROVE}, takeover=True)
    assert state["outcome"]["label"] == "yes"


def test_of_many_that_would_take_the_next_turn_one_does() -> None:
    saver, thread, turns = InMemorySaver(), "1", 50
    for number in range(turns):
        before = run(record.newest(saver, thread))
        assert (before.number, before.over) == (number, True)
        runs = [record.this_run("start", "graph") for _ in range(3)]
        taken = [run(record.take(saver, thread, before, one)) for one in runs]
        assert taken == [True, False, False]
        assert run(record.newest(saver, thread)).broken_off == runs[0]
        run(record.end(saver, thread, before, runs[0]))


def test_a_turn_that_was_decided_and_not_written_is_written_by_the_next_to_look() -> None:
    saver, thread = InMemorySaver(), "1"
    before, mine = run(record.newest(saver, thread)), record.this_run("start", "graph")
    calls = record.take(saver, thread, before, mine)
    for wanted in calls:
        getattr(wanted.target, wanted.method)(*wanted.args, **wanted.options)
        if wanted.method == "put_writes":
            break  # and here it dies
    assert run(record.newest(saver, thread)).run == mine


def test_whether_a_run_lives() -> None:
    mine = record.this_run("start", "graph")
    assert record.lives(mine) is False  # it has no turn
    assert record.lives({**mine, "host": "elsewhere"}) is None
    other = psutil.Process(psutil.Process().ppid())
    assert record.lives({**mine, "pid": other.pid, "born": other.create_time()}) is True
    assert record.lives({**mine, "pid": other.pid, "born": 1.0}) is False
    assert record.lives({**mine, "pid": 2**22 + 1}) is False


def test_the_record_is_not_seen_in_the_history_and_goes_with_the_thread() -> None:
    desk = Desk()
    open_review(desk)
    assert all(s.config["configurable"]["checkpoint_ns"] == "" for s in
               desk.graph.get_state_history(CONFIG))  # fmt: skip
    desk.graph.checkpointer.delete_thread("1")
    assert run(record.newest(desk.graph.checkpointer, "1")).number == 0


def test_a_forked_child_is_not_kept_from_a_thread_by_what_its_parent_was_doing() -> None:
    script = """
        from bayeslora_tool.graphs import turn

        graph = build(FakeClassifier(by_words), act=lambda _: "done")
        with turn._alone(graph, "1"):
            child = os.fork()
            if not child:
                os._exit(0 if start(graph, {"text": "clear"}, CONFIG)["result"] == "done" else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = run_python(script)
    assert done.returncode == 0, done.stderr
