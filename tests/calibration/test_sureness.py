from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize, special

from bayeslora_tool.artifacts.manifest import Sureness
from bayeslora_tool.calibration.sureness import fit_sureness, out_of_fold
from bayeslora_tool.inference.sureness import sure

MIX = np.array([[1, 0.3, 0, 0], [0, 1, 0.5, 0], [0, 0, 2, 0.4], [0, 0, 0, 1]])


def texts(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signals that hang together, whether right, and the true chance: of two factors."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(n, 4)) @ MIX
    right = special.expit(1.5 + 2 * signals[:, 0])
    belongs = special.expit(2.0 + signals @ [0, 0.6, 0.9, 1.2])
    return signals, rng.random(n) < right * belongs, right * belongs


def weights(model: Sureness) -> np.ndarray:
    """(2, 5) Of each factor: the four weights and the intercept."""
    return np.array(
        [[f.log_odds, f.energy, f.distance, f.nearest, f.intercept] for f in model.factors]
    )


def test_no_other_weights_are_likelier() -> None:
    signals, right, _ = texts(1000)
    model = fit_sureness(signals, right)
    assert model is not None
    x = np.column_stack([signals, np.ones(len(signals))])
    scale = signals.std(axis=0)

    def loss(flat: np.ndarray) -> float:
        """With the pull towards 0, in units of the signals' deviations."""
        found = flat.reshape(2, 5)
        p = special.expit(x @ found.T).prod(axis=1).clip(1e-12, 1 - 1e-12)
        pull = ((found[:, :4] * scale) ** 2).sum() / 2
        return float(pull - np.log(np.where(right, p, 1 - p)).sum())

    least = loss(weights(model).ravel())
    rng = np.random.default_rng(0)
    for _ in range(10):
        start = np.abs(rng.normal(size=10))
        bounds = [*[(0, None)] * 4, (None, None)] * 2
        other = optimize.minimize(loss, start, bounds=bounds, method="SLSQP")
        assert other.fun > least - 0.05


def test_finds_the_chance_that_the_texts_have() -> None:
    model = fit_sureness(*texts(20_000)[:2])
    assert model is not None
    signals, _, chance = texts(2000, seed=1)
    said = sure(model, torch.from_numpy(signals)).numpy()
    assert np.abs(said - chance).mean() < 0.02


def test_is_calibrated_on_texts_it_has_not_seen() -> None:
    model = fit_sureness(*texts(2000)[:2])
    assert model is not None
    signals, right, _ = texts(20_000, seed=1)
    said = sure(model, torch.from_numpy(signals)).numpy()
    for low, high in ((0, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1)):
        among = (said >= low) & (said < high)
        assert right[among].mean() == pytest.approx(said[among].mean(), abs=0.03)


def test_is_monotone_even_where_the_texts_say_otherwise() -> None:
    signals, right, _ = texts(2000)
    signals[:, 1] *= -1
    model = fit_sureness(signals, right)
    assert model is not None
    found = weights(model)[:, :4]
    assert (found[:, 1] == 0).all()
    assert (found[:, [0, 2, 3]].sum(axis=0) > 0).all()


@pytest.mark.parametrize("right", [np.arange(100) < 5, np.arange(100) >= 5])
def test_too_few_right_or_wrong_texts_fit_nothing(right: np.ndarray) -> None:
    signals = texts(100)[0]
    assert fit_sureness(signals, right) is None
    assert out_of_fold(signals, right) is None


def test_out_of_fold_does_not_flatter() -> None:
    """Of signals that tell nothing, a fit on few texts seems to know; one without them does not."""
    gains, honest = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        signals, right = rng.normal(size=(80, 4)), rng.random(80) < 0.5
        model, held_out = fit_sureness(signals, right), out_of_fold(signals, right)
        assert model is not None
        assert held_out is not None
        own = sure(model, torch.from_numpy(signals)).numpy()
        gains.append(own[right].mean() - own[~right].mean())
        honest.append(held_out[right].mean() - held_out[~right].mean())
    assert np.mean(gains) > 0.01
    assert np.mean(honest) < 0.01


def test_an_adapter_without_distances_has_no_weight_on_them() -> None:
    signals, right, _ = texts(500)
    signals[:, 2] = 0
    model = fit_sureness(signals, right)
    assert model is not None
    assert all(factor.distance == 0 for factor in model.factors)
    assert math.isfinite(model.factors[0].intercept)
