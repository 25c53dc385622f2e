"""Children that work at one desk at once, and may be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


class Child:
    """A fork that does some work and ends; ``ready`` is to be called when the work begins."""

    def __init__(self, work: Callable[[Callable[[], None]], None]) -> None:
        self._began, says = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(says)
            return
        try:
            os.close(self._began)
            work(lambda: os.write(says, b".") and None)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(0)

    def wait_until_ready(self) -> None:
        """Returns also if the child has ended."""
        os.read(self._began, 1)

    def kill(self) -> bool:
        """Whether there was anything to kill."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait(0) == -signal.SIGKILL

    def wait(self, seconds: float = 100) -> int:
        """Its exit code."""
        ends = time.monotonic() + seconds
        while seconds and time.monotonic() < ends:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                break
            time.sleep(0.005)
        else:
            if seconds:
                os.kill(self.pid, signal.SIGKILL)
            status = os.waitpid(self.pid, 0)[1]
        os.close(self._began)
        return os.waitstatus_to_exitcode(status)


class Diary:
    """Lines that several processes write, each whole, and that outlive them."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, *words: str) -> None:
        with self.file.open("a", encoding="ascii") as file:
            file.write("\t".join(words) + "\n")

    def lines(self, kind: str) -> list[list[str]]:
        if not self.file.exists():
            return []
        rows = [line.split("\t") for line in self.file.read_text(encoding="ascii").splitlines()]
        return [row[1:] for row in rows if row[0] == kind]
