"""Testing by betting: wealth that a fair game would hardly ever make is evidence against it.

A bet multiplies wealth by a factor of mean at most 1 as long as the hypothesis holds. So wealth
that starts at 1 reaches 1 / delta with probability delta at most, however long one plays and
however often one looks (Ville's inequality).

Nobody knows when things go wrong, and a player who bet from the start is poor by then. So capital
is set aside: the share w_b of it enters the game with the b-th block of observations, the rest
waits. The sum of what plays and what waits is fair money, too (a mixture over starting times).
"""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK = 25
"""Observations between two entries of capital."""

_TIMES = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0])  # the target, that a risk bet on may be
_CELLS = 1024  # of a signal's range; within one, values count as ties
_JUMP = 0.01


class _Game:
    """Capital in play, a share for each way to bet, and capital that waits."""

    def __init__(self, ways: int, delta: float) -> None:
        if not 0 < delta < 1:
            raise ValueError(f"`delta` (={delta!r}) must be in (0, 1)")
        self.delta = delta
        self.n = 0
        self.best = 0.0
        self._log_wealth = np.full(ways, -np.inf)

    @property
    def log_wealth(self) -> float:
        """Natural logarithm of all capital; the alarm is at ``log(1 / delta)``."""
        played = np.logaddexp.reduce(self._log_wealth)
        waiting = -math.log(self._blocks + 1) if self.n else 0.0
        return float(np.logaddexp(played, waiting))

    @property
    def alarm(self) -> bool:
        """Whether wealth has ever reached 1 / delta."""
        return not self.best < math.log(1 / self.delta)

    @property
    def _blocks(self) -> int:
        return (self.n + BLOCK - 1) // BLOCK

    def _bet(self, log_factors: Floats) -> None:
        if self.n % BLOCK == 0:
            block = self.n // BLOCK + 1
            share = -math.log(block * (block + 1) * len(log_factors))
            self._log_wealth = np.logaddexp(self._log_wealth, share)
        self._log_wealth = self._log_wealth + log_factors
        self.n += 1
        self.best = max(self.best, self.log_wealth)

    def state(self) -> dict[str, Any]:
        """Plain data for :meth:`restore`."""
        # JSON has no -inf: what has not played yet is None.
        wealth = [x if math.isfinite(x) else None for x in self._log_wealth.tolist()]
        return {"n": self.n, "best": self.best, "log_wealth": wealth}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another left off."""
        wealth = [-math.inf if x is None else x for x in state["log_wealth"]]
        self.n, self.best = state["n"], state["best"]
        self._log_wealth = np.array(wealth, dtype=np.float64)


class RiskMonitor(_Game):
    """Bets that the risk exceeds its target, on the labels of audits.

    H0: each audited text is wrong with probability ``target_risk`` at most, given those before. Of
    a bet on the risk p, the factor is ``p / target`` for a wrong one, else ``(1 - p) / (1 -
    target)``; p runs from 1.25 to 20 times the target (Waudby-Smith & Ramdas, arXiv 2010.09686;
    for the risk of a deployed model: Podkopaev & Ramdas, arXiv 2110.06177).

    Args:
        target_risk: What was promised, in (0, 1).
        delta: Probability of a false alarm, ever, in (0, 1).

    Raises:
        ValueError: One out of range.
    """

    def __init__(self, target_risk: float, delta: float = 0.05) -> None:
        if not 0 < target_risk < 1:
            raise ValueError(f"`target_risk` (={target_risk!r}) must be in (0, 1)")
        risks = np.unique(np.minimum(_TIMES * target_risk, (1 + target_risk) / 2))
        super().__init__(len(risks), delta)
        self.target_risk = target_risk
        self.wrong = 0
        self._if_wrong = np.log(risks / target_risk)
        self._if_right = np.log((1 - risks) / (1 - target_risk))

    def update(self, wrong: bool) -> float:
        """Take in the label of one audit.

        Returns:
            ``log_wealth`` after it.
        """
        self._bet(self._if_wrong if wrong else self._if_right)
        self.wrong += bool(wrong)
        return self.log_wealth

    def state(self) -> dict[str, Any]:
        """Plain data for :meth:`restore`."""
        return super().state() | {"wrong": self.wrong}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another left off."""
        super().restore(state)
        self.wrong = state["wrong"]


