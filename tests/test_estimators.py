from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import expit

from bayeslora_tool import estimators, sequential


def test_moments_by_hand() -> None:
    draws = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]], dtype=torch.float64)  # (2, 1, 2)
    moments = estimators.monte_carlo(draws)
    torch.testing.assert_close(moments.mean, torch.tensor([[0.7, 0.3]], dtype=torch.float64))
    assert math.isclose(moments.variance[0, 0].item(), 0.2**2)
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    inner = (math.log(2) - 0.9 * math.log(0.9) - 0.1 * math.log(0.1)) / 2
    assert math.isclose(moments.entropy.item(), entropy)
    assert math.isclose(moments.mutual_information.item(), entropy - inner)


def test_extremes_stay_in_range() -> None:
    draws = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    moments = estimators.monte_carlo(draws)
    assert moments.variance.tolist() == [[0.25, 0.25]]
    assert math.isclose(moments.mutual_information.item(), math.log(2))
    same = estimators.monte_carlo(draws[:1].expand(5, 1, 2))
    assert same.variance.eq(0).all()
    assert same.mutual_information.eq(0).all()
    assert same.entropy.eq(0).all()


def test_deterministic_claims_no_variance() -> None:
    moments = estimators.deterministic(torch.tensor([[0.7, 0.3]]).double())
    assert moments.variance.isnan().all()
    assert moments.mutual_information.isnan().all()


class TestLogisticNormal:
    @pytest.mark.parametrize("location", [-2.0, 0.3, 4.0])
    @pytest.mark.parametrize("deviation", [0.01, 0.5, 2.0])
    def test_against_numerical_integration(self, location: float, deviation: float) -> None:
        moments = estimators.logistic_normal(
            torch.tensor([[0.5, 0.3, 0.2]]).double(),
            torch.tensor([0]),
            torch.tensor([location]).double(),
            torch.tensor([deviation**2]).double(),
        )

        def expect(f: Any) -> float:
            density = stats.norm(location, deviation)
            low, high = density.ppf(1e-12), density.ppf(1 - 1e-12)
            value: float = integrate.quad(lambda x: f(expit(x)) * density.pdf(x), low, high)[0]
            return value

        mean = expect(lambda p: p)
        variance = expect(lambda p: (p - mean) ** 2)
        assert math.isclose(moments.mean[0, 0], mean, abs_tol=1e-6)
        assert math.isclose(moments.variance[0, 0], variance, rel_tol=1e-3)
        rest = (1 - mean) * torch.tensor([0.6, 0.4]).double()
        torch.testing.assert_close(moments.mean[0, 1:], rest, atol=1e-6, rtol=0)
        # Mutual information of the three classes under p, 0.6 (1 - p), 0.4 (1 - p).
        entropy = lambda q: -sum(x * math.log(x) for x in (q, 0.6 * (1 - q), 0.4 * (1 - q)) if x)  # noqa: E731
        information = entropy(mean) - expect(entropy)
        assert math.isclose(moments.mutual_information[0], information, abs_tol=1e-5)

    def test_small_variance_is_the_delta_method(self) -> None:
        p = torch.tensor([[0.9, 0.1], [0.6, 0.4]]).double()
        s2 = torch.tensor([1e-4, 1e-4]).double()
        got = estimators.linearized(p, s2)
        torch.testing.assert_close(got.variance[:, 0], (p.prod(1)) ** 2 * s2, rtol=1e-3, atol=0)
        torch.testing.assert_close(got.mean, p, rtol=0, atol=1e-4)

    def test_certainty_and_no_noise_stay_finite(self) -> None:
        p = torch.tensor([[1.0, 0.0], [0.7, 0.3]]).double()
        moments = estimators.linearized(p, torch.tensor([0.0, 0.0]).double())
        torch.testing.assert_close(moments.mean, p)
        assert moments.variance.abs().max() < 1e-15
        assert moments.mutual_information.abs().max() < 1e-12
        wild = estimators.linearized(p, torch.tensor([1e6, 1e6]).double())
        assert wild.variance.le(0.25).all()
        assert wild.mean.isfinite().all()

    def test_fit_to_many_draws_is_monte_carlo(self) -> None:
        rng = np.random.default_rng(0)
        p = expit(1.5 + 0.8 * rng.standard_normal(50_000))
        draws = torch.from_numpy(np.stack([p, 1 - p], axis=1))[:, None]
        nothing = torch.zeros(len(draws), 1).double(), torch.zeros(1).double()
        fit = estimators.fitted(draws, estimators.regress(draws, *nothing))
        plain = estimators.monte_carlo(draws)
        torch.testing.assert_close(fit.mean, plain.mean, atol=2e-3, rtol=0)
        torch.testing.assert_close(fit.variance, plain.variance, atol=0, rtol=0.02)


N_TEXTS, MOST, ERROR = 2000, 128, 0.005


