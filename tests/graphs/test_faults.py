"""What goes wrong at once, midway, or on purpose: nothing is lost, repeated or let through."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.runs import pending, recover, resume, start
from bayeslora_tool.graphs.thread import ThreadError
from bayeslora_tool.graphs.workflow import Step, create_workflow_graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.clarification import CLARIFY_ACTION
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.conftest import ROOT
from tests.fakes import Answers, FakeClassifier, by_words, make_prediction
from tests.scripted_model import ScriptedModel, calls

POLICY = Policy(tau_conf=0.8, tau_var=0.01)
APPROVE = {"type": "approve"}
EDIT_TO_NO = {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {"label": "no"}}}


def on(thread: object) -> Any:
    return {"configurable": {"thread_id": str(thread)}}


def build(classifier: Any, saver: Any = None, **options: Any) -> Any:
    graph = create_escalation_graph(classifier=classifier, policy=POLICY, **options)
    return graph.compile(checkpointer=saver or InMemorySaver())


def waiting(graph: Any, thread: object = 1) -> tuple[str, dict[str, Any]]:
    ((name, request),) = pending(graph, on(thread)).items()
    return name, request["action_requests"][0]


class AsyncAnswers(Answers):
    async def apredict(self, texts: list[str]) -> Any:
        return self.predict(texts)


class MorePrediction(Prediction):
    """What no checkpoint gives back."""


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("timeout", [None, 60.0])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
        (TimeoutError(), "TimeoutError"),
        (KeyError("label"), "KeyError: 'label'"),
        (None, "expected a list of 1 Predictions, `predict` gave None"),
        ([], r"expected a list of 1 Predictions, `predict` gave []"),
        ([make_prediction()] * 2, "expected a list of 1 Predictions"),
        (["yes"], "expected a Prediction, `predict` gave 'yes'"),
        ([{"label": "yes"}], "expected a Prediction"),
        ([make_prediction(confidence=np.float32(0.9))], "`confidence` must be a plain float"),
        ([make_prediction(entropy=np.float64(0.9))], "`entropy` must be a plain float or int"),
        ([make_prediction(truncated=np.bool_(False))], "`truncated` must be a plain bool"),
        ([make_prediction(novelty="far")], "`novelty` must be a plain float"),
        ([make_prediction(confidence=10**400)], "`confidence` must be a plain float"),
        ([make_prediction(label=3)], "`label` must be a plain str"),
        ([make_prediction(label="other")], "`probabilities` must hold the label 'other'"),
        ([make_prediction(probabilities={"yes": "0.9"})], "`probabilities['yes']` must be a plain"),
        ([make_prediction(confidence=97.0)], "cannot be trusted: confidence 97.0"),
        ([make_prediction(variance=-1.0)], "variance -1.0"),
        (asyncio.CancelledError(), "CancelledError"),
        ([MorePrediction(**make_prediction().to_dict())], "expected a Prediction"),
        ([make_prediction(confidence=float("nan"))], "cannot be trusted: confidence nan"),
        ([make_prediction(variance=float("nan"))], "variance nan"),
        ([make_prediction(variance=float("inf"))], "variance inf"),
    ],
    ids=repr,
)
async def test_a_broken_classifier_is_escalated_with_the_reason(
    answer: Any, reason: str, timeout: float | None, mode: str
) -> None:
    graph = build(AsyncAnswers(answer), timeout=timeout, act=lambda outcome: pytest.fail("acted"))
    if mode == "sync":
        graph.invoke({"text": "x"}, on(1))
    else:
        await graph.ainvoke({"text": "x"}, on(1))
    name, request = waiting(graph)
    assert request["name"] == REVIEW_ACTION
    assert reason in request["description"]
    assert resume(graph, on(1), {name: {"type": "reject"}})["outcome"]["decision"] == "reject"


def raises(texts: list[str]) -> Any:
    raise RuntimeError("down")


async def is_cancelled(texts: list[str]) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("apredict", "reason"),
    [
        (raises, "RuntimeError: down"),
        (lambda texts: [make_prediction()], "TypeError"),
        (is_cancelled, "RuntimeError: the scoring was cancelled"),
    ],
    ids=["raises at once", "not awaitable", "cancelled"],
)
async def test_a_broken_apredict_is_escalated_with_the_reason(apredict: Any, reason: str) -> None:
    classifier = Answers(None)
    classifier.apredict = apredict  # type: ignore[attr-defined]
    graph = build(classifier, act=lambda outcome: pytest.fail("acted"))
    await graph.ainvoke({"text": "x"}, on(1))
    assert reason in waiting(graph)[1]["description"]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_timeout_of_the_classifiers_own_is_not_taken_for_ours(mode: str) -> None:
    graph = build(AsyncAnswers(TimeoutError()), timeout=60.0)
    if mode == "sync":
        graph.invoke({"text": "x"}, on(1))
    else:
        await graph.ainvoke({"text": "x"}, on(1))
    description = waiting(graph)[1]["description"]
    assert "TimeoutError" in description
    assert "no prediction within" not in description


def test_a_classifier_that_hangs_is_escalated_in_time() -> None:
    release = threading.Event()

    class Hangs:
        def predict(self, texts: list[str]) -> Any:
            release.wait(60)
            return [make_prediction()]

    graph = build(Hangs(), timeout=0.05)
    began = time.monotonic()
    start(graph, {"text": "x"}, on(1))
    assert time.monotonic() - began < 30
    assert "TimeoutError: no prediction within 0.05 s" in waiting(graph)[1]["description"]
    release.set()


def test_a_thread_that_hangs_does_not_keep_the_process_alive() -> None:
    done = run_python("""
        class Hangs:
            def predict(self, texts):
                time.sleep(600)

        graph = create_escalation_graph(classifier=Hangs(), policy=POLICY, timeout=0.05)
        state = start(graph.compile(checkpointer=InMemorySaver()), {"text": "x"}, on(1))
        assert "__interrupt__" in state
    """)
    assert done.returncode == 0, done.stderr


async def test_an_async_classifier_that_hangs_and_ignores_its_end_is_escalated() -> None:
    release = asyncio.Event()

    class Hangs(Answers):
        async def apredict(self, texts: list[str]) -> Any:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return [make_prediction()]

    graph = build(Hangs(None), timeout=0.05)
    await graph.ainvoke({"text": "x"}, on(1))
    assert "TimeoutError: no prediction within 0.05 s" in waiting(graph)[1]["description"]
    release.set()


def test_a_classifier_in_time_is_heard(fake: FakeClassifier) -> None:
    graph = build(fake, timeout=60)
    assert start(graph, {"text": "clear"}, on(1))["outcome"]["decided_by"] == "model"


@pytest.mark.parametrize("question", [None, 5, {"q": 1}, " "])
def test_a_question_that_is_no_text_goes_to_a_person(fake: FakeClassifier, question: Any) -> None:
    graph = build(fake, ask=lambda prediction, text: question)
    start(graph, {"text": "vague"}, on(1))
    _, request = waiting(graph)
    assert request["name"] == REVIEW_ACTION
    assert f"`ask` gave {question!r}, expected a question" in request["description"]


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too
    | st.sampled_from(["approve", "edit", "reject", "respond", "accept", "ignore", "response"])
    | st.sampled_from([REVIEW_ACTION, CLARIFY_ACTION, "yes", "no", "label", "text"])
)
KEYS = st.sampled_from(
    ["type", "message", "args", "decisions", "edited_action", "name", "action", "label", "text"]
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=8,
)
NEARLY = st.builds(
    lambda kind, rest, wrap: wrap({"type": kind} | rest),
    st.sampled_from(["approve", "edit", "reject", "respond", "accept", "ignore", "response"]),
    st.dictionaries(KEYS.filter(lambda key: key != "type"), ANYTHING, max_size=3),
    st.sampled_from([lambda d: d, lambda d: [d], lambda d: {"decisions": [d]}]),
)
PAYLOADS = 20
EXAMPLES = 100  # 2,000 payloads in all


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(ANYTHING | NEARLY, min_size=PAYLOADS, max_size=PAYLOADS))
def test_no_payload_of_a_reviewer_crashes_or_poisons_a_thread(payloads: list[Any]) -> None:
    acted: list[Any] = []
    fake = FakeClassifier(by_words)
    graph = build(fake, act=lambda outcome: acted.append(outcome["label"]))
    state = start(graph, {"text": "odd"}, on(1))
    texts = proceeded = 1
    args, seen = waiting(graph)[1]["args"], set()
    for payload in payloads:
        (question,) = state["__interrupt__"]
        assert question.id not in seen
        seen.add(question.id)
        (asked,) = question.value["action_requests"]
        assert asked["args"] == args
        assert asked["description"].startswith("The last answer was not") == bool(state["problem"])
        state = resume(graph, on(1), {question.id: payload})
        if state["outcome"] is None:
            assert state["problem"]
            continue
        outcome = state["outcome"]
        assert (outcome["decision"], outcome["label"]) in [
            *(("proceed", label) for label in fake.labels),
            ("reject", None),
            ("respond", None),
        ]
        proceeded += outcome["decision"] == "proceed"
        state = start(graph, {"text": "odd"}, on(1))
        texts += 1
    name, _ = waiting(graph)
    state = resume(graph, on(1), {name: EDIT_TO_NO})
    assert state["outcome"]["label"] == "no"
    assert len(acted) == proceeded
    assert len(fake.seen) == texts


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(ANYTHING | NEARLY)
def test_no_payload_of_a_user_crashes_or_poisons_a_thread(payload: Any) -> None:
    graph = build(FakeClassifier(by_words))
    start(graph, {"text": "vague"}, on(1))
    name, _ = waiting(graph)
    state = resume(graph, on(1), {name: payload})
    by = "user"
    if state["outcome"] is None:
        name, asked = waiting(graph)
        by = "human" if asked["name"] == REVIEW_ACTION else "user"
        declined = state["clarifications"] and state["clarifications"][-1]["declined"]
        assert (by == "human") == bool(declined)
        state = resume(graph, on(1), {name: "clear" if by == "user" else EDIT_TO_NO})
    assert state["outcome"]["decided_by"] == by


RUNS = 200


def test_200_threads_on_one_file_keep_their_answers_apart(tmp_path: Path) -> None:
    acted: list[tuple[str, str | None]] = []
    fake = FakeClassifier(by_words)
    file = str(tmp_path / "runs.sqlite")
    with SqliteSaver.from_conn_string(file) as one, SqliteSaver.from_conn_string(file) as other:

        def act(outcome: Any) -> str:
            acted.append((outcome["text"], outcome["message"]))
            return f"did {outcome['text']}"

        graphs = [build(fake, saver, act=act) for saver in (one, other)]

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


PRELUDE = """
    import os, signal, sys, time
    from concurrent.futures import ThreadPoolExecutor
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.sqlite import SqliteSaver
    from bayeslora_tool.graphs.escalation import create_escalation_graph
    from bayeslora_tool.graphs.runs import pending, recover, resume, start
    from tests.graphs.test_faults import *

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    with start_python(script, *arguments) as process:
        out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(script, process.returncode, out, err)


