from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayeslora_tool.policy import Policy, decide
from bayeslora_tool.prediction import Prediction, check_predictions, contradiction
from tests.fakes import make_prediction

NAN, INF = math.nan, math.inf
ANYTHING = Policy(tau_conf=0.0, tau_var=0.25)
LAX = Policy(0.0, 0.25, on_high_variance="clarify", on_low_confidence="clarify")

SENSELESS: list[tuple[dict[str, Any], str]] = [
    ({"confidence": NAN}, "confidence nan is not in"),
    ({"confidence": INF}, "confidence inf"),
    ({"confidence": 97.0}, "confidence 97.0 is not in"),
    ({"confidence": -0.1}, "confidence -0.1"),
    ({"variance": NAN}, "variance nan"),
    ({"variance": -0.001}, "variance -0.001"),
    ({"variance": 0.3}, "variance 0.3"),
    ({"entropy": NAN}, "entropy nan"),
    ({"entropy": -0.1}, "entropy -0.1"),
    ({"entropy": 0.7}, r"entropy 0.7 is not in \[0, 0.693\]"),
    ({"mutual_information": NAN}, "mutual_information nan"),
    ({"mutual_information": -0.1}, "mutual_information -0.1"),
    ({"mutual_information": 5.0}, "mutual_information 5.0"),
    ({"unread": NAN}, "unread nan"),
    ({"unread": 1.5}, "unread 1.5"),
    ({"novelty": NAN}, "novelty nan"),
    ({"novelty": 7.0}, "novelty 7.0"),
    ({"novelty": -0.5}, "novelty -0.5"),
    ({"sureness": NAN}, "sureness nan"),
    ({"sureness": 1.5}, "sureness 1.5"),
    ({"probabilities": {"yes": 0.9, "no": NAN}}, "the probability of 'no', nan,"),
    ({"probabilities": {"yes": 0.9, "no": 37.0}}, "the probability of 'no', 37.0,"),
    ({"probabilities": {"yes": 0.9, "no": 0.2, "so": -0.1}}, "the probability of 'so', -0.1,"),
    (
        {"probabilities": {"yes": 0.9}, "entropy": 0.0, "mutual_information": 0.0},
        "its 1 probabilities sum to 0.9",
    ),
    ({"probabilities": {"yes": 0.9, "no": 0.2}}, "its 2 probabilities sum to 1.1"),
    (
        {"probabilities": {}, "entropy": 0.0, "mutual_information": 0.0},
        "its 0 probabilities sum to 0",
    ),
    ({"probabilities": {"no": 0.9, "so": 0.1}}, "the label 'yes' is none of the labels"),
    ({"probabilities": {"yes": 0.1, "no": 0.9}}, "confidence 0.9 is not the label's probability"),
    (
        {"confidence": 0.1, "probabilities": {"yes": 0.1, "no": 0.9}},
        "the label 'yes' is less likely than 'no'",
    ),
    ({"estimator": "deterministic", "variance": INF}, "variance inf"),
    ({"estimator": "deterministic", "confidence": NAN}, "confidence nan"),
]


@pytest.mark.parametrize(("change", "reason"), SENSELESS, ids=repr)
def test_what_contradicts_itself_is_refused_and_escalates_whatever_the_policy(
    change: dict[str, Any], reason: str
) -> None:
    senseless = make_prediction(**change)
    with pytest.raises(ValueError, match=f"cannot be trusted: {reason}"):
        check_predictions([make_prediction(), senseless], 2)
    for policy in (ANYTHING, LAX, replace(ANYTHING, tau_novelty=1.0, tau_sure=0.0)):
        decision = decide(senseless, policy)
        assert decision.action == "escalate"
        assert decision.reason.startswith("The score cannot be trusted: ")


def test_a_label_must_be_among_those_that_the_classifier_knows() -> None:
    prediction = make_prediction(label="yes")
    for known in ((), ("yes", "no"), ["no", "yes"], np.array(["yes", "no"])):
        assert check_predictions([prediction], 1, known) == [prediction]
    with pytest.raises(ValueError, match="the label 'yes' is none of the labels"):
        check_predictions([prediction], 1, ("no", "maybe"))


def test_only_one_pass_without_noise_may_have_no_variance_and_it_never_proceeds() -> None:
    nothing = {"variance": NAN, "mutual_information": NAN}
    one_pass = make_prediction(estimator="deterministic", **nothing)
    assert check_predictions([one_pass], 1) == [one_pass]
    assert decide(one_pass, ANYTHING).action == "escalate"
    assert contradiction(make_prediction(estimator="linearized", **nothing)) is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [2, 150, 2000, 20_000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
def test_a_softmax_of_any_size_in_32_bits_makes_sense(dtype: Any, n: int, scale: float) -> None:
    logits = (scale * np.random.default_rng(0).normal(size=n)).astype(dtype)
    p = np.exp(logits - logits.max())
    p = (p / p.sum(dtype=dtype)).astype(dtype)
    entropy = float(-np.sum(p * np.log(np.maximum(p, np.finfo(dtype).tiny)), dtype=dtype))
    prediction = make_prediction(
        label=f"l{p.argmax()}",
        confidence=round(float(p.max()), 4),
        probabilities={f"l{i}": float(share) for i, share in enumerate(p)},
        entropy=entropy,
    )
    assert contradiction(prediction) is None


def test_labels_that_tie_are_both_likeliest() -> None:
    tied = {"yes": 0.5, "no": 0.5}
    for label in tied:
        assert contradiction(make_prediction(label=label, confidence=0.5, probabilities=tied)) is (
            None
        )


TEXTS = st.lists(
    st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=60).filter(
        lambda text: any(c.isascii() and c.isalnum() for c in text)
    )
    | st.sampled_from(
        ["a good film", "a dreadful meal", "good bad " * 60, "x" * 150, "\u0e01\u0e32"]
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    texts=TEXTS,
    estimator=st.sampled_from(["linearized", "adaptive", "monte_carlo", "deterministic"]),
    temperature=st.sampled_from([0.05, 1.0, 20.0]),
    shift=st.sampled_from([0.0, -3.0, 3.0]),
    n_draws=st.integers(3, 20),
)
def test_our_own_predictions_always_make_sense(
    tiny: Any, texts: list[str], estimator: str, temperature: float, shift: float, n_draws: int
) -> None:
    before = tiny.temperature, tiny.offset
    tiny.temperature = temperature
    tiny.offset = tiny.offset.model_copy(
        update={"location": (shift, 0.0)}
    )  # as calibration may find it
    try:
        found: list[Prediction] = tiny.predict(
            texts, estimator=estimator, n_draws=n_draws, policy=Policy(0.7, 0.01)
        )
    finally:
        tiny.temperature, tiny.offset = before
    assert check_predictions(found, len(texts), tiny.labels) == found or estimator == (
        "deterministic"  # NaN is not equal to itself
    )
