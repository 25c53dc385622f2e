from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import expit

from bayeslora_tool.inference import estimators, sequential


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
        found = estimators.regress(draws, *nothing)
        fit = estimators.logistic_normal(
            draws.mean(dim=0), found.label, found.location, found.variance
        )
        plain = estimators.monte_carlo(draws)
        torch.testing.assert_close(fit.mean, plain.mean, atol=2e-3, rtol=0)
        torch.testing.assert_close(fit.variance, plain.variance, atol=0, rtol=0.02)


N_TEXTS, MOST, ERROR = 1000, 64, 0.005


def settle(
    p: np.ndarray,
    tau_conf: float,
    tau_var: float,
    *,
    before: sequential.Belief | None = None,
    change: np.ndarray | None = None,
    unexplained: float = 0.2,
) -> list[tuple[estimators.Moments, int]]:
    """Run the sequential test on synthetic draws p (T, N) of the first label's probability.

    ``change`` (T, N) has variance 1 over all masks; by default it says nothing about p. Without
    ``before``, nothing is believed before the draws.
    """
    drawn = torch.from_numpy(np.stack([p, 1 - p], axis=-1))
    if change is None:
        change, unexplained = np.random.default_rng(1).standard_normal(p.shape), 1.0
    q = torch.from_numpy(change)
    if before is None:
        before = belief(np.zeros(p.shape[1]), 1e3, np.zeros(p.shape[1]), 1e3)

    def draw(rows: list[int], draws: range) -> tuple[torch.Tensor, torch.Tensor]:
        some = slice(draws.start, draws.stop)
        return drawn[some, rows], q[some, rows]

    return sequential.draw_until_settled(
        draw,
        torch.ones(p.shape[1]).double(),
        before,
        offset=sequential.UNMEASURED.model_copy(update={"unexplained": unexplained}),
        tau_conf=tau_conf,
        tau_var=tau_var,
        most=MOST,
        error=ERROR,
    )


def belief(
    location: np.ndarray, location_sd: float, log_variance: np.ndarray, log_variance_sd: float
) -> sequential.Belief:
    location, log_variance = torch.from_numpy(location), torch.from_numpy(log_variance)
    return sequential.Belief(
        torch.zeros(len(location), dtype=torch.int64),
        location,
        torch.full_like(location, location_sd),
        log_variance,
        torch.full_like(log_variance, log_variance_sd),
    )


def route(mean: float, variance: float, tau_conf: float, tau_var: float) -> str:
    return "unsteady" if variance > tau_var else "sure" if mean >= tau_conf else "unsure"


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(100)
WEIGHTS /= WEIGHTS.sum()


