from __future__ import annotations

import subprocess
import sys

import pytest

from bayeslora_tool.policy import Policy
from bayeslora_tool.simulation.scenarios import Reviewer, Scenario
from bayeslora_tool.simulation.simulated_people import People
from bayeslora_tool.simulation.simulator import simulate
from tests.conftest import ROOT
from tests.fakes import FakeClassifier, by_words, make_prediction
from tests.simulation.made_up import ALWAYS_WRONG, LABELS, PERFECT


def test_same_seed_same_luck_in_another_process() -> None:
    code = (
        "from bayeslora_tool.simulation.simulated_people import People; "
        "from bayeslora_tool.simulation.scenarios import Reviewer, Scenario; "
        "people = People(Reviewer(error_rate=0.5), ('a', 'b', 'c'), 7); "
        "print([people.decides(Scenario(id=f's{i}', text='x', gold='a'), i, 'b') "
        "for i in range(40)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""}, cwd=ROOT,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1
    assert "approve" in said.pop()


def test_reviewer_errs_as_often_as_told_and_takes_the_median_time() -> None:
    people = People(Reviewer(error_rate=0.2, median_seconds=50.0, sigma=1.0), LABELS, seed=0)
    scenarios = [Scenario(id=f"s{i}", text="x", gold="a") for i in range(2000)]
    answers = [people.decides(s, 0, "b") for s in scenarios]
    wrong = sum(a["type"] != "edit" or a["edited_action"]["args"]["label"] != "a"
                for a, _ in answers)  # fmt: skip
    assert 0.17 < wrong / 2000 < 0.23
    assert 0.46 < sum(seconds < 50 for _, seconds in answers) / 2000 < 0.54
    spread = sorted(seconds for _, seconds in answers)
    assert spread[1682] / spread[317] == pytest.approx(2.718**2, rel=0.15)  # one sigma each way


def test_a_review_of_the_oracle_is_right_or_wrong_as_the_rate_has_it(policy: Policy) -> None:
    scenarios = [
        Scenario(id="agrees", text="odd one", gold="yes"),
        Scenario(id="mends", text="odd two", gold="no"),
        Scenario(id="refuses", text="odd three", gold=None),
    ]
    for reviewer, wrong in ((PERFECT, 0), (ALWAYS_WRONG, 3)):
        found = simulate(
            scenarios, classifier=FakeClassifier(by_words), policies={"p": policy},
            reviewer=reviewer,
        )  # fmt: skip
        row = found.rows[1]
        assert (row.errors, row.errors_by_reviewer, row.escalations) == (wrong, wrong, 3)


def test_scripts_come_first_and_an_approval_of_nothing_is_asked_again(policy: Policy) -> None:
    scenarios = [
        Scenario(id="edited", text="odd", gold="yes", reviews=({"edit": "no"},)),
        Scenario(id="answered", text="odd", gold=None, reviews=({"respond": "call us"},)),
        Scenario(id="unscored", text="boom", gold="no", reviews=("approve", "approve")),
    ]
    found = simulate(
        scenarios, classifier=FakeClassifier(by_words), policies={"p": policy}, reviewer=PERFECT
    )
    edited, answered, unscored = found.runs["p"]
    assert (edited.label, edited.wrong) == ("no", True)
    assert (answered.decision, answered.wrong) == ("respond", False)
    assert (unscored.label, unscored.reviews, unscored.seconds) == ("no", 3, 300.0)


def test_a_user_whose_script_ends_gives_up_and_a_reviewer_comes(policy: Policy) -> None:
    seen = FakeClassifier(lambda text: make_prediction(confidence=0.5))
    scenario = Scenario(id="s", text="hm", gold="yes", clarifications=("well",))
    found = simulate([scenario], classifier=seen, policies={"p": policy}, reviewer=PERFECT)
    assert seen.seen == ["hm", "hm\nwell"]
    (run,) = found.runs["p"]
    assert (run.clarifications, run.reviews, run.wrong) == (2, 1, False)
