"""From token ids to moments: runs the network as the scoring says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bayeslora_tool.artifacts.manifest import Forecast, Offset
from bayeslora_tool.inference import estimators, sequential
from bayeslora_tool.inference.encoding import Encoded, batches
from bayeslora_tool.inference.estimators import Moments
from bayeslora_tool.inference.forecast import forecast_belief
from bayeslora_tool.inference.network import Linearized, Network, Pass, precision_of
from bayeslora_tool.inference.sequential import Belief
from bayeslora_tool.inference.sureness import Reference
from bayeslora_tool.policy import Policy, Scoring

# Which way a text stops may be wrong so many times as often as whether it does: a person sees it
# either way.
STOPS = 20


class Scored(NamedTuple):
    """Of B texts: their moments, and of each what they rest on (see ``Prediction``)."""

    moments: Moments
    variance_from: list[str]
    n_draws: list[int]
    novelty: list[float | None]
    sureness: list[float | None]


def score(network: Network, reference: Reference, batch: list[Encoded], scoring: Scoring) -> Scored:
    """Score one batch, by an estimator that needs no thresholds."""
    if scoring.estimator == "monte_carlo":
        passed = None if reference == Reference() else network.deterministic(batch)
        draws = network.draw(batch, scoring.seed, range(scoring.n_draws))
        return _scored(reference, passed, estimators.monte_carlo(draws), "draws", scoring.n_draws)
    if scoring.estimator == "linearized":
        return scored_pass(reference, network.linearize(batch))
    assert scoring.estimator == "deterministic"
    return scored_pass(reference, network.deterministic(batch))


def scored_pass(reference: Reference, found: Pass | Linearized) -> Scored:
    """What a pass says of its texts: with their variance, if it was linearized."""
    if isinstance(found, Pass):
        moments = estimators.deterministic(found.probabilities)
        return _scored(reference, found, moments, "none")
    moments = estimators.linearized(found.passed.probabilities, found.variance)
    return _scored(reference, found.passed, moments, "linearization")


def _scored(
    reference: Reference, passed: Pass | None, moments: Moments, source: str, n_draws: int = 0
) -> Scored:
    n = len(moments.mean)
    far, certain = reference.novelties(passed, n), reference.surenesses(passed, n)
    return Scored(moments, [source] * n, [n_draws] * n, far, certain)


def scored_by(
    network: Network, adapter: str, scoring: Scoring, more: Sequence[str] = (), start: str = ""
) -> str:
    """Everything a prediction depends on besides its text, in one line.

    Args:
        network: That runs.
        adapter: Fingerprint of its adapter.
        scoring: What is computed.
        more: What else the numbers depend on.
        start: What ``adaptive`` starts from.
    """
    posterior = network.posterior
    parts = [
        f"adapter {adapter}",
        f"{posterior.placement} {posterior.scope} p={posterior.dropout:g}",
        f"temperature {network.temperature:.6g}",
        scoring.estimator,
        *more,
    ]
    if scoring.estimator in ("monte_carlo", "adaptive"):
        parts.append(f"T={scoring.n_draws} seed={scoring.seed}")
    if scoring.estimator == "adaptive":
        parts.append(f"error={scoring.error:g},{scoring.draw_error:g} start {start}")
    precision = precision_of(network.model)
    return ", ".join(parts if precision == "torch.float32" else [*parts, precision])


class Stages:
    """Texts on their way through ``adaptive``: a pass each, then what the thresholds ask for.

    After the pass without noise there is a belief about each text. A text whose route that settles
    needs no more; the others are linearized; of those the ones that hang in the balance are drawn.
    What was computed for one policy serves the next.

    Args:
        network: To run.
        reference: What the texts are held against.
        texts: Encoded, each at its own ``position``.
        passes: Without noise, over batches of the texts.
        scoring: Draws, seed and errors.
        forecast: What a pass says of the variance.
        offset: How far draws lie off the linearization.
        most_tokens: Texts x tokens of one pass.
    """

    def __init__(
        self,
        network: Network,
        reference: Reference,
        texts: Sequence[Encoded],
        passes: Iterable[tuple[list[Encoded], Pass]],
        scoring: Scoring,
        forecast: Forecast,
        offset: Offset,
        most_tokens: int,
    ) -> None:
        self.network, self.texts, self.scoring, self.offset = network, texts, scoring, offset
        self.most_tokens = most_tokens
        self.novelty: list[float | None] = [None] * len(texts)
        self.sureness: list[float | None] = [None] * len(texts)
        rows: list[int] = []
        logits = [torch.empty(0, network.n_classes, dtype=torch.float64)]
        for batch, passed in passes:
            logits.append(passed.logits)
            far = reference.novelties(passed, len(batch))
            certain = reference.surenesses(passed, len(batch))
            for text, percentile, p in zip(batch, far, certain, strict=True):
                self.novelty[text.position], self.sureness[text.position] = percentile, p
            rows += [text.position for text in batch]
        ordered = torch.cat(logits)[torch.tensor(rows).argsort()]
        self.probabilities = ordered.softmax(dim=1)
        self.first = forecast_belief(ordered, forecast)
        self.log_odds_variance = torch.full((len(texts),), torch.nan, dtype=torch.float64)

    def settle(self, policy: Policy) -> Scored:
        """Score the texts as the thresholds need it."""
        moments = self.first.moments(self.probabilities)
        source, taken = ["forecast"] * len(self.texts), [0] * len(self.texts)
        rows = self._in_doubt(policy)
        if rows:
            self._linearize(rows)
            second = sequential.linearized_belief(
                self.probabilities[rows], self.log_odds_variance[rows], self.offset
            )
            moments.put(rows, second.moments(self.probabilities[rows]))
            to_act, _ = self._doubts(second, rows, policy)
            open_ = to_act > self.scoring.draw_error
            for i, row in enumerate(rows):
                source[row] = "linearization"
                if open_[i]:
                    source[row] = "draws"
            for row, one, n in self._draw([r for r in rows if source[r] == "draws"], policy):
                moments.put([row], one)
                taken[row] = n
        return Scored(moments, source, taken, self.novelty, self.sureness)

    def _in_doubt(self, policy: Policy) -> list[int]:
        """Texts whose route may be another after a backward pass."""
        error = self.scoring.error
        to_act, whichever = self._doubts(self.first, range(len(self.texts)), policy)
        settled = (to_act <= error) & (whichever <= STOPS * error)
        # Not read whole or too novel is a settled route, whatever the variance.
        return [
            i
            for i, (text, far, done) in enumerate(
                zip(self.texts, self.novelty, settled.tolist(), strict=True)
            )
            if not done
            and not text.truncated
            and (not text.unread or policy.allow_unread)
            and (far is None or policy.tau_novelty is None or far <= policy.tau_novelty)
        ]

    def _doubts(self, belief: Belief, rows: Sequence[int], policy: Policy) -> tuple[Tensor, Tensor]:
        """Of some texts, how likely it is wrong whether they proceed, and what their route is."""
        proceeds, unsure, unsteady = belief.shares(policy.tau_conf, policy.tau_var).unbind(dim=1)
        if policy.tau_sure is not None:
            # That a text is not sure enough is known from the first pass.
            known = [float("nan") if p is None else p for p in self.sureness]
            found = torch.tensor(known, dtype=torch.float64)
            enough = (found >= policy.tau_sure)[torch.tensor([*rows], dtype=torch.long)]
            unsure = unsure + torch.where(enough, 0.0, proceeds)
            proceeds = torch.where(enough, proceeds, 0.0)
        to_act = 1 - torch.maximum(proceeds, unsure + unsteady)
        return to_act, 1 - torch.stack([proceeds, unsure, unsteady]).amax(dim=0)

    def _linearize(self, rows: list[int]) -> None:
        """Those that were not yet."""
        new = [self.texts[row] for row in rows if self.log_odds_variance[row].isnan()]
        for batch in batches(new, self.most_tokens):
            found = self.network.linearize(batch, features=False).variance
            self.log_odds_variance[[text.position for text in batch]] = found

    def _draw(self, rows: list[int], policy: Policy) -> Iterator[tuple[int, Moments, int]]:
        for batch in batches([self.texts[row] for row in rows], self.most_tokens):
            # Once more, to keep the gradients: they are large, and were not kept for all.
            linear = self.network.linearize(batch, keep=True, features=False)
            before = sequential.linearized_belief(
                linear.passed.probabilities, linear.variance, self.offset
            )
            settled = _draw(self.network, batch, linear, before, self.offset, self.scoring, policy)
            for text, (one, n) in zip(batch, settled, strict=True):
                yield text.position, one, n


def _draw(
    network: Network,
    batch: list[Encoded],
    linear: Linearized,
    before: Belief,
    offset: Offset,
    scoring: Scoring,
    policy: Policy,
) -> list[tuple[Moments, int]]:
    def draw(rows: list[int], draws: range) -> tuple[Tensor, Tensor]:
        gradients = {name: gradient[rows] for name, gradient in linear.gradients.items()}
        return (
            network.draw([batch[row] for row in rows], scoring.seed, draws),
            network.posterior.project(gradients, scoring.seed, draws),
        )

    return sequential.draw_until_settled(
        draw,
        linear.variance,
        before,
        offset=offset,
        tau_conf=policy.tau_conf,
        tau_var=policy.tau_var,
        most=scoring.n_draws,
        error=scoring.draw_error,
    )
