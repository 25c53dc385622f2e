"""The people of a simulation: a user with a script, and a reviewer who sometimes errs.

What the reviewer does and how long it takes depends on the seed, the scenario's id and the number
of the review alone, so that policies meet the same luck, in whatever order scenarios run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count
from random import Random
from typing import Any

from bayeslora_tool.prediction import Prediction
from bayeslora_tool.review.answers import Review, read_review
from bayeslora_tool.review.requests import REVIEW_ACTION, review_request
from bayeslora_tool.simulation.scenarios import Reviewer, Scenario

NOTHING_TO_ADD = "never mind"


class People:
    """The user and the reviewer of a simulation.

    Args:
        reviewer: How good and how quick.
        labels: What a wrong review chooses among.
        seed: Of the reviewer's luck.
    """

    def __init__(self, reviewer: Reviewer, labels: Sequence[str], seed: int) -> None:
        self._reviewer, self._labels, self._seed = reviewer, labels, seed
        self._settled: dict[tuple[str, str], tuple[Review, int, float]] = {}

    def says(self, scenario: Scenario, k: int) -> str:
        """The user's answer to question ``k``, from 0."""
        script = scenario.clarifications
        return script[k].strip() if k < len(script) else NOTHING_TO_ADD

    def decides(
        self, scenario: Scenario, k: int, proposed: str | None
    ) -> tuple[dict[str, Any], float]:
        """The reviewer's answer to review ``k``, from 0, and the seconds that it took.

        Args:
            scenario: Whose script goes first; then ``gold`` and the error rate decide. A wrong
                review of an out-of-scope text lets the proposed label pass.
            k: How many reviews of this scenario there were before.
            proposed: The model's label; None if it has none.
        """
        luck = Random(f"{self._seed}\0{scenario.id}\0{k}")
        wrong, pick = luck.random() < self._reviewer.error_rate, luck.random()
        seconds = self._reviewer.median_seconds * math.exp(self._reviewer.sigma * luck.gauss(0, 1))
        if k < len(scenario.reviews):
            script = scenario.reviews[k]
            if isinstance(script, str):
                return {"type": script}, seconds
            if "respond" in script:
                return {"type": "respond", "message": script["respond"]}, seconds
            return _edit(script["edit"]), seconds
        label = scenario.gold
        if wrong:
            others = [x for x in self._labels if x != scenario.gold]
            if scenario.gold is None and proposed is not None:
                others = [proposed]
            label = others[int(pick * len(others))] if others else None
        if label is None:
            return {"type": "reject"}, seconds
        return {"type": "approve"} if label == proposed else _edit(label), seconds

    def settles(
        self, scenario: Scenario, text: str, prediction: Prediction | None
    ) -> tuple[Review, int, float]:
        """The review that the graph would take, how many it took, and their seconds."""
        if (scenario.id, text) not in self._settled:
            values = None if prediction is None else prediction.to_dict()
            request = review_request(text=text, prediction=values, reason="", labels=self._labels)
            total = 0.0
            for k in count():
                proposed = None if prediction is None else prediction.label
                answer, seconds = self.decides(scenario, k, proposed)
                total += seconds
                try:
                    review = read_review(answer, request)
                except ValueError:  # `play` has the reviewer answer anew, too
                    continue
                self._settled[scenario.id, text] = review, k + 1, total
                break
        return self._settled[scenario.id, text]


def _edit(label: str) -> dict[str, Any]:
    action = {"name": REVIEW_ACTION, "args": {"label": label}}
    return {"type": "edit", "edited_action": action}
