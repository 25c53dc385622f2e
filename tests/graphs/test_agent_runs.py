from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import pytest
from bayeslora_tool.graphs.runs import abandon, pending, recover, resume, start
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import APPROVE, CONFIG, REJECT, die_with_answer, refused
from tests.scripted_model import ScriptedModel, calls

NO_SUCH_ARGUMENT = {"type": "edit", "edited_action": {"name": "order", "args": {"no": 1}}}


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
            middleware=[
                UncertaintyGate(
                    FakeClassifier(by_words), Policy(0.8, 0.01), interrupt_mode="per_call"
                )
            ],
            checkpointer=saver or InMemorySaver(),
        )
        start(self.agent, {"messages": [("user", "odd")]}, CONFIG)
        waiting = {
            request["args"]["item"]: name for name, request in pending(self.agent, CONFIG).items()
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
    resume(shop.agent, CONFIG, {first: NO_SUCH_ARGUMENT})
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
    resume(shop.agent, CONFIG, {shop.asked[0]: NO_SUCH_ARGUMENT})
    (name,) = pending(shop.agent, CONFIG)

    die_with_answer(shop.agent, {name: APPROVE}, monkeypatch)
    assert pending(shop.agent, CONFIG) == {}
    recover(shop.agent, CONFIG)
    assert shop.did == ["tea"]


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
        middleware=[
            UncertaintyGate(FakeClassifier(by_words), Policy(0.8, 0.01), interrupt_mode="per_call")
        ],
        checkpointer=InMemorySaver(),
    )

    def waiting() -> dict[str, str]:
        found = pending(graph, CONFIG)
        return {v if isinstance(v, str) else v["name"]: k for k, v in found.items()}

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

    gate = UncertaintyGate(
        FakeClassifier(by_words), Policy(0.8, 0.01), tools=["order"], interrupt_mode="per_call"
    )
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
