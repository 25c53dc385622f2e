from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.runs import pending, recover, resume, start
from bayeslora_tool.graphs.thread import ThreadError
from langchain_core.messages import AIMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from bayeslora_tool.policy import Policy
from tests.conftest import ROOT
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import APPROVE, CONFIG, EDIT_TO_NO, build, on, waiting
from tests.graphs.processes import Diary, acting, gated_agent, run_python, start_python

RUNS = 200


def test_200_threads_on_one_file_keep_their_answers_apart(tmp_path: Path) -> None:
    acted: list[tuple[str, str | None]] = []
    fake = FakeClassifier(by_words)
    file = str(tmp_path / "runs.sqlite")
    with SqliteSaver.from_conn_string(file) as one, SqliteSaver.from_conn_string(file) as other:

        def act(outcome: Any) -> str:
            acted.append((outcome["text"], outcome["message"]))
            return f"did {outcome['text']}"

        graphs = [build(fake, saver=saver, act=act) for saver in (one, other)]

        def begin(i: int) -> None:
            start(graphs[i % 2], {"text": f"odd {i}"}, on(i))

        def answer(i: int) -> Any:
            graph = graphs[(i + 1) % 2]  # through the other connection
            name, request = waiting(graph, i)
            assert request["args"]["text"] == f"odd {i}"
            return resume(graph, on(i), {name: APPROVE | {"message": f"answer {i}"}})

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(begin, range(RUNS)))
            states = list(pool.map(answer, reversed(range(RUNS))))
    for i, state in zip(reversed(range(RUNS)), states, strict=True):
        assert state["outcome"]["message"] == f"answer {i}"
        assert state["result"] == f"did odd {i}"
    assert sorted(acted) == sorted((f"odd {i}", f"answer {i}") for i in range(RUNS))
    assert Counter(fake.seen) == {f"odd {i}": 1 for i in range(RUNS)}


def test_of_two_processes_that_answer_the_same_threads_one_is_heard_on_each(
    tmp_path: Path,
) -> None:
    runs = 20
    database, diary = str(tmp_path / "runs.sqlite"), Diary(str(tmp_path / "diary"))
    with SqliteSaver.from_conn_string(database) as saver:
        graph = build(diary.classify(), saver=saver)
        for i in range(runs):
            start(graph, {"text": f"odd {i}"}, on(i))
    script = """
        database, file, me, runs = sys.argv[1:]
        diary = Diary(file)
        with SqliteSaver.from_conn_string(database) as saver:
            note = lambda o: diary.write(f"act {o['text']} {o['message']}")
            graph = build(diary.classify(), saver=saver, act=note)
            names = [next(iter(pending(graph, on(i)))) for i in range(int(runs))]
            diary.write("ready")
            while len(diary.lines("ready")) < 2:
                time.sleep(0.01)

            def answer(i):
                try:
                    resume(graph, on(i), {names[i]: APPROVE | {"message": me}})
                except ThreadError as error:
                    assert error.problem in ("not pending", "busy"), error
                    diary.write("refused")

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(answer, range(int(runs))))
    """
    both = [start_python(script, database, str(diary.file), me, str(runs)) for me in ("ann", "bob")]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    acts = diary.lines("act")
    assert Counter(line.rsplit(" ", 1)[0] for line in acts) == {f"odd {i}": 1 for i in range(runs)}
    assert len(diary.lines("refused")) == runs
    assert len(diary.lines("score")) == runs
    with SqliteSaver.from_conn_string(database) as saver:
        graph = build(diary.classify(), saver=saver)
        for line in acts:
            text, _, message = line.rpartition(" ")
            outcome = graph.get_state(on(text.split()[1])).values["outcome"]
            assert (outcome["text"], outcome["message"]) == (text, message)


