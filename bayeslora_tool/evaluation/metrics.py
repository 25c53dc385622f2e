"""What predictions are worth: metrics of held-out predictions, with bootstrap intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

try:
    from sklearn.metrics import (
        average_precision_score,
        brier_score_loss,
        log_loss,
        roc_auc_score,
        roc_curve,
    )
    from torchmetrics.functional.classification import multiclass_calibration_error
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[report]"') from None

Floats = NDArray[np.float64]
BINS = 15
RISKS = (0.01, 0.02, 0.05)
FALSE_ALARMS = (0.01, 0.04, 0.05)


@dataclass(frozen=True)
class Evidence:
    """Predictions of n texts beside the truth.

    Attributes:
        probabilities: (n, C), predictive means; rows sum to 1.
        gold: (n,), indices of the right classes.
        doubts: Name of a signal to its values (n,), greater where the text is more doubtful.
        outside: The same signals for texts out of distribution, each (m,); empty without such.
    """

    probabilities: Floats
    gold: NDArray[np.intp]
    doubts: Mapping[str, Floats]
    outside: Mapping[str, Floats]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(n,) Where the likeliest label is not the right one."""
        wrong: NDArray[np.bool_] = self.probabilities.argmax(axis=1) != self.gold
        return wrong

    def take(self, rows: NDArray[np.intp], outside: NDArray[np.intp]) -> Evidence:
        """A resample of the texts in and out of distribution."""
        return Evidence(
            self.probabilities[rows],
            self.gold[rows],
            {name: values[rows] for name, values in self.doubts.items()},
            {name: values[outside] for name, values in self.outside.items()},
        )


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % bootstrap interval (percentiles of resampled texts)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def evaluate(
    evidence: Evidence,
    *,
    resamples: int = 300,
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[str, Interval]:
    """All metrics with intervals.

    Args:
        evidence: What to judge.
        resamples: Bootstrap resamples of texts.
        seed: Of the resampling.
        progress: Called with 1 after each resample.
    """
    n, m = len(evidence.gold), len(next(iter(evidence.outside.values()), ()))
    values = metrics(evidence)
    rng = np.random.default_rng(seed)
    samples: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(resamples):
        drawn = evidence.take(
            rng.integers(n, size=n), rng.integers(m, size=m) if m else np.empty(0, int)
        )
        for name, value in metrics(drawn).items():
            samples[name].append(value)
        progress(1)
    return {name: Interval(value, *_middle_95(samples[name])) for name, value in values.items()}


def _middle_95(values: Sequence[float]) -> tuple[float, float]:
    finite = [v for v in values if not math.isnan(v)]
    if not finite:  # no resample held an error to rank, say
        return math.nan, math.nan
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)


def metrics(evidence: Evidence) -> dict[str, float]:
    """Accuracy, calibration, ranking of errors by each signal, detection of outsiders.

    Names are ``accuracy``, ``nll``, ``brier``, ``ece``, ``adaptive_ece``; for each signal ``aurc
    (signal)``, ``augrc (...)``, ``excess_aurc (...)``, ``auroc_error (...)``,
    ``spearman_error (...)``, ``coverage at 5 % risk (...)``; with outsiders ``auroc_ood (...)``,
    ``aupr_ood (...)``, ``fpr95_ood (...)``, ``recall_ood at 5 % false alarms (...)``.
    """
    p, gold, wrong = evidence.probabilities, evidence.gold, evidence.wrong
    classes = np.arange(p.shape[1])
    found = {
        "accuracy": float(1 - wrong.mean()),
        "nll": float(log_loss(gold, p, labels=classes)),
        "brier": float(brier_score_loss(gold, p, labels=classes, scale_by_half=False)),
        "ece": ece(p, gold),
        "adaptive_ece": adaptive_ece(p.max(axis=1), ~wrong),
    }
    for name, doubt in evidence.doubts.items():
        area = aurc(doubt, wrong)
        found |= {
            f"aurc ({name})": area,
            f"augrc ({name})": augrc(doubt, wrong),
            f"excess_aurc ({name})": area - aurc(wrong.astype(float), wrong),
            f"auroc_error ({name})": _auroc(wrong, doubt),
            f"spearman_error ({name})": spearman(doubt, wrong)[0],
        }
        for risk in RISKS:
            found[f"coverage at {risk:.0%} risk ({name})"] = coverage_at_risk(doubt, wrong, risk)
    for name, outside in evidence.outside.items():
        inside = evidence.doubts[name]
        is_outside = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
        both = np.r_[inside, outside]
        found[f"auroc_ood ({name})"] = _auroc(is_outside, both)
        found[f"aupr_ood ({name})"] = float(average_precision_score(is_outside, both))
        found[f"fpr95_ood ({name})"] = fpr_at_95(is_outside, both)
        for share in FALSE_ALARMS:
            recall = recall_at(is_outside, both, share)
            found[f"recall_ood at {share:.0%} false alarms ({name})"] = recall
    return found


