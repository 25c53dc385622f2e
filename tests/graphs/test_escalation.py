from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from bayeslora_tool.policy import Policy
from bayeslora_tool.review.clarification import CLARIFY_ACTION, declines
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.conftest import ROOT
from tests.fakes import FakeClassifier, by_words, make_prediction

CONFIG: Any = {"configurable": {"thread_id": "1"}}
EDIT_TO_NO = {
    "type": "edit",
    "edited_action": {"name": REVIEW_ACTION, "args": {"label": "no"}},
}

# What Agent Inbox shows in text fields, it sends back as str.
INBOX_ACTION = {
    "action": REVIEW_ACTION,
    "args": {"text": "odd", "label": "yes", "confidence": "0.9"},
}


def build(fake: FakeClassifier, policy: Policy, **options: Any) -> Any:
    graph = create_escalation_graph(classifier=fake, policy=policy, **options)
    return graph.compile(checkpointer=InMemorySaver())


def request_of(state: dict[str, Any]) -> dict[str, Any]:
    (interrupt,) = state["__interrupt__"]
    return interrupt.value


def test_sure_text_proceeds_without_a_person(fake: FakeClassifier, policy: Policy) -> None:
    acted: list[Any] = []
    graph = build(fake, policy, act=lambda outcome: acted.append(outcome) or "done")
    state = graph.invoke({"text": "clear"}, CONFIG)
    assert "__interrupt__" not in state
    assert state["outcome"] == acted[0]
    assert state["outcome"]["decision"] == "proceed"
    assert state["outcome"]["label"] == "yes"
    assert state["outcome"]["decided_by"] == "model"
    assert "Sure enough" in state["outcome"]["reason"]
    assert state["result"] == "done"


def test_clarify_then_proceed(fake: FakeClassifier, policy: Policy) -> None:
    graph = build(fake, policy)
    state = graph.invoke({"text": "vague"}, CONFIG)
    request = request_of(state)
    assert request["action_requests"][0]["name"] == CLARIFY_ACTION
    assert '"yes" or "no"' in request["action_requests"][0]["args"]["question"]
    state = graph.invoke(Command(resume="clear now"), CONFIG)
    assert state["outcome"]["decided_by"] == "user"
    assert state["outcome"]["text"] == "vague\nclear now"
    assert fake.seen == ["vague", "vague\nclear now"]


def test_clarify_until_exhausted_then_escalate(fake: FakeClassifier, policy: Policy) -> None:
    graph = build(fake, policy)
    graph.invoke({"text": "vague"}, CONFIG)
    graph.invoke(Command(resume="vague one"), CONFIG)
    state = graph.invoke(Command(resume="vague two"), CONFIG)
    request = request_of(state)
    assert request["action_requests"][0]["name"] == REVIEW_ACTION
    assert "asked 2 times already" in request["action_requests"][0]["description"]
    assert [c["answer"] for c in state["clarifications"]] == ["vague one", "vague two"]


def test_no_clarifications_allowed_escalates_at_once(fake: FakeClassifier) -> None:
    graph = build(fake, Policy(0.8, 0.01, max_clarifications=0))
    request = request_of(graph.invoke({"text": "vague"}, CONFIG))
    assert request["action_requests"][0]["name"] == REVIEW_ACTION
    assert "The user is not to be asked" in request["action_requests"][0]["description"]


