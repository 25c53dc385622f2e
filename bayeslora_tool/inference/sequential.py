"""Stops drawing for a text once its route is settled. Pure functions of tensors.

The linearization says where a text's log-odds lie and how they spread; many draws say nearly the
same. How nearly is measured for each adapter (:class:`Offset`), so before the first draw there is
a belief about both, which draws then sharpen (:class:`Belief`). A text is settled when the
probability that infinitely many draws would decide otherwise is at most the stated error. This
may be asked after any number of draws: what a belief says of the truth does not depend on when one
looks at it, so nothing is paid for looking often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import interpolate

from bayeslora_tool.artifacts.manifest import Offset
from bayeslora_tool.inference.estimators import (
    NODE_WEIGHTS,
    Moments,
    Regression,
    log_odds,
    logistic_normal,
    regress,
    sigmoid_nodes,
)

# For an adapter that was not calibrated: no shift, and wide. Of two that were trained alike but for
# smoothed labels, texts lay up to 1.5 deviations under the linearized location, with up to 4 times
# its variance.
UNMEASURED = Offset(
    location=(0.0, 0.0),
    location_sd=0.6,
    log_variance=(0.0, 0.0),
    log_variance_sd=0.6,
    unexplained=0.2,
)
# What `Offset.unexplained` counts for beside a text's own draws, in draws.
PRIOR_DRAWS = 8
LEAST_SD = 0.05  # of a measured offset: a hundred texts cannot show less

# Moments are computed at so many deviations of a belief, and interpolated in between.
_AT = torch.linspace(-4, 4, 17, dtype=torch.float64)
_FINE = torch.linspace(-4, 4, 129, dtype=torch.float64)
_LINE = (-_FINE.square() / 2).softmax(dim=0)
_PLANE = torch.outer(_LINE, _LINE).flatten()


@dataclass(frozen=True)
class Belief:
    """What is believed of the log-odds of infinitely many draws, for B texts; each (B,).

    Their mean and the logarithm of their variance, as independent normal distributions.

    Attributes:
        label: Whose log-odds.
    """

    label: Tensor
    location: Tensor
    location_sd: Tensor
    log_variance: Tensor
    log_variance_sd: Tensor

    def take(self, rows: list[int] | Tensor) -> Belief:
        """Of some of the texts."""
        return Belief(*(part[rows] for part in vars(self).values()))

    def moments(self, probabilities: Tensor) -> Moments:
        """At the centre of the belief.

        Args:
            probabilities: (B, C); the labels other than ``label`` keep their shares of the rest.
        """
        variance = self.log_variance.exp()
        return logistic_normal(probabilities, self.label, self.location, variance)

    def doubt(self, tau_conf: float, tau_var: float) -> Tensor:
        """(B,) probability that the route is another than the likeliest one."""
        return 1 - self.shares(tau_conf, tau_var).amax(dim=1)

    def doubt_to_act(self, tau_conf: float, tau_var: float) -> Tensor:
        """(B,) probability that the likelier of "it proceeds" and "it does not" is wrong."""
        proceeds, *stops = self.shares(tau_conf, tau_var).unbind(dim=1)
        return 1 - torch.maximum(proceeds, sum(stops, torch.zeros_like(proceeds)))

    def shares(self, tau_conf: float, tau_var: float) -> Tensor:
        """(B, 3) probabilities of the routes: proceed, unsure, unsteady.

        What is not a number is likely nowhere, and so in doubt.
        """
        far = torch.tensor([-4.0, 0.0, 4.0], dtype=torch.float64)
        corners = _routes(*self._moments_at(far), tau_conf, tau_var).flatten(1)
        close = (corners != corners[:, :1]).any(dim=1)
        shares = torch.nn.functional.one_hot(corners[:, 0], 3).to(self.location)
        shares[~self.location.isfinite() | ~self.log_variance.isfinite()] = 0.0
        if close.any():
            p, variance = self.take(close)._moments_at(_AT)
            # On these scales both are nearly straight from one point to the next.
            tiny = torch.finfo(p.dtype).tiny
            scaled = torch.stack([torch.logit(p, eps=1e-15), variance.clamp(min=tiny).log()], dim=1)
            one_way = p.shape[1] == 1  # the location is known
            size = (1 if one_way else len(_FINE), len(_FINE))
            fine = interpolate(scaled, size, mode="bilinear", align_corners=True)
            thresholds = torch.tensor([tau_conf, tau_var], dtype=torch.float64)
            sure = fine[:, 0] >= thresholds[0].logit()
            steady = fine[:, 1] <= thresholds[1].log()
            density = _LINE if one_way else _PLANE
            is_steady, proceeds = (
                part.flatten(1).double() @ density for part in (steady, steady & sure)
            )
            shares[close] = torch.stack([proceeds, is_steady - proceeds, 1 - is_steady], dim=1)
        return shares

    def _moments_at(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of p_y, (B, L, V) each, so many deviations off the centre.

        L is 1 where no location has a deviation.
        """
        across = at if self.location_sd.any() else torch.zeros(1, dtype=at.dtype)
        location = self.location[:, None] + self.location_sd[:, None] * across
        log_variance = self.log_variance[:, None] + self.log_variance_sd[:, None] * at
        nodes = sigmoid_nodes(location[:, :, None], log_variance.exp()[:, None, :])
        p = nodes @ NODE_WEIGHTS
        return p, (nodes - p[..., None]).square() @ NODE_WEIGHTS


