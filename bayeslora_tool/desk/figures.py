"""Figures of settled reviews: how many, how soon, and who agrees with whom. Knows no ledger.

Of audits, what proceeded without a person and was drawn at random for one to label, comes the risk
of what proceeds; of their order in time, the evidence against a promised risk, as
:class:`~bayeslora_tool.monitoring.RiskMonitor` counts it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from scipy.special import betaincinv

from bayeslora_tool.monitoring.betting import RiskMonitor

N = TypeVar("N", str, str | None)

Outcome = Literal["approved", "edited", "rejected", "responded", "other", "expired"]
"""What became of a review. ``other``: of several calls not the same of each, or an answer of the
graph's own kind."""

OUTCOMES: tuple[Outcome, ...] = (
    "approved", "edited", "rejected", "responded", "other", "expired",
)  # fmt: skip
_NAMES: Mapping[str, Outcome] = {
    "approve": "approved",
    "edit": "edited",
    "reject": "rejected",
    "respond": "responded",
}


class Settled(NamedTuple):
    """A review that was decided or has expired, as far as figures need it."""

    outcome: Outcome
    by: str | None
    """None where nobody decided."""

    group: str | None
    policy: str | None
    label: str | None
    """The model's."""

    given: str | None
    """The reviewer's; None where they named none."""

    filed: int
    """Milliseconds since 1970, as ``decided``."""

    decided: int
    audit: bool = False


class Voted(NamedTuple):
    """One person's word of a review that two were asked about."""

    review: str
    by: str
    word: str
    """The label that they gave; their decision where they gave none."""


@dataclass(frozen=True)
class Waited:
    """How long reviews waited for a person's decision.

    Attributes:
        n: Number of reviews.
        median: Seconds; None of none.
        p90: Seconds within which nine in ten were decided.
    """

    n: int
    median: float | None
    p90: float | None


@dataclass(frozen=True)
class Agreed:
    """How often two said the same.

    Attributes:
        n: Reviews in which both named something.
        same: Those in which it was the same.
        kappa: Cohen's, agreement beyond what chance gives two who answer as often as these do
            (1960); None where chance alone agrees always, and between a model and a person, whom
            the gate shows only what the model doubts.
    """

    n: int
    same: int
    kappa: float | None = None


@dataclass(frozen=True)
class AuditedRisk:
    """The risk of what proceeds under one policy.

    Attributes:
        policy: Fingerprint; None where the graph names none.
        n: Audits that a person has labelled.
        wrong: Those of them whose call was not right.
        unlabelled: Audits that wait, or were settled without a label.
        bound: Upper confidence bound of the risk (Clopper & Pearson 1934), for audits drawn at one
            rate; 1 without audits.
        evidence: ``log_wealth`` after each labelled audit in the order of their labels.
        alarm: Whether the evidence has ever reached ``1 / delta``.
    """

    policy: str | None
    n: int
    wrong: int
    unlabelled: int
    bound: float
    evidence: Sequence[float]
    alarm: bool


def outcome_of(decision: str | None) -> Outcome:
    """What a decision, or several with commas between them, makes of a review."""
    said = set((decision or "").split(", "))
    return _NAMES.get(said.pop(), "other") if len(said) == 1 else "other"


