"""A policy under watch: what the monitors know, in a file that processes share, and the trip.

Each call is one transaction of SQLite, so a restart or a second process goes on where the file is.
"""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayeslora_tool.monitoring.betting import RiskMonitor, ShiftMonitor
from bayeslora_tool.monitoring.monitor_file import (
    Status,
    label,
    read_file,
    reset,
    save,
    transaction,
    trip,
)
from bayeslora_tool.policy import Policy, policy_fingerprint
from bayeslora_tool.prediction import Prediction

_EACH = 20  # texts between two points of the shift's curve


class TrippedError(RuntimeError):
    """The promise may no longer hold, so nothing may proceed."""


class Monitor:
    """Watches one policy: its risk by the labels of audits, and its texts by their signals.

    An alarm trips the policy: whatever :meth:`watch` gave raises :class:`TrippedError` from then
    on, and what cannot be scored escalates, in tool, gates and graphs alike. New thresholds begin
    anew; for the same ones, :meth:`reset` does.

    Args:
        file: SQLite file; made if missing. Several processes may use it.
        policy: Its thresholds are watched; ``audit_rate`` is none of them.
        target_risk: What was promised, in (0, 1).
        delta: Probability of a false alarm of each of the two tests, in (0, 1).
        trips_on_shift: Whether a shift alone trips the policy, or is told by :meth:`status` only.

    Raises:
        ValueError: One out of range, or the file says another ``target_risk`` or ``delta``.
        sqlite3.Error: The file cannot be used.
    """

    def __init__(
        self,
        file: str | Path,
        policy: Policy,
        *,
        target_risk: float,
        delta: float = 0.05,
        trips_on_shift: bool = True,
    ) -> None:
        self.file = Path(file)
        self.policy = policy_fingerprint(replace(policy, audit_rate=0.0))
        self.target_risk, self.delta = target_risk, delta
        self.trips_on_shift = trips_on_shift
        fresh = RiskMonitor(target_risk, delta), ShiftMonitor(delta)
        with transaction(self.file) as db:
            db.execute(
                "INSERT OR IGNORE INTO watched VALUES (?, ?, ?, 0, ?, ?, NULL)",
                (self.policy, target_risk, delta, *(json.dumps(one.state()) for one in fresh)),
            )
            said = db.execute(
                "SELECT target_risk, delta FROM watched WHERE policy = ?", (self.policy,)
            ).fetchone()
        if tuple(said) != (target_risk, delta):
            raise ValueError(
                f"`target_risk` and `delta` are {target_risk} and {delta}, but {file} watches this "
                f"policy for {said[0]} and {said[1]}; give those, or another file"
            )

    def watch(self, classifier: Any) -> Watched:
        """The classifier to give to gates, graphs and tools: observed, and stopped when tripped.

        Args:
            classifier: Anything with ``predict(texts) -> list[Prediction]``; over acts, if it is to
                be (``for_acts``).
        """
        return Watched(classifier, self)

    def learn(self, predictions: Sequence[Prediction]) -> None:
        """Take in texts of the calibration: what comes later is compared with them, too."""
        with self._opened() as (_, _, shift):
            for one in predictions:
                if math.isfinite(one.confidence):
                    shift.learn(one.confidence, one.novelty)

    def observe(self, predictions: Sequence[Prediction]) -> None:
        """Take in texts that were scored.

        Raises:
            TrippedError: The policy is tripped, now or before.
        """
        with self._opened() as (db, row, shift):
            for one in predictions:
                if not math.isfinite(one.confidence):  # escalates, and says nothing of the texts
                    continue
                shift.update(one.confidence, one.novelty)
                if shift.n % _EACH == 0:
                    point = (self.policy, row["period"], shift.n, shift.log_wealth)
                    db.execute("INSERT INTO shifts VALUES (?, ?, ?, ?)", point)
            if shift.alarm and self.trips_on_shift and row["alarm"] is None:
                trip(db, self.policy, f"the texts have shifted (after {shift.n} of them)")
        self.check()

    def audited(self, key: str, *, wrong: bool) -> None:
        """Take in the label of one audit; the same label of the same one again changes nothing.

        Args:
            key: ``outcome["key"]``, or that of the gate's event.
            wrong: Whether what proceeded was wrong.

        Raises:
            ValueError: The audit has another label already.
        """
        label(self.file, self.policy, key, wrong=wrong)

    def check(self) -> None:
        """Do nothing, as long as the policy is not tripped.

        Raises:
            TrippedError: It is.
        """
        with transaction(self.file) as db:
            alarm = self._row(db)["alarm"]
        if alarm is not None:
            raise TrippedError(
                f"the promise may no longer hold: {alarm}. Nothing proceeds until the policy is "
                f"calibrated again, or `bayeslora monitor {self.file} --reset WHY`"
            )

    def reset(self, why: str) -> None:
        """Begin anew with the same thresholds; what was seen so far stays in the file.

        Args:
            why: For whoever reads the file later.
        """
        reset(self.file, self.policy, why)

    def status(self) -> Status:
        """What is known now."""
        (found,) = (one for one in read_file(self.file) if one.policy == self.policy)
        return found

    @contextmanager
    def _opened(self) -> Iterator[tuple[sqlite3.Connection, sqlite3.Row, ShiftMonitor]]:
        """The shift's monitor, whose state is saved at the end."""
        with transaction(self.file) as db:
            row = self._row(db)
            shift = ShiftMonitor(self.delta)
            shift.restore(json.loads(row["shift"]))
            yield db, row, shift
            save(db, self.policy, shift=shift.state())

    def _row(self, db: sqlite3.Connection) -> sqlite3.Row:
        found = db.execute("SELECT * FROM watched WHERE policy = ?", (self.policy,)).fetchone()
        if found is None:
            raise ValueError(f"{self.file} no longer watches this policy; make the Monitor anew")
        row: sqlite3.Row = found
        return row


class Watched:
    """A classifier that a monitor observes; once that is tripped, it scores nothing any more."""

    def __init__(self, classifier: Any, monitor: Monitor) -> None:
        self._classifier = classifier
        self._monitor = monitor

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """As the classifier, unless the policy is tripped."""
        self._monitor.check()
        predictions: list[Prediction] = self._classifier.predict(texts)
        self._monitor.observe(predictions)
        return predictions

    async def _apredict(self, texts: Sequence[str]) -> list[Prediction]:
        await asyncio.to_thread(self._monitor.check)
        predictions: list[Prediction] = await self._classifier.apredict(texts)
        await asyncio.to_thread(self._monitor.observe, predictions)
        return predictions

    def __getattr__(self, name: str) -> Any:
        # Not `for_acts`: what it gives would not be watched.
        if name in ("labels", "act_of", "scored_by"):
            return getattr(self._classifier, name)
        if name == "apredict" and hasattr(self._classifier, name):
            return self._apredict
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
