"""Fits the sureness of ``inference/sureness.py``. Pure: knows no model and no file.

Both factors at once, by the greatest likelihood of "right, and in scope", with weights that are not
negative and a little pull towards 0 (one pseudo-observation a weight, in units of the signals'
deviations): a hundred errors are few. Likelihood makes it calibrated on texts like those it was
fitted on, with the share of strangers that they have. It has several maxima: it is climbed from one
factor that reads the log-odds and one that reads the rest.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import optimize, special

from bayeslora_tool.artifacts.manifest import Factor, Sureness
from bayeslora_tool.calibration.thresholds import Bools, Floats
from bayeslora_tool.inference.sureness import sure

FEWEST_WRONG = 10  # among the tuning texts; fewer say too little about eight weights
_FOLDS = 5
# Weights of the signals, in units of their deviations, and the intercept, of each factor.
_START = ((1.0, 0.0, 0.0, 0.0, 1.0), (0.0, 0.5, 0.5, 0.5, 2.0))


def fit_sureness(signals: Floats, right: Bools) -> Sureness | None:
    """The model of greatest likelihood; None where fewer than ten texts are right, or wrong.

    Args:
        signals: (n, 4), of ``Reference.signals``: the greater, the surer.
        right: (n,), whether the label is right; a text out of scope never is.
    """
    if min(right.sum(), (~right).sum()) < FEWEST_WRONG:
        return None
    scale = signals.std(axis=0)
    scale[scale == 0] = 1.0  # an adapter without novelty
    centre = signals.mean(axis=0)
    x = np.column_stack([(signals - centre) / scale, np.ones(len(signals))])
    pull = np.append(np.ones(signals.shape[1]), 0.0)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights = parameters.reshape(2, -1)
        z = x @ weights.T  # (n, 2)
        log_sure = np.minimum(-np.logaddexp(0, -z).sum(axis=1), -1e-12)
        odds = np.exp(log_sure) / -np.expm1(log_sure)
        value = -np.where(right, log_sure, np.log(-np.expm1(log_sure))).sum()
        slope = np.where(right, -1.0, odds)[:, None] * special.expit(-z)
        value += (pull * weights**2).sum() / 2
        return float(value), (slope.T @ x + pull * weights).ravel()

    bounds = [*[(0.0, None)] * signals.shape[1], (None, None)] * 2
    found = optimize.minimize(loss, np.ravel(_START), jac=True, bounds=bounds, method="L-BFGS-B").x
    first, second = (_factor(row, centre, scale) for row in found.reshape(2, -1))
    return Sureness(factors=(first, second))


def _factor(row: Floats, centre: Floats, scale: Floats) -> Factor:
    weights = row[:-1] / scale
    log_odds, energy, distance, nearest = weights.tolist()
    return Factor(
        intercept=float(row[-1] - weights @ centre),
        log_odds=log_odds,
        energy=energy,
        distance=distance,
        nearest=nearest,
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