@pytest.mark.parametrize(
    ("answer", "decision", "label", "message", "acts"),
    [
        ({"type": "approve"}, "proceed", "yes", None, True),
        ({"decisions": [{"type": "approve"}]}, "proceed", "yes", None, True),
        ([{"type": "accept", "args": None}], "proceed", "yes", None, True),
        ([{"type": "accept", "args": INBOX_ACTION}], "proceed", "yes", None, True),
        ([{"type": "edit", "args": INBOX_ACTION}], "proceed", "yes", None, True),
        (EDIT_TO_NO, "proceed", "no", None, True),
        ({"decisions": [EDIT_TO_NO]}, "proceed", "no", None, True),
        (
            [{"type": "edit", "args": {"action": REVIEW_ACTION, "args": {"label": "no"}}}],
            "proceed",
            "no",
            None,
            True,
        ),
        ({"type": "reject"}, "reject", None, None, False),
        ({"type": "reject", "message": "not now"}, "reject", None, "not now", False),
        ([{"type": "ignore", "args": None}], "reject", None, None, False),
        ({"type": "respond", "message": "call us"}, "respond", None, "call us", False),
        ([{"type": "response", "args": "call us"}], "respond", None, "call us", False),
    ],
)
def test_reviewer_settles(
    fake: FakeClassifier,
    policy: Policy,
    answer: Any,
    decision: str,
    label: str | None,
    message: str | None,
    acts: bool,
) -> None:
    acted: list[Any] = []
    graph = build(fake, policy, act=lambda outcome: acted.append(outcome["label"]))
    request = request_of(graph.invoke({"text": "odd"}, CONFIG))
    assert request["action_requests"][0]["args"] == {
        "text": "odd",
        "label": "yes",
        "confidence": 0.9,
        "variance": 0.2,
    }
    state = graph.invoke(Command(resume=answer), CONFIG)
    outcome = state["outcome"]
    assert (outcome["decision"], outcome["label"], outcome["message"]) == (decision, label, message)
    assert outcome["decided_by"] == "human"
    assert "draws disagree" in outcome["reason"]
    assert acted == ([label] if acts else [])
    assert fake.seen == ["odd"]  # scored once, also across the resume


MALFORMED: list[Any] = [
    "yes please",
    17,
    True,
    [],
    ["approve"],
    {"decisions": []},
    {"decisions": [{"type": "approve"}, {"type": "approve"}]},
    {"decisions": "approve"},
    {"type": "proceed"},
    {"type": ["approve"]},
    {"type": "accept"},
    {"type": "respond"},
    {"type": "respond", "message": "  "},
    {"type": "respond", "message": 3},
    {"type": "reject", "message": {"why": "x"}},
    {"type": "edit"},
    {"type": "edit", "edited_action": "no"},
    {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {}}},
    {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {"label": "maybe"}}},
    {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {"label": ["no"]}}},
    {"type": "edit", "edited_action": {"name": "delete_all", "args": {"label": "no"}}},
    {
        "type": "edit",
        "edited_action": {"name": REVIEW_ACTION, "args": {"label": "no", "text": "other"}},
    },
    {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {"label": "no", "x": 1}}},
    [{"type": "edit", "args": "no"}],
    [{"type": "response", "args": None}],
    {"one": 2},
]


@pytest.mark.parametrize("answer", MALFORMED, ids=repr)
def test_malformed_review_is_asked_again_and_loses_nothing(
    fake: FakeClassifier, policy: Policy, answer: Any
) -> None:
    acted: list[Any] = []
    graph = build(fake, policy, act=acted.append)
    first = request_of(graph.invoke({"text": "odd"}, CONFIG))
    state = graph.invoke(Command(resume=answer), CONFIG)
    again = request_of(state)
    assert again["action_requests"][0]["description"].startswith("The last answer was not under")
    assert again["action_requests"][0]["args"] == first["action_requests"][0]["args"]
    assert acted == []
    state = graph.invoke(Command(resume={"type": "approve"}), CONFIG)
    assert state["outcome"]["label"] == "yes"
    assert state["problem"] is None
    assert len(acted) == 1
    assert fake.seen == ["odd"]


