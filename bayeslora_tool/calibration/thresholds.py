"""Thresholds, how many texts pass them, and the choice among them on the tuning texts.

Pure: knows no model and no file. What the choice is worth is tested in ``guarantee.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Shares of the tuning texts that the gates may stop, to choose among.
_VAR_GATES = (0.01, 0.02, 0.05, 0.1, 0.2)
_NOVELTY_GATES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
_STEPS = 400
_CHANCE = 0.01  # that a gate which tells nothing is taken
_NEARLY_0 = 1e-9


@dataclass(frozen=True)
class Scores:
    """What the model believed about n calibration texts, and whether it was right.

    Attributes:
        confidence: (n,), in [0, 1].
        variance: (n,), in [0, 0.25].
        novelty: (n,), in [0, 1]; None for an adapter that has none.
        sureness: (n,), in [0, 1]; None where none was fitted. Of a text that it was fitted on, what
            a fit without that text says.
        correct: (n,); an out-of-scope text is never right.
        in_scope: (n,); False for texts that no label fits.
    """

    confidence: Floats
    variance: Floats
    novelty: Floats | None
    correct: Bools
    in_scope: Bools
    sureness: Floats | None = None

    def __len__(self) -> int:
        return len(self.confidence)

    def take(self, rows: NDArray[np.intp]) -> Scores:
        """Some of the texts."""
        novelty = None if self.novelty is None else self.novelty[rows]
        sureness = None if self.sureness is None else self.sureness[rows]
        return Scores(
            self.confidence[rows],
            self.variance[rows],
            novelty,
            self.correct[rows],
            self.in_scope[rows],
            sureness,
        )


class Thresholds(NamedTuple):
    """What a text must reach to proceed; ``tau_novelty`` and ``tau_sure`` None are no gates.

    Texts are ordered by sureness where ``tau_sure`` is set, else by confidence; the ``level`` is
    the threshold of the ordering.
    """

    tau_conf: float
    tau_var: float = 0.25
    tau_novelty: float | None = None
    tau_sure: float | None = None

    @property
    def level(self) -> float:
        """Of the ordering, which a path lowers step by step."""
        return self.tau_conf if self.tau_sure is None else self.tau_sure

    def at(self, level: float) -> Thresholds:
        """The same with another level."""
        if self.tau_sure is None:
            return Thresholds(level, *self[1:])  # quicker than _replace
        return Thresholds(*self[:3], level)

    def ranked(self, scores: Scores) -> Floats:
        """(n,) What the texts are ordered by."""
        if self.tau_sure is None:
            return scores.confidence
        assert scores.sureness is not None
        return scores.sureness

    def passed(self, scores: Scores) -> Bools:
        """(n,) True where a text proceeds, as ``policy.decide`` has it."""
        passed: Bools = (scores.confidence >= self.tau_conf) & (scores.variance <= self.tau_var)
        if self.tau_novelty is not None:
            assert scores.novelty is not None
            passed = passed & (scores.novelty <= self.tau_novelty)
        if self.tau_sure is not None:
            assert scores.sureness is not None
            passed = passed & (scores.sureness >= self.tau_sure)
        return passed


def check_share(name: str, value: float | None) -> None:
    """Raise ValueError for what no test can show; None is no goal."""
    if value is not None and not 0 < value < 1:
        raise ValueError(
            f"`{name}` (={value!r}) must lie strictly between 0 and 1: no finite sample can show "
            f"0, and 1 promises nothing"
        )


@dataclass(frozen=True)
class Goal:
    """What is to be guaranteed, each with probability >= 1 - ``delta``.

    Attributes:
        target_risk: Greatest share of errors among what proceeds, in (0, 1).
        delta: Probability, over the draw of the calibration texts, that the guarantee fails.
        max_out_of_scope: Greatest share of the out-of-scope texts that proceed; None: no bound.
    """

    target_risk: float = 0.05
    delta: float = 0.05
    max_out_of_scope: float | None = None

    def __post_init__(self) -> None:
        for name in ("target_risk", "delta", "max_out_of_scope"):
            check_share(name, getattr(self, name))


def best_path(tuning: Scores, growth: float, goal: Goal, gates: Sequence[str]) -> list[Thresholds]:
    """The gates that promise the greatest coverage, and the level from surest to loosest."""
    start = ordering(tuning, gates)
    use_novelty = "novelty" in gates and tuning.novelty is not None
    best: tuple[float, list[Thresholds], Thresholds] | None = None
    for stopped in _NOVELTY_GATES if use_novelty else (0.0,):
        novelty = start._replace(tau_novelty=1 - stopped if stopped else None)
        options = [path_of(tuning, novelty)]
        if "variance" in gates:
            expected = _promise(tuning, options[0], growth, goal)[2]
            taus = [float(np.quantile(tuning.variance, 1 - share)) for share in _VAR_GATES]
            options = [
                _with_free_gate(tuning, options[0], expected),
                *(path_of(tuning, novelty._replace(tau_var=min(tau, 0.25))) for tau in taus),
            ]
        for option in options:
            coverage, path, end = _promise(tuning, option, growth, goal)
            if best is None or (
                coverage > best[0] and (best[0] <= 0 or _earns(tuning, end, best[2]))
            ):
                best = coverage, path, end
    assert best is not None
    return best[1]


def ordering(tuning: Scores, gates: Sequence[str]) -> Thresholds:
    """That all texts pass, ordered by what tells the errors of the tuning texts better.

    Sureness must be the likelier of two calibrated scores: the texts' log-likelihood by it, each
    from a fit without that text, against that of the best logistic function of the confidence. (To
    count the errors let through at some load says the same, but on a few hundred tuning texts it is
    chance: see docs/experiments.md.)
    """
    if "sureness" not in gates or tuning.sureness is None:
        return Thresholds(0.0)
    sign = np.where(tuning.correct, 1.0, -1.0)

    def loss(odds: Floats) -> float:
        return float(np.logaddexp(0, -sign * odds).mean())

    confidence, sureness = (
        special.logit(score.clip(_NEARLY_0, 1 - _NEARLY_0))
        for score in (tuning.confidence, tuning.sureness)
    )
    by_confidence = optimize.minimize(
        lambda line: loss(line[0] + max(line[1], 0.0) * confidence),
        [0.0, 1.0],
        method="Nelder-Mead",
    ).fun
    return Thresholds(0.0, tau_sure=0.0) if loss(sureness) < by_confidence else Thresholds(0.0)


def _with_free_gate(
    tuning: Scores, path: Sequence[Thresholds], expected: Thresholds
) -> list[Thresholds]:
    """Tau_var well over the variance of tuning texts that proceed there, or where it should end.

    It stops next to nothing that proceeds, and parts what is unsteady from what is merely unsure.
    """
    ranked = path[-1].ranked(tuning)
    order = np.argsort(-ranked, kind="stable")
    gated = path[-1].at(-np.inf).passed(tuning)
    highest = np.maximum.accumulate(np.where(gated, tuning.variance, 0.0)[order])
    least = float(tuning.variance[expected.passed(tuning)].max(initial=0.0))
    levels = np.array([thresholds.level for thresholds in path])
    n_sure = np.searchsorted(-ranked[order], -levels, side="right")
    return [
        step._replace(tau_var=min(2 * max(float(highest[n - 1]), least), 0.25))
        for step, n in zip(path, n_sure, strict=True)
    ]


def _earns(tuning: Scores, gate: Thresholds, before: Thresholds) -> bool:
    """Whether a further gate stops more errors than a stricter level would (sign test).

    Where it does not, chance alone would choose one among many, and cost coverage.
    """
    passed = gate.passed(tuning)
    ranked = np.where(before.at(0.0).passed(tuning), before.ranked(tuning), -1.0)
    equal = np.zeros_like(passed)
    equal[np.argsort(-ranked, kind="stable")[: passed.sum()]] = True
    stopped = int((equal & ~passed & ~tuning.correct).sum())
    let_in = int((passed & ~equal & ~tuning.correct).sum())
    return float(stats.binom.sf(stopped - 1, stopped + let_in, 0.5)) < _CHANCE


def _promise(
    tuning: Scores, path: list[Thresholds], growth: float, goal: Goal
) -> tuple[float, list[Thresholds], Thresholds]:
    """Coverage that the testing texts should show, the path to walk, and where it should end.

    The coverage is negative, and the greater the nearer, where nothing promises to pass.
    """
    p = p_values(tuning, path, goal, growth=growth)
    # Where a test has the most power; one more error guards against a lucky few.
    start = int(p_values(tuning, path, goal, growth=growth, more_wrong=1).argmin())
    if p[start] > goal.delta:
        return -float(p[start]), path[start:], path[start]
    fails = np.flatnonzero(p[start:] > goal.delta)
    reached = start + (int(fails[0]) if len(fails) else len(path) - start) - 1
    tally = _tally(tuning, path)
    inside = tally.passed[reached] - tally.slipped[reached]
    return float(inside / tuning.in_scope.sum()), path[start:], path[reached]


def path_of(tuning: Scores, gate: Thresholds) -> list[Thresholds]:
    """``gate`` with its level at quantiles of what passes it, surest first."""
    ranked = gate.ranked(tuning)[gate.passed(tuning)]
    if not len(ranked):
        return [gate]
    levels = np.unique(np.quantile(ranked, np.linspace(0, 1, _STEPS)))[::-1]
    return [gate.at(level) for level in levels.tolist()]


def p_values(
    scores: Scores,
    path: Sequence[Thresholds],
    goal: Goal,
    *,
    growth: float = 1.0,
    more_wrong: int = 0,
) -> Floats:
    """Of the hypothesis that the goal is missed, at each step of a path; exact for ``growth`` 1.

    Args:
        scores: Of the texts that testify.
        path: Thresholds of one ordering with one ``tau_novelty``, the level falling and ``tau_var``
            not.
        goal: Its parts must all be kept, so the greatest of their p-values counts.
        growth: Pretend that there were so many times more texts with the same shares.
        more_wrong: Pretend that so many more of what proceeds were wrong.
    """
    tally = _tally(scores, path)
    p = _binomial_cdf((tally.wrong + more_wrong) * growth, tally.passed * growth, goal.target_risk)
    if goal.max_out_of_scope is not None:
        outside = np.full(len(path), (~scores.in_scope).sum() * growth)
        p = np.maximum(p, _binomial_cdf(tally.slipped * growth, outside, goal.max_out_of_scope))
    return p


class _Tally(NamedTuple):
    """How many texts proceed at each step of a path, and how many of those should not."""

    passed: NDArray[np.intp]
    wrong: NDArray[np.intp]
    slipped: NDArray[np.intp]  # out of scope


def _tally(scores: Scores, path: Sequence[Thresholds]) -> _Tally:
    # Later steps are looser, so a text that passes one passes all after it.
    sure = np.searchsorted([-step.level for step in path], -path[-1].ranked(scores))
    steady = np.searchsorted([step.tau_var for step in path], scores.variance)
    first = np.maximum(sure, steady)
    ever = path[-1].passed(scores)

    def count(which: Bools) -> NDArray[np.intp]:
        return np.bincount(first[ever & which], minlength=len(path)).cumsum()

    return _Tally(count(np.ones_like(ever)), count(~scores.correct), count(~scores.in_scope))


def _binomial_cdf(k: NDArray[Any], n: NDArray[Any], p: float) -> Floats:
    """Of a binomial, continued to fractional counts by the incomplete beta function; 1 at k = n."""
    with np.errstate(invalid="ignore"):
        value = special.betainc(n - k, k + 1, 1 - p)
    return np.where(k >= n, 1.0, value)
