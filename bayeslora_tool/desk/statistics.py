"""What a ledger says of its desk. Reads it at one moment, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bayeslora_tool.desk.answer import said
from bayeslora_tool.desk.figures import (
    Agreed,
    AuditedRisk,
    Outcome,
    Settled,
    Voted,
    Waited,
    agreed,
    agreed_in_pairs,
    audited,
    by_name,
    outcome_of,
    per_day,
    waited,
)
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.desk.states import UNDECIDED, State
from bayeslora_tool.desk.tables import REVIEWS

_SETTLED: tuple[State, ...] = ("decided", "applied", "expired")
_MOST_DAYS = 3660
_COLUMNS = (
    "id", "group", "policy", "label", "request", "votes", "decision", "reviewer_label",
    "decided_by", "created", "decided_at", "audit",
)  # fmt: skip


@dataclass(frozen=True)
class Statistics:
    """Figures of one ledger; those of audits are of all time, the others of the last days.

    Attributes:
        days: By date (UTC) and outcome, each day of the period.
        waited: All reviews that a person decided.
        waited_by: By reviewer.
        waited_in: By group; None: those for everybody.
        agreed: The reviewers' labels with the model's.
        agreed_by: By reviewer.
        pairs: Two reviewers about the same review, by their names.
        risks: Audits by policy.
        target_risk: What ``risks`` bet against.
        delta: Probability with which a bound or an alarm may be wrong.
    """

    days: Mapping[str, Mapping[Outcome, int]]
    waited: Waited
    waited_by: Mapping[str, Waited]
    waited_in: Mapping[str | None, Waited]
    agreed: Agreed
    agreed_by: Mapping[str, Agreed]
    pairs: Mapping[tuple[str, str], Agreed]
    risks: Sequence[AuditedRisk]
    target_risk: float
    delta: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: what is by group or by pair is a list."""
        return asdict(self) | {
            "waited_in": [{"group": g} | asdict(one) for g, one in self.waited_in.items()],
            "pairs": [
                {"reviewers": list(names)} | asdict(one) for names, one in self.pairs.items()
            ],
        }


def statistics(
    ledger: Ledger,
    *,
    days: int = 30,
    groups: Collection[str] | None = None,
    target_risk: float = 0.05,
    delta: float = 0.05,
) -> Statistics:
    """Count what happened at a desk.

    Args:
        ledger: Its own.
        days: Of the period, which ends now; > 0. Audits are those of all time: a test that may be
            looked at whenever one likes begins once.
        groups: Whose reviews, beside those for everybody; None: all.
        target_risk: What was promised of what proceeds, in (0, 1).
        delta: Probability with which the bound, or the alarm, of a policy may be wrong; in (0, 1).

    Raises:
        LedgerError: The ledger does not answer.
        ValueError: One out of range.
    """
    if not 0 < days <= _MOST_DAYS:
        raise ValueError(f"`days` (={days!r}) must be in [1, {_MOST_DAYS}]")

    def work(c: Connection) -> _Read:
        return _read(c, ledger.store.now(c), days, groups)

    ledger.keep_time()
    read = ledger.store.read(work)
    people = [one for one in read.settled if one.by is not None]
    return Statistics(
        days=per_day(read.settled, read.since, read.until),
        waited=waited(people),
        waited_by={name: waited(some) for name, some in by_name(people, _who).items()},
        waited_in={name: waited(some) for name, some in by_name(people, _group).items()},
        agreed=agreed(people),
        agreed_by={name: agreed(some) for name, some in by_name(people, _who).items()},
        pairs=agreed_in_pairs(read.votes),
        risks=audited(read.audits, read.unlabelled, target_risk=target_risk, delta=delta),
        target_risk=target_risk,
        delta=delta,
    )


class _Read(NamedTuple):
    since: int
    until: int
    settled: list[Settled]
    votes: list[Voted]
    audits: list[Settled]
    unlabelled: Mapping[str | None, int]


def _read(c: Connection, now: int, days: int, groups: Collection[str] | None) -> _Read:
    day = 86_400_000
    since = (now // day - days + 1) * day  # whole days, of which today is one
    visible: Any = sa.true()
    if groups is not None:
        visible = sa.or_(REVIEWS.c.group.is_(None), REVIEWS.c.group.in_(groups))
    over = REVIEWS.c.state.in_(_SETTLED) & visible
    settled: list[Settled] = []
    votes: list[Voted] = []
    recent = sa.and_(over, ~REVIEWS.c.audit, REVIEWS.c.decided_at >= since)
    for row in _rows(c, recent):
        settled.append(_settled(row))
        votes += _votes(row)
    audits = [_settled(row) for row in _rows(c, over & REVIEWS.c.audit)]
    waiting = (
        sa.select(REVIEWS.c.policy, sa.func.count().label("n"))
        .where(REVIEWS.c.audit, visible, REVIEWS.c.state.in_(UNDECIDED))
        .group_by(REVIEWS.c.policy)
    )
    unlabelled = {row.policy: row.n for row in c.execute(waiting)}
    return _Read(since, now, settled, votes, audits, unlabelled)


def _rows(c: Connection, where: Any) -> Iterator[sa.RowMapping]:
    query = sa.select(*(REVIEWS.c[name] for name in _COLUMNS)).where(where)
    # What a reviewer was shown may be long: some rows at a time.
    return iter(c.execute(query.execution_options(yield_per=500)).mappings())


def _settled(row: sa.RowMapping) -> Settled:
    nobody = row["decided_by"] is None
    return Settled(
        outcome="expired" if nobody else outcome_of(row["decision"]),
        by=row["decided_by"],
        group=row["group"],
        policy=row["policy"],
        label=row["label"],
        given=None if nobody else row["reviewer_label"],
        filed=row["created"],
        decided=row["decided_at"],
        audit=row["audit"],
    )


def _votes(row: sa.RowMapping) -> Iterator[Voted]:
    """Of a review that several were asked about, each one's word; the last one decided."""
    before = json.loads(row["votes"] or "[]")
    if not before:
        return
    request = json.loads(row["request"])
    words = [(vote["by"], said(request, vote["answer"])) for vote in before]
    for by, word in words:
        if word is not None:
            yield Voted(row["id"], by, word.label or word.decision)
    if row["decided_by"] is not None and row["decision"] is not None:
        yield Voted(row["id"], row["decided_by"], row["reviewer_label"] or row["decision"])


def _who(one: Settled) -> str:
    return one.by or ""


def _group(one: Settled) -> str | None:
    return one.group
