"""The tests by betting keep their promise, and agree with what others compute."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy.integrate import quad

from bayeslora_tool.monitoring import RiskMonitor, ShiftMonitor
from bayeslora_tool.monitoring.betting import BLOCK, p_value

TARGET = 0.02


class TestRisk:
    def test_wealth_is_a_fair_game_at_the_target(self) -> None:
        """Its mean over all ways that the audits may turn out, each by its probability, is 1."""
        for target in (0.02, 0.3):
            mean = 0.0
            for wrongs in itertools.product([False, True], repeat=10):
                monitor = RiskMonitor(target)
                for wrong in wrongs:
                    monitor.update(wrong)
                k = sum(wrongs)
                mean += target**k * (1 - target) ** (10 - k) * math.exp(monitor.log_wealth)
            assert mean == pytest.approx(1, rel=1e-9)

    def test_a_smaller_risk_makes_no_wealth(self) -> None:
        mean = 0.0
        for wrongs in itertools.product([False, True], repeat=8):
            monitor = RiskMonitor(0.3)
            for wrong in wrongs:
                monitor.update(wrong)
            mean += 0.2 ** sum(wrongs) * 0.8 ** (8 - sum(wrongs)) * math.exp(monitor.log_wealth)
        assert mean < 1

    def test_wealth_is_the_mixture_over_starts_and_bets(self) -> None:
        rng = np.random.default_rng(0)
        wrongs = rng.random(3 * BLOCK + 7) < 0.1
        monitor = RiskMonitor(TARGET)
        for wrong in wrongs:
            monitor.update(bool(wrong))
        risks = np.array([1.25, 1.5, 2, 3, 5, 10, 20]) * TARGET
        factors = np.where(wrongs[:, None], risks / TARGET, (1 - risks) / (1 - TARGET))
        total = 0.0
        for block in range(1, 5):
            played = factors[(block - 1) * BLOCK :].prod(axis=0).mean()
            total += played / (block * (block + 1))
        assert math.exp(monitor.log_wealth) == pytest.approx(total + 1 / 5, rel=1e-9)

    @pytest.mark.slow
    def test_false_alarms_are_as_rare_as_promised(self) -> None:
        """1,000 streams of 10,000 texts, of which a tenth is audited, at the worst risk allowed."""
        rng, delta, streams = np.random.default_rng(1), 0.05, 1000
        alarms = 0
        for _ in range(streams):
            monitor = RiskMonitor(TARGET, delta)
            for wrong in rng.random(1000) < TARGET:
                monitor.update(bool(wrong))
            alarms += monitor.alarm
        assert alarms / streams <= delta + 2 * math.sqrt(delta * (1 - delta) / streams)

    @pytest.mark.parametrize(("after", "audits"), [(0, 1700), (300, 2300)])
    def test_a_doubled_risk_is_caught(self, after: int, audits: int) -> None:
        rng, caught = np.random.default_rng(2), 0
        for _ in range(60):
            monitor = RiskMonitor(TARGET)
            for wrong in rng.random(after) < TARGET / 2:
                monitor.update(bool(wrong))
            for wrong in rng.random(audits) < 2 * TARGET:
                monitor.update(bool(wrong))
            caught += monitor.alarm
        assert caught >= 0.95 * 60

    def test_an_alarm_stays(self) -> None:
        monitor = RiskMonitor(TARGET)
        while not monitor.alarm:
            monitor.update(True)
        for _ in range(500):
            monitor.update(False)
        assert monitor.log_wealth < math.log(20)
        assert monitor.alarm

    def test_goes_on_from_plain_data(self) -> None:
        rng = np.random.default_rng(3)
        one, other = RiskMonitor(TARGET), RiskMonitor(TARGET)
        for wrong in rng.random(200) < 0.04:
            one.update(bool(wrong))
            state = json.dumps(other.state(), allow_nan=False)
            other = RiskMonitor(TARGET)
            other.restore(json.loads(state))
            other.update(bool(wrong))
        assert other.log_wealth == one.log_wealth
        assert (other.n, other.wrong) == (one.n, one.wrong)

    @pytest.mark.parametrize(("target", "delta"), [(0, 0.05), (1, 0.05), (0.02, 0), (0.02, 1)])
    def test_its_numbers_are_checked(self, target: float, delta: float) -> None:
        with pytest.raises(ValueError, match="must be in"):
            RiskMonitor(target, delta)

    def test_is_sooner_than_mapies(self) -> None:
        """MAPIE's bound on the risk in time holds, too; ours is made for small risks."""
        from mapie.exchangeability_testing import RiskMonitoring

        rng = np.random.default_rng(4)
        wrongs = rng.random(1500) < 5 * TARGET
        ours = RiskMonitor(TARGET, delta=0.05)
        when = next(i for i, w in enumerate(wrongs) if ours.update(bool(w)) >= math.log(20))
        theirs = RiskMonitoring(risk="accuracy", test_level=0.1, threshold=TARGET, warn=False)
        theirs.update(np.ones(when + 1, dtype=int), (~wrongs[: when + 1]).astype(int))
        assert not theirs.harmful_shift_detected
        theirs.update(np.ones(1500 - when - 1, dtype=int), (~wrongs[when + 1 :]).astype(int))
        assert theirs.harmful_shift_detected


