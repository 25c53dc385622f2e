"""Thresholds with a guarantee, from scores of labelled texts. Pure: knows no model and no file.

Learn then Test (Angelopoulos, Bates, Candes, Jordan, Lei 2021, arXiv 2110.01052). The texts are
split at random. On the first part the gates (tau_var, tau_novelty) and a path of tau_conf, from the
surest to the loosest, are chosen; on the second part the path is walked (fixed-sequence testing),
each step by an exact binomial test of

    H: P(wrong | proceeds) > target,    p = P(Bin(n, target) <= k),

for k wrong among the n that proceed. The walk stops at the first step with p > delta, so the
probability that any accepted step violates the target is at most delta, whatever was looked at on
the first part: the choice among all three thresholds costs nothing on the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TUNING_SHARE = 1 / 4
# Shares of the tuning texts that the gates may stop, to choose among.
_VAR_GATES = (0.01, 0.02, 0.05, 0.1, 0.2)
_NOVELTY_GATES = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1)
_STEPS = 400
_CHANCE = 0.03  # that a gate which tells nothing is taken


@dataclass(frozen=True)
class Scores:
    """What the model believed about n calibration texts, and whether it was right.

    Attributes:
        confidence: (n,), in [0, 1].
        variance: (n,), in [0, 0.25].
        novelty: (n,), in [0, 1]; None for an adapter that has none.
        correct: (n,); an out-of-scope text is never right.
        in_scope: (n,); False for texts that no label fits.
    """

    confidence: Floats
    variance: Floats
    novelty: Floats | None
    correct: Bools
    in_scope: Bools

    def __len__(self) -> int:
        return len(self.confidence)

    def take(self, rows: NDArray[np.intp]) -> Scores:
        """Some of the texts."""
        novelty = None if self.novelty is None else self.novelty[rows]
        return Scores(
            self.confidence[rows],
            self.variance[rows],
            novelty,
            self.correct[rows],
            self.in_scope[rows],
        )


class Thresholds(NamedTuple):
    """What a text must reach to proceed; ``tau_novelty`` None is no gate."""

    tau_conf: float
    tau_var: float = 0.25
    tau_novelty: float | None = None

    def passed(self, scores: Scores) -> Bools:
        """(n,) True where a text proceeds, as ``policy.decide`` has it."""
        passed: Bools = (scores.confidence >= self.tau_conf) & (scores.variance <= self.tau_var)
        if self.tau_novelty is not None:
            assert scores.novelty is not None
            passed = passed & (scores.novelty <= self.tau_novelty)
        return passed


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
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(
                    f"`{name}` (={value!r}) must lie strictly between 0 and 1: no finite sample "
                    f"can show 0, and 1 promises nothing"
                )


@dataclass(frozen=True)
class Result:
    """Thresholds and what the testing texts show about them.

    Attributes:
        thresholds: Guaranteed if ``feasible``; otherwise the surest that were tried.
        feasible: Whether the goal is reached.
        coverage: Share of the in-scope testing texts that proceed.
        risk: Share of errors among the testing texts that proceed.
        risk_bound: Upper confidence bound of the risk at 1 - delta (Clopper-Pearson).
        out_of_scope: Share of the out-of-scope testing texts that proceed; None without such.
        n_tuning: Texts that the gates and the path were chosen on.
        n_testing: Texts that the guarantee rests on.
        more_labels: If infeasible, about how many more labels would reach the goal should the
            shares stay as observed; None if no number would.
    """

    thresholds: Thresholds
    feasible: bool
    coverage: float
    risk: float
    risk_bound: float
    out_of_scope: float | None
    n_tuning: int
    n_testing: int
    more_labels: int | None = None


def calibrate(
    scores: Scores, goal: Goal, *, seed: int = 0, gates: Sequence[str] = ("variance", "novelty")
) -> Result:
    """Thresholds of the greatest coverage that keep the goal with probability >= 1 - delta.

    The guarantee is over the draw of the calibration texts. It covers texts drawn independently
    from the same source; not another source (shift), not texts that hang together (one user's,
    one thread's), and not thresholds that were chosen by looking at the same texts before.

    Args:
        scores: Of the calibration texts, which neither trained the adapter nor chose its epoch.
        goal: See :class:`Goal`.
        seed: Of the split.
        gates: Which gates may be used besides the confidence.

    Raises:
        ValueError: Fewer than 30 texts; a bound on out-of-scope texts without such texts.
    """
    if len(scores) < 30:
        raise ValueError(f"{len(scores)} calibration texts; at least 30 are needed, better 1,000")
    if goal.max_out_of_scope is not None and scores.in_scope.all():
        raise ValueError("`max_out_of_scope` is set, but no calibration text is out of scope")
    order = np.random.default_rng(seed).permutation(len(scores))
    cut = round(len(scores) * TUNING_SHARE)
    tuning, testing = scores.take(order[:cut]), scores.take(order[cut:])
    path = _best_path(tuning, len(testing) / len(tuning), goal, gates)

    fails = np.flatnonzero(p_values(testing, path, goal) > goal.delta)
    steps = int(fails[0]) if len(fails) else len(path)
    accepted = path[steps - 1] if steps else None
    result = _observed(testing, accepted or path[0], goal, n_tuning=len(tuning))
    if accepted is not None:
        return result
    # Not reached: report where the bound on the risk is lowest.
    best = min((_observed(testing, t, goal, len(tuning)) for t in path), key=lambda r: r.risk_bound)
    return replace(best, feasible=False, more_labels=_more_labels(testing, best, goal))


def calibrate_load(scores: Scores, *, max_escalation: float, delta: float, seed: int = 0) -> Result:
    """The surest thresholds that stop at most a given share of texts, with confidence 1 - delta.

    The reviewers' load is capped instead of the risk: whatever does not proceed counts. The path is
    walked from the loosest thresholds to the surest, each step a binomial test of
    ``H: P(stops) > max_escalation``.

    Raises:
        ValueError: A share outside (0, 1), or fewer than 30 texts.
    """
    goal = Goal(max_escalation, delta)
    if len(scores) < 30:
        raise ValueError(f"{len(scores)} calibration texts; at least 30 are needed, better 1,000")
    order = np.random.default_rng(seed).permutation(len(scores))
    cut = round(len(scores) * TUNING_SHARE)
    tuning, testing = scores.take(order[:cut]), scores.take(order[cut:])
    accepted = Thresholds(0.0)
    for thresholds in reversed(_path(tuning, Thresholds(0.0))):
        stopped = int((~thresholds.passed(testing)).sum())
        if stats.binom.cdf(stopped, len(testing), max_escalation) > delta:
            break
        accepted = thresholds
    return _observed(testing, accepted, goal, n_tuning=len(tuning))


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
        path: Thresholds that differ in ``tau_conf`` only.
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
    gated = path[0]._replace(tau_conf=-np.inf).passed(scores)
    order = np.argsort(-scores.confidence[gated], kind="stable")
    confidence = scores.confidence[gated][order]
    levels = np.array([thresholds.tau_conf for thresholds in path])
    passed = np.searchsorted(-confidence, -levels, side="right")
    counts = (
        np.r_[0, np.cumsum(flags[gated][order])] for flags in (~scores.correct, ~scores.in_scope)
    )
    return _Tally(passed, *(count[passed] for count in counts))


def _best_path(tuning: Scores, growth: float, goal: Goal, gates: Sequence[str]) -> list[Thresholds]:
    """The gates that promise the greatest coverage, and tau_conf from surest to loosest."""
    use_novelty = "novelty" in gates and tuning.novelty is not None
    best: tuple[float, list[Thresholds], Thresholds] | None = None
    for stopped in _NOVELTY_GATES if use_novelty else (0.0,):
        novelty = Thresholds(0.0, tau_novelty=1 - stopped if stopped else None)
        options = [novelty]
        if "variance" in gates:
            # Well over the variance of all tuning texts which would proceed anyway: it costs
            # nothing, and parts what is unsteady from what is merely unsure.
            loosest = _promise(tuning, novelty, growth, goal)[2]
            free = 2 * float(tuning.variance[loosest.passed(tuning)].max(initial=0.0))
            shares = [float(np.quantile(tuning.variance, 1 - share)) for share in _VAR_GATES]
            options = [novelty._replace(tau_var=min(tau_var, 0.25)) for tau_var in (free, *shares)]
        for gate in options:
            coverage, path, end = _promise(tuning, gate, growth, goal)
            if best is None or (
                coverage > best[0] and (best[0] <= 0 or _earns(tuning, end, best[2]))
            ):
                best = coverage, path, end
    assert best is not None
    return best[1]


def _earns(tuning: Scores, gate: Thresholds, before: Thresholds) -> bool:
    """Whether a further gate stops more errors than a stricter confidence would (sign test).

    Where it does not, chance alone would choose one among many, and cost coverage.
    """
    passed = gate.passed(tuning)
    ranked = np.where(before._replace(tau_conf=0).passed(tuning), tuning.confidence, -1.0)
    equal = np.zeros_like(passed)
    equal[np.argsort(-ranked, kind="stable")[: passed.sum()]] = True
    stopped = int((equal & ~passed & ~tuning.correct).sum())
    let_in = int((passed & ~equal & ~tuning.correct).sum())
    return float(stats.binom.sf(stopped - 1, stopped + let_in, 0.5)) < _CHANCE


def _promise(
    tuning: Scores, gate: Thresholds, growth: float, goal: Goal
) -> tuple[float, list[Thresholds], Thresholds]:
    """Coverage that the testing texts should show, the path to walk, and where it should end.

    The coverage is negative, and the greater the nearer, where nothing promises to pass.
    """
    path = _path(tuning, gate)
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


def _path(tuning: Scores, gate: Thresholds) -> list[Thresholds]:
    """``gate`` with tau_conf at quantiles of what passes it, surest first."""
    confidence = tuning.confidence[gate.passed(tuning)]
    if not len(confidence):
        return [gate]
    levels = np.unique(np.quantile(confidence, np.linspace(0, 1, _STEPS)))[::-1]
    return [gate._replace(tau_conf=float(level)) for level in levels]


def _binomial_cdf(k: NDArray[Any], n: NDArray[Any], p: float) -> Floats:
    """Of a binomial, continued to fractional counts by the incomplete beta function; 1 at k = n."""
    with np.errstate(invalid="ignore"):
        value = special.betainc(n - k, k + 1, 1 - p)
    return np.where(k >= n, 1.0, value)


def _observed(testing: Scores, thresholds: Thresholds, goal: Goal, n_tuning: int) -> Result:
    passed = thresholds.passed(testing)
    n, wrong = int(passed.sum()), int((passed & ~testing.correct).sum())
    outside = ~testing.in_scope
    return Result(
        thresholds=thresholds,
        feasible=True,
        coverage=float(passed[testing.in_scope].mean()),
        risk=wrong / n if n else 0.0,
        risk_bound=risk_bound(wrong, n, goal.delta),
        out_of_scope=float(passed[outside].mean()) if outside.any() else None,
        n_tuning=n_tuning,
        n_testing=len(testing),
    )


def risk_bound(wrong: int, n: int, delta: float) -> float:
    """Clopper-Pearson upper bound, at confidence 1 - delta, for ``wrong`` errors among n."""
    return 1.0 if wrong >= n else float(stats.beta.ppf(1 - delta, wrong + 1, n - wrong))


def _more_labels(testing: Scores, best: Result, goal: Goal) -> int | None:
    if best.risk >= goal.target_risk:
        return None
    total = len(testing) / (1 - TUNING_SHARE)
    for growth in np.geomspace(1, 1e4, 200).tolist():
        if p_values(testing, [best.thresholds], goal, growth=growth)[0] <= goal.delta:
            more: int = math.ceil(total * growth) - round(total)
            return more
    return None


def fit_temperature(logits: Floats, labels: NDArray[np.intp]) -> float:
    """The temperature t > 0 that minimises the negative log-likelihood of ``softmax(z / t)``.

    Guo, Pleiss, Sun, Weinberger 2017 (arXiv 1706.04599), equation 9.

    Args:
        logits: (n, C), of the pass without noise.
        labels: (n,), indices of the right classes.
    """
    rows = np.arange(len(labels))

    def loss(log_t: float) -> float:
        scaled = logits / math.exp(log_t)
        return float((special.logsumexp(scaled, axis=1) - scaled[rows, labels]).mean())

    found = optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return math.exp(found.x)