@pytest.mark.parametrize(
    "answer",
    [
        "I mean clear",
        {"type": "respond", "message": "I mean clear"},
        {"decisions": [{"type": "respond", "message": " I mean clear "}]},
        [{"type": "response", "args": "I mean clear"}],
    ],
    ids=repr,
)
def test_users_answer_comes_in_any_shape(fake: FakeClassifier, policy: Policy, answer: Any) -> None:
    graph = build(fake, policy)
    graph.invoke({"text": "vague"}, CONFIG)
    state = graph.invoke(Command(resume=answer), CONFIG)
    assert state["clarifications"][0]["answer"] == "I mean clear"
    assert state["outcome"]["decided_by"] == "user"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("neither", " ('neither')"),
        ('"neither"', """ ('"neither"')"""),
        (" None  of these. ", " ('None  of these.')"),
        ("Something else", " ('Something else')"),
        ("never mind!", " ('never mind!')"),
        ({"type": "reject"}, ""),
        ({"type": "reject", "message": "close my account"}, " ('close my account')"),
        ({"decisions": [{"type": "respond", "message": "Neither."}]}, " ('Neither.')"),
        ([{"type": "ignore", "args": None}], ""),
    ],
    ids=repr,
)
def test_a_user_who_means_none_of_these_is_brought_to_a_reviewer(
    fake: FakeClassifier, policy: Policy, answer: Any, words: str
) -> None:
    graph = build(fake, policy)
    question = request_of(graph.invoke({"text": "vague"}, CONFIG))
    assert 'say "neither"' in question["action_requests"][0]["description"]
    request = request_of(graph.invoke(Command(resume=answer), CONFIG))
    (asked,) = request["action_requests"]
    assert (asked["name"], asked["args"]["text"]) == (REVIEW_ACTION, "vague")
    assert f"The user said that it is none of these{words}." in asked["description"]
    state = graph.invoke(Command(resume={"type": "approve"}), CONFIG)
    assert (state["outcome"]["decided_by"], state["outcome"]["text"]) == ("human", "vague")
    assert fake.seen == ["vague"]


@pytest.mark.parametrize(
    "answer",
    [
        "neither one of those",
        "no, neither",
        "Nope.",
        "none of the above",
        "neither?",
        "(neither)",
        "not these",
        "it's something else",
        "it\u2019s something else",
        "nevermind",
        "neither, thanks",
    ],
)
def test_what_declines(answer: str) -> None:
    assert declines(answer)


@pytest.mark.parametrize(
    "answer", ["clear, neither of my cards", "none of my cards: clear", "no cards clear"]
)
def test_words_that_say_more_are_scored(fake: FakeClassifier, policy: Policy, answer: str) -> None:
    graph = build(fake, policy)
    graph.invoke({"text": "vague"}, CONFIG)
    graph.invoke(Command(resume=answer), CONFIG)
    assert fake.seen == ["vague", f"vague\n{answer}"]


@pytest.mark.parametrize(
    "answer",
    [
        "  ",
        "a\0b",
        "\ud83d",
        5,
        {"type": "approve"},
        {"type": "respond"},
        [[]],
        {"type": "reject", "message": 5},
        {"type": "reject", "message": "a\0b"},
    ],
)
def test_malformed_users_answer_is_asked_again(
    fake: FakeClassifier, policy: Policy, answer: Any
) -> None:
    graph = build(fake, policy)
    graph.invoke({"text": "vague"}, CONFIG)
    state = graph.invoke(Command(resume=answer), CONFIG)
    assert "not understood" in request_of(state)["action_requests"][0]["description"]
    state = graph.invoke(Command(resume="clear"), CONFIG)
    assert state["outcome"]["decided_by"] == "user"
    assert len(state["clarifications"]) == 1


