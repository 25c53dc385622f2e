"""Thresholds for a classifier that has a confidence and nothing else. Knows no model.

The test is that of ``guarantee.py``: it takes any score, whoever computed it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bayeslora_tool.calibration.guarantee import Result, calibrate, calibrate_load
from bayeslora_tool.calibration.thresholds import Goal, Scores
from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction

_NEVER = 1.0  # a variance that no threshold lets proceed


def calibrate_confidence(
    predictions: Sequence[Prediction | None],
    gold: Sequence[str | None],
    *,
    scored_by: str,
    goal: Goal,
    max_escalation: float | None = None,
    seed: int = 0,
) -> tuple[Result, Policy]:
    """A least confidence with the goal's promise, and the policy that asks for it alone.

    Args:
        predictions: Of the calibration texts; None where there was none, which a gate escalates.
        gold: The right label of each; None for a text that no label fits.
        scored_by: That all predictions have.
        goal: What to guarantee.
        max_escalation: Cap the reviewers' load instead of the risk; see ``calibrate_load``.
        seed: Of the split into tuning and testing texts.

    Raises:
        ValueError: Fewer than 30 texts; a bound on out-of-scope texts without such texts.
    """
    scores = Scores(
        confidence=np.array([0.0 if p is None else p.confidence for p in predictions]),
        variance=np.array([0.0 if _read(p) else _NEVER for p in predictions]),
        novelty=None,
        correct=np.array(
            [p is not None and p.label == right for p, right in zip(predictions, gold, strict=True)]
        ),
        in_scope=np.array([right is not None for right in gold]),
    )
    if max_escalation is None:
        result = calibrate(scores, goal, seed=seed, gates=())
    else:
        result = calibrate_load(scores, max_escalation=max_escalation, delta=goal.delta, seed=seed)
    policy = Policy(
        tau_conf=result.thresholds.tau_conf,
        tau_var=result.thresholds.tau_var,
        allow_no_variance=True,
        calibrated_for=scored_by,
    )
    return result, policy


def _read(prediction: Prediction | None) -> bool:
    return prediction is not None and not (prediction.truncated or prediction.unread)