def per_day(settled: Iterable[Settled], since: int, until: int) -> dict[str, dict[Outcome, int]]:
    """Outcomes of each day, also where there are none.

    Args:
        settled: Any; audits, which decide nothing, and what lies outside are left out.
        since: Milliseconds since 1970.
        until: As ``since``, and later.
    """
    day = 86_400_000
    dates = [_date(day * n) for n in range(since // day, until // day + 1)]
    counts: dict[str, dict[Outcome, int]] = {date: dict.fromkeys(OUTCOMES, 0) for date in dates}
    for one in settled:
        if not one.audit and since <= one.decided <= until:
            counts[_date(one.decided)][one.outcome] += 1
    return counts


def waited(settled: Iterable[Settled]) -> Waited:
    """From filing to decision, of those that a person decided."""
    seconds = [(one.decided - one.filed) / 1000 for one in settled if one.by is not None]
    if not seconds:
        return Waited(0, None, None)
    median, p90 = np.percentile(seconds, [50, 90])
    return Waited(len(seconds), float(median), float(p90))


def agreed(settled: Iterable[Settled]) -> Agreed:
    """Of the labels that people gave, how many are the model's; audits are another matter."""
    both = [one.label == one.given for one in settled if not one.audit and one.label and one.given]
    return Agreed(len(both), sum(both))


def agreed_in_pairs(votes: Iterable[Voted]) -> dict[tuple[str, str], Agreed]:
    """How each two who voted on the same reviews agree."""
    of_review: dict[str, dict[str, str]] = defaultdict(dict)
    for vote in votes:
        of_review[vote.review][vote.by] = vote.word
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for words in of_review.values():
        names = sorted(words)
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                pairs[one, other].append((words[one], words[other]))
    return {names: _kappa(said) for names, said in sorted(pairs.items())}


def upper_bound(wrong: int, n: int, delta: float) -> float:
    """Of a probability by Clopper and Pearson: below the truth with probability ``delta`` at most.

    Args:
        wrong: Of ``n`` independent tries, in [0, n].
        n: >= 0.
        delta: In (0, 1).
    """
    return 1.0 if wrong >= n else float(betaincinv(wrong + 1, n - wrong, 1 - delta))


def audited(
    audits: Iterable[Settled],
    unlabelled: Mapping[str | None, int],
    *,
    target_risk: float,
    delta: float,
) -> list[AuditedRisk]:
    """The risk of what proceeds, by policy.

    Args:
        audits: Settled ones, in any order.
        unlabelled: By policy, audits that wait for a person.
        target_risk: What was promised, in (0, 1).
        delta: In (0, 1).

    Raises:
        ValueError: One out of range.
    """
    found: dict[str | None, list[Settled]] = {policy: [] for policy in unlabelled}
    nobody: Counter[str | None] = Counter(unlabelled)
    RiskMonitor(target_risk, delta)  # is the only one to know what will do
    for one in sorted(audits, key=lambda one: one.decided):
        mine = found.setdefault(one.policy, [])
        if one.by is None:
            nobody[one.policy] += 1
        else:
            mine.append(one)
    risks = []
    for policy, labelled in sorted(found.items(), key=lambda item: item[0] or ""):
        bets = RiskMonitor(target_risk, delta)
        evidence = [bets.update(was_wrong(one.outcome, one.given, one.label)) for one in labelled]
        risks.append(
            AuditedRisk(
                policy=policy,
                n=bets.n,
                wrong=bets.wrong,
                unlabelled=nobody[policy],
                bound=upper_bound(bets.wrong, bets.n, delta),
                evidence=evidence,
                alarm=bets.alarm,
            )
        )
    return risks


def was_wrong(outcome: Outcome, given: str | None, label: str | None) -> bool:
    """Whether a person says of what was done without them that it was not right.

    Args:
        outcome: Of the audit.
        given: Their label; None where they named none.
        label: The model's.
    """
    return outcome != "approved" and (given is None or given != label)


def by_name(settled: Iterable[Settled], what: Callable[[Settled], N]) -> dict[N, list[Settled]]:
    """Sorted into those of each name, in alphabetical order, None first.

    Args:
        settled: Any.
        what: Gives the name of one.
    """
    found: dict[N, list[Settled]] = defaultdict(list)
    for one in settled:
        found[what(one)].append(one)
    return dict(sorted(found.items(), key=lambda item: (item[0] is not None, item[0] or "")))


def _kappa(said: Sequence[tuple[str, str]]) -> Agreed:
    n, same = len(said), sum(one == other for one, other in said)
    ones, others = (Counter(words) for words in zip(*said, strict=True))
    by_chance = sum(ones[word] * others[word] for word in ones) / n**2
    kappa = None if by_chance >= 1 else (same / n - by_chance) / (1 - by_chance)
    return Agreed(n, same, kappa)


def _date(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d}"
