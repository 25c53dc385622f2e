"""The same promise for a confidence that somebody else computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bayeslora_tool.calibration.confidence import calibrate_confidence
from bayeslora_tool.calibration.thresholds import Goal
from bayeslora_tool.policy import decide, load_preset
from bayeslora_tool.prediction import Prediction
from tests.conftest import failed
from tests.fakes import make_prediction

NAN = float("nan")


def unmeasured(label: str, confidence: float) -> Prediction:
    return make_prediction(
        label=label,
        confidence=confidence,
        variance=NAN,
        mutual_information=NAN,
        estimator="decision_model",
        scored_by="oracle",
    )


def population(n: int, seed: int) -> tuple[list[Prediction | None], list[str | None]]:
    """Overconfident: a text of confidence c is right with probability c squared."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1, n)
    right = rng.uniform(size=n) < confidence**2
    labels = [("yes", "no")[i % 2] for i in range(n)]
    found: list[Prediction | None] = [
        unmeasured(label if hit else ("no" if label == "yes" else "yes"), float(c))
        for label, hit, c in zip(labels, right, confidence, strict=True)
    ]
    return found, list(labels)


def risk_beyond(tau: float) -> float:
    """Of the population: 1 minus the mean of c squared over [tau, 1]."""
    return 1 - (1 - tau**3) / (3 * (1 - tau))


def test_the_promise_is_broken_no_more_often_than_it_says() -> None:
    target, delta, trials = 0.15, 0.2, 100
    broken, kept = 0, 0
    for seed in range(trials):
        result, policy = calibrate_confidence(
            *population(2000, seed), scored_by="oracle", goal=Goal(target, delta), seed=seed
        )
        if result.feasible:
            kept += 1
            broken += risk_beyond(policy.tau_conf) > target
    assert kept > trials / 2
    # 99 % of binomials with that mean lie below.
    assert broken <= trials * delta + 3 * np.sqrt(trials * delta * (1 - delta))


def test_the_policy_decides_as_was_counted() -> None:
    found, gold = population(1000, 0)
    result, policy = calibrate_confidence(found, gold, scored_by="oracle", goal=Goal(0.1, 0.1))
    assert result.feasible
    assert policy.calibrated_for == "oracle"
    for prediction in found:
        assert prediction is not None
        proceeds = decide(prediction, policy).action == "proceed"
        assert proceeds == (prediction.confidence >= policy.tau_conf)


def test_what_could_not_be_scored_never_proceeds_and_costs_coverage() -> None:
    found, gold = population(4000, 0)
    whole, _ = calibrate_confidence(found, gold, scored_by="x", goal=Goal(0.15, 0.1))
    some = [None if i % 2 else one for i, one in enumerate(found)]
    half, _ = calibrate_confidence(some, gold, scored_by="x", goal=Goal(0.15, 0.1))
    assert half.feasible
    assert half.coverage < 0.6 * whole.coverage
    none, _ = calibrate_confidence([None] * 4000, gold, scored_by="x", goal=Goal(0.15, 0.1))
    assert not none.feasible or none.coverage == 0


MODULE = """
from langchain_core.decisions import BaseDecisionModel, Choice, ChoiceAnswer, ClassifierResponse
from bayeslora_tool.agents import DecisionClassifier

class Words(BaseDecisionModel):
    model: str = "words"

    @property
    def _provider(self):
        return "tests"

    def _classify(self, state, questions):
        if "boom" in state:
            raise RuntimeError("the provider is [down]")
        p = int(state.split()[-1]) / 100
        shares = {"good": p, "bad": 1 - p}
        best = max(shares, key=shares.get)
        answer = ChoiceAnswer(type="choice", choice=best, probabilities=shares, confidence=0.1)
        return ClassifierResponse(model=self.model, answers=dict.fromkeys(questions, answer))

words = Words()
question = Choice(instructions="How is it?", criteria={"good": None, "bad": None})
asked = DecisionClassifier(words, question)
number = 3
"""
Command = Callable[..., Any]


