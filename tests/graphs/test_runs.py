from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.gate import create_gate_graph
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
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from bayeslora_tool.review.requests import REVIEW_ACTION
from tests.fakes import FakeClassifier, by_words
from tests.scripted_model import ScriptedModel, calls

CONFIG: Any = {"configurable": {"thread_id": "1"}}
APPROVE = {"type": "approve"}
REJECT = {"type": "reject"}
EDIT_TO_NO = {"type": "edit", "edited_action": {"name": REVIEW_ACTION, "args": {"label": "no"}}}


class Desk:
    """A graph that waits for a review, and what it did."""

    def __init__(self, saver: Any = None, act: Callable[[Any], Any] | None = None) -> None:
        self.acted: list[Any] = []
        self.fake = FakeClassifier(by_words)
        builder = create_escalation_graph(
            classifier=self.fake, policy=Policy(0.8, 0.01), act=act or self.acted.append
        )
        self.graph: Any = builder.compile(checkpointer=saver or InMemorySaver())

    def everything(self) -> Any:
        """All that the checkpointer holds on the thread."""
        return list(self.graph.checkpointer.list(CONFIG))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def refused(problem: str, call: Callable[[], Any]) -> str:
    with pytest.raises(ThreadError) as caught:
        call()
    assert caught.value.problem == problem
    return str(caught.value)


def open_review(desk: Desk, text: str = "odd") -> str:
    start(desk.graph, {"text": text}, CONFIG)
    (name,) = pending(desk.graph, CONFIG)
    return name


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


def test_a_stale_id_does_not_answer_the_question_asked_again(desk: Desk) -> None:
    first = open_review(desk)
    resume(desk.graph, CONFIG, {first: "garbage"})
    (second,) = pending(desk.graph, CONFIG)
    before = desk.everything()
    message = refused("not pending", lambda: resume(desk.graph, CONFIG, {first: APPROVE}))
    assert second in message
    assert desk.everything() == before
    resume(desk.graph, CONFIG, {second: APPROVE})
    assert len(desk.acted) == 1


def test_one_wrong_id_among_right_ones_takes_no_answer(desk: Desk) -> None:
    name = open_review(desk)
    refused("not pending", lambda: resume(desk.graph, CONFIG, {name: APPROVE, "f" * 32: APPROVE}))
    assert list(pending(desk.graph, CONFIG)) == [name]
    resume(desk.graph, CONFIG, {name: APPROVE})  # and claims nothing


@pytest.mark.parametrize("call", [pending, recover, abandon])
def test_an_unknown_thread_is_refused(desk: Desk, call: Callable[..., Any]) -> None:
    assert "thread '1'" in refused("unknown", lambda: call(desk.graph, CONFIG))
    refused("unknown", lambda: resume(desk.graph, CONFIG, {"a" * 32: APPROVE}))
    assert desk.everything() == []


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
    monkeypatch.setattr("bayeslora_tool.graphs.runs._alone", lambda *_: nullcontext())
    acted: list[Any] = []
    file = str(tmp_path / "a.sqlite")
    with SqliteSaver.from_conn_string(file) as one, SqliteSaver.from_conn_string(file) as other:
        desks = [Desk(saver, acted.append) for saver in (one, other)]
        for round_ in range(1, 16):
            name = open_review(desks[round_ % 2])
            results = race([partial(resume, d.graph, CONFIG, {name: APPROVE}) for d in desks])
            assert sum(isinstance(r, dict) for r in results) == 1
            assert len(acted) == round_


