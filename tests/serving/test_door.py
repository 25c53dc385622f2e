from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason='needs pip install "bayeslora-tool[mcp]"')

from bayeslora_tool.serving.door import MAX_BYTES, MAX_DEPTH
from bayeslora_tool.serving.library_logs import leave_words_out
from tests.conftest import ROOT
from tests.server_process import LOOPBACK, free_port, offline, running

SECRET = "my card is 4929 1234"
TOOL = "classify_with_uncertainty"
SERVER = """
    import logging, sys
    sys.path.append({root!r})
    from bayeslora_tool.policy import Policy
    from bayeslora_tool.serving import door
    from bayeslora_tool.serving.mcp_server import serve
    from tests.fakes import FakeClassifier, by_words

    logging.basicConfig(level=logging.INFO)
    door.READ_SECONDS, door.MAX_CONNECTIONS = {seconds}, {connections}
    serve(classifier=FakeClassifier(by_words), policy=Policy(0.8, 0.01), transport={transport!r},
          port={port})
"""
HEAD = (
    "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    "Accept: application/json, text/event-stream\r\n"
)


def program(
    *, transport: str = "http", port: int = 0, seconds: float = 10.0, connections: int = 512
) -> list[str]:
    source = textwrap.dedent(SERVER).format(
        root=str(ROOT), seconds=seconds, connections=connections, transport=transport, port=port
    )
    return [sys.executable, "-c", source]


@contextmanager
def served(folder: Path, **options: Any) -> Iterator[tuple[int, Path]]:
    """A server of ours: its port, and its log."""
    port = free_port()
    with running(program(port=port, **options), port, folder, offline(folder)) as log:
        yield port, log


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(30)
    return connection


def head(body: bytes, length: int | None = None) -> bytes:
    return f"{HEAD}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode()


def answer(connection: socket.socket) -> tuple[int, str]:
    """Status and body."""
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        length = 0
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return status, stream.read(length).decode()


def post(port: int, body: bytes) -> tuple[int, str]:
    with connect(port) as connection:
        connection.sendall(head(body) + body)
        return answer(connection)


def until_dropped(connection: socket.socket, drip: bytes) -> bytes:
    """What the server says until it hangs up, though the client sends a little now and then."""
    connection.settimeout(0.1)
    said, ends = b"", time.monotonic() + 30
    while time.monotonic() < ends:
        try:
            got = connection.recv(1000)
            if not got:
                return said
            said += got
        except TimeoutError:
            with suppress(OSError):
                connection.sendall(drip)
        except ConnectionResetError:
            return said
    raise AssertionError("not dropped")


