from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
from bayeslora_tool.graphs.runs import resume
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Command

from bayeslora_tool.agents.middleware import UncertaintyGate
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from tests.agents.desk import APPROVE, CONFIG, DONE, Desk, asked, by_item, of_the_item, order, told
from tests.fakes import FakeClassifier, by_words, make_prediction
from tests.scripted_model import calls


def test_a_sure_call_runs_without_a_person(fake: FakeClassifier, policy: Policy) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
    state = desk.say("clear")
    assert "__interrupt__" not in state
    assert desk.did == [("tea", 1)]
    assert state["messages"][-1].content == "done"
    assert fake.seen == ["clear"]


class TestParallelCalls:
    def desk(self, fake: FakeClassifier, policy: Policy) -> Desk:
        gate = UncertaintyGate(fake, policy, text=of_the_item, interrupt_mode="per_call")
        return Desk([calls(order("odd a"), order("clear"), order("odd b", 2)), DONE], gate)

    def test_only_doubtful_ones_wait_and_each_is_answered_by_its_id(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = self.desk(fake, policy)
        waiting = by_item(desk.say("go"))
        assert desk.did == [("clear", 1)]
        assert set(waiting) == {"odd a", "odd b"}
        waiting = by_item(desk.answer({waiting["odd b"].id: APPROVE}))
        assert desk.did == [("clear", 1), ("odd b", 2)]
        state = desk.answer({waiting["odd a"].id: {"type": "reject"}})
        assert desk.did == [("clear", 1), ("odd b", 2)]
        assert [status for _, status, _ in told(state)] == ["error", "success", "success"]
        assert fake.seen == ["odd a", "clear", "odd b"]

    def test_a_bad_answer_to_one_leaves_the_other_answerable(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        desk = self.desk(fake, policy)
        waiting = by_item(desk.say("go"))
        both = {waiting["odd a"].id: {"type": "yes"}, waiting["odd b"].id: APPROVE}
        with pytest.raises(ValueError, match="was not taken"):
            resume(desk.agent, CONFIG, both)
        assert desk.did == [("clear", 1)]
        again = by_item(desk.answer(both))
        assert again["odd a"].id == waiting["odd a"].id
        assert "`type` is 'yes'" in again["odd a"].value["description"]
        assert sorted(desk.did) == [("clear", 1), ("odd b", 2)]
        desk.answer({waiting["odd a"].id: APPROVE})
        assert sorted(desk.did) == [("clear", 1), ("odd a", 1), ("odd b", 2)]
        assert fake.seen == ["odd a", "clear", "odd b"]

    def test_one_that_cannot_be_scored_fails_alone(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        gate = UncertaintyGate(fake, policy, text=of_the_item, interrupt_mode="per_call")
        desk = Desk([calls(order("boom"), order("clear")), DONE], gate)
        assert set(by_item(desk.say("go"))) == {"boom"}
        assert desk.did == [("clear", 1)]

    def test_the_same_text_is_scored_once(self, fake: FakeClassifier, policy: Policy) -> None:
        desk = Desk([calls(order("a"), order("b")), DONE], UncertaintyGate(fake, policy))
        desk.say("clear")
        assert fake.seen == ["clear"]
        assert len(desk.did) == 2


class AsyncFake(FakeClassifier):
    async def apredict(self, texts: Sequence[str]) -> list[Prediction]:
        await asyncio.sleep(0)
        return super().predict(texts)

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        raise AssertionError("an async run must not block")


@pytest.mark.parametrize("kind", [AsyncFake, FakeClassifier])
async def test_async_with_sqlite(kind: Any, policy: Policy, tmp_path: Path) -> None:
    fake = kind(by_words)
    gate = UncertaintyGate(fake, policy, text=of_the_item, interrupt_mode="per_call")
    script = [calls(order("odd a"), order("clear"), order("odd b")), DONE]
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as saver:
        desk = Desk(script, gate, saver=saver)
        state = await desk.agent.ainvoke({"messages": [("user", "go")]}, CONFIG)
        waiting = by_item(state)
        assert set(waiting) == {"odd a", "odd b"}
        both = {waiting["odd a"].id: "garbage", waiting["odd b"].id: APPROVE}
        again = by_item(await desk.agent.ainvoke(Command(resume=both), CONFIG))
        assert "got 'garbage'" in again["odd a"].value["description"]
        state = await desk.agent.ainvoke(Command(resume={waiting["odd a"].id: APPROVE}), CONFIG)
    assert state["messages"][-1].content == "done"
    assert sorted(desk.did) == [("clear", 1), ("odd a", 1), ("odd b", 1)]
    assert sorted(fake.seen) == ["clear", "odd a", "odd b"]


def test_a_review_outlives_the_process(
    fake: FakeClassifier, policy: Policy, tmp_path: Path
) -> None:
    file = str(tmp_path / "a.sqlite")
    with SqliteSaver.from_conn_string(file) as saver:
        Desk([calls(order("tea"))], UncertaintyGate(fake, policy), saver=saver).say("odd")
    second = FakeClassifier(by_words)
    with SqliteSaver.from_conn_string(file) as saver:
        desk = Desk([DONE], UncertaintyGate(second, policy), saver=saver)
        desk.answer(APPROVE)
    assert desk.did == [("tea", 1)]
    assert (fake.seen, second.seen) == (["odd"], [])


def test_an_ungated_tool_is_neither_scored_nor_stopped(
    fake: FakeClassifier, policy: Policy
) -> None:
    gate = UncertaintyGate(fake, policy, tools=["look"])
    desk = Desk([calls(order("tea")), DONE], gate)
    desk.say("odd")
    assert desk.did == [("tea", 1)]
    assert fake.seen == []


async def test_a_tool_that_the_agent_does_not_have_is_not_gated_in_silence(
    fake: FakeClassifier, policy: Policy
) -> None:
    desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy, tools=["ordr", "look"]))
    problem = "names 'ordr', but the agent has 'order', 'look'"
    with pytest.raises(ValueError, match=problem):
        desk.say("odd")
    with pytest.raises(ValueError, match=problem):
        await desk.agent.ainvoke(
            {"messages": [("user", "odd")]}, {"configurable": {"thread_id": 2}}
        )
    assert desk.did == []


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, bayeslora_tool.agents.middleware; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_adds_little_to_what_the_agent_itself_takes(policy: Policy) -> None:
    instant = make_prediction()
    gate = UncertaintyGate(FakeClassifier(lambda text: instant), policy)
    script = [calls(order("tea")), DONE] * 200
    desks = Desk(script, gate), Desk(script)
    took: list[list[float]] = [[], []]
    for turn in range(200):  # in turns, so that a busy machine slows both alike
        for desk, times in zip(desks, took, strict=True):
            start = time.process_time()  # nor do other processes count
            desk.say("clear", {"configurable": {"thread_id": str(turn)}})
            times.append(time.process_time() - start)
    assert [len(desk.did) for desk in desks] == [200, 200]
    # What shares a core only ever adds to the time: the quick turns are the true ones.
    with_gate, without = (quantiles(times, n=10)[0] for times in took)
    print(f"the gate adds {1000 * (with_gate - without):.2f} to {1000 * without:.2f} ms a turn")
    assert with_gate < 2.25 * without  # 5 ms where the bound was set and a turn took 4


async def test_with_the_real_classifier(sentiment: Any) -> None:
    gate = UncertaintyGate(sentiment, Policy.from_preset("sentiment"), text=of_the_item)
    desk = Desk([calls(order("a wonderful film"), order("fine " * 600)), DONE], gate)
    state = await desk.agent.ainvoke({"messages": [("user", "go")]}, CONFIG)
    (action,) = asked(state)["action_requests"]
    assert "512 tokens" in action["description"]
