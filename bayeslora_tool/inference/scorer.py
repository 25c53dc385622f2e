"""From a batch of token ids to moments: runs the network as the scoring says."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from bayeslora_tool.artifacts.manifest import Offset, Sureness
from bayeslora_tool.inference import estimators, sequential
from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.estimators import Moments
from bayeslora_tool.inference.network import Linearized, Network, Pass
from bayeslora_tool.inference.novelty import Novelty
from bayeslora_tool.inference.sequential import Belief
from bayeslora_tool.inference.sureness import signals, sure
from bayeslora_tool.policy import Policy, Scoring


class Scored(NamedTuple):
    """Of B texts: their moments, the draws each took, novelty and sureness (None: not fitted)."""

    moments: Moments
    n_draws: list[int]
    novelty: list[float | None]
    sureness: list[float | None]


def score(
    network: Network,
    novelty: Novelty | None,
    batch: list[Encoded],
    scoring: Scoring,
    policy: Policy | None,
    offset: Offset,
    sureness: Sureness | None = None,
) -> Scored:
    """Score one batch; ``adaptive`` draws for the ``policy``, and starts from the ``offset``."""
    taken = [0] * len(batch)
    passed: Pass | None
    if scoring.estimator == "deterministic":
        passed = network.deterministic(batch)
        moments = estimators.deterministic(passed.probabilities)
    elif scoring.estimator == "monte_carlo":
        passed = network.deterministic(batch) if novelty or sureness else None
        draws = network.draw(batch, scoring.seed, range(scoring.n_draws))
        moments = estimators.monte_carlo(draws)
        taken = [scoring.n_draws] * len(batch)
    else:
        linear = network.linearize(batch, keep=scoring.estimator == "adaptive")
        passed = linear.passed
        moments = estimators.linearized(passed.probabilities, linear.variance)
    far = _percentiles(novelty, passed, len(batch))
    if scoring.estimator == "adaptive":
        assert policy is not None
        before = sequential.linearized_belief(linear.passed.probabilities, linear.variance, offset)
        moments = before.moments(linear.passed.probabilities)
        rows = _undecided(batch, before, far, scoring.error, policy)
        drawn = _draw(network, batch, rows, linear, before, offset, scoring, policy)
        for row, (one, n) in zip(rows, drawn, strict=True):
            moments.put(row, one)
            taken[row] = n
    return Scored(moments, taken, far, _sureness(sureness, novelty, passed, len(batch)))


def _sureness(
    model: Sureness | None, novelty: Novelty | None, passed: Pass | None, n_texts: int
) -> list[float | None]:
    if model is None or passed is None:
        return [None] * n_texts
    found: list[float | None] = sure(model, signals(passed, novelty)).tolist()
    return found


def _percentiles(novelty: Novelty | None, passed: Pass | None, n_texts: int) -> list[float | None]:
    if novelty is None or passed is None:
        return [None] * n_texts
    found: list[float | None] = novelty.percentile(passed.features, passed.lengths).tolist()
    return found


def _undecided(
    batch: list[Encoded], before: Belief, novelty: list[float | None], error: float, policy: Policy
) -> list[int]:
    """Texts whose route may be another after draws."""
    decided = (before.doubt(policy.tau_conf, policy.tau_var) <= error).tolist()
    # Not read whole or too novel is a settled route, whatever the draws would say.
    return [
        i
        for i, (text, far) in enumerate(zip(batch, novelty, strict=True))
        if not decided[i]
        and not text.truncated
        and (not text.unread or policy.allow_unread)
        and (far is None or policy.tau_novelty is None or far <= policy.tau_novelty)
    ]


def _draw(
    network: Network,
    batch: list[Encoded],
    undecided: list[int],
    linear: Linearized,
    before: Belief,
    offset: Offset,
    scoring: Scoring,
    policy: Policy,
) -> list[tuple[Moments, int]]:
    def draw(rows: list[int], draws: range) -> tuple[Tensor, Tensor]:
        of_batch = [undecided[i] for i in rows]
        gradients = {name: gradient[of_batch] for name, gradient in linear.gradients.items()}
        return (
            network.draw([batch[i] for i in of_batch], scoring.seed, draws),
            network.posterior.project(gradients, scoring.seed, draws),
        )

    return sequential.draw_until_settled(
        draw,
        linear.variance[undecided],
        before.take(undecided),
        unexplained=offset.unexplained,
        tau_conf=policy.tau_conf,
        tau_var=policy.tau_var,
        most=scoring.n_draws,
        error=scoring.error,
    )
