"""Graphs at a desk, on checkpointers that other processes may open, and what they did."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bayeslora_tool.graphs.runs import start
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from bayeslora_tool.desk.desk import Desk
from bayeslora_tool.desk.ledger import Ledger
from tests.fakes import FakeClassifier, by_words
from tests.graphs.desk import build, on


class Scene:
    """A desk that watches an escalation graph, whose action is noted.

    Args:
        ledger: Of the desk.
        saver: The graph's checkpointer.
        act: The action, in place of noting it.
        options: Of ``Desk``, and of ``watch``.
    """

    def __init__(
        self,
        ledger: Ledger,
        saver: Any = None,
        act: Callable[[Any], Any] | None = None,
        *,
        lease: float = 60.0,
        **options: Any,
    ) -> None:
        self.acted: list[Any] = []
        self.ledger = ledger
        self.desk = Desk(ledger, lease=lease)
        graph = build(
            FakeClassifier(by_words), saver=saver or InMemorySaver(), act=act or self.acted.append
        )
        self.plain = graph
        self.graph: Any = self.desk.watch(graph, name="escalation", **options)

    def ask(self, thread: object = 1, text: str = "odd") -> str:
        """Start a run that needs a reviewer; the id of the review."""
        start(self.graph, {"text": text}, on(thread))
        (review,) = self.ledger.reviews("open", thread=str(thread))
        return review.id

    def outcome(self, thread: object = 1) -> Any:
        return self.graph.get_state(on(thread)).values.get("outcome")


class Effects:
    """What actions did, by their key: the side effect that must come once."""

    def __init__(
        self, file: str | Path, moment: float = 0.0, begins: Callable[[], None] = lambda: None
    ) -> None:
        self.file, self.moment = str(file), moment  # seconds to die in, before and after it
        self.begins = begins
        with self._open() as db:
            db.execute("CREATE TABLE IF NOT EXISTS begun (key TEXT, label TEXT)")
            db.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, label, reviewer)")

    def act(self, outcome: Any) -> str:
        with self._open() as db:
            db.execute("INSERT INTO begun VALUES (?, ?)", (outcome["key"], outcome["label"]))
        self.begins()
        time.sleep(self.moment)
        with self._open() as db:
            db.execute(
                "INSERT OR IGNORE INTO done VALUES (?, ?, ?)",
                (outcome["key"], outcome["label"], outcome["reviewer"]),
            )
        time.sleep(self.moment)
        return "done"

    def begun(self) -> list[str]:
        with self._open() as db:
            return [key for (key,) in db.execute("SELECT key FROM begun")]

    def done(self) -> dict[str, tuple[str, str]]:
        """Label and reviewer, by key."""
        with self._open() as db:
            return {key: (label, by) for key, label, by in db.execute("SELECT * FROM done")}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.file, timeout=30)
        try:
            db.execute("PRAGMA synchronous=OFF")
            with db:
                yield db
        finally:
            db.close()


@contextmanager
def opened(
    place: str,
    folder: Path,
    *,
    moment: float = 0.0,
    begins: Callable[[], None] = lambda: None,
    **options: Any,
) -> Iterator[Scene]:
    """A scene whose threads are in a file: each process opens its own."""
    effects = Effects(folder / "effects.sqlite", moment, begins)
    with (
        SqliteSaver.from_conn_string(str(folder / "threads.sqlite")) as saver,
        Ledger(place, patience=30) as ledger,
    ):
        saver.conn.execute("PRAGMA busy_timeout=30000")
        saver.conn.execute("PRAGMA synchronous=OFF")  # for power cuts, which kill -9 is not
        yield Scene(ledger, saver, effects.act, **options)
