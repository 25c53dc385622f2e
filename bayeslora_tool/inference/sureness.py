"""One number of three signals: how sure a label is right, and the text belongs here.

A label may be wrong because another competes with it, or because the text belongs to none. The
first shows in the log-odds of the label against the rest; the second in the energy of the logits,
``log sum_c exp z_c``, which softmax divides away (Liu, Wang, Owens, Li 2020, arXiv 2010.03759), and
in the distance to the training texts (``novelty.py``). A logistic regression joins them::

    sureness = sigmoid(a + w_1 log_odds + w_2 energy - w_3 distance),    w >= 0

Weights that are not negative make it monotone: of two texts that differ in one signal only, the
better one is never the less sure; and an act, whose log-odds are those of its labels' sum, is never
less sure than the likeliest of its labels. All three come from the pass without noise, so the
sureness is the same for every estimator. ``calibration/sureness.py`` fits it. Knows no text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bayeslora_tool.artifacts.manifest import Sureness
from bayeslora_tool.inference.estimators import log_odds
from bayeslora_tool.inference.network import Pass
from bayeslora_tool.inference.novelty import Novelty


def signals(passed: Pass, novelty: Novelty | None) -> Tensor:
    """(B, 3) Log-odds of the likeliest label, energy, and negative distance (0 without novelty).

    The greater, the surer.
    """
    odds = log_odds(passed.probabilities, passed.logits.argmax(dim=1))
    distance = (
        torch.zeros_like(odds)
        if novelty is None
        else novelty.distance(passed.features, passed.lengths).double()
    )
    return torch.stack([odds, passed.energy, -distance], dim=1)


def sure(model: Sureness, signals: Tensor) -> Tensor:
    """(B,) Sureness in [0, 1], from signals (B, 3); NaN where a signal is NaN."""
    weights = torch.tensor([model.log_odds, model.energy, model.distance], dtype=torch.float64)
    return torch.sigmoid(model.intercept + signals @ weights)
