"""A server in a process of its own, on loopback, cut off from the rest of the world."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

LOOPBACK = pytest.mark.allow_hosts(["127.0.0.1"])

# Runs first in a server's process: whatever it would send into the world is stopped and noted.
NO_WORLD = """
import sys

def stop(event, args):
    if event == "socket.connect":
        host = args[1][0] if isinstance(args[1], tuple) else "127.0.0.1"  # else a Unix socket
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if host not in (None, "127.0.0.1", "localhost"):
        print("reached out to", host, file=sys.stderr, flush=True)
        raise OSError(f"no network in tests: {host}")

sys.addaudithook(stop)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def offline(folder: Path) -> dict[str, str]:
    """Environment of a server's process: no network, no tracing, no proxies."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(NO_WORLD)
    tracing = ("langsmith_", "langchain_", "langgraph_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if "proxy" not in name.lower() and not name.lower().startswith(tracing)
    }
    return kept | {
        "PYTHONPATH": str(folder / "site"),
        "HF_HUB_OFFLINE": "1",
        "LANGSMITH_TRACING": "false",
        "LOG_COLOR": "false",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "true",
    }


@contextmanager
def running(command: Sequence[str], port: int, folder: Path, env: dict[str, str]) -> Iterator[Path]:
    """A server's process while it listens; yields its log, which also explains a failure."""
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, f"it ended with exit code {process.returncode}"
            assert time.monotonic() < deadline, "it did not listen within two minutes"
            time.sleep(0.1)
        yield log
    except BaseException as error:
        error.add_note(f"{' '.join(command)} said:\n{log.read_text()[-6000:]}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