class TestFailsClosed:
    def test_classifier_raises(self, fake: FakeClassifier, policy: Policy) -> None:
        graph = build(fake, policy)
        request = request_of(graph.invoke({"text": "boom"}, CONFIG))
        assert "RuntimeError: the model broke" in request["action_requests"][0]["description"]
        assert request["review_configs"][0]["allowed_decisions"] == ["edit", "reject", "respond"]
        again = request_of(graph.invoke(Command(resume={"type": "approve"}), CONFIG))
        assert "`type` is 'approve'" in again["action_requests"][0]["description"]
        state = graph.invoke(Command(resume=EDIT_TO_NO), CONFIG)
        assert state["outcome"]["label"] == "no"

    @pytest.mark.parametrize("answers", [[], [make_prediction()] * 2, ["yes"], None])
    def test_classifier_returns_nonsense(self, policy: Policy, answers: Any) -> None:
        class Broken:
            def predict(self, texts: list[str]) -> Any:
                return answers

        graph = create_escalation_graph(classifier=Broken(), policy=policy)
        state = graph.compile(checkpointer=InMemorySaver()).invoke({"text": "x"}, CONFIG)
        assert "could not be scored" in request_of(state)["action_requests"][0]["description"]

    def test_nan(self, policy: Policy) -> None:
        broken = FakeClassifier(lambda text: make_prediction(variance=float("nan")))
        request = request_of(build(broken, policy).invoke({"text": "x"}, CONFIG))
        assert "cannot be trusted" in request["action_requests"][0]["description"]

    def test_ask_raises(self, fake: FakeClassifier, policy: Policy) -> None:
        def ask(prediction: Any, text: str) -> str:
            raise ConnectionError("no model to phrase it")

        request = request_of(build(fake, policy, ask=ask).invoke({"text": "vague"}, CONFIG))
        assert request["action_requests"][0]["name"] == REVIEW_ACTION
        assert "ConnectionError" in request["action_requests"][0]["description"]


def test_ask_is_the_callers_and_runs_once(fake: FakeClassifier, policy: Policy) -> None:
    asked: list[str] = []

    def ask(prediction: Any, text: str) -> str:
        asked.append(text)
        return f"What about {prediction.label}?"

    graph = build(fake, policy, ask=ask)
    request = request_of(graph.invoke({"text": "vague"}, CONFIG))
    assert request["action_requests"][0]["description"] == "What about yes?"
    graph.invoke(Command(resume="clear"), CONFIG)
    assert asked == ["vague"]


def test_a_thread_serves_one_text_after_another(fake: FakeClassifier, policy: Policy) -> None:
    graph = build(fake, policy, act=lambda outcome: outcome["label"])
    graph.invoke({"text": "vague"}, CONFIG)
    graph.invoke(Command(resume="clear"), CONFIG)
    state = graph.invoke({"text": "odd"}, CONFIG)
    assert state["clarifications"] == []
    assert state["outcome"] is None
    assert state["result"] is None
    state = graph.invoke(Command(resume={"type": "reject"}), CONFIG)
    assert state["outcome"]["text"] == "odd"
    assert state["result"] is None


@pytest.mark.parametrize("start", [{"text": 5}, {"text": None}, {"text": ["odd"]}])
def test_a_start_without_text_is_refused_and_harms_nothing(
    fake: FakeClassifier, policy: Policy, start: Any
) -> None:
    graph = build(fake, policy)
    with pytest.raises(TypeError, match=r"`text` must be a str, got .*start with"):
        graph.invoke(start, CONFIG)
    assert graph.invoke({"text": "clear"}, CONFIG)["outcome"]["label"] == "yes"


def test_requests_are_langchains_hitl_request(fake: FakeClassifier, policy: Policy) -> None:
    from langchain.agents.middleware.human_in_the_loop import HITLRequest
    from pydantic import TypeAdapter

    graph = build(fake, policy)
    for thread, text in enumerate(["vague", "odd", "boom"]):
        config = {"configurable": {"thread_id": str(thread)}}
        request = request_of(graph.invoke({"text": text}, config))
        assert TypeAdapter(HITLRequest).validate_python(request) == request


def test_the_readmes_picture_has_the_edges_of_the_graph(
    fake: FakeClassifier, policy: Policy
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"```mermaid\ngraph TD;\n(.*?)```", readme, re.DOTALL)
    shown = set()
    for chain in picture.replace("\n", " ").split(";"):
        nodes = re.split(r" *(?:-->|-\.->|-\. [^.]+ \.->) *", chain.strip())
        names = [re.sub(r"\(.*", "", node) for node in nodes]
        shown |= set(pairwise(names))
    graph = build(fake, policy, act=lambda outcome: None).get_graph()
    ends = {"__start__": "start", "__end__": "done"}
    assert shown == {tuple(ends.get(n, n) for n in (e.source, e.target)) for e in graph.edges}


async def did(outcome: Any) -> str:
    return f"did {outcome['label']}"