def _routes(p: Tensor, variance: Tensor, tau_conf: float, tau_var: float) -> Tensor:
    """0 proceed, 1 unsure, 2 unsteady."""
    return torch.where(variance > tau_var, 2, (p < tau_conf).long())


def linearized_belief(probabilities: Tensor, log_odds_variance: Tensor, offset: Offset) -> Belief:
    """Before any draw: at the linearized moments, with what draws are known to differ by.

    Args:
        probabilities: (B, C), of the pass without noise.
        log_odds_variance: (B,), of ``estimators.linearized``.
        offset: Of the adapter; only its deviations, see :func:`sampled_belief`.
    """
    label = probabilities.argmax(dim=1)
    variance = log_odds_variance.clamp(min=torch.finfo(log_odds_variance.dtype).tiny)
    return Belief(
        label,
        log_odds(probabilities, label),
        variance.sqrt() * offset.location_sd,
        variance.log(),
        torch.full_like(variance, offset.log_variance_sd),
    )


def sampled_belief(before: Belief, found: Regression, offset: Offset) -> Belief:
    """After T draws: the belief before them and what they say, weighted by their precisions.

    Draws of all texts differ from the linearization alike; that much is taken off, so that texts
    that were drawn and texts that were not meet the thresholds on one scale, the linearized one.
    The residuals' variance is shrunk to the share of the variance that is usual, as under an
    inverse chi-squared prior.

    Args:
        before: Any draw. Where the draws prefer another label, it says nothing.
        found: Of the draws.
        offset: Of the adapter.
    """
    n = len(found.residuals)
    same = found.label == before.label
    deviation = found.known.sqrt()
    (start, slope), (log_start, log_slope) = offset.location, offset.log_variance
    zero = torch.zeros_like(deviation)
    shift = (deviation * (start + slope * deviation)).where(same, zero)
    log_shift = (log_start + log_slope * deviation).where(same, zero)
    usual = offset.unexplained * (before.log_variance + log_shift).exp()
    noise = (PRIOR_DRAWS * usual + found.residuals.square().sum(dim=0)) / (PRIOR_DRAWS + n - 2)
    variance = found.slope.square() * found.known + noise
    of_location, of_log_variance = _sampling_variances(found, noise, variance)
    location = _weighed(
        before.location,
        before.location_sd.where(same, torch.inf),
        found.location - shift,
        of_location,
    )
    log_variance = _weighed(
        before.log_variance,
        before.log_variance_sd.where(same, torch.inf),
        variance.log() - log_shift,
        of_log_variance,
    )
    return Belief(found.label, *location, *log_variance)


