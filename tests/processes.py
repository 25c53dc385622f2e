"""Processes of their own, to fork and to end in."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

from tests.conftest import ROOT

ROUNDS = 50


def run_program(source: str, *arguments: str, **environment: str) -> str:
    """What a Python program prints; it may import the tests, and must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def forked(child: Callable[[], object], seconds: float = 30) -> bool:
    """Whether a forked child comes to its end, with something true, in time."""
    pid = os.fork()
    if pid == 0:
        try:
            good = bool(child())
        finally:
            os._exit(not good)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status == 0
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


def in_children_that_end(rounds: int) -> int | None:
    """The number of the round, in a child that shall end as programs do; in the parent, None.

    The parent says how many rounds it was, and raises if one did not end well.
    """
    gc.freeze()  # what the parent loaded, each child would pick apart as it ends
    for i in range(rounds):
        pid = os.fork()
        if pid == 0:
            return i
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 0, f"round {i} ended with exit code {code}"
    print(rounds)
    return None
