"""The threads of a real LangGraph server: filed, answered once, and answered elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.server import Server
from bayeslora_tool.policy import policy_fingerprint
from tests.conftest import ROOT, failed
from tests.desk.children import Diary
from tests.desk.filed import steps
from tests.graphs.desk import APPROVE, EDIT_TO_NO, POLICY
from tests.server_process import LOOPBACK, free_port, offline, running

GRAPH = """
import pathlib
from bayeslora_tool.graphs.escalation import create_escalation_graph
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import POLICY

DIARY = pathlib.Path(__file__).parent / "diary"

def act(outcome):
    with DIARY.open("a") as diary:
        diary.write(f"acted\\t{outcome['key']}\\t{outcome['label']}\\t{outcome['reviewer']}\\n")
    if "broken" in outcome["text"] and DIARY.read_text().count(outcome["key"]) == 1:
        raise RuntimeError("no paper")

graph = create_escalation_graph(classifier=FakeClassifier(by_words), policy=POLICY, act=act)
"""


class Stop(BaseException):
    """The process ends here."""


class Served:
    """A graph behind ``langgraph dev``, and what it did."""

    def __init__(self, url: str, folder: Path) -> None:
        from langgraph_sdk import get_sync_client

        self.url = url
        self.client: Any = get_sync_client(url=url)
        self.diary = Diary(folder / "diary")

    def ask(self, text: str) -> str:
        thread = str(self.client.threads.create()["thread_id"])
        self.client.runs.wait(thread, "escalation", input={"text": text})
        return thread

    def outcome(self, thread: str) -> Any:
        return self.client.threads.get_state(thread)["values"].get("outcome")

    def acted(self, key: str | None) -> list[list[str]]:
        return [line for line in self.diary.lines("acted") if line[0] == key]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    for module in ("langgraph_api", "langgraph_cli"):
        pytest.importorskip(module, reason='needs pip install "bayeslora-tool[server]"')
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    (folder / "served.py").write_text(GRAPH)
    config = {"dependencies": ["."], "graphs": {"escalation": "./served.py:graph"}}
    (folder / "langgraph.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
    command += ["--port", str(port), "--config", str(folder / "langgraph.json")]
    env = offline(folder)
    env |= {"PYTHONPATH": f"{env['PYTHONPATH']}:{ROOT}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        with running(command, port, folder, env):
            found = Served(f"http://127.0.0.1:{port}", folder)
            yield found
            found.client.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "desk.sqlite") as made:
        yield made


@pytest.fixture
def server(ledger: Ledger, served: Served) -> Iterator[Server]:
    with Server(ledger, served.url, lease=0.3) as made:
        yield made


pytestmark = [LOOPBACK, pytest.mark.slow]


def filed(ledger: Ledger, server: Server, thread: str) -> Any:
    server.sync()
    (review,) = ledger.reviews("open", thread=thread)
    return review


def test_what_threads_ask_is_filed_once_with_what_the_gate_found_out(
    ledger: Ledger, served: Served, server: Server
) -> None:
    threads = [served.ask(text) for text in ("odd one", "odd two", "clear", "vague")]
    server.sync()
    with Server(ledger, served.url) as other:
        assert server.sync() == other.sync() == (0, 0)
    found = {review.thread: review for review in ledger.reviews() if review.thread in threads}
    assert found.keys() == set(threads[:2])
    review = found[threads[0]]
    state = served.client.threads.get_state(threads[0])["values"]
    assert (review.text, review.label, review.key) == ("odd one", "yes", state["key"])
    assert (review.reason, review.prediction) == (state["route"]["reason"], state["prediction"])
    assert review.policy == policy_fingerprint(POLICY)
    assert review.graph == f"escalation@{served.url.removeprefix('http://')}"
    assert review.schema is not None
    with pytest.raises(ValueError, match="expected one decision"):
        ledger.decide(review.id, "yes please", "ann")
    assert ledger.verify() == []


def test_a_decision_is_carried_out_once_in_the_name_of_who_took_it(
    ledger: Ledger, served: Served, server: Server
) -> None:
    thread = served.ask("odd")
    review = filed(ledger, server, thread)
    ledger.decide(review.id, EDIT_TO_NO, "ann")
    assert [(one.review, one.result) for one in server.apply()] == [(review.id, "applied")]
    assert server.apply() == []
    outcome = served.outcome(thread)
    assert (outcome["label"], outcome["reviewer"], outcome["decided_by"]) == ("no", "ann", "human")
    assert served.acted(review.key) == [[review.key, "no", "ann"]]
    assert server.sync().withdrawn == 0
    assert steps(ledger, review) == ["filed", "decided", "applied"]


@pytest.mark.parametrize(
    "answer",
    [[{"type": "accept", "args": None}], {"decisions": [{"type": "approve"}]}],
)
def test_what_another_client_has_answered_is_withdrawn(
    ledger: Ledger, served: Served, server: Server, answer: Any
) -> None:
    thread = served.ask("odd")
    open_one = filed(ledger, server, thread)
    other = served.ask("odd too")
    decided = filed(ledger, server, other)
    ledger.decide(decided.id, APPROVE, "ann")
    for name in (thread, other):  # without an id, as Agent Inbox and agent-chat-ui do
        served.client.runs.wait(name, "escalation", command={"resume": answer})
    server.sync()
    assert ledger.review(open_one.id).state == "withdrawn"
    assert [(one.review, one.result) for one in server.apply()] == [(decided.id, "withdrawn")]
    assert len(served.acted(decided.key)) == 1


def test_what_changed_since_it_was_shown_is_asked_again_and_never_run(
    ledger: Ledger, served: Served, server: Server
) -> None:
    thread = served.ask("odd")
    review = filed(ledger, server, thread)
    ledger.decide(review.id, APPROVE, "ann")
    served.client.runs.wait(thread, "escalation", input={"text": "something else"})
    assert [one.result for one in server.apply()] == ["withdrawn"]
    assert served.acted(review.key) == []
    (again,) = ledger.reviews("open", thread=thread)
    assert again.id != review.id


@pytest.mark.parametrize("place_of_death", ["before the run", "in the run", "after the run"])
def test_killed_anywhere_a_decision_is_carried_out_once(
    ledger: Ledger,
    served: Served,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    place_of_death: str,
) -> None:
    thread = served.ask("odd")
    review = filed(ledger, server, thread)
    ledger.decide(review.id, APPROVE, "ann")

    def die(*_: Any, **__: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        if place_of_death == "before the run":
            patch.setattr(server._client.runs, "create", die)
        elif place_of_death == "in the run":
            patch.setattr(server._client.runs, "join", die)
        else:
            patch.setattr(ledger, "applied", die)
        with pytest.raises(Stop):
            server.apply()
    time.sleep(0.35)
    with Server(ledger, served.url) as other:
        assert [one.result for one in other.apply()] == ["applied"]
    assert len(served.acted(review.key)) == 1


def test_a_run_that_breaks_off_is_carried_on_under_the_same_key(
    ledger: Ledger, served: Served, server: Server
) -> None:
    thread = served.ask("broken odd")
    review = filed(ledger, server, thread)
    ledger.decide(review.id, APPROVE, "ann")
    (one,) = server.apply()
    assert one.result == "failed"
    assert "ended with 'error'" in str(one.problem)
    ends = time.monotonic() + 20
    while ledger.review(review.id).state != "applied":
        server.apply()
        assert time.monotonic() < ends
        time.sleep(0.2)
    assert len(served.acted(review.key)) == 2
    assert served.outcome(thread)["reviewer"] == "ann"


def test_a_thread_that_is_deleted_asks_no_more(
    ledger: Ledger, served: Served, server: Server
) -> None:
    one, other = served.ask("odd"), served.ask("odd too")
    open_one, decided = filed(ledger, server, one), filed(ledger, server, other)
    ledger.decide(decided.id, APPROVE, "ann")
    for thread in (one, other):
        served.client.threads.delete(thread)
    server.sync()
    assert ledger.review(open_one.id).state == "withdrawn"
    assert [done.result for done in server.apply()] == ["withdrawn"]


def test_the_commands_take_a_server(
    run: Any, ledger: Ledger, served: Served, tmp_path: Path
) -> None:
    thread, place = served.ask("odd"), str(tmp_path / "desk.sqlite")
    assert run("desk", "sync", "--server", served.url, "-l", place).exit_code == 0
    (review,) = ledger.reviews("open", thread=thread)
    run("desk", "answer", review.id, "approve", "--by", "ann", "-l", place)
    done = run("desk", "apply", "--server", served.url, "-l", place)
    assert "1 applied" in done.stdout
    assert served.outcome(thread)["reviewer"] == "ann"
    gone = f"http://127.0.0.1:{free_port()}"
    assert failed(run("desk", "sync", "--server", gone, "-l", place), "does not answer")
    assert failed(run("desk", "sync", "-l", place), "give either MODULE:NAME")
    assert failed(run("desk", "sync", "--server", "x", "-l", place), "`url` must be the http")