def ece(probabilities: Floats, gold: NDArray[np.intp]) -> float:
    """Expected calibration error of the likeliest label, 15 bins of equal width, by torchmetrics.

    Guo et al. 2017 (arXiv 1706.04599), equation 3.
    """
    return float(
        multiclass_calibration_error(
            torch.from_numpy(probabilities),
            torch.from_numpy(gold),
            num_classes=probabilities.shape[1],
            n_bins=BINS,
            norm="l1",
        )
    )


def adaptive_ece(confidence: Floats, correct: NDArray[np.bool_]) -> float:
    """The same with 15 bins of equal size (Nguyen & O'Connor 2015, arXiv 1508.05154)."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    gaps = [len(part) * abs(confidence[part].mean() - correct[part].mean()) for part in parts]
    return float(sum(gaps) / len(order))


def risk_coverage(doubt: Floats, wrong: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Coverage and selective risk as texts are taken from the least doubtful on.

    Texts of equal doubt enter together, so the order of the file cannot matter.

    Returns:
        Coverages in (0, 1] and the error rate among what is covered.
    """
    order = np.argsort(doubt, kind="stable")
    last_of_ties = np.r_[np.diff(doubt[order]) > 0, True]
    counts = np.arange(1, len(doubt) + 1)[last_of_ties]
    errors = np.cumsum(wrong[order])[last_of_ties]
    return counts / len(doubt), errors / counts


def aurc(doubt: Floats, wrong: NDArray[np.bool_]) -> float:
    """Area under the risk-coverage curve (Geifman, Uziel, El-Yaniv 2019, arXiv 1805.08206).

    The mean selective risk over all n coverages; within ties, the risk grows evenly.
    """
    coverage, risk = risk_coverage(doubt, wrong)
    errors = np.r_[0.0, coverage * risk] * len(doubt)
    counts = np.r_[0.0, coverage] * len(doubt)
    each = np.arange(1, len(doubt) + 1)
    return float((np.interp(each, counts, errors) / each).mean())


def augrc(doubt: Floats, wrong: NDArray[np.bool_]) -> float:
    """Area under the generalized risk-coverage curve (Traub et al. 2024, arXiv 2407.01032).

    The mean over all n loads of the errors let through, as a share of all texts; within ties they
    grow evenly. Unlike :func:`aurc` it does not weigh the errors of the surest few most.
    """
    coverage, risk = risk_coverage(doubt, wrong)
    each = np.arange(1, len(doubt) + 1) / len(doubt)
    return float(np.interp(each, np.r_[0.0, coverage], np.r_[0.0, coverage * risk]).mean())


def coverage_at_risk(doubt: Floats, wrong: NDArray[np.bool_], risk: float) -> float:
    """Greatest coverage at which the observed selective risk is at most ``risk``."""
    coverage, found = risk_coverage(doubt, wrong)
    reached = coverage[found <= risk]
    return float(reached.max()) if len(reached) else 0.0


def fpr_at_95(positive: Floats, score: Floats) -> float:
    """False positive rate at the first threshold that finds 95 % of the positives."""
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    return float(fpr[np.argmax(tpr >= 0.95)])


def recall_at(positive: Floats, score: Floats, false_alarms: float) -> float:
    """Greatest share of the positives found at a false positive rate of at most this."""
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    return float(tpr[fpr <= false_alarms].max())


def spearman(doubt: Floats, wrong: NDArray[np.bool_] | Floats) -> tuple[float, float]:
    """Rank correlation and its p-value; NaN where one of the two is constant."""
    if wrong.min() == wrong.max() or doubt.min() == doubt.max():
        return float("nan"), float("nan")
    found = stats.spearmanr(doubt, wrong)
    return float(found.statistic), float(found.pvalue)


def _auroc(positive: NDArray[np.generic], score: Floats) -> float:
    if positive.min() == positive.max():  # a resample without errors
        return float("nan")
    return float(roc_auc_score(positive, score))
