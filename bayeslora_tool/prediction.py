"""What the model believes about one text. Plain floats: knows no torch, no tokenizer, no policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Moments of the predictive distribution for one text.

    Attributes:
        label: The likeliest label under the predictive mean (ties go to the first label).
        confidence: Predictive mean probability of ``label``, in [0, 1].
        variance: Predictive variance of that probability over draws, in [0, 0.25] (population
            variance of the T draws). NaN where the estimator has none (``deterministic``): a
            policy never lets such a prediction proceed.
        probabilities: Predictive mean of every label, in the classifier's label order; read-only.
        entropy: Entropy of the predictive mean, in nats, in [0, log C].
        mutual_information: Entropy of the mean minus the mean entropy of the draws (BALD,
            Houlsby et al. 2011), in nats: the part of the doubt that the adapter's posterior
            causes. NaN where the estimator has none.
        n_draws: How many draws were taken (0 for ``deterministic``).
        estimator: How the moments were computed.
        seed: Seed of the draws; the same seed and text give the same answer again.
        n_tokens: Length of the whole text in tokens, special tokens included.
        truncated: True when the model saw only the beginning of the text.
        novelty: Share of ordinary texts that lie nearer to the training set, in [0, 1]; None for
            an adapter that does not know. It sees what the variance cannot, see ``novelty.py``.
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
    novelty: float | None = None
    scored_by: str = ""

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