def _sampling_variances(
    found: Regression, noise: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Of the location and of the log variance that T draws show, (B,) each.

    The first as in any regression. The second by the delta method, with u the share of ``noise``
    in ``variance``: ``(2 u^2 + 4 u (1 - u)) / T``.
    """
    n, u = len(found.residuals), noise / variance
    return noise / n * (1 + found.off.square() / n), (2 * u.square() + 4 * u * (1 - u)) / n


def _weighed(mean: Tensor, sd: Tensor, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a normal belief after a normal observation with variance ``noise``."""
    weight = 1 / (1 + noise / sd.square())
    return mean + weight * (seen - mean), (weight * noise).sqrt()


def draw_until_settled(
    draw: Callable[[list[int], range], tuple[Tensor, Tensor]],
    known: Tensor,
    before: Belief,
    *,
    offset: Offset,
    tau_conf: float,
    tau_var: float,
    most: int,
    error: float,
) -> list[tuple[Moments, int]]:
    """Draw for each text until it is settled whether it proceeds: 8 times, 16, 32, ..., ``most``.

    Args:
        draw: ``draw(rows, draws)`` gives, of some of the texts, the probabilities (t, b, C) and
            what the draws change to first order (t, b).
        known: (B,), variance of that change over all masks.
        before: What is believed before any draw, of the label that is likeliest by then.
        offset: Of the adapter.
        tau_conf: Of the policy, as the next.
        tau_var: Of the policy.
        most: Draws after which a text is routed by its moments, settled or not; >= 3.
        error: In (0, 1), probability that a settled text proceeds where infinitely many draws
            would stop it, or the other way round.

    Returns:
        For each text its moments and the number of draws they rest on.
    """
    looks = [*(n for n in (8 * 2**k for k in range(most.bit_length())) if n < most), most]
    settled: dict[int, tuple[Moments, int]] = {}
    rows = list(range(len(known)))
    taken: tuple[Tensor, Tensor] | None = None
    for start, stop in pairwise([0, *looks]):
        if not rows:
            break
        new = draw(rows, range(start, stop))
        if taken is not None:
            new = (torch.cat([taken[0], new[0]]), torch.cat([taken[1], new[1]]))
        probabilities, change = new  # (t, b, C), (t, b)
        found = regress(probabilities, change, known[rows])
        belief = sampled_belief(before.take(rows), found, offset)
        open_ = (belief.doubt_to_act(tau_conf, tau_var) > error) & (stop < most)
        mean = probabilities.mean(dim=0)
        for i, row in enumerate(rows):
            if not open_[i]:
                settled[row] = belief.take([i]).moments(mean[[i]]), stop
        rows = [row for i, row in enumerate(rows) if open_[i]]
        taken = probabilities[:, open_], change[:, open_]
    return [settled[row] for row in range(len(known))]


def measured_offset(probabilities: Tensor, found: Regression) -> Offset:
    """How far draws lie off the linearization, over some texts.

    Args:
        probabilities: (B, C), of the pass without noise.
        found: Of draws of the same texts.

    Returns:
        :data:`UNMEASURED` if fewer than 30 texts keep their likeliest label.
    """
    label = probabilities.argmax(dim=1)
    # A text without any variance has nothing to be off by.
    same = (found.label == label) & (found.known > 0) & (found.variance > 0)
    if same.sum() < 30:
        return UNMEASURED
    deviation = found.known.sqrt()
    noise = found.residuals.square().sum(dim=0) / (len(found.residuals) - 2)
    of_location, of_log_variance = _sampling_variances(found, noise, found.variance)
    off = (found.location - log_odds(probabilities, label)) / deviation
    location, location_sd = _line(
        deviation[same], off[same], noise=(of_location / found.known)[same]
    )
    log_variance, log_variance_sd = _line(
        deviation[same], (found.variance / found.known).log()[same], noise=of_log_variance[same]
    )
    return Offset(
        location=location,
        location_sd=location_sd,
        log_variance=log_variance,
        log_variance_sd=log_variance_sd,
        unexplained=float((noise / found.variance)[same].median()),
    )


def _line(x: Tensor, y: Tensor, noise: Tensor) -> tuple[tuple[float, float], float]:
    """Intercept and slope of least squares, and the deviation of what they leave but noise."""
    fit = stats.linregress(x, y)
    left = (y - fit.intercept - fit.slope * x).var(correction=2) - noise.mean()
    return (float(fit.intercept), float(fit.slope)), float(left.clamp(min=LEAST_SD**2).sqrt())
