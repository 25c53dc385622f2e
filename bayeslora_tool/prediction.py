"""What the model believes about one text. Plain floats: knows no torch, no tokenizer, no policy."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Moments of the predictive distribution for one text.

    What contradicts itself or leaves its ranges never proceeds, see :func:`contradiction`.

    Attributes:
        label: The likeliest label under the predictive mean (ties go to the first label).
        confidence: Predictive mean probability of ``label``, in [0, 1].
        variance: Predictive variance of that probability over draws, in [0, 0.25] (population
            variance of the T draws). NaN where the estimator has none (see
            ``WITHOUT_VARIANCE``): no policy lets such a prediction proceed, unless it says
            ``allow_no_variance``.
        probabilities: Predictive mean of every label, in the classifier's label order; read-only.
            They sum to 1: a part of the labels will not do.
        entropy: Entropy of the predictive mean, in nats, in [0, log C] of C labels.
        mutual_information: Entropy of the mean minus the mean entropy of the draws (BALD,
            Houlsby et al. 2011), in nats: the part of the doubt that the adapter's posterior
            causes, in [0, log C]. NaN where the estimator has none.
        variance_from: What ``variance``, and with it ``confidence``, rests on: ``draws``, a
            ``linearization`` (one backward pass), a ``forecast`` (``adaptive`` expects them so from
            one pass alone, and the text needed no more), or ``none``.
        n_draws: How many draws were taken (0 where ``variance_from`` is not ``draws``).
        estimator: How the moments were computed.
        seed: Seed of the draws; the same seed and text give the same answer again.
        n_tokens: Tokens that the model read, special tokens included.
        truncated: True when the text goes on after them.
        unread: Share of the characters up to there that the model did not read, for its tokenizer
            has only an unknown token for them, or none; in [0, 1]. Counted are letters, digits,
            signs and emoji; 1 means that nothing was read.
        novelty: Share of ordinary texts that lie nearer to the training set, in [0, 1]; None for
            an adapter that does not know. It sees what the variance cannot, see ``novelty.py``.
        foreign: Share of ordinary texts whose words look less foreign, in [0, 1]; near 1 in another
            language than the training texts', or half in one. None for an adapter that does not
            know. See ``wording.py``.
        sureness: Calibrated probability that ``label`` is right and that the text belongs to one
            of the labels at all, in [0, 1]; None where ``bayeslora calibrate`` fitted none. It
            depends on the pass without noise alone, whatever the estimator.
        scored_by: Adapter, noise, temperature and estimator in one line. Thresholds calibrated
            for one such line are refused with any other.
    """

    label: str
    confidence: float
    variance: float
    probabilities: Mapping[str, float] = field(hash=False)
    entropy: float
    mutual_information: float
    n_draws: int
    estimator: str
    seed: int
    n_tokens: int
    truncated: bool
    unread: float = 0.0
    novelty: float | None = None
    foreign: float | None = None
    sureness: float | None = None
    scored_by: str = ""
    variance_from: str = "draws"

    def __post_init__(self) -> None:
        object.__setattr__(self, "probabilities", MappingProxyType(dict(self.probabilities)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle, and slots forbid the default path.
        return (Prediction.from_dict, (self.to_dict(),))

    def top(self, k: int = 2) -> list[tuple[str, float]]:
        """The ``k`` likeliest labels with their mean probabilities, likeliest first."""
        return sorted(self.probabilities.items(), key=lambda item: -item[1])[:k]

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of str, float, int, bool: safe for JSON and for graph state."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["probabilities"] = dict(self.probabilities)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Prediction:
        """The inverse of :meth:`to_dict`."""
        return cls(**values)


DECISION_MODEL = "decision_model"
"""The estimator of what one of LangChain's decision models answered."""

WITHOUT_VARIANCE = ("deterministic", DECISION_MODEL)
"""Estimators whose predictions have no variance."""

# What numbers of 32 bits, or of four decimals, may differ by and still be called equal.
_EQUAL = 1e-4
# Of a sum of probabilities: thousands of 32 bits lie within it.
_SUM = 1e-3
# Beyond the ends of a range.
_HAIR = 1e-6


def contradiction(prediction: Prediction, labels: Collection[str] = ()) -> str | None:
    """Why a prediction cannot be what it says it is; None if it can.

    Its probabilities are a distribution over all labels, ``label`` the likeliest of them and
    ``confidence`` its probability; each number lies in its range. Only an estimator of
    ``WITHOUT_VARIANCE`` may have no variance and no mutual information (NaN).

    Args:
        prediction: Of fields of the right types.
        labels: That the classifier knows; empty if it does not say.
    """
    confidence, probabilities = prediction.confidence, prediction.probabilities
    most = math.log(max(len(probabilities), 1)) + _EQUAL
    spread = [
        ("variance", prediction.variance, 0.25),
        ("mutual_information", prediction.mutual_information, most),
    ]
    numbers = [
        ("confidence", confidence, 1.0),
        ("entropy", prediction.entropy, most),
        ("unread", prediction.unread, 1.0),
    ]
    numbers += [
        (name, value, upper)
        for name, value, upper in spread
        if not (prediction.estimator in WITHOUT_VARIANCE and math.isnan(value))
    ]
    for name in ("novelty", "foreign", "sureness"):
        if (share := getattr(prediction, name)) is not None:
            numbers.append((name, share, 1.0))
    for name, value, upper in numbers:
        # Rounding may go a hair too far; NaN is in no range.
        if not -_HAIR <= value <= upper + _HAIR:
            return f"{name} {value} is not in [0, {upper:.3g}] (estimator {prediction.estimator})"
    shares = probabilities.values()
    total = sum(shares)  # where one is NaN, so is this; least and most would not show it
    if not (abs(total - 1) <= _SUM and min(shares) >= -_HAIR and max(shares) <= 1 + _HAIR):
        for label, share in probabilities.items():
            if not -_HAIR <= share <= 1 + _HAIR:
                return f"the probability of {label!r:.80}, {share}, is not in [0, 1]"
        return f"its {len(shares)} probabilities sum to {total:.6g}; all labels' sum to 1"
    label = prediction.label
    if label not in probabilities or (len(labels) and label not in labels):
        return f"the label {label!r:.80} is none of the labels"
    if not abs(confidence - probabilities[label]) <= _EQUAL:
        return f"confidence {confidence} is not the label's probability, {probabilities[label]}"
    if not probabilities[label] >= max(shares) - _EQUAL:
        likeliest, greatest = prediction.top(1)[0]
        return f"the label {label!r:.80} is less likely than {likeliest!r:.80} ({greatest})"
    return None


_PLAIN: Mapping[str, tuple[type, ...]] = {
    "label": (str,),
    "confidence": (float, int),
    "variance": (float, int),
    "entropy": (float, int),
    "mutual_information": (float, int),
    "n_draws": (int,),
    "estimator": (str,),
    "seed": (int,),
    "n_tokens": (int,),
    "truncated": (bool,),
    "unread": (float, int),
    "novelty": (float, int, type(None)),
    "foreign": (float, int, type(None)),
    "sureness": (float, int, type(None)),
    "scored_by": (str,),
    "variance_from": (str,),
}


def check_predictions(
    predictions: object, n: int, labels: Collection[str] = ()
) -> list[Prediction]:
    """What a ``predict`` that may be anybody's gave for ``n`` texts, if it makes sense.

    Checkpoints and tool messages hold plain data only, so numpy's scalars are refused too.

    Args:
        predictions: What it gave.
        n: How many texts it was given.
        labels: That the classifier knows; empty if it does not say.

    Raises:
        TypeError: Not ``n`` predictions (nor of a subclass: checkpoints give none back), or a field
            of another type.
        ValueError: One that contradicts itself, see :func:`contradiction`.
    """
    if not isinstance(predictions, Sequence) or len(predictions) != n:
        raise TypeError(f"expected a list of {n} Predictions, `predict` gave {predictions!r:.80}")
    for prediction in predictions:
        if type(prediction) is not Prediction:
            raise TypeError(f"expected a Prediction, `predict` gave {prediction!r:.80}")
        for name, kinds in _PLAIN.items():
            _check_plain(f"`{name}`", getattr(prediction, name), kinds)
        for label, probability in prediction.probabilities.items():
            _check_plain("a label in `probabilities`", label, (str,))
            _check_plain(f"`probabilities[{label!r}]`", probability, (float, int))
        if why := contradiction(prediction, labels):
            raise ValueError(f"what `predict` gave cannot be trusted: {why}")
    return list(predictions)


def _check_plain(name: str, value: object, kinds: tuple[type, ...]) -> None:
    # By identity: numpy's float64 is a float, and True is an int.
    if type(value) not in kinds or (isinstance(value, int) and abs(value) >= 2**63):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be a plain {expected}, `predict` gave {value!r:.80}")


def unknown_label(label: object, labels: Sequence[str]) -> str:
    """What to say of a label that is none of ``labels``: which are like it."""
    near = get_close_matches(str(label), labels, n=3) or list(labels[:5])
    return f"unknown label {label!r:.80}; near are {', '.join(near)} ({len(labels)} in all)"
