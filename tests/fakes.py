"""Classifiers that need no model: what they predict is a function of the text, or was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bayeslora_tool.prediction import Prediction


def make_prediction(**changes: Any) -> Prediction:
    values: dict[str, Any] = {
        "label": "yes",
        "confidence": 0.9,
        "variance": 0.001,
        "probabilities": {"yes": 0.9, "no": 0.1},
        "entropy": 0.325,
        "mutual_information": 0.002,
        "n_draws": 20,
        "estimator": "monte_carlo",
        "seed": 0,
        "n_tokens": 5,
        "truncated": False,
    }
    return Prediction(**values | changes)


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
        return make_prediction(confidence=0.6, probabilities={"yes": 0.6, "no": 0.4})
    if "odd" in last:
        return make_prediction(variance=0.2)
    if "boom" in last:
        raise RuntimeError("the model broke")
    return make_prediction()
