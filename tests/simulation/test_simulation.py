from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from bayeslora_tool.graphs.escalation import create_escalation_graph
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt

from bayeslora_tool.policy import Policy
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.simulation.measures import Run, measure
from bayeslora_tool.simulation.openevals_app import WAITING, as_simulation_app
from bayeslora_tool.simulation.prediction_cache import PredictionCache
from bayeslora_tool.simulation.report import simulation_table, write_simulation
from bayeslora_tool.simulation.scenarios import (
    Prices,
    Reviewer,
    Scenario,
    read_scenarios,
    scenarios_from_labelled,
)
from bayeslora_tool.simulation.simulated_people import People
from bayeslora_tool.simulation.simulator import NO_GATE, play, simulate, walk
from bayeslora_tool.training.dataset import LabelledText
from tests.conftest import ROOT
from tests.fakes import FakeClassifier, by_words, make_prediction

PERFECT = Reviewer(error_rate=0.0, median_seconds=100.0, sigma=0.0)
ALWAYS_WRONG = replace(PERFECT, error_rate=1.0)
EXAMPLE = ROOT / "examples" / "scenarios.yaml"
LABELS = ("a", "b", "c", "d")


def random_prediction(text: str) -> Prediction:
    """Any confidence, variance and label, decided by the text alone."""
    luck = random.Random(text)
    if luck.random() < 0.05:
        raise RuntimeError("the model broke")
    label = luck.choice(LABELS)
    confidence = 1 - 0.75 * luck.random() ** 2
    rest = dict.fromkeys(LABELS, (1 - confidence) / 3)
    return make_prediction(
        label=label,
        confidence=confidence,
        variance=float("nan") if luck.random() < 0.05 else luck.random() ** 3 / 8,
        probabilities=rest | {label: confidence},
        truncated=luck.random() < 0.05,
        novelty=luck.random(),
    )


class RandomClassifier(FakeClassifier):
    labels = LABELS  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(random_prediction)


def random_scenarios(n: int) -> list[Scenario]:
    luck = random.Random(0)
    scripts: list[Any] = ["approve", "reject", {"edit": "b"}, {"respond": "no"}]
    return [
        Scenario(
            id=f"s{i}",
            text=f"text {i}",
            gold=luck.choice([*LABELS, None]),
            clarifications=tuple(f" more {j} " for j in range(luck.randrange(3))),
            reviews=tuple(luck.choices(scripts, k=luck.randrange(3))),
        )
        for i in range(n)
    ]


def results(simulation: Any) -> Any:
    return [asdict(row) for row in simulation.rows], simulation.runs


# Sure: right, sure: wrong, out of scope but sure, asked once, asked twice in vain, odd.
TINY = [
    Scenario(id="right", text="clear", gold="yes"),
    Scenario(id="wrong", text="clear too", gold="no"),
    Scenario(id="stranger", text="clear off", gold=None),
    Scenario(id="asked", text="vague", gold="yes", clarifications=("clear",)),
    Scenario(id="mute", text="vague words", gold="no", clarifications=("vague", "vague still")),
    Scenario(id="odd", text="odd", gold=None),
    Scenario(id="broken", text="boom", gold="no"),
]


def test_measures_are_what_one_counts_by_hand(fake: FakeClassifier, policy: Policy) -> None:
    prices = Prices(error=5.0, reviewer_hour=36.0, clarification=0.5)
    found = simulate(TINY, classifier=fake, policies={"p": policy}, reviewer=PERFECT, prices=prices)
    nothing, row, alone = found.rows
    assert [run.decided_by for run in found.runs["p"]] == [
        "model", "model", "model", "user", "human", "human", "human",
    ]  # fmt: skip
    assert [run.id for run in found.runs["p"] if run.wrong] == ["wrong", "stranger"]
    assert (row.errors, row.errors_by_reviewer, row.escalations, row.asked) == (2, 0, 3, 4)
    assert row.error_rate == pytest.approx(2 / 7)
    assert row.automation_rate == pytest.approx(4 / 7)
    assert row.clarifications == 3
    assert row.reviewer_hours == pytest.approx(300 / 3600)
    assert (row.wait_p50, row.wait_p95) == (0.0, 100.0)
    assert row.cost == pytest.approx(2 * 5 + 36 * 300 / 3600 + 3 * 0.5)
    # What cannot be scored cannot be acted on, gate or none.
    assert (nothing.name, nothing.errors, nothing.asked) == (NO_GATE, 4, 1)
    # By confidence alone the odd text (0.9) looks like the clear ones (0.9).
    assert alone.name == "confidence alone (p)"
    assert (alone.asked, alone.escalations, alone.clarifications) == (3, 3, 0)
    assert [run.id for run in found.runs[alone.name] if run.wrong] == ["wrong", "stranger", "odd"]