class TestShift:
    def test_a_p_value_is_the_share_that_is_as_strange(self) -> None:
        seen = np.array([3, 0, 2, 1])
        assert p_value(seen, 2, 1.0) == (1 + 3) / 7
        assert p_value(seen, 2, 0.5) == (1 + 1.5) / 7
        assert p_value(seen, 3, 1.0) == 2 / 7
        assert p_value(np.zeros(4, dtype=int), 0, 0.25) == 0.25

    def test_the_slopes_are_vovks_simple_jumper(self) -> None:
        """MAPIE's wealth for the same p-values, before capital is spread over starting times."""
        from mapie.exchangeability_testing import OnlineMartingaleTest

        class Jumper(ShiftMonitor):
            signals = ("one",)
            _powers = ()

        ours, theirs = Jumper(), OnlineMartingaleTest(task="classification", jump_size=0.01)
        ours._log_wealth = np.full(3, -math.log(3))
        ours.n = 1  # no capital enters any more within the block
        for p in np.random.default_rng(5).beta(0.7, 1, size=BLOCK - 2):
            ours._jump()
            ours._bet(ours.log_factors(float(p)))
            wealth = theirs.update_simple_jumper_martingale(float(p))
            assert np.logaddexp.reduce(ours._log_wealth) == pytest.approx(math.log(wealth))

    def test_each_bet_is_fair(self) -> None:
        """Its factor has mean 1 over uniform p-values."""
        for way in range(5):
            mean, _ = quad(lambda p: math.exp(ShiftMonitor().log_factors(p)[way]), 0, 1)  # noqa: B023
            assert mean == pytest.approx(1, rel=1e-6)

    @pytest.mark.slow
    def test_false_alarms_are_as_rare_as_promised(self) -> None:
        rng, delta, streams = np.random.default_rng(6), 0.2, 150
        alarms = 0
        for seed in range(streams):
            monitor = ShiftMonitor(delta, seed=seed)
            for confidence, novelty in rng.beta(8, 1, size=(700, 2)):
                monitor.update(confidence, novelty)
            alarms += monitor.alarm
        assert alarms / streams <= delta + 2 * math.sqrt(delta * (1 - delta) / streams)

    @pytest.mark.parametrize("reference", [0, 300])
    def test_strangers_among_the_texts_are_caught(self, reference: int) -> None:
        rng, monitor = np.random.default_rng(7), ShiftMonitor()
        for confidence, novelty in zip(rng.beta(9, 1, 300), rng.uniform(size=300), strict=True):
            (monitor.learn if reference else monitor.update)(confidence, novelty)
        assert not monitor.alarm
        for _ in range(400):
            strange = rng.random() < 0.3
            confidence = rng.beta(2, 2) if strange else rng.beta(9, 1)
            monitor.update(confidence, rng.uniform(0.95, 1) if strange else rng.uniform())
        assert monitor.alarm

    def test_without_novelty_the_other_half_plays_alone(self) -> None:
        rng, monitor = np.random.default_rng(8), ShiftMonitor()
        for confidence in rng.beta(9, 1, 200):
            monitor.learn(confidence, None)
        for _ in range(300):
            monitor.update(rng.beta(1, 1), None)
        assert monitor.alarm

    def test_goes_on_from_plain_data(self) -> None:
        rng = np.random.default_rng(9)
        one, other = ShiftMonitor(), ShiftMonitor()
        for pair in rng.uniform(size=(60, 2)):
            one.update(*pair)
            state = json.dumps(other.state(), allow_nan=False)
            other = ShiftMonitor()
            other.restore(json.loads(state))
            other.update(*pair)
        assert other.log_wealth == one.log_wealth
