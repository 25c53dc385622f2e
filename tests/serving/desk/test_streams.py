"""News by server-sent events, over a real server, which ends whoever listens."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bayeslora_tool.desk.store import LedgerError
from bayeslora_tool.serving.desk.binding import Binding
from bayeslora_tool.serving.desk.running import DeskServer, serve_desk
from bayeslora_tool.serving.desk.streams import Heads
from tests.desk.filed import APPROVE, file
from tests.server_process import LOOPBACK, free_port
from tests.serving.desk.door import Door, csrf

pytestmark = LOOPBACK


class Served:
    """A desk on a port of its own."""

    def __init__(self, door: Door) -> None:
        self.port = free_port()
        binding = Binding(port=self.port)
        listening = threading.Event()
        self.server = DeskServer(door.app, binding, lambda url: listening.set())
        own = socket.socket()
        own.bind(("127.0.0.1", self.port))
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[own]))
        self.thread.start()
        assert listening.wait(10)

    @contextmanager
    def browser(self, door: Door, name: str) -> Iterator[httpx.Client]:
        base = f"http://127.0.0.1:{self.port}"
        with httpx.Client(base_url=base, trust_env=False, timeout=10) as found:
            known = csrf(found.get("/sign-in").text)
            found.post("/sign-in", data={"csrf": known, "name": name, "token": door.tokens[name]})
            yield found

    def end(self) -> float:
        """Tell it to stop; seconds until it has."""
        begun = time.monotonic()
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        return time.monotonic() - begun


@pytest.fixture
def served(door: Door) -> Iterator[Served]:
    made = Served(door)
    yield made
    made.end()


def told(lines: Iterator[str]) -> int:
    """The next head that a stream tells."""
    for line in lines:
        if line.startswith("data:"):
            return int(line.removeprefix("data:"))
    raise AssertionError("it ended")


def test_many_who_listen_leave_room_for_pages(door: Door) -> None:
    door.app.state.heads = Heads(door.app.state.heads._look, most=2)
    served = Served(door)
    try:
        with served.browser(door, "ann") as ann:
            with ann.stream("GET", "/events") as one, ann.stream("GET", "/events") as other:
                streams = one.iter_lines(), other.iter_lines()
                assert [told(lines) for lines in streams] == [door.ledger.head()[0]] * 2
                assert ann.get("/events").status_code == 503
                assert ann.get("/").status_code == 200
            ends = time.monotonic() + 10
            while door.app.state.heads.full and time.monotonic() < ends:
                time.sleep(0.02)
            with ann.stream("GET", "/events") as again:
                assert told(again.iter_lines()) == door.ledger.head()[0]
    finally:
        served.end()


def test_whoever_listens_hears_of_each_change_and_a_server_that_ends_lets_go(
    door: Door, served: Served
) -> None:
    ledger = door.ledger
    with (
        served.browser(door, "ann") as ann,
        served.browser(door, "lea") as lea,
        ann.stream("GET", "/events") as one,
        lea.stream("GET", "/events") as other,
    ):
        assert one.headers["content-type"].startswith("text/event-stream")
        assert one.headers["cache-control"] == "no-store"
        streams = one.iter_lines(), other.iter_lines()
        assert [told(lines) for lines in streams] == [ledger.head()[0]] * 2
        review = file(ledger)
        assert [told(lines) for lines in streams] == [ledger.head()[0]] * 2
        ledger.decide(review.id, APPROVE, "lea")
        assert [told(lines) for lines in streams] == [ledger.head()[0]] * 2
        assert served.end() < 5, "it waited for those who listen"
        assert not [line for lines in streams for line in lines if line.startswith("data:")]


async def test_one_look_serves_all_who_listen_and_nobody_looks_when_none_does() -> None:
    looks = 0

    def look() -> int:
        nonlocal looks
        looks += 1
        return looks

    heads = Heads(look, every=0.02)

    async def listen(n: int) -> list[str]:
        found = []
        async for line in heads.stream():
            if line.startswith("event: head"):
                found.append(line)
            if len(found) == n:
                break
        return found

    first, *others = await asyncio.gather(*(listen(5) for _ in range(50)))
    assert len(first) == 5
    assert looks < 30, "each looks for itself"
    assert sum(len(set(other) & set(first)) for other in others) > 100
    await asyncio.sleep(0.1)
    assert heads.listeners == 0
    before = looks
    await asyncio.sleep(0.1)
    assert looks == before


async def test_a_ledger_that_is_away_ends_no_stream() -> None:
    answers: list[Any] = [1, LedgerError("away"), LedgerError("away"), 2]

    def look() -> int:
        answer = answers.pop(0) if answers else 2
        if isinstance(answer, LedgerError):
            raise answer
        return int(answer)

    heads, found = Heads(look, every=0.01), []
    async for line in heads.stream():
        if line.startswith("event: head"):
            found.append(line.split()[-1])
        if found == ["1", "2"]:
            break


def test_a_port_that_is_taken_is_named(door: Door, served: Served) -> None:
    with pytest.raises(OSError, match=r"cannot listen on 127.0.0.1.*--port"):
        serve_desk(door.app, Binding(port=served.port))


@pytest.mark.slow
def test_the_command_serves_says_where_and_ends_by_an_interrupt(door: Door, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "bayeslora_tool", "desk", "serve", "--port", str(port)]
    command += ["--ledger", str(tmp_path / "desk.sqlite")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == f"open http://127.0.0.1:{port}/"
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, trust_env=False, timeout=10) as client:
            who = {"name": "ann", "token": door.tokens["ann"]}
            secret = client.post("/api/v1/session", json=who).json()["secret"]
            client.cookies.set("bayeslora-desk", secret)
            with client.stream("GET", "/events") as stream:
                told(stream.iter_lines())
                process.send_signal(signal.SIGINT)
                said = process.communicate(timeout=10)
        assert (process.returncode, "Traceback" in said[1]) == (0, False), said
    finally:
        process.kill()
        process.wait()
    assert door.ledger.verify() == []
