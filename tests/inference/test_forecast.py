from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from bayeslora_tool.inference import forecast, sequential
from bayeslora_tool.inference.estimators import logistic_normal, regress


def test_signals_one_by_one() -> None:
    logits = np.array([[2.0, -1.0, 0.5, 0.0], [0.0, 3.0, -2.0, 1.0]])
    got = forecast.signals(torch.from_numpy(logits))
    for row, (best, z) in zip(got.tolist(), ((0, logits[0]), (1, logits[1])), strict=True):
        rest = np.delete(z, best)
        odds = z[best] - special.logsumexp(rest)
        nats = stats.entropy(special.softmax(rest))
        np.testing.assert_allclose(row, [1, odds, odds**2, nats, z.std(), rest.std()], rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 6])
def test_a_fit_finds_what_the_variance_was_made_of(classes: int) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(3 * rng.standard_normal((4000, classes)))
    x = forecast.signals(logits).numpy()
    true = np.array([-1.5, 0.2, -0.03, 0.4, 0.1, -0.3])
    log_variance = x @ true + 0.3 * rng.standard_normal(len(x))
    found = forecast.measured_forecast(logits, torch.from_numpy(np.exp(log_variance)))
    # With two labels signals depend on each other: what they say together is what counts.
    error = x @ np.array(found.coefficients) - x @ true
    assert np.sqrt(np.square(error).mean()) < 0.02
    assert math.isclose(found.deviation, 0.3, rel_tol=0.05)


def test_few_texts_with_a_variance_leave_the_wide_guess() -> None:
    logits = torch.randn(100, 3, dtype=torch.float64)
    variance = torch.zeros(100, dtype=torch.float64)
    variance[:29] = 1.0
    assert forecast.measured_forecast(logits, variance) == forecast.UNMEASURED


def test_the_belief_knows_the_location_and_doubts_as_a_tail_of_the_variance() -> None:
    """Doubt about tau_var is the normal tail of the log variance beyond where it is reached."""
    logits = torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64)
    known = forecast.UNMEASURED.model_copy(update={"deviation": 0.4})
    belief = forecast.forecast_belief(logits, known)
    assert belief.location_sd.item() == 0
    p = logits.softmax(1)
    label = torch.tensor([0])
    for z in (-2.0, -0.5, 0.7, 2.5):
        variance = (belief.log_variance + z * 0.4).exp()
        at = logistic_normal(p, label, belief.location, variance).variance[0, 0].item()
        assert math.isclose(
            belief.doubt(0.0, at).item(), stats.norm.sf(abs(z)), rel_tol=0.2, abs_tol=2e-3
        )


def test_doubt_to_act_is_about_proceeding_alone() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64)
    belief = forecast.forecast_belief(logits, forecast.UNMEASURED)
    p = float(logits.softmax(1)[0, 0])
    middle = float(belief.moments(logits.softmax(1)).variance[0, 0])
    # Never sure, and steady or not by the toss of a coin: it stops, the reason is open.
    assert belief.doubt(0.9999, middle).item() > 0.4
    assert belief.doubt_to_act(0.9999, middle).item() < 1e-6
    assert belief.doubt_to_act(p / 2, middle).item() > 0.4
    shares = belief.shares(0.9, middle)
    assert math.isclose(shares.sum().item(), 1, abs_tol=1e-9)


def test_what_is_no_number_is_in_doubt() -> None:
    logits = torch.tensor([[math.nan, 0.0, 1.0]], dtype=torch.float64)
    belief = forecast.forecast_belief(logits, forecast.UNMEASURED)
    assert belief.doubt(0.9, 0.01).item() == 1
    assert belief.doubt_to_act(0.9, 0.01).item() == 1


def test_draws_are_counted_on_the_scale_of_the_linearization() -> None:
    """Draws that lie off exactly as they usually do leave the linearized moments where they are."""
    rng = np.random.default_rng(0)
    n, deviation = 4096, 0.5
    offset = sequential.UNMEASURED.model_copy(
        update={"location": (-1.0, 0.5), "log_variance": (0.3, -0.1)}
    )
    q = rng.standard_normal(n)
    q = (q - q.mean()) / q.std() * deviation
    centre = 2.0 + deviation * (-1.0 + 0.5 * deviation)
    scale = math.exp((0.3 - 0.1 * deviation) / 2)
    p = special.expit(centre + scale * q)
    drawn = torch.from_numpy(np.stack([p, 1 - p], axis=-1))[:, None]
    known = torch.tensor([deviation**2], dtype=torch.float64)
    found = regress(drawn, torch.from_numpy(q)[:, None], known)
    p0 = special.expit(2.0)
    before = sequential.linearized_belief(
        torch.tensor([[p0, 1 - p0]], dtype=torch.float64), known, offset
    )
    after = sequential.sampled_belief(before, found, offset)
    assert math.isclose(before.location.item(), 2.0, abs_tol=1e-9)
    assert math.isclose(after.location.item(), 2.0, abs_tol=1e-3)
    assert math.isclose(after.log_variance.item(), 2 * math.log(deviation), abs_tol=0.01)
