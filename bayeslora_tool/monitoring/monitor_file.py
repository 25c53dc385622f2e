"""The file that a monitor's knowledge is in, and what may be read from it without a policy."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bayeslora_tool.monitoring.betting import RiskMonitor, ShiftMonitor

_TABLES = """
CREATE TABLE IF NOT EXISTS watched (
    policy TEXT PRIMARY KEY, target_risk REAL, delta REAL, period INTEGER,
    risk TEXT, shift TEXT, alarm TEXT
);
CREATE TABLE IF NOT EXISTS audits (
    policy TEXT, period INTEGER, key TEXT, wrong INTEGER, at TEXT,
    PRIMARY KEY (policy, period, key)
);
CREATE TABLE IF NOT EXISTS shifts (policy TEXT, period INTEGER, n INTEGER, log_wealth REAL);
CREATE TABLE IF NOT EXISTS resets (policy TEXT, period INTEGER, why TEXT, at TEXT);
"""


@dataclass(frozen=True)
class Status:
    """What a monitor knows.

    Attributes:
        policy: Fingerprint of the thresholds that are watched.
        target_risk: What was promised.
        delta: Probability of a false alarm of each test.
        audits: Labels so far, since the last reset.
        wrong: Those that said wrong.
        risk: ``RiskMonitor.log_wealth``.
        texts: Texts seen so far.
        shift: ``ShiftMonitor.log_wealth``.
        alarm: Why nothing proceeds; None if all is well.
    """

    policy: str
    target_risk: float
    delta: float
    audits: int
    wrong: int
    risk: float
    texts: int
    shift: float
    alarm: str | None


@contextmanager
def transaction(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection whose changes are kept together or not at all."""
    db = sqlite3.connect(file, timeout=30, isolation_level=None)
    try:
        db.row_factory = sqlite3.Row
        db.executescript(_TABLES)
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
    finally:
        db.close()


def read_file(file: str | Path) -> list[Status]:
    """What is known of every policy that the file watches.

    Raises:
        FileNotFoundError: No such file.
    """
    if not Path(file).exists():
        raise FileNotFoundError(f"no such file: {file}; `Monitor(file, policy, ...)` makes one")
    with transaction(Path(file)) as db:
        return [_status(row) for row in db.execute("SELECT * FROM watched ORDER BY policy")]


def curves(file: str | Path, policy: str) -> tuple[list[bool], list[tuple[int, float]]]:
    """Since the last reset: whether each audit was wrong, and the shift's wealth at some texts.

    Args:
        file: That exists.
        policy: A fingerprint.
    """
    with transaction(Path(file)) as db:
        (period,) = db.execute("SELECT period FROM watched WHERE policy = ?", (policy,)).fetchone()
        mine = (policy, period)
        audits = db.execute(
            "SELECT wrong FROM audits WHERE policy = ? AND period = ? ORDER BY rowid", mine
        )
        wrongs = [bool(row[0]) for row in audits]
        points = db.execute(
            "SELECT n, log_wealth FROM shifts WHERE policy = ? AND period = ? ORDER BY n", mine
        )
        return wrongs, [tuple(row) for row in points]


def label(file: str | Path, policy: str, key: str, *, wrong: bool) -> None:
    """See :meth:`~bayeslora_tool.monitoring.watch.Monitor.audited`.

    Args:
        file: That exists.
        policy: A fingerprint.
        key: Of the audit.
        wrong: Whether what proceeded was wrong.

    Raises:
        ValueError: The audit has another label already, or the file does not watch the policy.
    """
    with transaction(Path(file)) as db:
        row = _watched(db, file, policy)
        audit = (policy, row["period"], key)
        known = db.execute(
            "SELECT wrong FROM audits WHERE policy = ? AND period = ? AND key = ?", audit
        ).fetchone()
        if known is not None:
            if bool(known[0]) != wrong:
                raise ValueError(f"audit {key!r} is labelled already, the other way round")
            return
        db.execute("INSERT INTO audits VALUES (?, ?, ?, ?, ?)", (*audit, int(wrong), now()))
        risk = RiskMonitor(row["target_risk"], row["delta"])
        risk.restore(json.loads(row["risk"]))
        risk.update(wrong)
        save(db, policy, risk=risk.state())
        if risk.alarm and row["alarm"] is None:
            seen = f"{risk.wrong} of {risk.n} audits were wrong"
            trip(db, policy, f"the risk exceeds {risk.target_risk:.2%} ({seen})")


def save(db: sqlite3.Connection, policy: str, **states: dict[str, Any]) -> None:
    """Keep the state of ``risk``, ``shift`` or both."""
    for column, state in states.items():
        db.execute(
            f"UPDATE watched SET {column} = ? WHERE policy = ?",  # names of ours
            (json.dumps(state), policy),
        )


def trip(db: sqlite3.Connection, policy: str, why: str) -> None:
    """Let nothing proceed under the policy any more."""
    db.execute("UPDATE watched SET alarm = ? WHERE policy = ?", (f"{why}, {now()}", policy))


def reset(file: str | Path, policy: str, why: str) -> None:
    """See :meth:`Monitor.reset`.

    Args:
        file: That exists.
        policy: A fingerprint.
        why: Not empty.

    Raises:
        ValueError: No reason, or the file does not watch the policy.
    """
    if not why.strip():
        raise ValueError("`why` is empty; say why the policy may be trusted again")
    with transaction(Path(file)) as db:
        row = _watched(db, file, policy)
        fresh = RiskMonitor(row["target_risk"], row["delta"]), ShiftMonitor(row["delta"])
        db.execute("INSERT INTO resets VALUES (?, ?, ?, ?)", (policy, row["period"], why, now()))
        db.execute(
            "UPDATE watched SET period = period + 1, risk = ?, shift = ?, alarm = NULL "
            "WHERE policy = ?",
            (*(json.dumps(one.state()) for one in fresh), policy),
        )


def _watched(db: sqlite3.Connection, file: str | Path, policy: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM watched WHERE policy = ?", (policy,)
    ).fetchone()
    if row is None:
        raise ValueError(f"{file} does not watch policy {policy!r}")
    return row


def _status(row: sqlite3.Row) -> Status:
    risk, shift = RiskMonitor(row["target_risk"], row["delta"]), ShiftMonitor(row["delta"])
    risk.restore(json.loads(row["risk"]))
    shift.restore(json.loads(row["shift"]))
    return Status(
        policy=row["policy"],
        target_risk=row["target_risk"],
        delta=row["delta"],
        audits=risk.n,
        wrong=risk.wrong,
        risk=risk.log_wealth,
        texts=shift.n,
        shift=shift.log_wealth,
        alarm=row["alarm"],
    )


def now() -> str:
    """When it is, for whoever reads the file later."""
    return datetime.now(UTC).isoformat(timespec="seconds")
