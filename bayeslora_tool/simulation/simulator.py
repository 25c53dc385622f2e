"""Plays scenarios through the real escalation graph, with scripted users and a fallible reviewer.

Each text is scored once, ahead of all runs; each scenario then runs as a thread of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, product
from typing import Any, Literal

import numpy as np
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from bayeslora_tool.graphs.escalation import create_escalation_graph
from bayeslora_tool.graphs.scoring import Predictor
from bayeslora_tool.policy import Policy, decide
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.progress import Progress, silent
from bayeslora_tool.review.answers import read_review
from bayeslora_tool.review.clarification import CLARIFY_ACTION
from bayeslora_tool.review.phrases import declines
from bayeslora_tool.simulation.measures import Run, Simulation, Sweep, measure
from bayeslora_tool.simulation.prediction_cache import ConfidenceOnly, PredictionCache
from bayeslora_tool.simulation.scenarios import Prices, Reviewer, Scenario
from bayeslora_tool.simulation.simulated_people import People

NO_GATE = "no gate"
# Quantiles of the seen confidences and variances; beyond them, single texts decide.
_CONF_GRID = np.linspace(0, 0.6, 16)
_VAR_GRID = np.linspace(0.65, 1, 8)
_NO_GATES = Policy(0.0, 0.25, on_low_confidence="escalate")


def play(
    scenarios: Sequence[Scenario],
    policy: Policy,
    scored: PredictionCache,
    people: People,
    progress: Callable[[int], Any] = lambda n: None,
) -> list[Run]:
    """Run each scenario through the real graph, as a thread of its own."""
    saver = InMemorySaver()
    builder = create_escalation_graph(classifier=scored, policy=policy)
    graph = builder.compile(checkpointer=saver)
    runs = []
    for scenario in scenarios:
        config: Any = {"configurable": {"thread_id": scenario.id}}
        asked = reviews = 0
        seconds = 0.0
        # Nothing here outlives the process: checkpoints are needed where a run stops, no oftener.
        go: Any = partial(graph.invoke, config=config, durability="exit")
        state = go({"text": scenario.text})
        while state.get("__interrupt__"):
            (waiting,) = state["__interrupt__"]
            (request,) = waiting.value["action_requests"]
            answer: str | dict[str, Any]
            if request["name"] == CLARIFY_ACTION:
                answer = people.says(scenario, asked)
                asked += 1
            else:
                answer, took = people.decides(scenario, reviews, request["args"]["label"])
                reviews += 1
                seconds += took
                try:
                    read_review(answer, waiting.value)
                except ValueError:  # a script may approve what could not be scored
                    continue
            state = go(Command(resume={waiting.id: answer}))
        end = state["outcome"]
        runs.append(
            Run(
                scenario.id, scenario.gold, end["decision"], end["label"], end["decided_by"],
                asked, reviews, seconds,
            )
        )  # fmt: skip
        saver.delete_thread(scenario.id)
        progress(1)
    return runs


def walk(scenario: Scenario, policy: Policy, scored: PredictionCache, people: People) -> Run:
    """What :func:`play` comes to for one scenario, without the graph: fast enough for a sweep."""
    text, asked = scenario.text, 0
    while True:
        prediction = scored.find(text)
        action = "escalate" if prediction is None else decide(prediction, policy).action
        if action != "clarify" or asked >= policy.max_clarifications:
            break
        said = people.says(scenario, asked)
        asked += 1
        if declines(said):
            action = "escalate"
            break
        text = f"{text}\n{said}"
    if action == "proceed":
        assert prediction is not None
        by: Literal["model", "user"] = "user" if asked else "model"
        return Run(scenario.id, scenario.gold, "proceed", prediction.label, by, asked, 0, 0.0)
    review, reviews, seconds = people.settles(scenario, text, prediction)
    decision: Literal["proceed", "reject", "respond"] = (
        review.type if review.type in ("reject", "respond") else "proceed"
    )
    return Run(scenario.id, scenario.gold, decision, review.label, "human", asked, reviews, seconds)


def simulate(
    scenarios: Sequence[Scenario],
    *,
    classifier: Predictor,
    policies: Mapping[str, Policy],
    reviewer: Reviewer | None = None,
    prices: Prices | None = None,
    seed: int = 0,
    sweep: bool = False,
    progress: Progress = silent,
) -> Simulation:
    """Find out, before an agent meets people, how often it will err and how often it will ask.

    Beside each policy stand an agent that acts on every label (``NO_GATE``; only what cannot be
    scored is escalated), and one that escalates the least confident texts, as many as the policy
    asks a person about.

    Args:
        scenarios: At least one.
        classifier: With ``predict`` and ``labels``.
        policies: By name, at least one.
        reviewer: Default: ``Reviewer()``.
        prices: Default: ``Prices()``.
        seed: Of the reviewer's luck.
        sweep: Also try other thresholds for the first policy.
        progress: ``progress(what, total)`` opens a bar and gives what to call with the number done.

    Raises:
        ValueError: No scenarios or policies, an id that occurs twice, or an unknown label.
    """
    reviewer, prices = reviewer or Reviewer(), prices or Prices()
    scored = PredictionCache(classifier)
    _check(scenarios, policies, scored.labels)
    people = People(reviewer, scored.labels, seed)
    _score_ahead(scenarios, list(policies.values()), scored, people, progress)
    plain = ConfidenceOnly(scored)
    runs: dict[str, list[Run]] = {}
    rows = []

    def run(name: str, policy: Policy, seen: PredictionCache) -> list[Run]:
        with progress(f"simulating {name}", len(scenarios)) as advance:
            runs[name] = play(scenarios, policy, seen, people, advance)
        rows.append(measure(name, policy, runs[name], prices))
        return runs[name]

    run(NO_GATE, _NO_GATES, plain)
    for name, policy in policies.items():
        asked = sum(r.reviews + r.clarifications > 0 for r in run(name, policy, scored))
        tau_conf = _tau_that_escalates(asked, [plain.find(s.text) for s in scenarios])
        run(f"confidence alone ({name})", replace(_NO_GATES, tau_conf=tau_conf), plain)
    swept = None
    if sweep:
        name, policy = next(iter(policies.items()))
        swept = _sweep(scenarios, name, policy, scored, people, prices, progress)
    return Simulation(rows, runs, reviewer, prices, seed, swept)


def _sweep(
    scenarios: Sequence[Scenario],
    name: str,
    policy: Policy,
    scored: PredictionCache,
    people: People,
    prices: Prices,
    progress: Progress,
) -> Sweep:
    seen = [p for p in (scored.find(s.text) for s in scenarios) if p is not None]
    # The policy's own thresholds among them, so that the best is never worse than what is there.
    confidences = sorted({*_quantiles([p.confidence for p in seen], _CONF_GRID), policy.tau_conf})
    variances = sorted({*_quantiles([p.variance for p in seen], _VAR_GRID), policy.tau_var})
    # Whom any policy of the grid asks, one of the strictest tau_conf asks too.
    strictest = [replace(policy, tau_conf=confidences[-1], tau_var=v) for v in variances]
    _score_ahead(scenarios, strictest, scored, people, progress)
    plain = ConfidenceOnly(scored)
    pairs = list(product(confidences, variances))
    levels = _quantiles([p.confidence for p in seen], np.linspace(0, 0.6, 61)) or [policy.tau_conf]
    with progress("sweeping", len(pairs) + len(levels)) as advance:

        def tried(name: str, policy: Policy, seen: PredictionCache) -> Any:
            runs = [walk(s, policy, seen, people) for s in scenarios]
            advance(1)
            return measure(name, policy, runs, prices)

        grid = [
            tried(f"{name}, tau_conf {c:.4g}, tau_var {v:.3g}",
                  replace(policy, tau_conf=c, tau_var=v), scored)
            for c, v in pairs
        ]  # fmt: skip
        alone = [
            tried(f"confidence alone, tau_conf {c:.4g}", replace(_NO_GATES, tau_conf=c), plain)
            for c in levels
        ]
    return Sweep(name, grid, alone, min(grid, key=lambda row: (row.cost, row.asked)))


def _quantiles(values: Sequence[float], shares: Any) -> list[float]:
    finite = [value for value in values if math.isfinite(value)]
    return np.unique(np.quantile(finite, shares)).tolist() if finite else []


def _tau_that_escalates(n: int, predictions: Sequence[Prediction | None]) -> float:
    """The tau_conf under which, with what cannot be scored, as nearly n texts lie as ties allow."""
    confidences = sorted(p.confidence for p in predictions if p and math.isfinite(p.confidence))
    wanted = n - (len(predictions) - len(confidences))
    above = [min(1.0, math.nextafter(c, 2)) for c in confidences]
    candidates = [0.0, *confidences, *above[-1:]]
    under = np.searchsorted(confidences, candidates)
    return float(candidates[int(np.argmin(np.abs(under - wanted)))])


def _score_ahead(
    scenarios: Sequence[Scenario],
    policies: Sequence[Policy],
    scored: PredictionCache,
    people: People,
    progress: Progress,
) -> None:
    texts = [(scenario, scenario.text) for scenario in scenarios]
    for k in count():
        scored.add([text for _, text in texts], progress)
        asking = [policy for policy in policies if k < policy.max_clarifications]
        texts = [
            (scenario, f"{text}\n{said}")
            for scenario, text in texts
            if (p := scored.find(text))
            and any(decide(p, x).action == "clarify" for x in asking)
            and not declines(said := people.says(scenario, k))
        ]
        if not texts:
            return


def _check(
    scenarios: Sequence[Scenario], policies: Mapping[str, Policy], labels: Sequence[str]
) -> None:
    if not scenarios or not policies:
        raise ValueError(f"got {len(scenarios)} scenarios, {len(policies)} policies; give some")
    seen: set[str] = set()
    for scenario in scenarios:
        if scenario.id in seen:
            raise ValueError(f"two scenarios have the id {scenario.id!r}; make ids unique")
        seen.add(scenario.id)
        scenario.check_labels(labels, f"scenario {scenario.id!r}")
