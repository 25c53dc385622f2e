"""Scenarios, a reviewer and a classifier that chance or the test has made."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from bayeslora_tool.prediction import Prediction
from bayeslora_tool.simulation.scenarios import Reviewer, Scenario
from tests.fakes import FakeClassifier, make_prediction

PERFECT = Reviewer(error_rate=0.0, median_seconds=100.0, sigma=0.0)
ALWAYS_WRONG = replace(PERFECT, error_rate=1.0)
LABELS = ("a", "b", "c", "d")


def random_prediction(text: str) -> Prediction:
    """Any confidence, variance and label, decided by the text alone."""
    luck = random.Random(text)
    if luck.random() < 0.05:
        raise RuntimeError("the model broke")
    label = luck.choice(LABELS)
    confidence = 1 - 0.75 * luck.random() ** 2
    rest = dict.fromkeys(LABELS, (1 - confidence) / 3)
    return make_prediction(
        label=label,
        confidence=confidence,
        variance=float("nan") if luck.random() < 0.05 else luck.random() ** 3 / 8,
        probabilities=rest | {label: confidence},
        truncated=luck.random() < 0.05,
        novelty=luck.random(),
    )


class RandomClassifier(FakeClassifier):
    labels = LABELS  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(random_prediction)


def random_scenarios(n: int) -> list[Scenario]:
    luck = random.Random(0)
    scripts: list[Any] = ["approve", "reject", {"edit": "b"}, {"respond": "no"}]
    return [
        Scenario(
            id=f"s{i}",
            text=f"text {i}",
            gold=luck.choice([*LABELS, None]),
            clarifications=tuple(f" more {j} " for j in range(luck.randrange(3))),
            reviews=tuple(luck.choices(scripts, k=luck.randrange(3))),
        )
        for i in range(n)
    ]


# Sure: right, sure: wrong, out of scope but sure, asked once, asked twice in vain, odd.
TINY = [
    Scenario(id="right", text="clear", gold="yes"),
    Scenario(id="wrong", text="clear too", gold="no"),
    Scenario(id="stranger", text="clear off", gold=None),
    Scenario(id="asked", text="vague", gold="yes", clarifications=("clear",)),
    Scenario(id="mute", text="vague words", gold="no", clarifications=("vague", "vague still")),
    Scenario(id="odd", text="odd", gold=None),
    Scenario(id="broken", text="boom", gold="no"),
]
