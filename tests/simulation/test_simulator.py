from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import pytest

from bayeslora_tool.policy import Policy
from bayeslora_tool.simulation.measures import measure
from bayeslora_tool.simulation.prediction_cache import PredictionCache
from bayeslora_tool.simulation.scenarios import Prices, Reviewer, Scenario
from bayeslora_tool.simulation.simulated_people import People
from bayeslora_tool.simulation.simulator import NO_GATE, play, simulate, walk
from tests.fakes import FakeClassifier, by_words
from tests.simulation.made_up import LABELS, PERFECT, TINY, RandomClassifier, random_scenarios


def results(simulation: Any) -> Any:
    return [asdict(row) for row in simulation.rows], simulation.runs


@pytest.mark.parametrize("routes", [("escalate", "clarify"), ("clarify", "escalate")])
@pytest.mark.parametrize("limits", [(0, None), (1, 0.7), (3, 0.9)])
def test_the_short_way_of_the_sweep_equals_the_real_graph(
    routes: tuple[Any, Any], limits: tuple[int, float | None]
) -> None:
    scenarios = random_scenarios(30)
    scored = PredictionCache(RandomClassifier())
    people = People(Reviewer(error_rate=0.4), LABELS, seed=3)
    decided = set()
    for tau_conf, tau_var in product((0.0, 0.5, 0.8, 1.0), (0.0, 0.01, 0.25)):
        policy = Policy(
            tau_conf, tau_var, on_high_variance=routes[0], on_low_confidence=routes[1],
            max_clarifications=limits[0], tau_novelty=limits[1],
        )  # fmt: skip
        real = play(scenarios, policy, scored, people)
        assert [walk(s, policy, scored, people) for s in scenarios] == real
        decided |= {(run.decision, run.decided_by) for run in real}
    assert {("proceed", "human"), ("reject", "human"), ("respond", "human")} < decided


def test_same_seed_same_result_in_any_order_and_another_seed_another() -> None:
    scenarios = [replace(s, reviews=()) for s in random_scenarios(60)]
    policies = {"p": Policy(0.9, 0.01)}

    def run(order: list[Scenario], seed: int) -> Any:
        return simulate(order, classifier=RandomClassifier(), policies=policies, seed=seed)

    first = run(scenarios, 1)
    assert results(first) == results(run(scenarios, 1))
    turned = run(scenarios[::-1], 1)
    assert first.runs["p"] == turned.runs["p"][::-1]
    assert first.runs["p"] != run(scenarios, 2).runs["p"]


def test_confidence_alone_asks_as_often_as_the_policy() -> None:
    scenarios = random_scenarios(120)
    found = simulate(
        scenarios,
        classifier=RandomClassifier(),
        policies={"p": Policy(0.7, 0.03, tau_novelty=0.9), "all": Policy(1.0, 0.0)},
    )
    rows = {row.name: row for row in found.rows}
    for name in ("p", "all"):
        assert rows[f"confidence alone ({name})"].asked == rows[name].asked
    assert 0 < rows["p"].asked < rows["all"].asked == 120


class TestSweep:
    @pytest.mark.slow
    def test_best_is_the_cheapest_of_the_grid_by_the_real_graph(self) -> None:
        scenarios = random_scenarios(60)
        policy = Policy(0.7, 0.03, max_clarifications=1)
        prices = Prices(error=3.0)
        found = simulate(
            scenarios, classifier=RandomClassifier(), policies={"p": policy}, prices=prices,
            sweep=True,
        )  # fmt: skip
        assert found.sweep is not None
        assert found.sweep.best.cost == min(row.cost for row in found.sweep.grid)
        assert len({(row.tau_conf, row.tau_var) for row in found.sweep.grid}) == 17 * 9
        people = People(Reviewer(), LABELS, seed=0)
        scored = PredictionCache(RandomClassifier())
        for row in [found.sweep.best, *found.sweep.grid[::19]]:
            tried = replace(policy, tau_conf=row.tau_conf, tau_var=row.tau_var)
            real = play(scenarios, tried, scored, people)
            assert measure(row.name, tried, real, prices) == row

    @pytest.mark.slow
    def test_dear_errors_make_the_best_ask_more(self) -> None:
        asked = []
        for price in (0.0, 1e6):
            found = simulate(
                random_scenarios(100), classifier=RandomClassifier(), sweep=True,
                policies={"p": Policy(0.7, 0.03)}, reviewer=PERFECT, prices=Prices(error=price),
            )  # fmt: skip
            assert found.sweep is not None
            asked.append(found.sweep.best.asked)
        assert asked[0] < asked[1]

    def test_nothing_scored_still_sweeps(self, policy: Policy) -> None:
        found = simulate(
            [Scenario(id="x", text="boom", gold="yes")], classifier=FakeClassifier(by_words),
            policies={"p": policy}, sweep=True,
        )  # fmt: skip
        assert found.sweep is not None
        assert found.sweep.best.escalations == 1


@pytest.mark.parametrize(
    ("scenarios", "policies", "message"),
    [
        ([], {"p": Policy(0.5, 0.1)}, "0 scenarios"),
        (TINY, {}, "0 policies"),
        ([TINY[0], TINY[0]], {"p": Policy(0.5, 0.1)}, "two scenarios have the id 'right'"),
        ([Scenario(id="s", text="x", gold="maybe")], {"p": Policy(0.5, 0.1)}, "label 'maybe'"),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    fake: FakeClassifier, scenarios: Any, policies: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(scenarios, classifier=fake, policies=policies)


def test_a_classifier_without_labels_is_refused() -> None:
    class Nameless:
        def predict(self, texts: list[str]) -> Any:
            return []

    with pytest.raises(TypeError, match="has no `labels`"):
        simulate(TINY, classifier=Nameless(), policies={"p": Policy(0.5, 0.1)})


def test_progress_reaches_its_total(fake: FakeClassifier, policy: Policy) -> None:
    bars: dict[str, list[int]] = {}

    @contextmanager
    def bar(what: str, total: int) -> Any:
        bar = bars.setdefault(what, [0, 0])
        bar[1] += total

        def advance(n: int) -> None:
            bar[0] += n

        yield advance

    simulate(TINY, classifier=fake, policies={"p": policy}, sweep=True, progress=bar)
    assert {"scoring", f"simulating {NO_GATE}", "simulating p", "sweeping"} < set(bars)
    assert all(done == total > 0 for done, total in bars.values())