def message(**content: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0"} | content).encode()


def call(text: Any) -> bytes:
    return message(id=1, method="tools/call", params={"name": TOOL, "arguments": {"text": text}})


def nested(depth: int) -> bytes:
    return call("?").replace(b'"?"', b"[" * depth + b"]" * depth)


MALFORMED = [
    message(id=1, method="tools/call", params={"name": [SECRET], "arguments": SECRET}),
    message(id=1, method=SECRET, params={"text": SECRET}),
    message(id=1, method="tools/call", params={"name": SECRET, "arguments": {"text": SECRET}}),
    message(method="notifications/cancelled", params={"requestId": [SECRET], "reason": [SECRET]}),
    message(id=SECRET, result={"text": SECRET}),
    message(id=SECRET, error={"code": 1, "message": SECRET}),
    json.dumps({SECRET: SECRET}).encode(),
    json.dumps([SECRET]).encode(),
    call([SECRET]),
    call({SECRET: SECRET}),
]
NO_JSON = [
    b"",
    b'{"' + SECRET.encode(),
    f'{{"a": "{SECRET}\xff"}}'.encode("latin-1"),
    b'{"jsonrpc": "2.0", "id": NaN, "method": "ping"}',
    b'{"jsonrpc": "2.0", "method": "ping", "id": ' + b"9" * 5000 + b"}",
    nested(MAX_DEPTH),
    nested(300),
    nested(5_000),
    nested(200_000),
]


@LOOPBACK
def test_what_cannot_be_read_is_refused_and_logged_without_a_word_of_it(tmp_path: Path) -> None:
    with served(tmp_path) as (port, log):
        for body in MALFORMED:
            status, _ = post(port, body)
            assert status in (200, 202, 400), body
        for body in NO_JSON:
            assert post(port, body)[0] == 400, body[:80]
        assert post(port, b" " * (MAX_BYTES + 1))[0] == 413
        assert post(port, b" " * (8 * MAX_BYTES))[0] == 413
        assert post(port, nested(MAX_DEPTH - 10))[0] == 200
        with connect(port) as connection:
            query = f"GET /mcp?{SECRET.replace(' ', '+')} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            connection.sendall(query.encode())
            assert answer(connection)[0] == 405
        status, body = post(port, call(SECRET))  # and it goes on
        assert status == 200
        assert r"\"action\": \"proceed\"" in body
        said = log.read_text()
    assert "mcp session:" in said  # the library did complain, and it is seen where
    assert "sha256" in said
    for word in (SECRET, SECRET.replace(" ", "+"), "4929 1234", "4929+1234", "Traceback"):
        assert word not in said


@LOOPBACK
def test_clients_that_leave_early_leave_no_traceback(tmp_path: Path) -> None:
    bodies = [message(method="notifications/initialized"), call(SECRET), call("boom")]
    with served(tmp_path) as (port, log):
        for i in range(90):
            body = bodies[i % 3]
            with connect(port) as connection:
                connection.sendall(head(body) + body[: len(body) if i % 2 else 10])
        assert post(port, call("clear"))[0] == 200
        time.sleep(0.5)
        said = log.read_text()
    assert "Traceback" not in said
    assert SECRET not in said


@LOOPBACK
def test_clients_that_dawdle_are_dropped_and_do_not_keep_others_out(tmp_path: Path) -> None:
    kinds = [
        (b"", b""),
        (b"POST /mcp HTTP/1.1\r\nX-Long: ", b"a"),
        (head(b"", 1000) + b"{", b" "),
    ]
    with served(tmp_path, seconds=1.0, connections=20) as (port, _):
        slow = [connect(port) for _ in range(25)]
        for i, connection in enumerate(slow):
            connection.sendall(kinds[i % 3][0])
        assert post(port, call("clear"))[0] == 503  # full, and said at once
        for i, connection in enumerate(slow):
            with connection:
                said = until_dropped(connection, kinds[i % 3][1])
            assert said[:12] in ((b"HTTP/1.1 408", b"HTTP/1.1 503") if i % 3 == 2 else (b"",))
        assert post(port, call("clear"))[0] == 200


@LOOPBACK
def test_a_connection_is_used_again_while_its_client_is_quick(tmp_path: Path) -> None:
    with served(tmp_path, seconds=1.0) as (port, _), connect(port) as connection:
        for _ in range(6):
            connection.sendall(head(call("clear")) + call("clear"))
            assert answer(connection)[0] == 200
            time.sleep(0.4)


def test_over_stdio_nothing_malformed_is_logged_either(tmp_path: Path) -> None:
    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    first, last = message(id=0, method="initialize", params=hello), message(id=99, method="ping")
    with subprocess.Popen(
        program(transport="stdio"),
        env=offline(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [first, b'{"' + SECRET.encode(), *MALFORMED, last]
        process.stdin.write(b"\n".join(lines) + b"\n")
        process.stdin.flush()
        while b'"id":99' not in process.stdout.readline():
            assert process.poll() is None
        process.stdin.close()
        said = process.stderr.read().decode()
    assert "mcp session:" in said
    assert "4929 1234" not in said


def test_only_the_librarys_records_lose_their_words(caplog: pytest.LogCaptureFixture) -> None:
    leave_words_out()
    with caplog.at_level(logging.INFO):
        logging.getLogger().warning("ours through the root: %s", "kept")
        logging.getLogger("mcp.server.lowlevel.server").warning("ours by its name: %s", "kept")
        logging.getLogger("bayeslora_tool.serving").info("ours: %s", "kept")
    assert [record.getMessage().endswith("kept") for record in caplog.records] == [True] * 3
