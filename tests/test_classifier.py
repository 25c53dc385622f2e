from __future__ import annotations

import math
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModel

from bayeslora_tool import BayesLoRAClassifier, Policy, Scoring, classifier, decide
from bayeslora_tool.artifacts.frozen import FrozenWeights
from bayeslora_tool.calibration.adapter import measure_forecast, measure_offset
from bayeslora_tool.inference import network
from bayeslora_tool.inference.forecast import UNMEASURED
from bayeslora_tool.prediction import Prediction

TEXTS = [
    "a good film",
    "a dreadful, bad, poor story about a house and a car",
    "🙂 good 👍🏽 👨‍👩‍👧",
    "זה סרט טוב",
    "fine",
    "bad " * 30,
    "a good film",
]


def same(p: Prediction, q: Prediction) -> bool:
    """Equal but for float rounding."""
    a, b = p.to_dict(), q.to_dict()
    for key in ("confidence", "variance", "entropy", "mutual_information"):
        if abs(a.pop(key) - b.pop(key)) > 1e-5:
            return False
    pa, pb = a.pop("probabilities"), b.pop("probabilities")
    return a == b and all(abs(pa[k] - pb[k]) < 1e-5 for k in pa)


class TestPrediction:
    @pytest.mark.parametrize(("estimator", "n_draws"), [("monte_carlo", 20), ("linearized", 0)])
    def test_fields_fit_together(self, tiny: Any, estimator: Any, n_draws: int) -> None:
        for p in tiny.predict(TEXTS, estimator=estimator):
            assert list(p.probabilities) == list(tiny.labels)
            assert math.isclose(sum(p.probabilities.values()), 1)
            assert p.confidence == p.probabilities[p.label] == max(p.probabilities.values())
            assert 0 < p.variance <= 0.25
            assert 0 < p.mutual_information <= p.entropy <= math.log(2)
            assert (p.n_draws, p.estimator, p.seed, p.truncated) == (n_draws, estimator, 0, False)
            assert type(p.confidence) is type(p.variance) is float

    def test_agrees_with_moments_of_the_draws(self, tiny: Any) -> None:
        draws = tiny.draw(TEXTS, n_draws=12, seed=3).numpy()  # (12, 7, 2)
        assert draws.shape == (12, len(TEXTS), 2)
        for i, p in enumerate(tiny.predict(TEXTS, n_draws=12, seed=3, estimator="monte_carlo")):
            best = tiny.labels.index(p.label)
            assert math.isclose(p.confidence, draws[:, i, best].mean(), abs_tol=1e-6)
            assert math.isclose(p.variance, draws[:, i, best].var(), abs_tol=1e-6)

    def test_is_immutable_plain_and_round_trips(self, tiny: Any) -> None:
        (p,) = tiny.predict(["good"])
        with pytest.raises(AttributeError):
            p.label = "bad"
        with pytest.raises(TypeError):
            p.probabilities["bad"] = 1.0
        assert Prediction.from_dict(p.to_dict()) == p
        assert pickle.loads(pickle.dumps(p)) == p
        assert hash(p) == hash(pickle.loads(pickle.dumps(p)))

    def test_deterministic_is_the_pass_without_noise(self, tiny: Any) -> None:
        (p,) = tiny.predict(["a good film"], estimator="deterministic")
        inputs = tiny.tokenizer("a good film", return_tensors="pt")
        with torch.no_grad():
            expected = tiny.network.model(**inputs).logits.double().softmax(-1)[0]
        assert math.isclose(p.confidence, expected.max().item(), abs_tol=1e-6)
        assert math.isnan(p.variance)
        assert p.n_draws == 0


