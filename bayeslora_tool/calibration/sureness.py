"""Fits the sureness of ``inference/sureness.py``. Pure: knows no model and no file.

A logistic regression of "right, and in scope" on the three signals, by greatest likelihood, with
weights that are not negative and a little pull towards 0 (one pseudo-observation a weight, in units
of the signals' deviations): a hundred errors are few. Likelihood makes it calibrated on texts like
those it was fitted on, with the share of strangers that they have.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import optimize, special

from bayeslora_tool.artifacts.manifest import Sureness
from bayeslora_tool.calibration.thresholds import Bools, Floats
from bayeslora_tool.inference.sureness import sure

FEWEST_WRONG = 10  # among the tuning texts; fewer say too little about three weights
_FOLDS = 5


def fit_sureness(signals: Floats, right: Bools) -> Sureness | None:
    """The model of greatest likelihood; None where fewer than ten texts are right, or wrong.

    Args:
        signals: (n, 3), of ``inference.sureness.signals``: the greater, the surer.
        right: (n,), whether the label is right; a text out of scope never is.
    """
    if min(right.sum(), (~right).sum()) < FEWEST_WRONG:
        return None
    scale = signals.std(axis=0)
    scale[scale == 0] = 1.0  # an adapter without novelty
    centre = signals.mean(axis=0)
    x, y = (signals - centre) / scale, right.astype(float)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, intercept = parameters[:3], parameters[3]
        z = x @ weights + intercept
        value = (np.logaddexp(0, z) - y * z).sum() + (weights @ weights) / 2
        residual = special.expit(z) - y
        return float(value), np.append(x.T @ residual + weights, residual.sum())

    start = np.array([0.5, 0.5, 0.5, special.logit(y.mean())])
    bounds = [(0.0, None)] * 3 + [(None, None)]
    found = optimize.minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    weights = found[:3] / scale
    log_odds, energy, distance = weights.tolist()
    return Sureness(
        intercept=float(found[3] - weights @ centre),
        log_odds=log_odds,
        energy=energy,
        distance=distance,
    )


def out_of_fold(signals: Floats, right: Bools, seed: int = 0) -> Floats | None:
    """(n,) The sureness of each text by a model that was fitted without it; None where too few.

    What a model says of texts that it was fitted on flatters it; whether to use it must not be
    chosen by that.
    """
    fold = np.random.default_rng(seed).permutation(len(right)) % _FOLDS
    found = np.empty(len(right))
    for k in range(_FOLDS):
        model = fit_sureness(signals[fold != k], right[fold != k])
        if model is None:
            return None
        found[fold == k] = sure(model, torch.from_numpy(signals[fold == k])).numpy()
    return found
