from __future__ import annotations

import asyncio
import re
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.runs import resume, start
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from bayeslora_tool.policy import Policy
from bayeslora_tool.review.clarification import CLARIFY_ACTION
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.conftest import ROOT
from tests.fakes import FakeClassifier, make_prediction
from tests.graphs.desk import APPROVE, CONFIG, EDIT_TO_NO, build, on, request_of, waiting


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
        assert "got 'garbage'" in request_of(state)["action_requests"][0]["description"]
        state = await graph.ainvoke(Command(resume=EDIT_TO_NO), CONFIG)
    assert state["result"] == "did no"
    assert state["outcome"]["text"] == "vague\nodd"


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
    assert "512 tokens" in request_of(state)["action_requests"][0]["description"]
    config = {"configurable": {"thread_id": "empty"}}
    state = graph.invoke({"text": "   "}, config)
    assert "empty or only whitespace" in request_of(state)["action_requests"][0]["description"]
    state = graph.invoke(Command(resume={"type": "reject", "message": "nothing here"}), config)
    assert state["outcome"]["decision"] == "reject"


def test_each_label_has_its_own_action_and_one_without_escalates(policy: Policy) -> None:
    did: list[str] = []
    fake = FakeClassifier(
        lambda text: make_prediction(
            label=text, confidence=0.9, probabilities={"yes": 0.1, "no": 0.1} | {text: 0.9}
        )
    )

    def say(outcome: Any) -> str:
        did.append(outcome["text"])
        return "done"

    graph = build(fake, policy, act={"yes": say})
    assert start(graph, {"text": "yes"}, on(1))["result"] == "done"
    start(graph, {"text": "no"}, on(2))
    name, request = waiting(graph, 2)
    assert "no action is for 'no'" in request["description"]
    state = resume(graph, on(2), {name: APPROVE})
    assert state["result"] == "nothing done: no action is for 'no'"
    assert did == ["yes"]
    with pytest.raises(ValueError, match="`act`: unknown label 'maybe'"):
        build(fake, policy, act={"maybe": print})