class TestSameTextSameAnswer:
    @pytest.fixture(autouse=True)
    def _small_passes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Forces several batches and several passes of draws, as large inputs would.
        monkeypatch.setattr(classifier, "TOKENS_PER_PASS", 100)
        monkeypatch.setattr(network, "TOKENS_SIDE_BY_SIDE", 200)

    @pytest.mark.parametrize("estimator", ["monte_carlo", "linearized", "adaptive"])
    @pytest.mark.parametrize("noise", ["rank sequence", "input token"])
    def test_alone_batched_shuffled_padded(
        self, tiny_adapter: Any, noise: str, estimator: Any
    ) -> None:
        placement, scope = noise.split()
        clf = BayesLoRAClassifier.from_pretrained(
            tiny_adapter,
            placement=placement,  # type: ignore[arg-type]
            scope=scope,  # type: ignore[arg-type]
            scoring=Scoring(estimator=estimator),
            policy=Policy(0.51, 0.001),
        )
        expected = clf.predict(TEXTS)
        order = list(range(len(TEXTS)))
        random.Random(0).shuffle(order)
        shuffled = clf.predict([TEXTS[i] for i in order])
        for i, text in enumerate(TEXTS):
            (alone,) = clf.predict([text])
            (padded, _) = clf.predict([text, "word " * 50])
            for other in (alone, padded, shuffled[order.index(i)]):
                assert same(other, expected[i]), text
        assert expected[0] == expected[-1] or same(expected[0], expected[-1])

    def test_size_of_a_pass(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        small = tiny.predict(TEXTS, estimator="monte_carlo")
        monkeypatch.setattr(classifier, "TOKENS_PER_PASS", 1)
        monkeypatch.setattr(network, "TOKENS_SIDE_BY_SIDE", 1)
        one_by_one = tiny.predict(TEXTS, estimator="monte_carlo")
        monkeypatch.setattr(classifier, "TOKENS_PER_PASS", 10**6)
        monkeypatch.setattr(network, "TOKENS_SIDE_BY_SIDE", 10**6)
        at_once = tiny.predict(TEXTS, estimator="monte_carlo")
        assert all(map(same, small, one_by_one))
        assert all(map(same, small, at_once))

    def test_threads(self, tiny: Any) -> None:
        expected = tiny.predict(TEXTS)
        plain = tiny.predict(TEXTS, estimator="deterministic")

        def work(i: int) -> bool:
            if i % 2:
                got = tiny.predict(TEXTS, estimator="deterministic")
                return [p.confidence for p in got] == [p.confidence for p in plain]
            return all(map(same, tiny.predict(TEXTS), expected))

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(24)))

    def test_replay_by_seed(self, tiny: Any, tiny_adapter: Any) -> None:
        expected = tiny.predict(TEXTS, seed=7, estimator="monte_carlo")
        torch.manual_seed(123)
        again = BayesLoRAClassifier.from_pretrained(
            tiny_adapter, scoring=Scoring("monte_carlo", seed=7)
        )
        assert all(map(same, again.predict(TEXTS), expected))
        assert expected[0].seed == 7
        other = tiny.predict(TEXTS, seed=8, estimator="monte_carlo")
        assert all(p.variance != q.variance for p, q in zip(expected, other, strict=True))

    def test_more_draws_keep_the_first_ones(self, tiny: Any) -> None:
        few, many = tiny.draw(TEXTS, n_draws=5), tiny.draw(TEXTS, n_draws=9)
        torch.testing.assert_close(many[:5], few, atol=1e-6, rtol=0)


