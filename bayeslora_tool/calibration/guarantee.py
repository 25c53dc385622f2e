"""Thresholds with a guarantee, from scores of labelled texts. Pure: knows no model and no file.

Learn then Test (Angelopoulos, Bates, Candes, Jordan, Lei 2021, arXiv 2110.01052). The texts are
split at random. On the first part the ordering (by confidence or by sureness), the gates (tau_var,
tau_novelty) and a path of tau_conf or tau_sure, from the surest to the loosest, are chosen; on the
second part the path is walked (fixed-sequence testing), each step by an exact binomial test of

    H: P(wrong | proceeds) > target,    p = P(Bin(n, target) <= k),

for k wrong among the n that proceed. The walk stops at the first step with p > delta, so the
probability that any accepted step violates the target is at most delta, whatever was looked at on
the first part: the choice among all thresholds costs nothing on the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslora_tool.calibration.thresholds import (
    Goal,
    Scores,
    Thresholds,
    best_path,
    check_share,
    ordering,
    p_values,
    path_of,
)

TUNING_SHARE = 1 / 4
FEWEST = 30  # calibration texts
GATES = ("variance", "novelty", "sureness")
# The scores of the testing texts under given thresholds, where the scoring depends on them.
Rescored = Callable[[Thresholds], Scores]


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
    scores: Scores,
    goal: Goal,
    *,
    seed: int = 0,
    gates: Sequence[str] = GATES,
    rescored: Rescored | None = None,
) -> Result:
    """Thresholds of the greatest coverage that keep the goal with probability >= 1 - delta.

    The guarantee is over the draw of the calibration texts. It covers texts drawn independently
    from the same source; not another source (shift), not texts that hang together (one user's,
    one thread's), and not thresholds that were chosen by looking at the same texts before.

    Args:
        scores: Of the calibration texts, which neither trained the adapter nor chose its epoch.
        goal: See :class:`Goal`.
        seed: Of the split.
        gates: Which may be used besides the confidence; "sureness" instead of it.
        rescored: The testing texts as each step of the path finds them; None: as in ``scores``.

    Raises:
        ValueError: Fewer than 30 texts; a bound on out-of-scope texts without such texts.
    """
    if goal.max_out_of_scope is not None and scores.in_scope.all():
        raise ValueError("`max_out_of_scope` is set, but no calibration text is out of scope")
    tuning, testing = (scores.take(rows) for rows in split(len(scores), seed))
    path = best_path(tuning, len(testing) / len(tuning), goal, gates)

    if rescored is None:
        fails = np.flatnonzero(p_values(testing, path, goal) > goal.delta)
        steps = int(fails[0]) if len(fails) else len(path)
    else:
        kept = (p_values(rescored(step), [step], goal)[0] <= goal.delta for step in path)
        steps = sum(1 for _ in takewhile(bool, kept))
    accepted = path[steps - 1] if steps else None
    if accepted is not None and rescored is not None:
        testing = rescored(accepted)
    result = _observed(testing, accepted or path[0], goal, n_tuning=len(tuning))
    if accepted is not None:
        return result
    # Not reached: report where the bound on the risk is lowest.
    best = min((_observed(testing, t, goal, len(tuning)) for t in path), key=lambda r: r.risk_bound)
    return replace(best, feasible=False, more_labels=_more_labels(testing, best, goal))


def calibrate_load(
    scores: Scores,
    *,
    max_escalation: float,
    delta: float,
    seed: int = 0,
    rescored: Rescored | None = None,
) -> Result:
    """The surest thresholds that stop at most a given share of texts, with confidence 1 - delta.

    The reviewers' load is capped instead of the risk: whatever does not proceed counts. The path is
    walked from the loosest thresholds to the surest, each step a binomial test of
    ``H: P(stops) > max_escalation``.

    Infeasible where even thresholds that everything reaches are not shown to: too few texts, or too
    many that no threshold lets proceed.

    Raises:
        ValueError: A share outside (0, 1), or fewer than 30 texts.
    """
    check_share("max_escalation", max_escalation)
    goal = Goal(delta=delta)
    tuning, testing = (scores.take(rows) for rows in split(len(scores), seed))
    accepted = None
    loosest = ordering(tuning, GATES)
    for thresholds in (loosest, *reversed(path_of(tuning, loosest))):
        if rescored is not None:
            testing = rescored(thresholds)
        stopped = int((~thresholds.passed(testing)).sum())
        if stats.binom.cdf(stopped, len(testing), max_escalation) > delta:
            break
        accepted = thresholds
    if rescored is not None:
        testing = rescored(accepted or loosest)
    result = _observed(testing, accepted or loosest, goal, n_tuning=len(tuning))
    return replace(result, feasible=accepted is not None)


def split(n: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of n texts are for tuning, and which for the testing that the guarantee rests on.

    Raises:
        ValueError: Fewer than 30 texts.
    """
    if n < FEWEST:
        raise ValueError(f"{n} calibration texts; at least {FEWEST} are needed, better 1,000")
    order = np.random.default_rng(seed).permutation(n)
    cut = round(n * TUNING_SHARE)
    return order[:cut], order[cut:]


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
    """None: no number would do, or more than 10,000 times as many."""
    if best.risk >= goal.target_risk:
        return None
    total = len(testing) / (1 - TUNING_SHARE)
    for growth in np.geomspace(1, 1e4, 200).tolist():
        if p_values(testing, [best.thresholds], goal, growth=growth)[0] <= goal.delta:
            more: int = math.ceil(total * growth) - round(total)
            return more
    return None
