"""What graphs and agents ask is filed, once."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import abandon, astart, pending, resume, start
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from bayeslora_tool.agents.answer_gate import AnswerGate
from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.desk.conversation import LATEST, LONGEST, conversation
from bayeslora_tool.desk.desk import Desk
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.review import digest_of
from bayeslora_tool.policy import policy_fingerprint
from tests.desk.filed import question, refused, steps
from tests.desk.scenes import Scene
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import APPROVE, POLICY, REJECT, build, on, two_gates
from tests.scripted_model import ScriptedModel, calls

ORDERS = calls(("order", {"item": "tea"}), ("order", {"item": "ham"}))
ORDERED = (ORDERS, AIMessage("done"))


@tool
def order(item: str) -> str:
    """Order it."""
    return f"ordered {item}"


def agent(*gates: Any, script: Any = ORDERED) -> Any:
    model = ScriptedModel(script=list(script))
    return create_agent(model, [order], middleware=gates, checkpointer=InMemorySaver())


def test_a_review_has_what_the_gate_found_out(ledger: Ledger) -> None:
    scene = Scene(ledger)
    review = ledger.review(scene.ask())
    state = scene.graph.get_state(on(1)).values
    assert pending(scene.graph, on(1)) == {review.interrupt: review.request}
    assert review.shown == digest_of(review.request)
    assert review.key == state["key"]
    assert review.text == "odd"
    assert review.reason == state["route"]["reason"]
    assert review.prediction == state["prediction"]
    assert review.policy == policy_fingerprint(POLICY)
    assert (review.graph, review.thread, review.tool) == ("escalation", "1", "act_on_label")


def test_what_proceeds_or_asks_the_user_is_not_filed(ledger: Ledger) -> None:
    scene = Scene(ledger)
    start(scene.graph, {"text": "clear"}, on(1))
    start(scene.graph, {"text": "vague"}, on(2))
    assert pending(scene.graph, on(2))
    assert ledger.reviews() == []
    (name,) = pending(scene.graph, on(2))
    resume(scene.graph, on(2), {name: "none of these"})
    assert [review.thread for review in ledger.reviews()] == ["2"]


def test_of_a_gate_within_a_graph_all_is_found_too(ledger: Ledger) -> None:
    graph = Desk(ledger).watch(two_gates(), name="two")
    start(graph, {"text": "odd"}, on(1))
    reviews = ledger.reviews("open")
    assert len({review.key for review in reviews}) == len(reviews) == 2
    for review in reviews:
        assert (review.text, review.label, review.policy) == (
            "odd",
            "yes",
            policy_fingerprint(POLICY),
        )


def test_of_an_agent_the_calls_score_and_text_are_found(ledger: Ledger) -> None:
    graph = Desk(ledger).watch(agent(UncertaintyGate(FakeClassifier(by_words), POLICY)), name="a")
    start(graph, {"messages": [("user", "odd")]}, on(1))
    (review,) = ledger.reviews()
    assert review.tool == "order, order"
    assert (review.text, review.label, review.policy) == ("odd", "yes", policy_fingerprint(POLICY))
    assert review.reason is not None
    assert "disagree" in review.reason
    assert review.key is not None


def test_a_reviewer_is_told_what_was_said_before(ledger: Ledger) -> None:
    desk = Desk(ledger)
    scene = Scene(ledger)
    start(scene.graph, {"text": "vague"}, on(2))
    (name,) = pending(scene.graph, on(2))
    question = scene.graph.get_state(on(2)).tasks[0].interrupts[0].value
    resume(scene.graph, on(2), {name: "odd"})
    (review,) = ledger.reviews()
    first, asked, last = review.conversation
    assert (first, last) == ({"by": "user", "text": "vague"}, {"by": "user", "text": "odd"})
    assert asked["by"] == "agent"
    assert asked["text"] in str(question)
    gate = UncertaintyGate(FakeClassifier(by_words), POLICY)
    graph = desk.watch(agent(gate, script=[AIMessage("hello"), ORDERS]), name="a")
    told = [("system", "be terse"), ("user", "clear " * 1000)]
    graph.invoke({"messages": told}, on(3))
    start(graph, {"messages": [("user", "odd")]}, on(3))
    (review,) = ledger.reviews(graph="a")
    assert [turn["by"] for turn in review.conversation] == ["user", "agent", "user", "agent"]
    long, hello, odd, call = (turn["text"] for turn in review.conversation)
    assert (len(long), hello, odd) == (LONGEST + 3, "hello", "odd")
    assert call == 'order {"item": "tea"}\norder {"item": "ham"}'


def test_only_the_latest_turns_are_kept_whatever_the_state() -> None:
    many = [{"type": "human", "content": str(i)} for i in range(30)]
    kept = conversation({"messages": many})
    assert [turn["text"] for turn in kept] == [str(i) for i in range(30 - LATEST, 30)]
    result = {"type": "tool", "content": "ok", "name": "order", "tool_call_id": "1"}
    assert conversation({"messages": [result]}) == [{"by": "order", "text": "ok"}]
    for strange in (None, [], {}, {"messages": None}, {"messages": [7]}, {"messages": ["", " "]}):
        assert conversation(strange) == []


def test_calls_that_are_asked_about_one_by_one_are_reviews_of_their_own(ledger: Ledger) -> None:
    desk, fake = Desk(ledger), FakeClassifier(by_words)
    gate = UncertaintyGate(fake, POLICY, interrupt_mode="per_call")
    graph = desk.watch(agent(gate), name="a")
    start(graph, {"messages": [("user", "odd")]}, on(1))
    reviews = ledger.reviews()
    assert sorted(review.request["args"]["item"] for review in reviews) == ["ham", "tea"]
    assert len({review.key for review in reviews}) == 2
    for review in reviews:
        assert review.text == "odd"
        ledger.decide(review.id, {"type": "approve"}, "ann")
    assert [one.result for one in desk.apply()] == ["applied", "applied"]
    messages = graph.get_state(on(1)).values["messages"]
    assert [m.content for m in messages[2:]] == ["ordered tea", "ordered ham", "done"]


def test_an_answer_that_is_held_back_is_a_review(ledger: Ledger) -> None:
    gate = AnswerGate(FakeClassifier(by_words), POLICY)
    graph = Desk(ledger).watch(agent(gate, script=[AIMessage("so be it")]), name="a")
    start(graph, {"messages": [("user", "odd")]}, on(1))
    (review,) = ledger.reviews()
    assert (review.tool, review.text, review.label) == ("final_answer", "odd", "yes")


def test_what_another_middleware_asks_is_a_review_without_a_score(ledger: Ledger) -> None:
    desk = Desk(ledger)
    middleware = HumanInTheLoopMiddleware({"order": True})
    graph = desk.watch(agent(middleware), name="a")
    start(graph, {"messages": [("user", "odd")]}, on(1))
    (review,) = ledger.reviews()
    assert (review.tool, review.prediction, review.policy) == ("order, order", None, None)
    ledger.decide(review.id, {"decisions": [{"type": "approve"}] * 2}, "ann")
    assert [one.result for one in desk.apply()] == ["applied"]
    assert graph.get_state(on(1)).values["messages"][-1].content == "done"


def test_run_again_restarted_and_seen_twice_a_review_is_filed_once(ledger: Ledger) -> None:
    saver = InMemorySaver()
    scene = Scene(ledger, saver)
    name = scene.ask()
    other = Scene(ledger, saver)  # the process after the next restart
    assert scene.desk.sync() == other.desk.sync() == (0, 0)
    scene.graph.invoke(None, on(1))  # runs the step that asks again
    assert [review.id for review in ledger.reviews()] == [name]
    assert steps(ledger, ledger.review(name)) == ["filed"]


def test_sync_finds_what_was_not_filed_and_withdraws_what_was_settled_elsewhere(
    ledger: Ledger,
) -> None:
    scene = Scene(ledger)
    settled = scene.ask(0)
    for i in (1, 2, 3):
        start(scene.plain, {"text": f"odd {i}"}, on(i))  # nobody hears of it
    start(scene.plain, {"text": "vague"}, on(4))
    start(scene.plain, {"text": "clear"}, on(5))
    (name,) = pending(scene.plain, on(3))
    resume(scene.plain, on(3), {name: APPROVE})
    (name,) = pending(scene.plain, on(0))
    resume(scene.plain, on(0), {name: REJECT})
    assert scene.desk.sync() == (2, 1)
    assert [review.text for review in ledger.reviews("open")] == ["odd 1", "odd 2"]
    assert ledger.review(settled).state == "withdrawn"
    assert scene.desk.sync() == (0, 0)


def test_a_question_that_is_put_again_otherwise_is_another_review(ledger: Ledger) -> None:
    scene = Scene(ledger)
    old = scene.ask()
    scene.graph.invoke({"text": "something else"}, on(1))  # the question comes again, with more
    (new,) = ledger.reviews("open")
    assert new.id != old
    assert new.text == "odd"
    assert ledger.review(old).state == "withdrawn"
    with refused("over"):
        ledger.decide(old, APPROVE, "ann")
    abandon(scene.graph, on(1))
    assert scene.desk.sync().withdrawn == 1


def test_graphs_that_share_a_checkpointer_keep_to_their_own_threads(ledger: Ledger) -> None:
    saver = InMemorySaver()
    scene = Scene(ledger, saver)
    scene.ask(1)
    gate = UncertaintyGate(FakeClassifier(by_words), POLICY)
    model = ScriptedModel(script=[ORDERS])
    other = create_agent(model, [order], middleware=[gate], checkpointer=saver)
    start(scene.desk.watch(other, name="agent"), {"messages": [("user", "odd")]}, on(2))
    scene.desk.sync()
    assert {(r.graph, r.thread) for r in ledger.reviews()} == {("escalation", "1"), ("agent", "2")}


def test_a_ledger_that_is_away_stops_no_run_and_sync_files_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path / "desk.sqlite", patience=0.2)
    scene = Scene(ledger)
    blocker = sqlite3.connect(tmp_path / "desk.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    state = start(scene.graph, {"text": "odd"}, on(1))
    assert state["__interrupt__"]
    (record,) = [r for r in caplog.records if r.name.endswith("watching")]
    assert record.levelno == logging.ERROR
    assert "'1' asks was not filed" in record.message
    blocker.close()
    assert ledger.reviews() == []
    assert scene.desk.sync() == (1, 0)


async def test_async_runs_are_filed(ledger: Ledger, tmp_path: Path) -> None:
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        graph = Desk(ledger).watch(build(FakeClassifier(by_words), saver=saver), name="g")
        await astart(graph, {"text": "odd"}, on(1))
        (review,) = ledger.reviews()
    assert (review.text, review.thread) == ("odd", "1")


def test_streams_and_commands_are_filed(ledger: Ledger) -> None:
    scene = Scene(ledger)
    list(scene.graph.stream({"text": "vague"}, on(1)))
    assert ledger.reviews() == []
    list(scene.graph.stream(Command(resume="odd"), on(1)))
    assert [review.text for review in ledger.reviews()] == ["vague\nodd"]


def test_a_graph_that_is_called_by_another_runnable_is_filed(ledger: Ledger) -> None:
    scene = Scene(ledger)
    whole = RunnableLambda(lambda text: {"text": text}) | scene.graph
    whole.invoke("odd", on(1))
    assert [review.text for review in ledger.reviews()] == ["odd"]


def test_a_thread_that_cannot_be_read_keeps_no_other_from_being_filed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(ledger)
    for i in (1, 2, 3):
        start(scene.plain, {"text": f"odd {i}"}, on(i))
    real = InMemorySaver.get_tuple

    def get_tuple(self: Any, config: Any) -> Any:
        if config["configurable"]["thread_id"] == "2":
            raise OSError("broken")
        return real(self, config)

    with monkeypatch.context() as patch:
        patch.setattr(InMemorySaver, "get_tuple", get_tuple)
        assert scene.desk.sync() == (2, 0)
    assert "thread '2' of 'escalation' was not looked at" in caplog.text
    assert scene.desk.sync() == (1, 0)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_database_holds_keeps_no_other_from_being_filed(
    ledger: Ledger, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    scene = Scene(ledger)
    for thread in (1, name, 2):
        start(scene.plain, {"text": f"odd {thread!r}"}, on(thread))
    assert scene.desk.sync() == (2, 0)
    assert f"thread {name!r} of 'escalation' was not looked at" in caplog.text
    assert {review.thread for review in ledger.reviews()} == {"1", "2"}
    # A model may call a tool whatever it likes: that is asked about all the same.
    asked = question(tool=name)
    ledger.reconcile([asked])
    assert ledger.review(asked.id).tool == name.encode("unicode_escape").decode()
    assert ledger.verify() == []


def test_watch_refuses_what_it_cannot_file(ledger: Ledger) -> None:
    desk, fake = Desk(ledger), FakeClassifier(by_words)
    desk.watch(build(fake), name="a")
    with pytest.raises(ValueError, match="`name`"):
        desk.watch(build(fake), name="a")
    with pytest.raises(ValueError, match="no checkpointer"):
        desk.watch(build(fake).copy({"checkpointer": None}), name="b")
    with pytest.raises(ValueError, match="`due`"):
        desk.watch(build(fake), name="c", due=0)
    with pytest.raises(ValueError, match="`lease`"):
        Desk(ledger, lease=float("nan"))