def settle(
    p: np.ndarray, tau_conf: float, tau_var: float, change: np.ndarray | None = None
) -> list[tuple[estimators.Moments, int]]:
    """Run the sequential test on synthetic draws p (T, N) of one label's probability.

    ``change`` (T, N) has variance 1 over all masks; by default it says nothing about p.
    """
    drawn = torch.from_numpy(np.stack([p, 1 - p], axis=-1))
    if change is None:
        change = np.random.default_rng(1).standard_normal(p.shape)
    q = torch.from_numpy(change)

    def draw(rows: list[int], draws: range) -> tuple[torch.Tensor, torch.Tensor]:
        some = slice(draws.start, draws.stop)
        return drawn[some, rows], q[some, rows]

    known = torch.ones(p.shape[1]).double()
    return sequential.draw_until_settled(
        draw, known, tau_conf=tau_conf, tau_var=tau_var, most=MOST, error=ERROR
    )


def route(mean: float, variance: float, tau_conf: float, tau_var: float) -> str:
    return "unsteady" if variance > tau_var else "sure" if mean >= tau_conf else "unsure"


class TestAdaptive:
    @pytest.mark.parametrize("deviation", [0.3, 1.0, 1.5])
    @pytest.mark.parametrize("conf_at", [-0.03, 0.0, 0.03])
    @pytest.mark.parametrize("var_at", [0.5, 0.9, 1.0, 1.1, 2.0])
    @pytest.mark.parametrize("explained", [0.0, 0.9])
    def test_error_probability_at_and_near_the_thresholds(
        self, deviation: float, conf_at: float, var_at: float, explained: float
    ) -> None:
        """Texts that stop early stop on the wrong side with the stated probability at most."""
        rng = np.random.default_rng([int(100 * x) for x in (deviation, 1 + conf_at, var_at)])
        noise, rest = rng.standard_normal((2, MOST, N_TEXTS))
        change = math.sqrt(explained) * noise + math.sqrt(1 - explained) * rest
        p = expit(2.0 + deviation * noise)
        nodes, weights = np.polynomial.hermite_e.hermegauss(100)
        values, weights = expit(2.0 + deviation * nodes), weights / weights.sum()
        mean = float(weights @ values)
        variance = float(weights @ (values - mean) ** 2)
        tau_conf, tau_var = mean + conf_at, variance * var_at * (1 + 1e-9)
        truth = route(mean, variance, tau_conf, tau_var)
        wrong = 0
        for m, n in settle(p, tau_conf, tau_var, change):
            if n < MOST:
                got = route(float(m.mean.max()), float(m.variance[0, 0]), tau_conf, tau_var)
                wrong += got != truth
        assert wrong / N_TEXTS <= ERROR + 3 * math.sqrt(ERROR / N_TEXTS)

    def test_clear_texts_stop_at_the_first_look_and_close_ones_go_on(self) -> None:
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((MOST, 3))
        p = expit(np.array([6.0, 2.2, 0.0]) + np.array([0.1, 0.3, 2.0]) * noise)
        clear, close, unsteady = settle(p, 0.9, 0.01)
        assert (clear[1], close[1], unsteady[1]) == (16, MOST, 16)

    def test_draws_that_the_linearization_explains_settle_sooner(self) -> None:
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((MOST, 200))
        change = 0.95 * noise + math.sqrt(1 - 0.95**2) * rng.standard_normal(noise.shape)
        p = expit(2.2 + 0.5 * noise)
        spent = [sum(n for _, n in settle(p, 0.87, 0.01, q)) for q in (change, None)]
        assert spent[0] < spent[1] / 2

    def test_the_regression_is_least_squares_and_knows_the_variance(self) -> None:
        rng = np.random.default_rng(0)
        q = rng.standard_normal((40, 1))
        p = expit(1.0 + 0.7 * q + 0.3 * rng.standard_normal(q.shape))
        drawn = torch.from_numpy(np.stack([p, 1 - p], axis=-1))
        got = estimators.regress(drawn, torch.from_numpy(q), torch.ones(1).double())
        line = stats.linregress(q[:, 0], np.log(p / (1 - p))[:, 0])
        assert math.isclose(got.slope, line.slope, rel_tol=1e-9)
        assert math.isclose(got.location, line.intercept, rel_tol=1e-9)
        noise = got.residuals.square().sum() / 38
        assert math.isclose(noise / got.squares, line.stderr**2, rel_tol=1e-9)
        error = (noise / 40 * (1 + got.off.square() / 40)).sqrt()
        assert math.isclose(error, line.intercept_stderr, rel_tol=1e-9)
        assert math.isclose(got.variance, line.slope**2 + noise, rel_tol=1e-9)

    def test_no_texts(self) -> None:
        assert settle(np.empty((MOST, 0)), 0.9, 0.01) == []