def test_interval_is_clopper_and_pearsons(policy: Policy) -> None:
    runs = [Run(str(i), "yes", "proceed", "no" if i < 3 else "yes", "model", 0, 0, 0.0)
            for i in range(40)]  # fmt: skip
    row = measure("p", policy, runs, Prices())

    def at_least(k: int, p: float) -> float:
        from math import comb

        return sum(comb(40, i) * p**i * (1 - p) ** (40 - i) for i in range(k, 41))

    assert at_least(3, row.error_low) == pytest.approx(0.025)
    assert 1 - at_least(4, row.error_high) == pytest.approx(0.025)


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


def test_files_hold_the_rows_and_the_runs(tmp_path: Path) -> None:
    found = simulate(
        random_scenarios(40), classifier=RandomClassifier(), sweep=True,
        policies={"p": Policy(0.7, 0.03), "[q]": Policy(0.9, 0.01)},
    )  # fmt: skip
    files = write_simulation(found, tmp_path / "new")
    assert [file.name for file in files] == ["simulation.json", "runs.jsonl", "sweep.png"]
    summary = json.loads(files[0].read_text())
    assert summary["policies"] == [asdict(row) for row in found.rows]
    assert summary["sweep"]["best"]["cost"] == found.sweep.best.cost  # type: ignore[union-attr]
    lines = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert len(lines) == 5 * 40
    errors = sum(line["wrong"] for line in lines if line["policy"] == "p")
    assert errors == found.rows[1].errors
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert simulation_table(found).columns[4].header == r"\[q]"