def die_with_answer(graph: Any, answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claim the answers, and end before the graph hears them."""

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(graph), "invoke", die)
        with pytest.raises(KeyboardInterrupt):
            resume(graph, CONFIG, answers)


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


class TwoGates(TypedDict):
    text: str
    one: Any
    two: Any


def test_of_two_answers_the_one_that_came_too_late_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    builder = StateGraph(TwoGates)
    for key in ("one", "two"):
        gate = create_gate_graph(
            classifier=FakeClassifier(by_words), policy=Policy(0.8, 0.01), outcome_key=key
        )
        builder.add_node(f"gate_{key}", gate.compile())
        builder.add_edge(START, f"gate_{key}")
    graph = builder.compile(checkpointer=InMemorySaver())
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


class Shop:
    """An agent whose calls go to review, and whose first order breaks."""

    def __init__(self, *items: str, saver: Any = None) -> None:
        self.broken, self.did = True, list[str]()

        @tool
        def order(item: str) -> str:
            """Order it."""
            if self.broken and item == items[0]:
                raise ConnectionError("no answer")
            self.did.append(item)
            return f"ordered {item}"

        script = [calls(*(("order", {"item": item}) for item in items)), AIMessage("done")]
        self.agent: Any = create_agent(
            ScriptedModel(script=script),
            [order],
            middleware=[UncertaintyGate(FakeClassifier(by_words), Policy(0.8, 0.01))],
            checkpointer=saver or InMemorySaver(),
        )
        start(self.agent, {"messages": [("user", "odd")]}, CONFIG)
        waiting = {
            request["action_requests"][0]["args"]["item"]: name
            for name, request in pending(self.agent, CONFIG).items()
        }
        self.asked = [waiting[item] for item in items]


def test_a_decision_about_a_tool_that_then_breaks_stays(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as saver:
        for shop in (Shop("tea"), Shop("tea", saver=saver)):
            (name,) = shop.asked
            with pytest.raises(ConnectionError):
                resume(shop.agent, CONFIG, {name: APPROVE})
            assert pending(shop.agent, CONFIG) == {}
            refused("not pending", partial(resume, shop.agent, CONFIG, {name: REJECT}))
            with pytest.raises(ConnectionError):
                recover(shop.agent, CONFIG)
            shop.broken = False
            assert recover(shop.agent, CONFIG)["messages"][-1].content == "done"
            assert shop.did == ["tea"]
            refused("finished", partial(recover, shop.agent, CONFIG))


@pytest.mark.parametrize("recover_first", [True, False])
def test_a_tool_that_breaks_takes_no_other_call_with_it(recover_first: bool) -> None:
    shop = Shop("tea", "milk")
    tea, milk = shop.asked
    refused("pending", partial(recover, shop.agent, CONFIG))
    with pytest.raises(ConnectionError):
        resume(shop.agent, CONFIG, {tea: APPROVE})
    assert list(pending(shop.agent, CONFIG)) == [milk]
    shop.broken = False
    if recover_first:
        recover(shop.agent, CONFIG)
        assert shop.did == ["tea"]
        assert list(pending(shop.agent, CONFIG)) == [milk]
    state = resume(shop.agent, CONFIG, {milk: REJECT})
    assert shop.did == ["tea"]
    assert state["messages"][-1].content == "done"


def test_a_call_is_asked_about_again_under_a_new_id() -> None:
    shop = Shop("tea")
    shop.broken = False
    (first,) = shop.asked
    resume(shop.agent, CONFIG, {first: "garbage"})
    (second,) = pending(shop.agent, CONFIG)
    refused("not pending", partial(resume, shop.agent, CONFIG, {first: APPROVE}))
    refused("pending", partial(start, shop.agent, {"messages": []}, CONFIG))
    resume(shop.agent, CONFIG, {second: APPROVE})
    assert shop.did == ["tea"]


def test_a_decision_after_a_misunderstanding_outlives_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = Shop("tea")
    shop.broken = False
    resume(shop.agent, CONFIG, {shop.asked[0]: "garbage"})
    (name,) = pending(shop.agent, CONFIG)

    die_with_answer(shop.agent, {name: APPROVE}, monkeypatch)
    assert pending(shop.agent, CONFIG) == {}
    recover(shop.agent, CONFIG)
    assert shop.did == ["tea"]


class FullDisk(InMemorySaver):
    """Has room for so many more checkpoints."""

    left = 1000

    def put(self, *arguments: Any) -> Any:
        if self.left == 0:
            raise OSError("disk full")
        self.left -= 1
        return super().put(*arguments)


@pytest.mark.parametrize("left", range(5))
def test_a_step_that_is_done_but_not_saved_is_not_the_end(left: int) -> None:
    saver = FullDisk()
    desk = Desk(saver)
    saver.left = left
    with pytest.raises(OSError, match="disk full"):
        start(desk.graph, {"text": "clear"}, CONFIG)
    saver.left = 1000
    if left == 0:  # not even the input was kept
        start(desk.graph, {"text": "clear"}, CONFIG)
    else:
        refused("unfinished", lambda: start(desk.graph, {"text": "odd"}, CONFIG))
        recover(desk.graph, CONFIG)
    assert [outcome["text"] for outcome in desk.acted] == ["clear"]


def test_an_answer_that_was_heard_but_not_saved_is_not_lost() -> None:
    saver = FullDisk()
    desk = Desk(saver)
    name = open_review(desk)
    saver.left = 0
    with pytest.raises(OSError, match="disk full"):
        resume(desk.graph, CONFIG, {name: EDIT_TO_NO})
    saver.left = 1000
    refused("not pending", lambda: resume(desk.graph, CONFIG, {name: APPROVE}))
    assert recover(desk.graph, CONFIG)["outcome"]["label"] == "no"


class Nothing(TypedDict):
    paid: str


@pytest.mark.parametrize("died", [False, True])
def test_an_approval_answers_no_other_question(died: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a subgraph that LangGraph does not know of, since a node calls it by hand."""
    broken = [True]

    @tool
    def pay() -> str:
        """Pay."""
        if broken[0]:
            raise ConnectionError("no answer")
        return f"paid, as they said {interrupt('really?')}"

    inner: Any = create_agent(
        ScriptedModel(script=[calls(("pay", {})), AIMessage("done")]),
        [pay],
        middleware=[UncertaintyGate(FakeClassifier(by_words), Policy(0.8, 0.01))],
    )

    def call(state: Nothing) -> dict[str, str]:
        return {"paid": inner.invoke({"messages": [("user", "odd")]})["messages"][-2].content}

    builder = StateGraph(Nothing)
    builder.add_node("call", call)
    builder.add_edge(START, "call")
    graph = builder.compile(checkpointer=InMemorySaver())
    start(graph, {"paid": ""}, CONFIG)
    (name,) = pending(graph, CONFIG)
    if died:
        die_with_answer(graph, {name: APPROVE}, monkeypatch)
    else:
        with pytest.raises(ConnectionError):
            resume(graph, CONFIG, {name: APPROVE})
    broken[0] = False
    recover(graph, CONFIG)
    ((name, question),) = pending(graph, CONFIG).items()
    assert question == "really?"
    assert resume(graph, CONFIG, {name: "yes"})["paid"] == "paid, as they said yes"


def test_two_questions_of_a_tool_survive_what_breaks_beside_it() -> None:
    broken = [True]

    @tool
    def ask() -> str:
        """Ask twice."""
        return f"{interrupt('first?')} {interrupt('second?')}"

    @tool
    def order(item: str) -> str:
        """Order it."""
        if broken[0]:
            raise ConnectionError("no answer")
        return f"ordered {item}"

    graph: Any = create_agent(
        ScriptedModel(script=[calls(("ask", {}), ("order", {"item": "tea"})), AIMessage("done")]),
        [ask, order],
        middleware=[UncertaintyGate(FakeClassifier(by_words), Policy(0.8, 0.01))],
        checkpointer=InMemorySaver(),
    )

    def waiting() -> dict[str, str]:
        found = pending(graph, CONFIG)
        return {
            v if isinstance(v, str) else v["action_requests"][0]["name"]: k
            for k, v in found.items()
        }

    start(graph, {"messages": [("user", "odd")]}, CONFIG)
    resume(graph, CONFIG, {waiting()["ask"]: APPROVE})
    resume(graph, CONFIG, {waiting()["first?"]: "one"})
    with pytest.raises(ConnectionError):
        resume(graph, CONFIG, {waiting()["order"]: APPROVE})
    broken[0] = False
    assert set(waiting()) == {"second?"}
    state = resume(graph, CONFIG, {waiting()["second?"]: "two"})
    while pending(graph, CONFIG) == {} and graph.get_state(CONFIG).tasks:
        state = recover(graph, CONFIG)
    told = [m.content for m in state["messages"] if m.type == "tool"]
    assert sorted(told) == ["one two", "ordered tea"]


def test_what_is_abandoned_does_not_act_for_the_part_that_was_done() -> None:
    shop = Shop("tea", "milk")
    shop.broken = False
    resume(shop.agent, CONFIG, {shop.asked[0]: APPROVE})
    abandon(shop.agent, CONFIG)
    refused("finished", lambda: recover(shop.agent, CONFIG))
    assert shop.did == ["tea"]


def test_durability_is_not_an_option(desk: Desk) -> None:
    name = open_review(desk)
    with pytest.raises(TypeError, match="`durability` is 'sync'"):
        resume(desk.graph, CONFIG, {name: APPROVE}, durability="exit")
    assert list(pending(desk.graph, CONFIG)) == [name]


def test_what_breaks_beside_a_question_can_be_carried_on_before_the_answer() -> None:
    broken = [True]

    @tool
    def look() -> str:
        """Look, without a gate."""
        if broken[0]:
            raise ConnectionError("no answer")
        return "seen"

    @tool
    def order() -> str:
        """Order."""
        return "ordered"

    gate = UncertaintyGate(FakeClassifier(by_words), Policy(0.8, 0.01), tools=["order"])
    agent: Any = create_agent(
        ScriptedModel(script=[calls(("order", {}), ("look", {})), AIMessage("done")]),
        [look, order],
        middleware=[gate],
        checkpointer=InMemorySaver(),
    )
    with pytest.raises(ConnectionError):
        start(agent, {"messages": [("user", "odd")]}, CONFIG)
    broken[0] = False
    recover(agent, CONFIG)
    (name,) = pending(agent, CONFIG)
    refused("pending", lambda: recover(agent, CONFIG))
    assert resume(agent, CONFIG, {name: APPROVE})["messages"][-1].content == "done"
