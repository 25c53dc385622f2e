"""What is tripped lets nothing proceed, in any process, until somebody says that it may."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from bayeslora_tool import (
    BayesLoRATool,
    Policy,
    UncertaintyGate,
    create_escalation_graph,
    pending,
    resume,
    start,
)
from bayeslora_tool.monitoring import Monitor, TrippedError
from bayeslora_tool.policy import chosen_for_audit
from tests.agents.desk import DONE, Desk, order
from tests.conftest import ROOT
from tests.fakes import FakeClassifier, by_words, make_prediction
from tests.scripted_model import calls

POLICY = Policy(tau_conf=0.8, tau_var=0.01)
CONFIG: Any = {"configurable": {"thread_id": "1"}}


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    return Monitor(tmp_path / "monitor.sqlite", POLICY, target_risk=0.02)


def trip(monitor: Monitor) -> None:
    for i in range(10):
        monitor.audited(f"audit {i}", wrong=True)
    assert monitor.status().alarm is not None


class TestTripped:
    def test_by_the_risk_of_audits(self, monitor: Monitor, fake: FakeClassifier) -> None:
        watched = monitor.watch(fake)
        assert watched.predict(["clear"])[0].label == "yes"
        trip(monitor)
        with pytest.raises(TrippedError, match=r"exceeds 2.00% .* of .* audits were wrong"):
            watched.predict(["clear"])
        assert fake.seen == ["clear"]

    def test_by_a_shift_of_the_texts(self, monitor: Monitor) -> None:
        def moves(text: str) -> Any:
            i = int(text)
            return make_prediction(confidence=0.95 - 0.001 * (i % 7) if i < 150 else 0.6)

        watched = monitor.watch(FakeClassifier(moves))

        def go_on() -> None:
            for i in range(400):
                watched.predict([str(i)])

        with pytest.raises(TrippedError, match="the texts have shifted"):
            go_on()
        assert monitor.status().texts > 150

    def test_a_shift_may_be_told_only(self, tmp_path: Path) -> None:
        calm = Monitor(tmp_path / "m.sqlite", POLICY, target_risk=0.02, trips_on_shift=False)
        calm.observe([make_prediction(confidence=0.95 - 0.001 * (i % 7)) for i in range(150)])
        calm.observe([make_prediction(confidence=0.6)] * 250)
        assert calm.status().shift > 3
        calm.check()

    async def test_async_calls_too(self, monitor: Monitor) -> None:
        class Async(FakeClassifier):
            async def apredict(self, texts: Any) -> Any:
                return self.predict(texts)

        watched = monitor.watch(Async(by_words))
        assert (await watched.apredict(["clear"]))[0].label == "yes"
        assert monitor.status().texts == 1
        trip(monitor)
        with pytest.raises(TrippedError):
            await watched.apredict(["clear"])

    def test_a_classifier_without_apredict_has_none_when_watched(
        self, monitor: Monitor, fake: FakeClassifier
    ) -> None:
        watched = monitor.watch(fake)
        assert not hasattr(watched, "apredict")
        assert not hasattr(watched, "for_acts")
        assert watched.labels == fake.labels

    def test_the_graph_escalates(self, monitor: Monitor, fake: FakeClassifier) -> None:
        graph = create_escalation_graph(
            classifier=monitor.watch(fake), policy=POLICY, act=lambda outcome: "done"
        ).compile(checkpointer=InMemorySaver())
        assert start(graph, {"text": "clear"}, CONFIG)["result"] == "done"
        trip(monitor)
        start(graph, {"text": "clear"}, CONFIG)
        (request,) = pending(graph, CONFIG).values()
        said = request["action_requests"][0]["description"]
        assert "the promise may no longer hold" in said

    def test_the_tool_says_not_to_act(self, monitor: Monitor, fake: FakeClassifier) -> None:
        tool = BayesLoRATool(classifier=monitor.watch(fake), policy=POLICY)
        trip(monitor)
        assert "do not act on it" in tool.invoke({"text": "clear"})


class TestTheFile:
    def test_outlives_the_process(self, monitor: Monitor, fake: FakeClassifier) -> None:
        trip(monitor)
        again = Monitor(monitor.file, POLICY, target_risk=0.02)
        with pytest.raises(TrippedError):
            again.watch(fake).predict(["clear"])
        again.reset("a broken form, mended")
        monitor.check()
        assert monitor.status().audits == 0
        assert Monitor(monitor.file, POLICY, target_risk=0.02).status().alarm is None

    def test_is_shared_by_processes(self, monitor: Monitor) -> None:
        """Two of them and this one feed it at once; nothing is lost, and all hear of the alarm."""
        code = (
            "import sys\n"
            "from bayeslora_tool import Policy\n"
            "from bayeslora_tool.monitoring import Monitor, TrippedError\n"
            "m = Monitor(sys.argv[1], Policy(tau_conf=0.8, tau_var=0.01), target_risk=0.02)\n"
            "for i in range(12): m.audited(f'{sys.argv[2]} {i}', wrong=i % 2 == 0)\n"
            "try: m.check()\n"
            "except TrippedError: print('tripped')\n"
        )
        running = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(monitor.file), name],
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for name in ("a", "b")
        ]
        for i in range(12):
            monitor.audited(f"mine {i}", wrong=i % 2 == 0)
        assert [one.communicate(timeout=120)[0] for one in running] == ["tripped\n"] * 2
        assert (monitor.status().audits, monitor.status().wrong) == (36, 18)

    def test_takes_threads(self, monitor: Monitor, fake: FakeClassifier) -> None:
        watched = monitor.watch(fake)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: watched.predict(["clear"]), range(20)))
        assert monitor.status().texts == 20

    def test_counts_an_audit_once(self, monitor: Monitor) -> None:
        monitor.audited("a", wrong=True)
        monitor.audited("a", wrong=True)
        assert monitor.status().audits == 1
        with pytest.raises(ValueError, match="the other way round"):
            monitor.audited("a", wrong=False)

    def test_new_thresholds_begin_anew_and_the_old_stay_tripped(self, monitor: Monitor) -> None:
        trip(monitor)
        other = Monitor(monitor.file, replace(POLICY, tau_conf=0.9), target_risk=0.02)
        other.check()
        with pytest.raises(TrippedError):
            monitor.check()

    def test_another_rate_of_audits_is_no_new_policy(self, monitor: Monitor) -> None:
        trip(monitor)
        with pytest.raises(TrippedError):
            Monitor(monitor.file, replace(POLICY, audit_rate=0.1), target_risk=0.02).check()

    def test_keeps_what_was_promised(self, monitor: Monitor) -> None:
        with pytest.raises(ValueError, match=r"watches this policy for 0\.02"):
            Monitor(monitor.file, POLICY, target_risk=0.05)

    def test_that_cannot_be_used_stops_what_would_proceed(
        self, monitor: Monitor, fake: FakeClassifier
    ) -> None:
        monitor.file.write_bytes(b"not a database, but long enough to be taken for one" * 50)
        graph = create_escalation_graph(classifier=monitor.watch(fake), policy=POLICY)
        compiled = graph.compile(checkpointer=InMemorySaver())
        asyncio.run(compiled.ainvoke({"text": "clear"}, CONFIG))
        assert len(pending(compiled, CONFIG)) == 1

    def test_a_reset_needs_a_reason(self, monitor: Monitor) -> None:
        with pytest.raises(ValueError, match="say why"):
            monitor.reset(" ")


class TestAudits:
    RATE = replace(POLICY, audit_rate=0.3)

    def test_are_the_share_that_was_asked_for_and_follow_from_the_key(self) -> None:
        keys = [f"key {i}" for i in range(4000)]
        chosen = [chosen_for_audit(key, self.RATE) for key in keys]
        assert sum(chosen) / 4000 == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 4000) ** 0.5)
        assert chosen == [chosen_for_audit(key, self.RATE) for key in keys]
        assert not any(chosen_for_audit(key, POLICY) for key in keys)
        assert all(chosen_for_audit(key, replace(POLICY, audit_rate=1.0)) for key in keys)

    def test_proceed_all_the_same_in_a_graph(self, fake: FakeClassifier) -> None:
        graph = create_escalation_graph(
            classifier=fake, policy=self.RATE, act=lambda outcome: "done"
        ).compile(checkpointer=InMemorySaver())
        marks = set()
        for i in range(30):
            thread: Any = {"configurable": {"thread_id": str(i)}}
            state = start(graph, {"text": "clear"}, thread)
            assert state["result"] == "done"
            outcome = state["outcome"]
            assert outcome["audit"] == chosen_for_audit(outcome["key"], self.RATE)
            marks.add(outcome["audit"])
        assert marks == {True, False}

    def test_are_never_what_a_reviewer_saw(self, fake: FakeClassifier) -> None:
        policy = replace(POLICY, audit_rate=1.0)
        graph = create_escalation_graph(classifier=fake, policy=policy)
        compiled = graph.compile(checkpointer=InMemorySaver())
        start(compiled, {"text": "odd"}, CONFIG)
        (name,) = pending(compiled, CONFIG)
        assert resume(compiled, CONFIG, {name: {"type": "approve"}})["outcome"]["audit"] is False

    def test_are_told_of_by_gate_and_tool(self, fake: FakeClassifier) -> None:
        policy = replace(POLICY, audit_rate=1.0)
        desk = Desk([calls(order("tea")), DONE], UncertaintyGate(fake, policy))
        said: Any = {"messages": [("user", "clear")]}
        events = list(desk.agent.stream(said, CONFIG, stream_mode="custom"))
        (told,) = [event["bayeslora_decision"] for event in events]
        assert told["audit"]
        assert told["key"]
        call: Any = {"name": "t", "args": {"text": "clear"}, "id": "1", "type": "tool_call"}
        tool = BayesLoRATool(classifier=fake, policy=policy, name="t")
        (result,) = tool.invoke(call).artifact["results"]
        assert result["audit"]
        assert result["key"] != told["key"]
