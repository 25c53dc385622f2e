"""One number of four signals: how sure a label is right, and the text belongs here.

A label may be wrong because another competes with it, or because the text belongs to none. The
first shows in the log-odds of the label against the rest; the second in the energy of the logits,
``log sum_c exp z_c``, which softmax divides away (Liu, Wang, Owens, Li 2020, arXiv 2010.03759), in
the distance to the training texts (``novelty.py``), and in the likeness to the nearest one of the
label's (``neighbours.py``). A label must be right *and* the text belong here, so two logistic
factors of them are multiplied, and a confidence cannot make up for a text that belongs nowhere::

    sureness = prod_k sigmoid(a_k + w_k1 log_odds + w_k2 energy - w_k3 distance + w_k4 nearest)

No weight is negative, which makes it monotone: of two texts that differ in one signal only, the
better one is never the less sure; and an act, whose log-odds are those of its labels' sum and whose
training texts are those of all of them, is never less sure than the likeliest of its labels. All
four come from the pass without noise, so the sureness is the same for every estimator.
``calibration/sureness.py`` fits it. Knows no text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora_tool.artifacts.manifest import Sureness
from bayeslora_tool.inference.estimators import log_odds
from bayeslora_tool.inference.neighbours import Neighbours
from bayeslora_tool.inference.network import Pass
from bayeslora_tool.inference.novelty import Novelty


@dataclass(frozen=True)
class Reference:
    """The training texts, as a pass is held against them; None is what was not fitted."""

    novelty: Novelty | None = None
    neighbours: Neighbours | None = None
    sureness: Sureness | None = None

    def signals(self, passed: Pass) -> Tensor:
        """(B, 4) Log-odds of the likeliest label, energy, negative distance, likeness.

        The greater, the surer; 0 for what was not fitted.
        """
        chosen = passed.logits.argmax(dim=1)
        odds = log_odds(passed.probabilities, chosen)
        distance = nearest = torch.zeros_like(odds)
        if self.novelty is not None:
            distance = self.novelty.distance(passed.features, passed.lengths).double()
        if self.neighbours is not None:
            nearest = self.neighbours.similarity(passed.features, chosen).double()
        return torch.stack([odds, passed.energy, -distance, nearest], dim=1)

    def novelties(self, passed: Pass | None, n_texts: int) -> list[float | None]:
        """Of each text, as a percentile of held-out texts."""
        if self.novelty is None or passed is None:
            return [None] * n_texts
        found: list[float | None] = self.novelty.percentile(
            passed.features, passed.lengths
        ).tolist()
        return found

    def surenesses(self, passed: Pass | None, n_texts: int) -> list[float | None]:
        """Of each text."""
        if self.sureness is None or passed is None:
            return [None] * n_texts
        found: list[float | None] = sure(self.sureness, self.signals(passed)).tolist()
        return found


def sure(model: Sureness, signals: Tensor) -> Tensor:
    """(B,) Sureness in [0, 1], from signals (B, 4); NaN where a signal is NaN."""
    found = torch.ones(len(signals), dtype=torch.float64)
    for factor in model.factors:
        weights = [factor.log_odds, factor.energy, factor.distance, factor.nearest]
        weighted = signals @ torch.tensor(weights, dtype=torch.float64)
        found = found * torch.sigmoid(factor.intercept + weighted)
    return found