@pytest.fixture
def command(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in a folder with a module of the user's and 300 texts, 1 in 30 unlike it."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = ["text\tlabel"]
    for i in range(300):
        p = int(rng.integers(55, 100))
        sure = 100 - p if i % 2 else p
        right = rng.uniform() < (p / 100 if p < 80 else 1)
        label = ("bad" if i % 2 else "good") if right else ("good" if i % 2 else "bad")
        rows.append(f"text {i} {sure}\t{label}")
    (tmp_path / "data.tsv").write_text("\n".join(rows) + "\n")

    def command(*options: str, spec: str = "asked") -> Any:
        given = ("--decisions", f"{name}:{spec}", "-d", "data.tsv", "-o", "p.yaml")
        return run("calibrate", *given, *(option.replace("MODULE", name) for option in options))

    return command


def test_a_decision_model_gets_a_policy_of_its_own(command: Command, tmp_path: Path) -> None:
    result = command("--target-risk", "0.1")
    assert result.exit_code == 0, result.stderr
    assert "risk 10.0% kept with 95% confidence: confidence >= 0." in result.stdout
    assert "asking the decision model: 300" in result.stderr
    head = (tmp_path / "p.yaml").read_text()
    assert head.startswith("# By `bayeslora calibrate`: at most 10.0% wrong among what proceeds,")
    policy = load_preset(tmp_path / "p.yaml").policy
    assert policy.allow_no_variance
    assert str(policy.calibrated_for).startswith("decision model tests/words, question ")
    space: dict[str, Any] = {}
    exec(MODULE, space)  # the same model and question, in another process
    high, low = space["asked"].predict(["x 99", "x 60"])
    assert (decide(high, policy).action, decide(low, policy).action) == ("proceed", "clarify")
    other = space["DecisionClassifier"](
        space["words"], space["Choice"](instructions="?", criteria={"good": None, "bad": None})
    )
    assert "calibrated for another scoring" in decide(other.predict(["x 99"])[0], policy).reason


def test_a_model_and_a_question_may_be_named_apart(command: Command, tmp_path: Path) -> None:
    assert command("--target-risk", "0.1").exit_code == 0
    before = (tmp_path / "p.yaml").read_text()
    apart = command("--target-risk", "0.1", "--question", "MODULE:question", spec="words")
    assert apart.exit_code == 0, apart.stderr
    assert (tmp_path / "p.yaml").read_text() == before


def test_texts_that_fail_count_as_escalated(command: Command, tmp_path: Path) -> None:
    with (tmp_path / "data.tsv").open("a") as file:
        file.writelines(f"boom {i} 99\tgood\n" for i in range(100))
    result = command("--target-risk", "0.1")
    assert "100 texts could not be scored and count as escalated" in result.stderr
    assert "RuntimeError: the provider is [down]" in result.stderr
    coverage = float(result.stdout.split("%")[2].split()[-1])
    assert coverage < 76


def test_what_cannot_be_promised_is_not_written(command: Command, tmp_path: Path) -> None:
    result = command("--target-risk", "0.001")
    assert result.exit_code == 1
    assert "not reached" in result.stderr
    assert not (tmp_path / "p.yaml").exists()
    load = command("--max-escalation", "0.5")
    assert load.exit_code == 0
    assert "at most 50.0% of texts do not proceed" in (tmp_path / "p.yaml").read_text()


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("words", [], "--question MODULE:NAME is missing"),
        ("asked", ["--question", "MODULE:question"], "is a DecisionClassifier and has a question"),
        ("number", ["--question", "MODULE:question"], "must be a BaseDecisionModel, got 3"),
        ("words", ["--question", "MODULE:number"], "must be a Choice, a Noul or a Score, got 3"),
        ("nothing", [], "has no attribute 'nothing'"),
        ("asked", ["-a", "intents"], "give either --adapter or --decisions"),
        ("asked", ["--estimator", "monte_carlo"], "--estimator and --draws are for --adapter"),
        ("asked", ["--acts", "acts.yaml"], "are for --adapter"),
        ("asked", ["-d", "bad.tsv"], "line 2: label 'ugly' is not one of the classifier's 2"),
        ("asked", ["-d", "boom.tsv"], "none of the 40 texts could be scored; the first: Runtime"),
    ],
)
def test_bad_input(
    command: Command, tmp_path: Path, spec: str, options: list[str], message: str
) -> None:
    (tmp_path / "bad.tsv").write_text("text\tlabel\nx 60\tugly\n")
    rows = [f"boom {i} 60\t{('good', 'bad')[i % 2]}" for i in range(40)]
    (tmp_path / "boom.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    assert failed(command(*options, spec=spec), message)


def test_an_adapter_or_a_decision_model_is_needed(run: Any, tmp_path: Path) -> None:
    given = ("calibrate", "-d", "data.tsv", "-o", str(tmp_path / "p.yaml"))
    assert failed(run(*given), "give either --adapter or --decisions")
    assert failed(
        run(*given, "-a", "intents", "--question", "a:b"), "--question is for --decisions"
    )
