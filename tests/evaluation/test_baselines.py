from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.evaluation import baselines
from bayeslora_tool.training.dataset import LabelledText
from bayeslora_tool.training.recipe import read_as_trained

OUTSIDE = ["the quarterly earnings of a bank", "boil the rice for ten minutes"]


@pytest.fixture(scope="module")
def classifier(tiny_adapter: Path) -> BayesLoRAClassifier:
    return BayesLoRAClassifier.from_pretrained(tiny_adapter)


@pytest.fixture(scope="module")
def examples(classifier: BayesLoRAClassifier, tiny_files: tuple[Path, Path]) -> list[LabelledText]:
    return [
        example for file in tiny_files for example in read_as_trained(classifier.manifest, file)
    ]


def rows_of(
    classifier: BayesLoRAClassifier,
    adapter: Path,
    examples: list[LabelledText],
    **options: Any,
) -> dict[str, Any]:
    rows = baselines.compare(classifier, str(adapter), examples, OUTSIDE, **options)
    return {row["method"]: row for row in rows}


def test_every_method_is_judged_on_the_same_texts(
    classifier: BayesLoRAClassifier, tiny_adapter: Path, examples: list[LabelledText]
) -> None:
    classifier.temperature = 2.0
    rows = rows_of(classifier, tiny_adapter, examples, ensemble=[str(tiny_adapter)])
    assert classifier.temperature == 2.0
    gold = [classifier.labels.index(e.label) for e in examples]
    logits = 2.0 * classifier.passes([e.text for e in examples]).logits
    for name, divisor in (("softmax", 1.0), ("softmax, temperature", 2.0)):
        expected = log_loss(gold, (logits / divisor).softmax(-1).numpy(), labels=[0, 1])
        assert rows[name]["NLL"] == pytest.approx(expected)
    # The mean of an adapter with itself is itself.
    twice = rows["ensemble of 2 adapters"]
    assert {k: v for k, v in twice.items() if k not in ("method", "passes")} == pytest.approx(
        {k: v for k, v in rows["softmax"].items() if k not in ("method", "passes")}, nan_ok=True
    )
    assert twice["passes"] == 2
    assert all(0 <= row["AUROC OOD"] <= 1 and 0 <= row["ECE"] <= 1 for row in rows.values())


def test_ensemble_of_other_labels_is_refused(
    classifier: BayesLoRAClassifier, tiny_adapter: Path, examples: list[LabelledText]
) -> None:
    with pytest.raises(ValueError, match="intents has other labels"):
        rows_of(classifier, tiny_adapter, examples, ensemble=["intents"])


def test_backbone_dropout_moves_and_keeps_the_order_of_the_texts(
    classifier: BayesLoRAClassifier, tiny_adapter: Path
) -> None:
    texts = ["a good film", "a bad, poor and altogether dreadful day in a house", "bad"]
    draw = baselines.backbone_dropout(str(tiny_adapter), 200)
    p = draw(texts)
    assert p.shape == (200, 3, 2)
    torch.testing.assert_close(p.sum(-1), torch.ones(200, 3).double())
    assert (p.std(dim=0) > 0).all()
    torch.testing.assert_close(draw(texts[::-1]).flip(1), p)
    # Dropout's mean stays near the pass without it, text by text.
    plain = classifier.passes(texts).logits.mul(classifier.temperature).softmax(-1)
    assert (p.mean(dim=0) - plain).abs().max() < 0.1


def test_laplace_is_less_sure_than_its_mode(
    classifier: BayesLoRAClassifier, examples: list[LabelledText]
) -> None:
    pytest.importorskip("laplace", reason="laplace-torch is not installed")
    texts = [e.text for e in examples]
    found = baselines._laplace(classifier, examples)(texts)
    plain = (classifier.passes(texts).logits * classifier.temperature).softmax(-1).numpy()
    assert (found.argmax(1) == plain.argmax(1)).all()
    assert np.mean(found.max(1)) < np.mean(plain.max(1))


def test_missing_laplace_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
    classifier: BayesLoRAClassifier,
    tiny_adapter: Path,
    examples: list[LabelledText],
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "laplace", None)
    with pytest.raises(ValueError, match="pip install laplace-torch"):
        rows_of(classifier, tiny_adapter, examples, train=examples)