def exact_moments(location: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = expit(location[..., None] + np.sqrt(variance)[..., None] * NODES)
    mean = values @ WEIGHTS
    return mean, (values - mean[..., None]) ** 2 @ WEIGHTS


class TestAdaptive:
    @pytest.mark.parametrize("deviation", [0.3, 1.5])
    @pytest.mark.parametrize("conf_at", [-2.0, 0.0, 1.0])
    @pytest.mark.parametrize(
        "var_at",
        [pytest.param(0.5, marks=pytest.mark.slow), 1.0, pytest.param(2.0, marks=pytest.mark.slow)],
    )
    @pytest.mark.parametrize("explained", [0.5, 0.9])
    def test_error_probability_at_and_near_the_thresholds(
        self, deviation: float, conf_at: float, var_at: float, explained: float
    ) -> None:
        """What is settled before the last draw wrongly proceeds, or stops, as rarely as stated.

        ``conf_at`` says how many deviations of the belief its centre lies over tau_conf.
        """
        rng = np.random.default_rng([int(100 * x) for x in (deviation, 3 + conf_at, var_at)])
        sd, log_sd = 0.3 * deviation, 0.2
        off, log_off = rng.standard_normal((2, N_TEXTS))
        location, variance = 2.0 + sd * off, np.exp(2 * np.log(deviation) + log_sd * log_off)
        noise, rest = rng.standard_normal((2, MOST, N_TEXTS))
        p = expit(
            location
            + np.sqrt(variance) * (math.sqrt(explained) * noise + math.sqrt(1 - explained) * rest)
        )
        at, spread = np.array(2.0 - conf_at * sd), np.array(deviation**2)
        tau_conf = float(exact_moments(at, spread)[0])
        tau_var = float(exact_moments(np.array(2.0), spread)[1] * var_at)
        got = settle(
            p,
            tau_conf,
            tau_var,
            before=belief(np.full(N_TEXTS, 2.0), sd, np.full(N_TEXTS, np.log(spread)), log_sd),
            change=noise,
            unexplained=1 - explained,
        )
        wrong = sum(
            (route(float(m.mean[0, 0]), float(m.variance[0, 0]), tau_conf, tau_var) == "sure")
            != (route(mean, var, tau_conf, tau_var) == "sure")
            for (m, n), mean, var in zip(got, *exact_moments(location, variance), strict=True)
            if n < MOST
        )
        assert wrong / N_TEXTS <= ERROR + 3 * math.sqrt(ERROR / N_TEXTS)

    @pytest.mark.parametrize("tau_conf", [0.85, 0.9])
    @pytest.mark.parametrize("tau_var", [0.004, 0.01, 0.02])
    def test_doubt_is_the_share_of_other_routes(self, tau_conf: float, tau_var: float) -> None:
        """Against sampling from the belief."""
        got = belief(np.array([2.1]), 0.2, np.array([-1.2]), 0.3).doubt(tau_conf, tau_var)
        rng = np.random.default_rng(0)
        means, variances = exact_moments(
            rng.normal(2.1, 0.2, 100_000), np.exp(rng.normal(-1.2, 0.3, 100_000))
        )
        routes = np.where(variances > tau_var, 2, means < tau_conf)
        assert math.isclose(float(got), 1 - np.bincount(routes).max() / len(routes), abs_tol=0.004)

    @pytest.mark.parametrize("z", [0.3, 1.5, 2.1, 2.58, 3.3])
    @pytest.mark.parametrize("side", [-1, 1])
    def test_doubt_about_one_threshold_is_a_tail_of_the_belief(self, z: float, side: int) -> None:
        tail = float(stats.norm.sf(z))
        centre, spread = np.array(2.0), np.array(0.5)
        at = float(exact_moments(centre + side * z * 0.2, spread)[0])
        sure = belief(np.array([2.0]), 0.2, np.log([0.5]), 1e-6)
        assert math.isclose(float(sure.doubt(at, 0.25)), tail, rel_tol=0.15, abs_tol=1e-3)
        at = float(exact_moments(centre, spread * np.exp(side * z * 0.3))[1])
        steady = belief(np.array([2.0]), 1e-6, np.log([0.5]), 0.3)
        assert math.isclose(float(steady.doubt(0.5, at)), tail, rel_tol=0.15, abs_tol=1e-3)

    def test_what_is_no_number_is_in_doubt(self) -> None:
        odd = belief(np.array([math.nan, 9.0, 9.0]), 0.1, np.array([0.0, math.nan, 0.0]), 0.1)
        assert odd.doubt(0.9, 0.1).tolist()[:2] == [1, 1]

    def test_clear_texts_stop_at_the_first_look_and_close_ones_go_on(self) -> None:
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((MOST, 3))
        p = expit(np.array([6.0, 2.2, 0.0]) + np.array([0.1, 0.3, 2.0]) * noise)
        clear, close, unsteady = settle(p, 0.9, 0.01)
        assert (clear[1], close[1], unsteady[1]) == (8, MOST, 8)

    def test_draws_that_the_linearization_explains_settle_sooner(self) -> None:
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((MOST, 200))
        change = 0.95 * noise + math.sqrt(1 - 0.95**2) * rng.standard_normal(noise.shape)
        p = expit(2.2 + 0.5 * noise)
        spent = [sum(n for _, n in settle(p, 0.87, 0.01, change=q)) for q in (change, None)]
        assert spent[0] < spent[1] / 2

    def test_draws_of_another_label_leave_nothing_of_the_belief(self) -> None:
        rng = np.random.default_rng(0)
        p = expit(-3.0 + 0.1 * rng.standard_normal((MOST, 1)))
        [(moments, _)] = settle(p, 0.9, 0.01, before=belief(np.array([3.0]), 0.1, np.zeros(1), 0.1))
        assert float(moments.mean[0, 1]) > 0.94

    def test_a_measured_offset_is_the_one_that_the_draws_have(self) -> None:
        rng = np.random.default_rng(0)
        n_texts, n_draws = 3000, 64
        deviation = rng.uniform(0.2, 1.0, n_texts)
        plain = torch.from_numpy(rng.uniform(1.0, 4.0, n_texts))
        location = plain.numpy() + deviation * (
            -0.5 + 0.8 * deviation + 0.2 * rng.standard_normal(n_texts)
        )
        variance = deviation**2 * np.exp(
            0.3 - 0.4 * deviation + 0.15 * rng.standard_normal(n_texts)
        )
        q, rest = rng.standard_normal((2, n_draws, n_texts))
        p = expit(location + np.sqrt(variance) * (math.sqrt(0.9) * q + math.sqrt(0.1) * rest))
        found = estimators.regress(
            torch.from_numpy(np.stack([p, 1 - p], axis=-1)),
            torch.from_numpy(deviation * q),
            torch.from_numpy(deviation**2),
        )
        p0 = torch.sigmoid(plain)
        rows = torch.stack([p0, 1 - p0], dim=1)
        offset = sequential.measured_offset(rows, found)
        # Texts that the adapter maps to nothing do not vary, and change nothing.
        some = estimators.regress(
            torch.from_numpy(np.stack([p, 1 - p], axis=-1))[:, :40]
            .mean(0, keepdim=True)
            .repeat(n_draws, 1, 1),
            torch.zeros(n_draws, 40, dtype=torch.float64),
            torch.zeros(40, dtype=torch.float64),
        )
        both = estimators.Regression(
            *(torch.cat(part, dim=-1) for part in zip(found, some, strict=True))
        )
        assert sequential.measured_offset(torch.cat([rows, rows[:40]]), both) == offset
        np.testing.assert_allclose(offset.location, (-0.5, 0.8), atol=0.05)
        np.testing.assert_allclose(offset.log_variance, (0.3, -0.4), atol=0.05)
        assert math.isclose(offset.location_sd, 0.2, abs_tol=0.02)
        assert math.isclose(offset.log_variance_sd, 0.15, abs_tol=0.02)
        assert math.isclose(offset.unexplained, 0.1, abs_tol=0.01)

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
