from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.policy import Policy, Scoring, decide, load_preset
from bayeslora_tool.settings import bundled
from tests.fakes import make_prediction

NAN, INF = math.nan, math.inf
ABOVE = math.nextafter(0.01, 1)
BELOW = math.nextafter(0.8, 0)


@pytest.mark.parametrize(
    ("confidence", "variance", "action"),
    [
        (0.9, 0.001, "proceed"),
        (0.8, 0.01, "proceed"),  # both exactly at their thresholds
        (1.0, 0.0, "proceed"),
        (BELOW, 0.01, "clarify"),
        (0.01, 0.0, "clarify"),
        (0.0, 0.0, "escalate"),  # the likeliest label has some probability
        (0.8, ABOVE, "escalate"),
        (BELOW, ABOVE, "escalate"),
        (1.0, 0.25, "escalate"),
        (NAN, 0.001, "escalate"),
        (0.9, NAN, "escalate"),
        (NAN, NAN, "escalate"),
        (INF, 0.001, "escalate"),
        (0.9, INF, "escalate"),
        (0.9, -INF, "escalate"),
        (97.0, 0.001, "escalate"),  # percent
        (-0.1, 0.001, "escalate"),
        (0.9, -0.001, "escalate"),
        (0.9, 0.3, "escalate"),
    ],
)
def test_routes(confidence: float, variance: float, action: str) -> None:
    policy = Policy(tau_conf=0.8, tau_var=0.01)
    assert (
        decide(make_prediction(confidence=confidence, variance=variance), policy).action == action
    )


@pytest.mark.parametrize("variance", ["clarify", "escalate"])
@pytest.mark.parametrize("confidence", ["clarify", "escalate"])
def test_what_doubt_leads_to_is_a_choice(variance: Any, confidence: Any) -> None:
    policy = Policy(0.8, 0.01, on_high_variance=variance, on_low_confidence=confidence)
    assert decide(make_prediction(variance=0.2), policy).action == variance
    assert decide(make_prediction(confidence=0.5), policy).action == confidence
    # Variance is looked at first: a mean that the draws do not agree on says little.
    assert decide(make_prediction(confidence=0.5, variance=0.2), policy).action == variance


@pytest.mark.parametrize(
    "change", [{"variance": NAN}, {"confidence": NAN}, {"truncated": True}, {"unread": 0.1}]
)
def test_what_cannot_be_trusted_escalates_even_where_doubt_would_clarify(change: Any) -> None:
    policy = Policy(0.0, 0.25, on_high_variance="clarify", on_low_confidence="clarify")
    assert decide(make_prediction(**change), policy).action == "escalate"


@pytest.mark.parametrize(
    ("novelty", "action"),
    [(0.0, "proceed"), (0.95, "proceed"), (0.96, "escalate")]
    + [(value, "escalate") for value in (-0.5, 7.0, INF, -INF, NAN, None)],
)
def test_novelty_is_a_gate_of_its_own(novelty: float | None, action: str) -> None:
    policy = Policy(0.8, 0.01, tau_novelty=0.95)
    assert decide(make_prediction(novelty=novelty), policy).action == action


@pytest.mark.parametrize(
    ("sureness", "action"),
    [(1.0, "proceed"), (0.9, "proceed"), (0.89, "clarify"), (0.0, "clarify")]
    + [(value, "escalate") for value in (-0.5, 7.0, INF, -INF, NAN, None)],
)
def test_sureness_is_a_gate_of_its_own(sureness: float | None, action: str) -> None:
    policy = Policy(0.0, 0.01, tau_sure=0.9)
    assert decide(make_prediction(sureness=sureness), policy).action == action
    # The others stand beside it.
    for stricter in (replace(policy, tau_conf=0.95), replace(policy, tau_var=0.0)):
        assert decide(make_prediction(sureness=sureness), stricter).action != "proceed"


def test_a_reason_names_the_sureness_where_it_counts() -> None:
    policy = Policy(0.0, 0.01, tau_sure=0.9)
    reasons = [decide(make_prediction(sureness=s), policy).reason for s in (0.95, 0.5, None)]
    assert "sureness 0.950 (>= 0.9)" in reasons[0]
    assert "Not sure enough" in reasons[1]
    assert "sureness 0.500 (< 0.9)" in reasons[1]
    assert "was not measured" in reasons[2]
    assert "sureness" not in decide(make_prediction(sureness=0.5), Policy(0.5, 0.01)).reason


@pytest.mark.parametrize(
    ("unread", "strict", "lenient"),
    [(0.0, "proceed", "proceed"), (0.001, "escalate", "proceed"), (0.999, "escalate", "proceed")]
    # Of 1, nothing was read; the rest is no share.
    + [(value, "escalate", "escalate") for value in (1.0, -0.1, 1.1, NAN, INF)],
)
def test_what_was_not_read_proceeds_only_where_the_policy_says_so(
    unread: float, strict: str, lenient: str
) -> None:
    prediction = make_prediction(unread=unread)
    assert decide(prediction, Policy(0.8, 0.01)).action == strict
    assert decide(prediction, Policy(0.8, 0.01, allow_unread=True)).action == lenient