class TestLongText:
    def test_is_marked_and_scored_on_its_beginning(self, tiny: Any) -> None:
        (p,) = tiny.predict(["good " * 200 + "bad " * 200])
        assert p.truncated
        (beginning,) = tiny.predict(["good " * 62])
        assert not beginning.truncated
        assert p.n_tokens == beginning.n_tokens == tiny.max_tokens == 64
        assert math.isclose(p.confidence, beginning.confidence, abs_tol=1e-5)

    def test_a_word_that_the_tokenizer_skips_is_unread(self, tiny: Any) -> None:
        whole, cut = tiny.predict(["the film is great", f"the film is great {'ด' * 140}"])
        assert (whole.unread, cut.unread) == (0, 140 / 154)

    def test_no_draws_are_spent_on_what_cannot_proceed(self, tiny: Any) -> None:
        (known,) = tiny.predict(["a good film 😀"], estimator="linearized")
        policy = Policy(0.0, known.variance, allow_unread=True)  # on the threshold: draws decide
        for allowed in (True, False):
            (p,) = tiny.predict(
                ["a good film 😀"],
                estimator="adaptive",
                policy=replace(policy, allow_unread=allowed),
            )
            assert (p.n_draws > 0) == allowed

    def test_a_text_without_any_token_is_scored_and_all_unread(self, tiny: Any) -> None:
        alone, beside = tiny.predict(["\ue000", "a good film"])
        assert alone.unread == 1
        assert beside.unread == 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("texts", "error", "message"),
        [
            ("one text", TypeError, r"`texts` must be a list of strings, got str.*\[text\]"),
            (None, TypeError, "got NoneType"),
            ({"a", "b"}, TypeError, "got set"),
            (["ok", 3], TypeError, r"texts\[1\] must be a str, got int"),
            (["ok", None], TypeError, r"texts\[1\]"),
            ([b"ok"], TypeError, r"texts\[0\] must be a str, got bytes"),
            ([""], ValueError, r"texts\[0\] is empty"),
            (["ok", " \n\t\u2003"], ValueError, r"texts\[1\] is empty or only whitespace"),
            (["a\0b"], ValueError, r"texts\[0\] holds a NUL character at 1"),
            (["ok \ud83d"], ValueError, r"texts\[0\] holds a lone surrogate at 3"),
            (["\u200b\u200d\x07"], ValueError, r"texts\[0\] holds only control or invisible"),
        ],
    )
    def test_texts(self, tiny: Any, texts: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            tiny.predict(texts)

    def test_no_texts_no_predictions(self, tiny: Any) -> None:
        assert tiny.predict([]) == []
        assert tiny.draw([]).shape == (20, 0, 2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n_draws": 0}, r"`n_draws` \(=0\)"),
            ({"n_draws": 1}, r"`n_draws` \(=1\)"),
            ({"n_draws": -5}, r"`n_draws` \(=-5\)"),
            ({"n_draws": 2, "estimator": "adaptive"}, r"`n_draws` \(=2\) must be >= 3"),
            ({"n_draws": 2.5}, r"`n_draws` \(=2.5\)"),
            ({"seed": -1}, r"`seed` \(=-1\)"),
            ({"seed": "x"}, r"`seed` \(='x'\)"),
            ({"estimator": "magic"}, r"`estimator` \(='magic'\).*monte_carlo"),
        ],
    )
    def test_arguments(self, tiny: Any, arguments: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tiny.predict(["ok"], **arguments)


def test_emoji_and_right_to_left_text_with_the_real_model(sentiment: Any) -> None:
    predictions = sentiment.predict(["🎬🍿 🙂", "הסרט היה נהדר", "فيلم رائع"])
    assert all(0 < p.variance < 0.25 for p in predictions)


@pytest.fixture
def measured(tiny: Any) -> Any:
    """The tiny classifier, with what one pass foretells of it; forgotten afterwards."""
    measure_offset(tiny, TEXTS * 6)
    tiny.forecast = measure_forecast(tiny, TEXTS * 6)
    yield tiny
    tiny.temperature = tiny.temperature


class TestAdaptive:
    def test_each_stage_only_for_texts_that_need_it(self, measured: Any) -> None:
        linear = measured.predict(TEXTS, estimator="linearized")
        middle = sorted(p.confidence for p in linear)[3]
        settings = {"error": 0.005, "draw_error": 0.005, "n_draws": 64}
        scoring = Scoring("adaptive", **settings)

        def settle(policy: Policy) -> list[Prediction]:
            stages = measured.stages(TEXTS, scoring)
            return measured._predictions(stages.texts, stages.settle(policy), scoring)

        assert {p.variance_from for p in settle(Policy(0.0, 0.25))} == {"forecast"}
        near = settle(Policy(middle, 0.25))
        kinds = {p.variance_from for p in near}
        assert "draws" in kinds
        assert "forecast" in kinds
        for p, q in zip(near, linear, strict=True):
            assert (p.n_draws > 0) == (p.variance_from == "draws")
            if p.variance_from == "linearization":
                assert same(replace(p, variance_from="", estimator=""),
                            replace(q, variance_from="", estimator=""))  # fmt: skip

    def test_what_was_computed_for_one_policy_serves_the_next(
        self, measured: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        middle = sorted(p.confidence for p in measured.predict(TEXTS))[3]
        scoring = Scoring("adaptive", draw_error=0.9)
        stages = measured.stages(TEXTS, scoring)
        first = stages.settle(Policy(middle, 0.25))
        monkeypatch.setattr(measured.network, "linearize", None)
        again = stages.settle(Policy(middle, 0.25))
        assert "linearization" in first.variance_from
        assert torch.equal(first.moments.variance, again.moments.variance)

    def test_the_wide_belief_without_a_forecast_routes_as_the_linearization(
        self, tiny: Any
    ) -> None:
        linear = tiny.predict(TEXTS, estimator="linearized")
        for tau_conf in sorted(p.confidence for p in linear)[1::2]:
            policy = Policy(tau_conf - 1e-4, 0.001)
            found = tiny.score_texts(TEXTS, Scoring("adaptive", draw_error=0.9), policy)
            assert [decide(p, policy).action for p in found] == [
                decide(p, policy).action for p in linear
            ]
            assert "linearization" in {p.variance_from for p in found}

    def test_a_forecast_over_acts_serves_those_acts_only(self, tiny: Any) -> None:
        merged = tiny.for_acts({"any": list(tiny.labels)[:1]})
        merged.forecast = measure_forecast(merged, TEXTS * 6)
        assert merged.forecast.acts == merged.acts_fingerprint
        assert merged.forecast != UNMEASURED
        tiny.forecast = merged.forecast
        try:
            assert tiny.forecast == UNMEASURED
            assert tiny.for_acts({"any": list(tiny.labels)[:1]}).forecast == merged.forecast
            assert tiny.for_acts({"other": list(tiny.labels)[:1]}).forecast == UNMEASURED
        finally:
            tiny.temperature = tiny.temperature

    def test_what_it_starts_from_is_part_of_the_scoring(self, tiny: Any) -> None:
        scored_by = tiny.scored_by(Scoring("adaptive"))
        for measure in (
            measure_offset,
            lambda c, t: setattr(c, "forecast", measure_forecast(c, t)),
        ):
            measure(tiny, TEXTS * 6)
            assert tiny.scored_by(Scoring("adaptive")) != scored_by
            tiny.temperature = tiny.temperature  # forgets it
            assert tiny.scored_by(Scoring("adaptive")) == scored_by

    def test_no_texts(self, tiny: Any) -> None:
        assert tiny.predict([], estimator="adaptive", policy=Policy(0.9, 0.01)) == []

    def test_adaptive_does_not_draw_for_what_the_novelty_gate_stops(self, tiny: Any) -> None:
        middle = sorted(p.confidence for p in tiny.predict(TEXTS))[len(TEXTS) // 2]
        policy = Policy(middle, 0.25)
        free = tiny.predict(TEXTS, estimator="adaptive", n_draws=64, policy=policy)
        assert any(p.n_draws for p in free)
        stopping = replace(policy, tau_novelty=0.0)
        gated = tiny.predict(TEXTS, estimator="adaptive", n_draws=64, policy=stopping)
        for p, q in zip(free, gated, strict=True):
            expected = "forecast" if q.novelty > 0 else p.variance_from
            assert q.variance_from == expected
        assert sum(p.n_draws for p in gated) < sum(p.n_draws for p in free)

    def test_without_a_policy_is_an_error_that_says_so(self, tiny: Any) -> None:
        with pytest.raises(ValueError, match=r"needs the thresholds: pass policy="):
            tiny.predict(["good"], estimator="adaptive")


def test_scoring_is_named_in_full_and_thresholds_hold_for_it_only(tiny: Any) -> None:
    (p,) = tiny.predict(["a good film"])
    assert p.scored_by == tiny.scored_by()
    for word in ("adapter ", "rank sequence p=0.3", "temperature 1", "linearized"):
        assert word in p.scored_by
    policy = Policy(0.0, 0.25, calibrated_for=p.scored_by)
    assert decide(p, policy).action == "proceed"
    (q,) = tiny.predict(["a good film"], estimator="monte_carlo")
    assert "monte_carlo, T=20 seed=0" in q.scored_by
    decision = decide(q, policy)
    assert decision.action == "escalate"
    assert "calibrated for another scoring" in decision.reason


class TestEmbedding:
    @pytest.mark.parametrize("merge", [True, False])
    @pytest.mark.parametrize("placement", ["rank", "input"])
    def test_it_is_the_plain_backbones_mean_pooling(
        self, tiny_adapter: Any, tiny_backbone: Any, placement: Any, merge: bool
    ) -> None:
        frozen = None if merge else FrozenWeights()
        loaded = BayesLoRAClassifier.from_pretrained(
            tiny_adapter, placement=placement, frozen=frozen
        )
        backbone = AutoModel.from_pretrained(tiny_backbone).eval()
        expected = []
        for text in TEXTS:
            inputs = loaded.tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                states = backbone(**inputs).last_hidden_state[0]
            expected.append(torch.nn.functional.normalize(states.mean(dim=0), dim=0))
        found = loaded.embed(TEXTS)
        assert torch.allclose(found, torch.stack(expected), atol=1e-5)
        adapted = loaded.passes(TEXTS).features[:, -1]
        assert not torch.allclose(found, adapted, atol=1e-3)
        assert torch.allclose(loaded.passes(TEXTS).features[:, -1], adapted)  # and is back after it