class Does:
    async def __call__(self, outcome: Any) -> str:
        return await did(outcome)


@pytest.mark.parametrize("act", [did, Does(), lambda outcome: did(outcome)])
async def test_an_async_act_is_awaited_however_it_is_written(
    fake: FakeClassifier, policy: Policy, act: Any
) -> None:
    graph = build(fake, policy, act=act)
    assert (await graph.ainvoke({"text": "clear"}, CONFIG))["result"] == "did yes"
    with pytest.raises(TypeError, match="`act` is async; run the graph with ainvoke"):
        graph.invoke({"text": "clear"}, CONFIG)


async def test_an_act_that_stops_an_iteration_raises_and_does_not_hang(
    fake: FakeClassifier, policy: Policy
) -> None:
    graph = build(fake, policy, act=lambda outcome: next(iter([])))
    with pytest.raises(RuntimeError) as caught:
        await asyncio.wait_for(graph.ainvoke({"text": "clear"}, CONFIG), timeout=30)
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_a_sync_act_does_not_hold_up_an_async_run(
    fake: FakeClassifier, policy: Policy
) -> None:
    loop = threading.get_ident()
    graph = build(fake, policy, act=lambda outcome: threading.get_ident() != loop)
    assert (await graph.ainvoke({"text": "clear"}, CONFIG))["result"] is True


def test_what_cannot_classify_is_refused_when_the_graph_is_built(policy: Policy) -> None:
    with pytest.raises(TypeError, match=r"`classifier` must have predict\(texts\)"):
        create_escalation_graph(classifier=object(), policy=policy)  # type: ignore[arg-type]


async def test_async_act_and_sqlite(fake: FakeClassifier, policy: Policy, tmp_path: Path) -> None:
    async def act(outcome: Any) -> str:
        return f"did {outcome['label']}"

    builder = create_escalation_graph(classifier=fake, policy=policy, act=act)
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as saver:
        graph = builder.compile(checkpointer=saver)
        state = await graph.ainvoke({"text": "vague"}, CONFIG)
        assert request_of(state)["action_requests"][0]["name"] == CLARIFY_ACTION
        state = await graph.ainvoke(Command(resume="odd"), CONFIG)
        assert request_of(state)["action_requests"][0]["name"] == REVIEW_ACTION
        state = await graph.ainvoke(Command(resume="garbage"), CONFIG)
        state = await graph.ainvoke(Command(resume=EDIT_TO_NO), CONFIG)
    assert state["result"] == "did no"
    assert state["outcome"]["text"] == "vague\nodd"


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


def test_state_is_plain_data(fake: FakeClassifier, policy: Policy) -> None:
    import json

    graph = build(fake, policy)
    graph.invoke({"text": "vague"}, CONFIG)
    graph.invoke(Command(resume="odd"), CONFIG)
    values = graph.get_state(CONFIG).values
    assert json.loads(json.dumps(values)) == values


def test_graph_with_the_real_classifier(sentiment: Any) -> None:
    from bayeslora_tool import Policy, create_escalation_graph

    builder = create_escalation_graph(
        classifier=sentiment,
        policy=Policy.from_preset("sentiment"),
        act=lambda outcome: f"filed under {outcome['label']}",
    )
    graph = builder.compile(checkpointer=InMemorySaver())
    state = graph.invoke({"text": "This movie was fantastic!"}, CONFIG)
    assert state["result"] == "filed under positive"
    assert state["outcome"]["decided_by"] == "model"
    config: Any = {"configurable": {"thread_id": "too long"}}
    state = graph.invoke({"text": "fine " * 600}, config)
    assert "602 tokens" in request_of(state)["action_requests"][0]["description"]
    config = {"configurable": {"thread_id": "empty"}}
    state = graph.invoke({"text": "   "}, config)
    assert "empty or only whitespace" in request_of(state)["action_requests"][0]["description"]
    state = graph.invoke(Command(resume={"type": "reject", "message": "nothing here"}), config)
    assert state["outcome"]["decision"] == "reject"
