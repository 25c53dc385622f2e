"""What a pass without noise lets one expect of the variance. Pure functions of tensors.

Where the log-odds lie is known from that pass. How much they vary over the adapter's masks takes a
backward pass to say, but the logits foretell much of it: a least-squares fit of its logarithm on a
few functions of them leaves a deviation of 0.4 (``bayeslora calibrate`` measures it for each
adapter). That is enough to route nine texts in ten as the backward pass would.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bayeslora_tool.artifacts.manifest import Forecast
from bayeslora_tool.inference.estimators import entropy, log_odds
from bayeslora_tool.inference.sequential import LEAST_SD, Belief

# For an adapter that was not calibrated: from next to nothing to more than any that was seen.
UNMEASURED = Forecast(coefficients=(-2.0, 0.0, 0.0, 0.0, 0.0, 0.0), deviation=2.0)
FEWEST = 30  # texts to fit by


def signals(logits: Tensor) -> Tensor:
    """(B, 6): one, the log-odds l, l^2, the entropy of the other labels, two spreads of logits.

    Args:
        logits: (B, C), over the temperature. The spreads are of all, and of all but the likeliest.
    """
    label = logits.argmax(dim=1, keepdim=True)
    others = torch.ones_like(logits, dtype=torch.bool).scatter(1, label, False)
    rest = logits[others].view(len(logits), logits.shape[1] - 1)  # (B, C - 1)
    odds = log_odds(logits.softmax(dim=1), label[:, 0])
    return torch.stack(
        [
            torch.ones_like(odds),
            odds,
            odds.square(),
            entropy(rest.softmax(dim=1)),
            _spread(logits),
            # Where no other label is, there is no spread.
            _spread(rest) if rest.shape[1] else torch.zeros_like(odds),
        ],
        dim=1,
    )


def _spread(x: Tensor) -> Tensor:
    """(B,) deviation of each row, also of no rows."""
    return (x - x.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()


def forecast_belief(logits: Tensor, forecast: Forecast) -> Belief:
    """Before any backward pass.

    Args:
        logits: (B, C), over the temperature.
        forecast: Of the adapter.
    """
    probabilities = logits.softmax(dim=1)
    label = probabilities.argmax(dim=1)
    location = log_odds(probabilities, label)
    return Belief(
        label,
        location,
        torch.zeros_like(location),
        signals(logits) @ torch.tensor(forecast.coefficients, dtype=logits.dtype),
        torch.full_like(location, forecast.deviation),
    )


def measured_forecast(logits: Tensor, variance: Tensor, acts: str | None = None) -> Forecast:
    """Fit what the pass says of the linearized variance, over some texts.

    Args:
        logits: (N, C), over the temperature.
        variance: (N,), linearized, of the log-odds.
        acts: See :class:`Forecast`.

    Returns:
        :data:`UNMEASURED` if fewer than 30 texts have a variance.
    """
    rows = variance > 0
    if rows.sum() < FEWEST:
        return UNMEASURED
    x, y = signals(logits[rows]).numpy(), variance[rows].log().numpy()
    # With few labels some signals are functions of others: the smallest of the solutions.
    scale = np.abs(x).max(axis=0).clip(min=1e-12)
    found = np.linalg.lstsq(x / scale, y, rcond=1e-6)[0] / scale
    left = np.sqrt(np.square(y - x @ found).sum() / max(len(y) - x.shape[1], 1))
    return Forecast(
        coefficients=tuple(found.tolist()), deviation=max(float(left), LEAST_SD), acts=acts
    )