@pytest.mark.parametrize(("kind", "scores"), [("escalation", 1), ("workflow", 2)])
def test_killed_while_waiting_and_again_in_the_action_nothing_is_lost(
    tmp_path: Path, kind: str, scores: int
) -> None:
    database, diary = str(tmp_path / "runs.sqlite"), Diary(str(tmp_path / "diary"))
    script = """
        database, file, kind, step = sys.argv[1:]
        with SqliteSaver.from_conn_string(database) as saver:
            graph = acting(Diary(file), saver, die)[kind]
            if step == "start":
                start(graph, {"text": "odd", "request": "odd"}, on(1))
                die()
            name, _ = waiting(graph)
            resume(graph, on(1), {name: EDIT_TO_NO})
    """
    for step in ("start", "resume"):
        done = run_python(script, database, str(diary.file), kind, step)
        assert done.returncode == -signal.SIGKILL, done.stderr
    with SqliteSaver.from_conn_string(database) as saver:
        graph = acting(diary, saver, lambda: None)[kind]
        assert pending(graph, on(1)) == {}
        state = recover(graph, on(1))
    outcome = state["outcome"] if kind == "escalation" else state["outcomes"]["second"]
    assert (outcome["decided_by"], outcome["label"]) == ("human", "no")
    assert diary.lines("act") == [f"{outcome['key']} no"] * 2  # at least once, with one key
    assert len(diary.lines("score")) == scores
    assert len(diary.lines("before")) == scores - 1


def test_killed_in_a_gated_tool_the_decision_stays(tmp_path: Path) -> None:
    database, diary = str(tmp_path / "runs.sqlite"), Diary(str(tmp_path / "diary"))
    done = run_python(
        """
        database, file = sys.argv[1:]
        with SqliteSaver.from_conn_string(database) as saver:
            agent = gated_agent(Diary(file), saver, die, ORDER)
            start(agent, {"messages": [("user", "odd")]}, on(1))
            (name,) = pending(agent, on(1))
            print(name, flush=True)
            resume(agent, on(1), {name: APPROVE})
        """,
        database,
        str(diary.file),
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with SqliteSaver.from_conn_string(database) as saver:
        agent = gated_agent(diary, saver, lambda: None, AIMessage("done"))
        assert pending(agent, on(1)) == {}
        with pytest.raises(ThreadError, match="answered already"):
            resume(agent, on(1), {done.stdout.strip(): {"type": "reject"}})
        state = recover(agent, on(1))
    assert [message.content for message in state["messages"][-2:]] == ["ordered tea", "done"]
    assert diary.lines("act") == ["tea", "tea"]  # at least once
    assert len(diary.lines("score")) == 1


def test_killed_in_the_action_of_a_sure_text_the_key_stays(tmp_path: Path) -> None:
    database, diary = str(tmp_path / "runs.sqlite"), Diary(str(tmp_path / "diary"))
    done = run_python(
        """
        database, file = sys.argv[1:]
        with SqliteSaver.from_conn_string(database) as saver:
            start(acting(Diary(file), saver, die)["escalation"], {"text": "clear"}, on(1))
        """,
        database,
        str(diary.file),
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with SqliteSaver.from_conn_string(database) as saver:
        graph = acting(diary, saver, lambda: None)["escalation"]
        first = recover(graph, on(1))
        second = start(graph, {"text": "clear"}, on(1))
    keys = [line.split()[0] for line in diary.lines("act")]
    assert keys[0] == keys[1] == first["outcome"]["key"]
    assert keys[2] == second["outcome"]["key"] != keys[0]
    assert diary.lines("score") == ["clear", "clear"]


def test_resumes_in_another_process(policy: Policy, tmp_path: Path) -> None:
    """The first process dies at the interrupt (no clean shutdown); this one carries on."""
    database = tmp_path / "runs.sqlite"
    script = f"""
        import os
        from langgraph.checkpoint.sqlite import SqliteSaver
        from bayeslora_tool import Policy, create_escalation_graph
        from tests.fakes import FakeClassifier, by_words

        builder = create_escalation_graph(classifier=FakeClassifier(by_words), policy={policy!r})
        with SqliteSaver.from_conn_string({str(database)!r}) as saver:
            state = builder.compile(checkpointer=saver).invoke({{"text": "odd"}}, {CONFIG!r})
            assert "__interrupt__" in state
            os._exit(9)
    """
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=root, capture_output=True, check=False
    )
    assert done.returncode == 9, done.stderr.decode()
    fake = FakeClassifier(by_words)
    builder = create_escalation_graph(classifier=fake, policy=policy)
    with SqliteSaver.from_conn_string(str(database)) as saver:
        state = builder.compile(checkpointer=saver).invoke(Command(resume=EDIT_TO_NO), CONFIG)
    assert state["outcome"]["label"] == "no"
    assert fake.seen == []  # the first process's score was kept
