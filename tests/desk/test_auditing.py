"""What proceeded and was drawn for an audit is asked about, once, and holds nothing up."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, TypedDict

import pytest
from bayeslora_tool.graphs.gate import create_gate_graph
from bayeslora_tool.graphs.runs import pending, resume, start
from bayeslora_tool.graphs.workflow import Step, create_workflow_graph
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph

from bayeslora_tool.agents.answer_gate import AnswerGate
from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.agents.tool import BayesLoRATool
from bayeslora_tool.desk.desk import Desk
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.routing import Route
from bayeslora_tool.monitoring import Monitor
from bayeslora_tool.policy import chosen_for_audit, policy_fingerprint
from tests.desk.filed import APPROVE, REJECT, steps
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import EDIT_TO_NO, POLICY, build, on
from tests.scripted_model import ScriptedModel, calls

ALL = replace(POLICY, audit_rate=1.0)
SOME = replace(POLICY, audit_rate=0.5)


@tool
def order(item: str) -> str:
    """Order it."""
    return f"ordered {item}"


def watched(ledger: Ledger, policy: Any = ALL, *, saver: Any = None, **options: Any) -> Any:
    """A desk, its escalation graph, and the same graph that nobody hears of."""
    desk = Desk(ledger)
    plain = build(FakeClassifier(by_words), policy, saver=saver or InMemorySaver())
    return desk, desk.watch(plain, name="g", **options), plain


def test_what_proceeded_is_asked_about_and_has_its_text_and_its_score(ledger: Ledger) -> None:
    _, graph, _ = watched(ledger, labels=("yes", "no"))
    state = start(graph, {"text": "clear"}, on(1))
    (review,) = ledger.reviews("open")
    assert (review.audit, review.inclusion) == (True, 1.0)
    assert (review.text, review.label, review.key) == ("clear", "yes", state["outcome"]["key"])
    assert review.prediction == state["prediction"]
    assert review.policy == policy_fingerprint(ALL)
    assert (review.graph, review.thread, review.due) == ("g", "1", None)
    (asked,) = review.request["action_requests"]
    assert asked["args"]["text"] == "clear"
    assert "    | clear" in asked["description"]
    action = {"name": "act_on_label", "args": {"label": "maybe"}}
    with pytest.raises(ValueError, match="unknown label 'maybe'"):
        ledger.decide(review.id, {"type": "edit", "edited_action": action}, "ann")


def test_only_what_was_drawn_is_filed_with_its_rate(ledger: Ledger) -> None:
    _, graph, _ = watched(ledger, SOME)
    drawn = set()
    for i in range(30):
        outcome = start(graph, {"text": f"clear {i}"}, on(i))["outcome"]
        if chosen_for_audit(outcome["key"], SOME):
            drawn.add(outcome["key"])
    assert 5 < len(drawn) < 25
    audits = ledger.reviews()
    assert {review.key for review in audits} == drawn
    assert {review.inclusion for review in audits} == {0.5}


@pytest.mark.parametrize(
    ("answer", "decision", "label", "wrong"),
    [(APPROVE, "approve", "yes", False), (EDIT_TO_NO, "edit", "no", True),
     (REJECT, "reject", None, True)],
)  # fmt: skip
def test_an_audit_is_answered_by_a_label_and_never_carried_out(
    ledger: Ledger, tmp_path: Path, answer: Any, decision: str, label: str | None, wrong: bool
) -> None:
    monitor = Monitor(tmp_path / "monitor.sqlite", ALL, target_risk=0.05)
    desk, graph, _ = watched(ledger, monitor=monitor)
    before = start(graph, {"text": "clear"}, on(1))
    (review,) = ledger.reviews("open")
    decided = ledger.decide(review.id, answer, "ann")
    assert (decided.decision, decided.reviewer_label) == (decision, label)
    assert monitor.status().audits == 0
    for _ in range(2):  # the monitor hears it once
        desk.apply()
        assert (monitor.status().audits, monitor.status().wrong) == (1, int(wrong))
    monitor.reset("new broom")
    desk.apply()
    assert monitor.status().audits == 0
    assert graph.get_state(on(1)).values["outcome"] == before["outcome"]
    assert ledger.verify() == []


def test_without_a_monitor_to_be_decided_is_its_end(ledger: Ledger) -> None:
    desk, graph, _ = watched(ledger)
    start(graph, {"text": "clear"}, on(1))
    (review,) = ledger.reviews("open")
    assert desk.sync() == (0, 0)  # its thread waits for nobody, and it is asked all the same
    ledger.decide(review.id, APPROVE, "ann")
    assert desk.apply() == []
    assert steps(ledger, review) == ["filed", "decided"]
    assert ledger.erase(0) == 1


def test_audits_come_after_what_somebody_waits_for(ledger: Ledger) -> None:
    _, graph, _ = watched(ledger, priority=3)
    start(graph, {"text": "clear"}, on(1))
    start(graph, {"text": "odd"}, on(2))
    assert [review.audit for review in ledger.reviews()] == [False, True]
    assert [review.inclusion for review in ledger.reviews()] == [1.0, 1.0]


def test_run_again_restarted_and_seen_twice_an_audit_is_filed_once(ledger: Ledger) -> None:
    saver = InMemorySaver()
    desk, graph, plain = watched(ledger, saver=saver)
    start(graph, {"text": "clear"}, on(1))
    again = Desk(ledger)
    again.watch(plain, name="g")
    other = Desk(ledger)
    other.watch(plain, name="another name")
    assert desk.sync() == again.sync() == other.sync() == (0, 0)
    graph.invoke(None, on(1))
    assert len(ledger.reviews()) == 1
    # After a restart the checkpoints of what is filed are not read again.
    fresh = Desk(ledger)
    fresh.watch(plain, name="g")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayeslora_tool.desk.desk.audits", lambda *_: 1 / 0)
        assert fresh.sync() == (0, 0)


def test_what_a_crash_left_out_sync_finds_also_after_the_next_text(ledger: Ledger) -> None:
    desk, _, plain = watched(ledger)
    for text in ("clear one", "clear two"):
        start(plain, {"text": text}, on(1))
    assert desk.sync() == (2, 0)
    assert {review.text for review in ledger.reviews()} == {"clear one", "clear two"}
    assert {review.inclusion for review in ledger.reviews()} == {1.0}
    assert desk.sync() == (0, 0)


def test_a_ledger_that_is_away_stops_no_run_and_sync_files_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(tmp_path / "desk.sqlite")
    desk, graph, _ = watched(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "reconcile", lambda *_, **__: 1 / 0)
        assert start(graph, {"text": "clear"}, on(1))["outcome"]["decision"] == "proceed"
    assert "ZeroDivisionError" in caplog.text
    assert desk.sync() == (1, 0)


def test_a_process_killed_after_its_run_leaves_an_audit_that_sync_finds(
    ledger: Ledger, tmp_path: Path
) -> None:
    from tests.desk.children import Child

    def run(ready: Any) -> None:
        with SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
            _, _, plain = watched(ledger, saver=saver)
            start(plain, {"text": "clear"}, on(1))
            ready()
            time.sleep(100)

    child = Child(run)
    child.wait_until_ready()
    child.kill()
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        desk, _, _ = watched(ledger, saver=saver)
        assert desk.sync() == (1, 0)
    (review,) = ledger.reviews()
    assert (review.text, review.label) == ("clear", "yes")


def test_an_audit_of_a_run_that_waits_or_breaks_off_is_filed_too(ledger: Ledger) -> None:
    def act(outcome: Any) -> None:
        raise RuntimeError("no paper")

    desk = Desk(ledger)
    graph = desk.watch(build(FakeClassifier(by_words), ALL, act=act), name="g")
    with pytest.raises(RuntimeError, match="no paper"):
        start(graph, {"text": "clear"}, on(1))
    assert [review.text for review in ledger.reviews()] == ["clear"]


class _Parent(TypedDict):
    text: str
    one: Any
    two: Any


def test_gates_within_a_graph_and_steps_of_a_workflow_are_audited_with_their_scores(
    ledger: Ledger,
) -> None:
    desk, fake = Desk(ledger), FakeClassifier(by_words)
    builder = StateGraph(_Parent)
    for key in ("one", "two"):
        gate = create_gate_graph(classifier=fake, policy=ALL, outcome_key=key)
        builder.add_node(f"gate_{key}", gate.compile())
        builder.add_edge(START, f"gate_{key}")
    gates = desk.watch(builder.compile(checkpointer=InMemorySaver()), name="gates")
    start(gates, {"text": "clear"}, on(1))
    made = create_workflow_graph(
        steps=[Step(name="a", act=lambda o, s: 1), Step(name="b", act=lambda o, s: 2)],
        classifier=fake,
        policy=ALL,
    )
    flow = desk.watch(made.compile(checkpointer=InMemorySaver()), name="flow")
    start(flow, {"request": "clear too"}, on(2))
    for name, text in (("gates", "clear"), ("flow", "clear too")):
        reviews = ledger.reviews(graph=name)
        assert len({review.key for review in reviews}) == len(reviews) == 2
        for review in reviews:
            assert (review.text, review.label, review.confidence, review.policy) == (
                text, "yes", 0.9, policy_fingerprint(ALL)
            )  # fmt: skip
    assert desk.sync() == (0, 0)


@pytest.mark.parametrize("mode", ["batched", "per_call"])
def test_of_an_agent_each_call_that_ran_is_audited(ledger: Ledger, mode: Any) -> None:
    gate = UncertaintyGate(FakeClassifier(by_words), ALL, interrupt_mode=mode)
    script = [calls(("order", {"item": "tea"}), ("order", {"item": "ham"})), AIMessage("done")]
    plain = create_agent(
        ScriptedModel(script=script), [order], middleware=[gate], checkpointer=InMemorySaver()
    )
    desk = Desk(ledger)
    start(desk.watch(plain, name="a"), {"messages": [("user", "clear")]}, on(1))
    reviews = ledger.reviews()
    assert len(reviews) == 2
    for review in reviews:
        assert (review.audit, review.text, review.label) == (True, "clear", "yes")
        assert (review.tool, review.inclusion) == ("order", 1.0)
        assert review.policy == policy_fingerprint(ALL)
    assert desk.sync() == (0, 0)
    fresh = Desk(ledger)
    fresh.watch(plain, name="a")
    assert fresh.sync() == (0, 0)


def test_answers_and_what_a_tool_classified_are_audited(ledger: Ledger) -> None:
    desk = Desk(ledger)
    gate = AnswerGate(FakeClassifier(by_words), ALL)
    answers = create_agent(
        ScriptedModel(script=[AIMessage("so be it")]), [], middleware=[gate],
        checkpointer=InMemorySaver(),
    )  # fmt: skip
    start(desk.watch(answers, name="answers"), {"messages": [("user", "clear")]}, on(1))
    (review,) = ledger.reviews(graph="answers")
    assert (review.tool, review.text, review.label) == ("final_answer", "clear", "yes")
    classify = BayesLoRATool(classifier=FakeClassifier(by_words), policy=ALL)
    script = [calls((classify.name, {"text": "clear words"})), AIMessage("done")]
    tools = create_agent(ScriptedModel(script=script), [classify], checkpointer=InMemorySaver())
    start(desk.watch(tools, name="tools"), {"messages": [("user", "hello")]}, on(2))
    (review,) = ledger.reviews(graph="tools")
    assert (review.audit, review.text, review.label) == (True, "clear words", "yes")


def test_a_text_that_is_in_no_checkpoint_is_said_to_be_missing(ledger: Ledger) -> None:
    gate = UncertaintyGate(
        FakeClassifier(by_words), ALL, text=lambda call, state: f"clear: {call['args']['item']}"
    )
    script = [calls(("order", {"item": "tea"})), AIMessage("done")]
    plain = create_agent(
        ScriptedModel(script=script), [order], middleware=[gate], checkpointer=InMemorySaver()
    )
    start(Desk(ledger).watch(plain, name="a"), {"messages": [("user", "some tea")]}, on(1))
    (review,) = ledger.reviews()
    assert (review.text, review.label, review.tool) == (None, "yes", "order")
    (asked,) = review.request["action_requests"]
    assert "cannot be shown" in asked["description"]
    assert "some tea" not in asked["description"]


def test_a_label_that_may_still_be_taken_back_reaches_no_monitor(
    ledger: Ledger, tmp_path: Path
) -> None:
    monitor = Monitor(tmp_path / "monitor.sqlite", ALL, target_risk=0.05)
    desk, graph, _ = watched(ledger, monitor=monitor)
    start(graph, {"text": "clear"}, on(1))
    (review,) = ledger.reviews("open")
    ledger.decide(review.id, REJECT, "ann", undo=60)
    assert desk.apply() == []
    ledger.undo(review.id, "ann")
    ledger.decide(review.id, APPROVE, "ann")
    assert [one.result for one in desk.apply()] == ["applied"]
    assert (monitor.status().audits, monitor.status().wrong) == (1, 0)


def test_audits_go_to_the_group_of_their_route_and_are_never_due(ledger: Ledger) -> None:
    route = Route(label="yes", group="cards", next_group="leads", due=0.01, needed=2, priority=7)
    _, graph, _ = watched(ledger, routes=[route])
    start(graph, {"text": "clear"}, on(1))
    time.sleep(0.02)
    (review,) = ledger.reviews()
    assert (review.group, review.next_group, review.due) == ("cards", None, None)
    assert (review.needed, review.priority, review.state) == (1, 6, "open")


def test_an_audit_and_a_question_of_one_thread_keep_apart(ledger: Ledger) -> None:
    desk, graph, _ = watched(ledger)
    start(graph, {"text": "clear"}, on(1))
    start(graph, {"text": "odd"}, on(1))
    audit, question = sorted(ledger.reviews("open"), key=lambda review: not review.audit)
    ledger.decide(question.id, APPROVE, "ann")
    assert [one.review for one in desk.apply()] == [question.id]
    assert ledger.review(audit.id).state == "open"
    (name,) = pending(graph, on(1)) or ("",)
    assert name == ""
    ledger.decide(audit.id, APPROVE, "bob")
    assert ledger.verify() == []


def test_what_a_person_settled_is_no_audit(ledger: Ledger) -> None:
    desk, graph, plain = watched(ledger)
    start(graph, {"text": "odd"}, on(1))
    (name,) = pending(plain, on(1))
    resume(plain, on(1), {name: APPROVE})
    desk.sync()
    assert [review.audit for review in ledger.reviews()] == [False]


async def test_async_runs_are_audited(ledger: Ledger, tmp_path: Path) -> None:
    from bayeslora_tool.graphs.runs import astart

    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        graph = Desk(ledger).watch(build(FakeClassifier(by_words), ALL, saver=saver), name="g")
        await astart(graph, {"text": "clear"}, on(1))
        (review,) = ledger.reviews()
    assert (review.audit, review.text) == (True, "clear")


def test_webhooks_hear_of_no_audits(ledger: Ledger) -> None:
    ledger.webhooks.add("https://example.com")
    _, graph, _ = watched(ledger)
    start(graph, {"text": "clear"}, on(1))
    assert ledger.webhooks.all()[0].waiting == 0


def test_a_worker_tells_the_monitor(ledger: Ledger, tmp_path: Path) -> None:
    from threading import Thread

    monitor = Monitor(tmp_path / "monitor.sqlite", ALL, target_risk=0.05)
    desk, graph, _ = watched(ledger, monitor=monitor)
    start(graph, {"text": "clear"}, on(1))
    stop = Event()
    worker = Thread(target=desk.work, args=(stop,), kwargs={"every": 0.05})
    worker.start()
    ledger.decide(ledger.reviews()[0].id, EDIT_TO_NO, "ann")
    ends = time.monotonic() + 10
    while not monitor.status().audits and time.monotonic() < ends:
        time.sleep(0.02)
    stop.set()
    worker.join(10)
    assert (monitor.status().audits, monitor.status().wrong) == (1, 1)