def start_python(script: str, *arguments: str) -> subprocess.Popen[str]:
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Diary:
    """Lines that several processes write, and that survive their death."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def write(self, line: str) -> None:
        with self.file.open("a") as file:
            file.write(line + "\n")

    def lines(self, kind: str) -> list[str]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(kind)]

    def classify(self) -> FakeClassifier:
        def answer(text: str) -> Any:
            self.write(f"score {text}")
            return by_words(text)

        return FakeClassifier(answer)


def test_of_two_processes_that_answer_the_same_threads_one_is_heard_on_each(
    tmp_path: Path,
) -> None:
    runs = 20
    database, diary = str(tmp_path / "runs.sqlite"), Diary(str(tmp_path / "diary"))
    with SqliteSaver.from_conn_string(database) as saver:
        graph = build(diary.classify(), saver)
        for i in range(runs):
            start(graph, {"text": f"odd {i}"}, on(i))
    script = """
        database, file, me, runs = sys.argv[1:]
        diary = Diary(file)
        with SqliteSaver.from_conn_string(database) as saver:
            note = lambda o: diary.write(f"act {o['text']} {o['message']}")
            graph = build(diary.classify(), saver, act=note)
            names = [next(iter(pending(graph, on(i)))) for i in range(int(runs))]
            diary.write("ready")
            while len(diary.lines("ready")) < 2:
                time.sleep(0.01)

            def answer(i):
                try:
                    resume(graph, on(i), {names[i]: APPROVE | {"message": me}})
                except ThreadError as error:
                    assert error.problem == "not pending", error
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
        graph = build(diary.classify(), saver)
        for line in acts:
            text, _, message = line.rpartition(" ")
            outcome = graph.get_state(on(text.split()[1])).values["outcome"]
            assert (outcome["text"], outcome["message"]) == (text, message)