def test_no_policy_lets_a_cut_text_proceed() -> None:
    policy = Policy(0.0, 0.25, allow_unread=True)
    assert decide(make_prediction(truncated=True), policy).action == "escalate"


def test_reasons_carry_the_numbers() -> None:
    policy = Policy(0.8, 0.01)
    sure = decide(make_prediction(), policy).reason
    assert "'yes' with confidence 0.900 (>= 0.8) and variance 0.001 (<= 0.01)" in sure
    vague = decide(make_prediction(confidence=0.6), policy)
    assert "0.600 (< 0.8)" in vague.reason
    assert "'yes' (0.600) or 'no' (0.400)" in vague.reason
    odd = decide(make_prediction(variance=0.2), policy).reason
    assert "variance 0.2 (> 0.01)" in odd
    cut = decide(make_prediction(truncated=True, n_tokens=900), policy).reason
    assert "900 tokens" in cut
    assert "12.50%" in decide(make_prediction(unread=0.125), policy).reason


@pytest.mark.parametrize(
    "bad",
    [
        {"tau_conf": 1.1},
        {"tau_conf": -0.1},
        {"tau_conf": NAN},
        {"tau_var": 0.3},
        {"tau_var": NAN},
        {"max_clarifications": -1},
        {"on_high_variance": "proceed"},
        {"on_low_confidence": "proceed"},
        {"tau": 1},
    ],
)
def test_bad_policies_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Policy(**{"tau_conf": 0.8, "tau_var": 0.01} | bad)


@pytest.mark.parametrize("bad", [{"n_draws": 1}, {"n_draws": 0}, {"n_draws": -3}, {"seed": -1}])
def test_bad_scoring_is_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Scoring(**bad)


class TestPresets:
    @pytest.mark.parametrize("name", ["default", "sentiment", "intents", "cautious"])
    def test_bundled_ones_load(self, name: str) -> None:
        preset = load_preset(name)
        assert preset.policy == Policy.from_preset(name)
        assert name in bundled()

    def test_cautious_is_stricter_in_every_gate(self) -> None:
        cautious, intents = map(Policy.from_preset, ("cautious", "intents"))
        assert cautious.tau_conf > intents.tau_conf
        assert cautious.tau_var < intents.tau_var
        assert (cautious.tau_novelty or 1) < (intents.tau_novelty or 1)

    def test_default_shows_every_key(self) -> None:
        import dataclasses

        import yaml

        from bayeslora_tool.settings import read_settings

        content, _ = read_settings("default")
        assert isinstance(content, dict)
        assert set(content) == {"adapter", "scoring", "policy"}
        for key, cls in (("scoring", Scoring), ("policy", Policy)):
            assert set(content[key]) == {f.name for f in dataclasses.fields(cls)}
        assert yaml.safe_dump(content)

    def test_a_path_loads(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("policy: {tau_conf: 0.5, tau_var: 0.1}\n")
        assert Policy.from_preset(file) == Policy(0.5, 0.1)

    def test_unknown_name_lists_the_presets(self) -> None:
        with pytest.raises(ValueError, match=r"unknown preset 'intent'.*cautious.*intents"):
            load_preset("intent")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
            load_preset(tmp_path / "none.yaml")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                "policy: {tau_conf: 0.5, tau_var: 0.1, tau_vra: 1}",
                r"unknown key `policy.tau_vra`; valid keys: allow.*tau_novelty, tau_sure, tau_var",
            ),
            ("polcy: {}", r"unknown key `polcy`; valid keys: acts, adapter, policy, scoring"),
            ("policy: {tau_conf: 0.5}", r"missing key `policy.tau_var`"),
            ("policy: {tau_conf: high, tau_var: 0.1}", r"`policy.tau_conf` \(='high'\)"),
            ("policy: {tau_conf: .nan, tau_var: 0.1}", r"`policy.tau_conf`"),
            ("scoring: {n_draws: 1}\npolicy: {tau_conf: 0, tau_var: 0}", r"`scoring.n_draws`"),
            ("[1, 2]", r"not valid"),
            ("policy: [", r"not YAML"),
            ("policy: {tau_conf: 1, tau_var: 0}\npolicy: {tau_conf: 0, tau_var: 1}", "comes twice"),
            ("", r"not valid"),
        ],
    )
    def test_bad_files_are_refused(self, tmp_path: Path, content: str, message: str) -> None:
        file = tmp_path / "bad.yaml"
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_preset(file)
