from __future__ import annotations

import pytest
from langgraph.errors import GraphInterrupt

from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.simulation.prediction_cache import PredictionCache
from bayeslora_tool.simulation.simulator import simulate
from tests.simulation.made_up import RandomClassifier, random_scenarios


def test_each_text_is_scored_once_for_all_policies_and_the_sweep() -> None:
    fake = RandomClassifier()
    scenarios = random_scenarios(30)
    good = [s for s in scenarios if PredictionCache(fake).find(s.text)]
    fake.seen.clear()
    simulate(
        good, classifier=fake, sweep=True,
        policies={"p": Policy(0.9, 0.01), "q": Policy(0.5, 0.2, on_high_variance="clarify")},
    )  # fmt: skip
    broken = {text for text in fake.seen if PredictionCache(RandomClassifier()).find(text) is None}
    scored = [text for text in fake.seen if text not in broken and "\n" not in text]
    assert sorted(scored) == sorted(s.text for s in good)


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_of_the_classifier_is_not_taken_for_a_failed_score(at: int) -> None:
    """Neither in a batch, nor alone after the batch has failed."""

    class Interrupting:
        labels = ("yes", "no")
        calls = 0

        def predict(self, texts: list[str]) -> list[Prediction]:
            self.calls += 1
            raise GraphInterrupt() if self.calls == at else RuntimeError("the batch broke")

    with pytest.raises(GraphInterrupt):
        PredictionCache(Interrupting()).add(["one", "two"])