def acting(diary: Diary, saver: Any, then: Any) -> dict[str, Any]:
    """The graphs under test, whose action notes its key and then does ``then``."""

    def act(outcome: Any, state: Any = None) -> str:
        diary.write(f"act {outcome['key']} {outcome['label']}")
        then()
        return f"did {outcome['label']}"

    def before(outcome: Any, state: Any) -> str:
        diary.write("before")
        return "odd"

    steps = [
        Step(name="first", text=lambda state: "clear", act=before),
        Step(name="second", act=act),
    ]
    workflow = create_workflow_graph(steps=steps, classifier=diary.classify(), policy=POLICY)
    return {
        "escalation": build(diary.classify(), saver, act=act),
        "workflow": workflow.compile(checkpointer=saver),
    }


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


ORDER = calls(("order", {"item": "tea"}))


def gated_agent(diary: Diary, saver: Any, then: Any, *script: AIMessage) -> Any:
    """An agent that orders tea; the tool notes it and then does ``then``."""

    @tool
    def order(item: str) -> str:
        """Order it."""
        diary.write(f"act {item}")
        then()
        return f"ordered {item}"

    return create_agent(
        ScriptedModel(script=list(script)),
        [order],
        middleware=[UncertaintyGate(diary.classify(), POLICY)],
        checkpointer=saver,
    )


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
