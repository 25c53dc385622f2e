from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from bayeslora_tool.calibration.sureness import fit_sureness, out_of_fold
from bayeslora_tool.inference.sureness import sure

TRUE = np.array([1.5, 0.6, 0.9])


def texts(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signals of which the second and third hang together, whether right, and the true chance."""
    rng = np.random.default_rng(seed)
    signals = rng.normal(size=(n, 3)) @ np.array([[1, 0.3, 0], [0, 1, 0.5], [0, 0, 2]])
    chance = 1 / (1 + np.exp(-(1.0 + signals @ TRUE)))
    return signals, rng.random(n) < chance, chance


def test_is_the_logistic_regression_of_greatest_likelihood() -> None:
    signals, right, _ = texts(2000)
    model = fit_sureness(signals, right)
    assert model is not None
    scale = signals.std(axis=0)
    other = LogisticRegression(C=1.0, tol=1e-8).fit(signals / scale, right)
    found = [model.log_odds, model.energy, model.distance]
    np.testing.assert_allclose(found, other.coef_[0] / scale, rtol=1e-2)
    assert model.intercept == pytest.approx(float(other.intercept_[0]), abs=0.02)


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
    assert model.energy == 0
    assert min(model.log_odds, model.distance) > 0


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
        signals, right = rng.normal(size=(80, 3)), rng.random(80) < 0.5
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
    assert model.distance == 0
