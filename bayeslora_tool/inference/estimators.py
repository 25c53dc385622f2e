"""Moments of the predictive distribution. Pure functions of tensors: knows no model, no text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Gauss-Hermite nodes for a standard normal; 40 integrate a sigmoid of any slope met here to 1e-6.
_NODES, NODE_WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
NODE_WEIGHTS /= NODE_WEIGHTS.sum()


@dataclass(frozen=True)
class Moments:
    """Moments of class probabilities under the adapter's posterior, for B texts and C classes.

    Attributes:
        mean: (B, C), rows sum to 1.
        variance: (B, C), in [0, 0.25].
        entropy: (B,), of the mean, in nats.
        mutual_information: (B,), in nats, >= 0.
    """

    mean: Tensor
    variance: Tensor
    entropy: Tensor
    mutual_information: Tensor

    def put(self, rows: list[int], some: Moments) -> None:
        """Replace the moments of some of the texts, in place."""
        for name, value in vars(self).items():
            value[rows] = getattr(some, name)


def deterministic(probabilities: Tensor) -> Moments:
    """One pass at the posterior mean of the weights (all masks 1): no spread, and NaN says so.

    Args:
        probabilities: (B, C), each row a distribution.
    """
    nothing = torch.full_like(probabilities, torch.nan)
    return Moments(probabilities, nothing, entropy(probabilities), nothing[:, 0])


def monte_carlo(probabilities: Tensor) -> Moments:
    """Moments of the equal-weight mixture of T draws.

    ``mean = (1/T) sum_t p_t``; ``variance = (1/T) sum_t (p_t - mean)^2``, biased low by the factor
    (T-1)/T as an estimate for infinitely many draws; ``MI = H(mean) - (1/T) sum_t H(p_t)``
    (Houlsby et al. 2011).

    Args:
        probabilities: (T, B, C), each row a distribution.
    """
    mean = probabilities.mean(dim=0)
    of_mean = entropy(mean)
    return Moments(
        mean=mean,
        variance=probabilities.var(dim=0, correction=0),
        entropy=of_mean,
        # Jensen makes it >= 0; rounding may not.
        mutual_information=(of_mean - entropy(probabilities).mean(dim=0)).clamp(min=0),
    )


def log_odds(probabilities: Tensor, label: Tensor) -> Tensor:
    """``log p_y - log(1 - p_y)`` (...,) of labels y (...,), from probabilities (..., C)."""
    p = probabilities.gather(-1, label[..., None])[..., 0]
    # The others are summed: 1 - p would lose all digits where p is close to 1.
    rest = probabilities.scatter(-1, label[..., None], 0).sum(dim=-1)
    tiny = torch.finfo(p.dtype).tiny
    return p.clamp(min=tiny).log() - rest.clamp(min=tiny).log()


def linearized(probabilities: Tensor, log_odds_variance: Tensor) -> Moments:
    """Moments without sampling: log-odds to first order in the masks, then through the sigmoid.

    Let ``l = log p_y - log(1 - p_y)`` be the log-odds of the likeliest label y against the rest.

    1. Around m = 1, ``l(m) = l + sum_j (dl/dm_j) (m_j - 1)`` to first order.
    2. The masks are independent with mean 1 and variance ``v_j`` (dropout: p / (1 - p)), so
       ``Var[l] = sum_j v_j (dl/dm_j)^2``: ``log_odds_variance``, one backward pass.
    3. A sum over hundreds of masks is close to normal: ``l(m) ~ N(l, Var[l])``.
    4. ``E[p_y]`` and ``Var[p_y]`` follow by :func:`logistic_normal`.

    For small variance this is the delta method, ``Var[p_y] = (p_y (1 - p_y))^2 Var[l]``. It fails
    where l bends within the reach of the masks (large rates, few channels that matter much), and
    where the likeliest label changes from draw to draw among more than two.

    Args:
        probabilities: (B, C), of the pass without noise.
        log_odds_variance: (B,), >= 0.
    """
    label = probabilities.argmax(dim=1)
    return logistic_normal(probabilities, label, log_odds(probabilities, label), log_odds_variance)


class Regression(NamedTuple):
    """Log-odds of T draws, regressed on what the same draws change to first order.

    ``l_t = location + slope q_t + e_t``: over all masks, q has mean 0 and the variance that
    :func:`linearized` starts from, so both are known and only e is left to chance (a control
    variate). Draws of which q explains the share R^2 say as much as 1 / (1 - R^2) times as many
    without it. Where q explains nothing, these are the sample's own mean and variance.

    Attributes:
        label: (B,), likeliest by the mean of the draws.
        location: (B,), mean of the label's log-odds.
        variance: (B,), ``slope^2 Var[q] + Var[e]``.
        slope: (B,).
        residuals: (T, B), e.
        off: (B,), how far the drawn q lie off their mean 0, in standard errors.
        squares: (B,), sum over the draws of (q - its mean)^2.
        known: (B,), Var[q].
    """

    label: Tensor
    location: Tensor
    variance: Tensor
    slope: Tensor
    residuals: Tensor
    off: Tensor
    squares: Tensor
    known: Tensor


def regress(probabilities: Tensor, change: Tensor, known: Tensor) -> Regression:
    """See :class:`Regression`.

    Args:
        probabilities: (T, B, C), T >= 3.
        change: (T, B), q, from ``AdapterPosterior.project``.
        known: (B,), its variance over all masks.
    """
    n = len(probabilities)
    label = probabilities.mean(dim=0).argmax(dim=1)
    drawn = log_odds(probabilities, label.expand(n, -1))  # (T, B)
    centred = change - change.mean(dim=0)
    tiny = torch.finfo(drawn.dtype).tiny
    squares = centred.square().sum(dim=0).clamp(min=tiny)
    slope = (centred * drawn).sum(dim=0) / squares
    location = drawn.mean(dim=0) - slope * change.mean(dim=0)
    residuals = drawn - location - slope * change
    noise = residuals.square().sum(dim=0) / (n - 2)
    off = change.mean(dim=0) / (squares / n).sqrt() * n**0.5
    return Regression(
        label, location, slope.square() * known + noise, slope, residuals, off, squares, known
    )


def logistic_normal(
    probabilities: Tensor, label: Tensor, location: Tensor, variance: Tensor
) -> Moments:
    """Moments of ``p_y = sigmoid(N(location, variance))``, by Gauss-Hermite quadrature.

    Args:
        probabilities: (B, C); the labels other than y keep their shares of the rest.
        label: (B,), y.
        location: (B,), mean of the log-odds.
        variance: (B,), of the log-odds, >= 0.
    """
    nodes = sigmoid_nodes(location, variance)  # (B, N)
    p = nodes @ NODE_WEIGHTS
    variance_p = (nodes - p[:, None]).square() @ NODE_WEIGHTS
    y = label[:, None]
    shares = probabilities.scatter(1, y, 0)
    shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
    mean = ((1 - p)[:, None] * shares).scatter(1, y, p[:, None])
    return Moments(
        mean=mean,
        variance=(variance_p[:, None] * shares.square()).scatter(1, y, variance_p[:, None]),
        entropy=entropy(mean),
        # How the rest is shared is fixed here: only the label against the rest is in doubt.
        mutual_information=(_binary_entropy(p) - _binary_entropy(nodes) @ NODE_WEIGHTS).clamp(
            min=0
        ),
    )


def sigmoid_nodes(location: Tensor, variance: Tensor) -> Tensor:
    """(..., N) values of p_y at the nodes of the quadrature."""
    return torch.sigmoid(location[..., None] + variance.clamp(min=0).sqrt()[..., None] * _NODES)


def entropy(probabilities: Tensor) -> Tensor:
    """(...,) in nats, of distributions (..., C)."""
    nats: Tensor = -torch.special.xlogy(probabilities, probabilities).sum(dim=-1)
    return nats


def _binary_entropy(p: Tensor) -> Tensor:
    return entropy(torch.stack([p, 1 - p], dim=-1))
