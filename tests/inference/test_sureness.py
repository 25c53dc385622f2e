from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from bayeslora_tool.artifacts.manifest import Factor, Sureness
from bayeslora_tool.inference.sureness import sure
from bayeslora_tool.policy import Policy, Scoring, decide

RIGHT = Factor(intercept=-0.5, log_odds=1.2, energy=0.4, distance=0.7, nearest=0.9)
BELONGS = Factor(intercept=0.3, log_odds=0.1, energy=0.2, distance=0.3, nearest=0.4)
MODEL = Sureness(factors=(RIGHT, BELONGS))
TEXTS = ["a good film", "a bad day", "a house and a car", "Où est la gare ? 42"]


@pytest.fixture
def sure_one(tiny_adapter: Any) -> Any:
    from bayeslora_tool import BayesLoRAClassifier

    clf = BayesLoRAClassifier.from_pretrained(tiny_adapter)
    clf.temperature = 0.7
    clf.sureness = MODEL
    return clf


def test_is_the_formula_of_what_a_pass_shows(sure_one: Any) -> None:
    passed = sure_one.passes(TEXTS)
    logits = passed.logits * 0.7  # as they came
    for row, p in enumerate(sure_one.predict(TEXTS)):
        q = (logits[row] / 0.7).softmax(0).max().item()
        energy = logits[row].exp().sum().log().item()
        distance = sure_one.novelty.distance(passed.features, passed.lengths)[row].item()
        chosen = logits[row].argmax()[None]
        near = sure_one.neighbours.similarity(passed.features[row][None], chosen).item()
        odds = math.log(q / (1 - q))
        right = -0.5 + 1.2 * odds + 0.4 * energy - 0.7 * distance + 0.9 * near
        belongs = 0.3 + 0.1 * odds + 0.2 * energy - 0.3 * distance + 0.4 * near
        expected = 1 / (1 + math.exp(-right)) / (1 + math.exp(-belongs))
        assert p.sureness == pytest.approx(expected, abs=1e-5)


def test_is_the_same_for_every_estimator_and_batch(sure_one: Any) -> None:
    plain = sure_one.predict(TEXTS, estimator="deterministic")
    for estimator in ("linearized", "monte_carlo", "adaptive"):
        policy = Policy(0.9, 0.01)
        for p, q in zip(
            sure_one.predict(TEXTS, estimator=estimator, policy=policy), plain, strict=True
        ):
            assert p.sureness == pytest.approx(q.sureness, abs=1e-6)
    assert sure_one.predict(TEXTS[2:3])[0].sureness == pytest.approx(plain[2].sureness, abs=1e-5)


def test_one_without_training_texts_has_it_too(sure_one: Any) -> None:
    sure_one.novelty = sure_one.neighbours = None
    for estimator in ("linearized", "monte_carlo"):
        (p,) = sure_one.predict(TEXTS[:1], estimator=estimator)
        assert p.novelty is None
        assert 0 < p.sureness < 1


def test_is_monotone_in_each_signal() -> None:
    x = torch.tensor([[2.0, 3.0, -1.0, 0.8]], dtype=torch.float64)
    for better in torch.eye(4, dtype=torch.float64):
        assert sure(MODEL, x + better) > sure(MODEL, x)
    assert sure(MODEL, x * torch.nan).isnan().all()


def test_an_act_is_never_less_sure_than_the_likeliest_of_its_labels(sure_one: Any) -> None:
    labels = sure_one.labels
    acts = sure_one.for_acts({"either": labels[:2]} if len(labels) > 2 else {"all": labels[:1]})
    for p, q in zip(acts.predict(TEXTS), sure_one.predict(TEXTS), strict=True):
        assert p.sureness >= q.sureness - 1e-9
    assert (acts.passes(TEXTS).energy == sure_one.passes(TEXTS).energy).all()


def test_belongs_to_the_scoring_and_goes_with_the_temperature(sure_one: Any) -> None:
    with_it = sure_one.scored_by()
    assert "sureness" in with_it
    sure_one.sureness = Sureness(factors=(BELONGS, BELONGS))
    assert sure_one.scored_by() != with_it
    sure_one.temperature = 1.0
    assert sure_one.sureness is None
    assert "sureness" not in sure_one.scored_by()
    (p,) = sure_one.predict(TEXTS[:1])
    assert p.sureness is None
    assert decide(p, Policy(0.0, 0.25, tau_sure=0.0)).action == "escalate"


def test_signals_that_are_no_numbers_make_no_sureness(sure_one: Any) -> None:
    passed = sure_one.passes(TEXTS)
    spoilt = passed._replace(features=passed.features * torch.nan)
    assert sure(MODEL, sure_one.reference.signals(spoilt)).isnan().all()
    broken = replace(sure_one.predict(TEXTS[:1])[0], sureness=math.nan)
    assert decide(broken, Policy(0.0, 0.25)).action == "escalate"


def test_estimators_name_it_in_what_they_score_by(sure_one: Any) -> None:
    lines = {sure_one.scored_by(Scoring(estimator=e)) for e in ("linearized", "monte_carlo")}
    assert all("sureness" in line for line in lines)
