"""What typing errors do to accuracy and to what proceeds. Measures; draws nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bayeslora_tool.calibration.adapter import predict_all
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.policy import Preset, decide
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.training.dataset import LabelledText
from bayeslora_tool.training.typos import mistype_share

SLIPS = (1, 2)  # a text
SEED = 1  # not that of a recipe, whose held-out texts chose the epoch


def beside_mistyped(
    classifier: BayesLoRAClassifier,
    preset: Preset,
    examples: Sequence[LabelledText],
    clean: Sequence[Prediction],
    *,
    progress: Callable[[int], None] = lambda n: None,
) -> list[dict[str, Any]]:
    """Accuracy, coverage and risk of the same texts as they are, and with one and two slips each.

    Args:
        classifier: With the preset's scoring.
        preset: Whose policy routes.
        examples: Labelled texts.
        clean: Their predictions.
        progress: Called with the number of texts done; there are two for each example.
    """
    texts = [e.text for e in examples]
    found = {"as they are": clean}
    for slips in SLIPS:
        typed = mistype_share(texts, 1.0, SEED, slips)
        name = f"{slips} typing error{'s' * (slips > 1)} each"
        found[name] = predict_all(classifier, typed, preset.scoring, progress)
    right = [classifier.act_of[e.label] for e in examples]
    return [{"texts": name} | _row(p, right, preset) for name, p in found.items()]


def _row(predictions: Sequence[Prediction], right: Sequence[str], preset: Preset) -> dict[str, Any]:
    correct = [p.label == act for p, act in zip(predictions, right, strict=True)]
    passed = [decide(p, preset.policy).action == "proceed" for p in predictions]
    wrong = sum(go and not good for go, good in zip(passed, correct, strict=True))
    return {
        "accuracy": sum(correct) / len(correct),
        "coverage": sum(passed) / len(passed),
        "risk": wrong / max(sum(passed), 1),
        "wrong": wrong,
        "proceeded": sum(passed),
    }
