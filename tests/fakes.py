"""Classifiers that need no model: what they predict is a function of the text, or was given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from bayeslora_tool.prediction import Prediction


def make_prediction(**changes: Any) -> Prediction:
    """A prediction that makes sense in all that is not given."""
    label, confidence = changes.get("label", "yes"), changes.get("confidence", 0.9)
    values: dict[str, Any] = {
        "label": label,
        "confidence": confidence,
        "variance": 0.001,
        "probabilities": _spread(label, confidence),
        "mutual_information": 0.002,
        "n_draws": 20,
        "estimator": "monte_carlo",
        "seed": 0,
        "n_tokens": 5,
        "truncated": False,
    } | changes
    shares = [
        p for p in values["probabilities"].values() if isinstance(p, float | int) and 0 < p <= 1
    ]
    return Prediction(**{"entropy": -sum(p * math.log(p) for p in shares)} | values)


def _spread(label: str, confidence: Any) -> dict[str, Any]:
    """A distribution in which no label is likelier; of two where two will do."""
    if not (isinstance(confidence, float | int) and 0 < confidence <= 1):
        return {label: confidence, "no": 0.1}
    n = max(1, math.ceil((1 - confidence) / confidence))
    others = ["yes" if label == "no" else "no", *(f"other {i}" for i in range(2, n + 1))]
    return {label: confidence} | dict.fromkeys(others, (1 - confidence) / n)


class FakeClassifier:
    """Predicts by a function of the text and remembers what it was asked."""

    labels = ("yes", "no")

    def __init__(self, answer: Callable[[str], Prediction]) -> None:
        self.answer = answer
        self.seen: list[str] = []

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        self.seen.extend(texts)
        return [self.answer(text) for text in texts]


class Answers:
    """A classifier that answers with whatever it was given, or raises it."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def predict(self, texts: Sequence[str]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def by_words(text: str) -> Prediction:
    """Sure unless the text says otherwise; the last line decides."""
    last = text.splitlines()[-1]
    if "vague" in last:
        return make_prediction(confidence=0.6)
    if "odd" in last:
        return make_prediction(variance=0.2)
    if "boom" in last:
        raise RuntimeError("the model broke")
    return make_prediction()