class ShiftMonitor(_Game):
    """Bets that the texts are no longer what they were, without any label.

    H0: the signals of the texts so far, and of the reference, are exchangeable. The conformal
    p-value of a text, the share of those before that look at least as strange, is then uniform and
    independent of those before. Bet on are small ones (``k p ** (k - 1)``) and a slope
    (``1 + e (p - 0.5)``); between bets, capital jumps to the others at a small rate (the simple
    jumper; Vovk, Testing randomness online, arXiv 1906.09256 and Statistical Science 2021). With
    two signals, half of the capital plays on each.

    Args:
        delta: Probability of a false alarm, ever, in (0, 1).
        seed: Of the numbers that break ties.

    Raises:
        ValueError: ``delta`` out of range.
    """

    signals = ("confidence", "novelty")
    _powers = (0.5, 0.8)
    _slopes = (-1.0, 0.0, 1.0)

    def __init__(self, delta: float = 0.05, seed: int = 0) -> None:
        self._ways = len(self._powers) + len(self._slopes)
        super().__init__(len(self.signals) * self._ways, delta)
        self.seed = seed
        self._seen = np.zeros((len(self.signals), _CELLS), dtype=np.int64)

    def learn(self, confidence: float, novelty: float | None) -> None:
        """Take in a text of the reference: no bet is made on it."""
        self._seen[np.arange(len(self.signals)), _cells(confidence, novelty)] += 1

    def update(self, confidence: float, novelty: float | None) -> float:
        """Take in one text.

        Args:
            confidence: In [0, 1].
            novelty: In [0, 1], or None if there is none: that half of the capital then rests.

        Returns:
            ``log_wealth`` after it.
        """
        cells = _cells(confidence, novelty)
        known = (True, novelty is not None)
        random = Random(f"{self.seed} {self.n}")
        factors = []
        for seen, cell, bets in zip(self._seen, cells, known, strict=True):
            p = p_value(seen, int(cell), random.uniform(1e-12, 1.0))
            factors.append(self.log_factors(p) if bets else np.zeros(self._ways))
        self._jump()
        self._bet(np.concatenate(factors))
        self._seen[np.arange(len(self.signals)), cells] += 1
        return self.log_wealth

    def log_factors(self, p: float) -> Floats:
        """Of each way to bet, for a p-value in (0, 1]."""
        powers = [math.log(k) + (k - 1) * math.log(p) for k in self._powers]
        return np.array([*powers, *(math.log1p(e * (p - 0.5)) for e in self._slopes)])

    def _jump(self) -> None:
        halves = self._log_wealth.reshape(len(self.signals), self._ways)
        share = math.log(_JUMP / self._ways) + np.logaddexp.reduce(halves, axis=1, keepdims=True)
        self._log_wealth = np.logaddexp(math.log1p(-_JUMP) + halves, share).ravel()

    def state(self) -> dict[str, Any]:
        """Plain data for :meth:`restore`."""
        return super().state() | {"seen": self._seen.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another left off."""
        super().restore(state)
        self._seen = np.array(state["seen"], dtype=np.int64)


def p_value(seen: NDArray[np.int64], cell: int, tie: float) -> float:
    """Conformal p-value: the share of those so far, itself included, that are as strange or more.

    Args:
        seen: How many so far in each cell, from the most ordinary to the strangest.
        cell: Its own.
        tie: In (0, 1): the share of its ties, itself among them, that count as stranger.
    """
    stranger, tied = int(seen[cell + 1 :].sum()), int(seen[cell]) + 1
    return (stranger + tie * tied) / (int(seen.sum()) + 1)


def _cells(confidence: float, novelty: float | None) -> NDArray[np.intp]:
    """How strange each signal is, on scales that are fixed beforehand: no data chose them."""
    doubt = _logit(1 - confidence)
    far = 0.0 if novelty is None else _logit(novelty)
    scaled = np.array([doubt, far]) / 40 + 0.5
    return np.clip((scaled * _CELLS).astype(np.intp), 0, _CELLS - 1)


def _logit(p: float) -> float:
    p = min(max(p, 1e-9), 1 - 1e-9)
    return math.log(p / (1 - p))
