"""Labels that lead to the same act, counted as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from bayeslora_tool import AdapterPosterior, BayesLoRAClassifier, Policy
from bayeslora_tool.artifacts.backbone_model import load_backbone, load_tokenizer, quiet

LABELS = ("a", "b", "c", "d", "e")
ACTS = {"first": ["a", "b"], "last": ["e"]}
TEXTS = ["a fine film", "a dreadful day, and a long one", "no"]


@pytest.fixture(scope="module")
def five(tiny_backbone: Path) -> BayesLoRAClassifier:
    """Random weights, so that no label is sure."""
    torch.manual_seed(0)
    with quiet():
        model = get_peft_model(
            load_backbone(tiny_backbone, LABELS),
            LoraConfig(task_type="SEQ_CLS", r=4, target_modules="all-linear"),
        )
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "classifier" in name:
            nn.init.normal_(parameter, std=0.05)
    posterior = AdapterPosterior(model, dropout=0.02)  # little noise: nearly linear
    return BayesLoRAClassifier(model, load_tokenizer(tiny_backbone), LABELS, posterior)


def test_an_acts_moments_are_those_of_the_sum_over_draws(five: BayesLoRAClassifier) -> None:
    acts = five.for_acts(ACTS)
    assert acts.labels == ("first", "last", "c", "d")
    draws = five.draw(TEXTS, n_draws=50)
    summed = torch.stack([draws[..., :2].sum(-1), draws[..., 4], draws[..., 2], draws[..., 3]], -1)
    for i, p in enumerate(acts.predict(TEXTS, n_draws=50)):
        k = acts.labels.index(p.label)
        assert list(p.probabilities.values()) == pytest.approx(summed[:, i].mean(0).tolist())
        assert p.confidence == pytest.approx(float(summed[:, i, k].mean()))
        assert p.variance == pytest.approx(float(summed[:, i, k].var(correction=0)), rel=1e-6)


def test_an_acts_linearized_moments_are_near_those_of_many_draws(five: BayesLoRAClassifier) -> None:
    acts = five.for_acts(ACTS)
    many = acts.predict(TEXTS, n_draws=3000)
    for p, q in zip(acts.predict(TEXTS, estimator="linearized"), many, strict=True):
        assert p.label == q.label
        assert p.confidence == pytest.approx(q.confidence, abs=0.005)
        assert p.variance == pytest.approx(q.variance, rel=0.1)


def test_acts_of_one_label_each_change_nothing_but_the_names(five: BayesLoRAClassifier) -> None:
    acts = five.for_acts({label.upper(): [label] for label in LABELS})
    for estimator in ("linearized", "monte_carlo", "deterministic"):
        plain = five.predict(TEXTS, estimator=estimator)  # type: ignore[arg-type]
        named = acts.predict(TEXTS, estimator=estimator)  # type: ignore[arg-type]
        for p, q in zip(plain, named, strict=True):
            assert q.label == p.label.upper()
            assert q.confidence == pytest.approx(p.confidence, abs=1e-6)
            assert q.variance == pytest.approx(p.variance, rel=1e-4, nan_ok=True)


async def test_concurrent_callers_of_labels_and_of_acts_get_their_own(
    five: BayesLoRAClassifier,
) -> None:
    acts = five.for_acts(ACTS)
    (p,), (q,) = await five.apredict(TEXTS[:1]), await acts.apredict(TEXTS[:1])
    assert set(p.probabilities) == set(LABELS)
    assert set(q.probabilities) == set(acts.labels)


def test_thresholds_over_labels_hold_for_no_acts(five: BayesLoRAClassifier) -> None:
    acts = five.for_acts(ACTS)
    assert acts.scored_by() != five.scored_by()
    assert acts.scored_by() != five.for_acts({"first": ["a", "c"]}).scored_by()
    assert acts.scored_by() == five.for_acts(dict(reversed(ACTS.items()))).scored_by()
    from bayeslora_tool import decide

    policy = Policy(0.0, 0.25, calibrated_for=five.scored_by())
    assert decide(five.predict(TEXTS)[0], policy).action == "proceed"
    assert decide(acts.predict(TEXTS)[0], policy).action == "escalate"


@pytest.mark.parametrize(
    ("acts", "message"),
    [
        ({"x": ["a"], "y": ["b", "a"]}, "label 'a' leads to two acts, 'x' and 'y'"),
        ({"x": ["f"]}, "`acts['x']`: unknown label 'f'; near are"),
        ({"x": []}, "`acts['x']` is empty"),
        ({"a": ["b"]}, "act 'a' has the name of a label that does not lead to it"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(
    five: BayesLoRAClassifier, acts: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=r"(?s)" + message.replace("[", r"\[")):
        five.for_acts(acts)