class TestScenarioFiles:
    def test_the_example_is_read_in_full(self) -> None:
        file = read_scenarios(EXAMPLE)
        assert file.reviewer["median_seconds"] == 90
        assert file.prices["clarification"] == 0.1
        scenarios = {s.id: s for s in file.scenarios}
        assert scenarios["which list"].clarifications == ("the list", "milk, on my shopping list")
        assert scenarios["two wishes"].reviews == ({"edit": "cancel_reservation"},)
        assert scenarios["says little"].gold is None

    def test_jsonl_says_the_same_as_yaml(self, tmp_path: Path) -> None:
        rows = [{"id": "1", "text": "a\u2028b", "gold": "yes", "reviews": ["approve"]},
                {"id": "2", "text": "x", "gold": None}]  # fmt: skip
        jsonl, yaml = tmp_path / "a.jsonl", tmp_path / "a.yaml"
        jsonl.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
        yaml.write_text(json.dumps({"scenarios": rows}))
        assert read_scenarios(jsonl).scenarios == read_scenarios(yaml).scenarios
        assert read_scenarios(jsonl).scenarios[0].text == "a\u2028b"

    def test_labelled_texts_become_scenarios(self) -> None:
        first, second = scenarios_from_labelled([LabelledText("x", "yes", 2)], ["y"])
        assert (first.id, first.text, first.gold) == ("line 2", "x", "yes")
        assert (second.id, second.text, second.gold) == ("out of scope 1", "y", None)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("{id: b, text: x, gold: yes, golden: 1}", "unknown key `golden`; valid keys: clari"),
            ("{id: b, gold: 'yes'}", "missing key `text`"),
            ("{id: b, text: x}", "missing key `gold`"),
            ("{id: a, text: x, gold: 'yes'}", "id 'a' stands in line 2 too"),
            ("{id: b, text: x, gold: yess}", "unknown label 'yess' in `gold`; near are yes"),
            ("{id: b, text: x, gold: null, reviews: [{edit: on}]}", "`reviews"),
            ("{id: b, text: x, gold: null, reviews: [{edit: noo}]}", "'noo' in `reviews`"),
            ("{id: b, text: x, gold: null, reviews: [fine]}", "expected approve, reject, {edit"),
            ("{id: b, text: x, gold: yes}", "`gold` (=True)"),
            ("{id: 7, text: x, gold: null}", "`id` (=7)"),
            ("{id: b, text: ' ', gold: null}", "only whitespace"),
            ("{id: b, text: x, gold: null, clarifications: more}", "`clarifications`"),
            ("text", "Input should be a dictionary"),
        ],
    )  # fmt: skip
    def test_bad_scenarios_are_refused_with_file_and_line(
        self, tmp_path: Path, row: str, message: str
    ) -> None:
        file = tmp_path / "bad.yaml"
        file.write_text(f"scenarios:\n  - {{id: a, text: x, gold: 'no'}}\n  - {row}\n")
        with pytest.raises(ValueError, match=r"bad\.yaml, line 3") as caught:
            read_scenarios(file, labels=("yes", "no"))
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.yaml", "scenarios: [", "not YAML"),
            ("a.yaml", "", "expected a mapping with a list under `scenarios`"),
            ("a.yaml", "- x", "expected a mapping"),
            ("a.yaml", "scenarios: []", "holds no scenarios"),
            ("a.yaml", "scenarios: []\nprice: 1", "unknown key 'price'; valid keys: scenarios"),
            ("a.yaml", "scenarios: []\nprices: {eror: 1}", "`prices` is not valid"),
            ("a.yaml", "scenarios: []\nreviewer: {error_rate: 2}", "`error_rate` (=2)"),
            ("a.yaml", "scenarios: []\nreviewer:\n", "`reviewer` is not valid"),
            ("a.jsonl", '{"id": "a"}\n{', "a.jsonl, line 1"),
            ("a.jsonl", "\n{", "a.jsonl, line 2: not JSON"),
            ("a.txt", "x", "unknown file type '.txt'"),
            ("a.yaml", "scenarios: [{id: a}]\nscenarios: [{id: b}]", "'scenarios' comes twice"),
            ("a.yaml", "scenarios: [{id: a, text: x, text: y}]", "'text' comes twice"),
            ("a.yaml", "scenarios: \udce9", "a.yaml is not UTF-8"),
            ("a.jsonl", '{"id": "\udce9"}', "a.jsonl is not UTF-8"),
        ],
    )
    def test_bad_files_are_refused(
        self, tmp_path: Path, name: str, content: str, message: str
    ) -> None:
        (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(ValueError, match=r"a\.") as caught:
            read_scenarios(tmp_path / name)
        assert message in str(caught.value)

    @pytest.mark.parametrize("name", ["a.yaml", "a.jsonl"])
    def test_a_byte_order_mark_is_no_content(self, tmp_path: Path, name: str) -> None:
        row = '{"id": "a", "text": "x", "gold": "y"}'
        content = row if name == "a.jsonl" else f"scenarios: [{row}]"
        (tmp_path / name).write_text(content, encoding="utf-8-sig")
        assert [s.id for s in read_scenarios(tmp_path / name).scenarios] == ["a"]

    def test_no_file(self) -> None:
        with pytest.raises(FileNotFoundError, match=r"no such file: none\.yaml"):
            read_scenarios("none.yaml")


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


class TestCommand:
    @pytest.fixture
    def simulate(
        self, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_adapter: Path
    ) -> Any:
        monkeypatch.chdir(tmp_path)
        for name, scoring in (("p", "linearized"), ("q", "monte_carlo"), ("r", "adaptive")):
            Path(f"{name}.yaml").write_text(
                f"adapter: {tiny_adapter}\nscoring: {{estimator: {scoring}}}\n"
                "policy: {tau_conf: 0.9, tau_var: 0.01}\n"
            )
        texts = "a good book\tgood\na bad song\tbad\na dreadful good day\tbad"
        Path("t.tsv").write_text(f"text\tlabel\n{texts}\n")
        Path("out.txt").write_text("zebra\nquantum\n")
        Path("s.yaml").write_text(
            "reviewer: {median_seconds: 30, sigma: 0}\n"
            "scenarios: [{id: a, text: a fine story, gold: good}]\n"
        )
        return partial(run, "simulate")

    def test_labelled_texts_and_strangers_with_a_sweep(self, simulate: Any) -> None:
        options = ["--out-of-scope", "out.txt", "-p", "p.yaml", "--sweep", "-o", "new"]
        result = simulate("t.tsv", *options, "--reviewer-error", "0", "--error-price", "7")
        assert result.exit_code == 0, result.output
        assert "5 scenarios, 2 of them out of scope" in result.stdout
        assert "An error costs 7" in " ".join(result.stdout.split())
        summary = json.loads(Path("new/simulation.json").read_text())
        assert [row["name"] for row in summary["policies"]] == [
            "no gate", "p.yaml", "confidence alone (p.yaml)",
        ]  # fmt: skip
        assert summary["reviewer"]["error_rate"] == 0
        assert Path("new/sweep.png").is_file()

    def test_options_win_over_the_file_and_the_file_over_the_defaults(self, simulate: Any) -> None:
        result = simulate("s.yaml", "-p", "p.yaml", "--review-sigma", "0.5", "-o", "new")
        assert result.exit_code == 0, result.output
        reviewer = json.loads(Path("new/simulation.json").read_text())["reviewer"]
        assert reviewer == {"error_rate": 0.05, "median_seconds": 30.0, "sigma": 0.5}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["none.tsv", "-p", "p.yaml"], "no such file: none.tsv"),
            (["s.yaml", "-p", "p.yaml", "-p", "q.yaml"], "simulate them one by one"),
            (["s.yaml", "-p", "r.yaml", "--sweep", "-o", "x"], "use linearized or monte_carlo"),
            (["s.yaml", "-p", "p.yaml", "--sweep"], "say where to with --output"),
            (["s.yaml", "-p", "p.yaml", "--reviewer-error", "2"], "`error_rate` (=2.0)"),
            (["s.yaml", "-p", "p.yaml", "--hour-price", "-1"], "`reviewer_hour` (=-1.0)"),
            ([str(EXAMPLE), "-p", "p.yaml"], "scenarios.yaml, line 15: unknown label 'translate'"),
        ],
    )
    def test_bad_input(self, simulate: Any, arguments: list[str], message: str) -> None:
        result = simulate(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr


class TestConversation:
    def app(self, fake: FakeClassifier, policy: Policy, **options: Any) -> Callable[..., Any]:
        graph = create_escalation_graph(classifier=fake, policy=policy)
        return as_simulation_app(graph.compile(checkpointer=InMemorySaver()), **options)

    def test_openevals_drives_the_graph(self, fake: FakeClassifier, policy: Policy) -> None:
        simulators = pytest.importorskip("openevals.simulators")
        result = simulators.run_multiturn_simulation(
            app=self.app(fake, policy), user=["vague", "clear now", "clear"], max_turns=3,
            thread_id="1",
        )  # fmt: skip
        said = [(m["role"], m["content"]) for m in result["trajectory"]]
        assert said[0] == ("user", "vague")
        assert said[1][1].startswith("I am not sure what you mean")
        assert said[2:] == [
            ("user", "clear now"), ("assistant", "Done: yes."),
            ("user", "clear"), ("assistant", "Done: yes."),
        ]  # fmt: skip
        assert fake.seen == ["vague", "vague\nclear now", "clear"]

    def test_a_reviewer_who_makes_no_sense_ends_in_an_error(
        self, fake: FakeClassifier, policy: Policy
    ) -> None:
        app = self.app(fake, policy, review=lambda request: "nonsense")
        with pytest.raises(RuntimeError, match="10 answers in a row that make no sense"):
            app({"role": "user", "content": "odd"}, thread_id="1")

    def test_a_user_never_answers_the_review(self, fake: FakeClassifier, policy: Policy) -> None:
        app = self.app(fake, policy)
        for words in ("odd", "approve", '{"type": "approve"}'):
            assert app({"role": "user", "content": words}, thread_id="1")["content"] == WAITING
        assert fake.seen == ["odd"]
        other = app({"role": "user", "content": [{"type": "text", "text": "clear"}]}, thread_id="2")
        assert other == {"role": "assistant", "content": "Done: yes."}

    @pytest.mark.parametrize(
        ("answer", "reply"),
        [
            ({"type": "approve"}, "Done: yes."),
            ({"type": "respond", "message": "call us"}, "call us"),
            ({"type": "reject"}, "Sorry, this is not something that I can do."),
        ],
    )
    def test_a_reviewer_settles(
        self, fake: FakeClassifier, policy: Policy, answer: Any, reply: str
    ) -> None:
        app = self.app(fake, policy, review=lambda request: answer)
        assert app({"role": "user", "content": "odd"}, thread_id="1")["content"] == reply

    def test_an_empty_answer_is_asked_for_again(self, fake: FakeClassifier, policy: Policy) -> None:
        app = self.app(fake, policy)
        question = app({"role": "user", "content": "vague"}, thread_id="1")
        assert app({"role": "user", "content": " "}, thread_id="1") == question

    def test_words_of_ones_own(self, fake: FakeClassifier, policy: Policy) -> None:
        app = self.app(fake, policy, say=lambda outcome: f"label {outcome['label']}")
        assert app({"role": "user", "content": "clear"}, thread_id="1")["content"] == "label yes"
        with pytest.raises(TypeError, match="`content` must be a str, got None"):
            app({"role": "user", "content": None}, thread_id="2")


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
