from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "scenarios.yaml"


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

    def test_a_sweep_over_thresholds_is_not_scored_for_one_of_them(self, simulate: Any) -> None:
        assert simulate("t.tsv", "-p", "p.yaml", "--sweep", "-o", "linear").exit_code == 0
        result = simulate("t.tsv", "-p", "r.yaml", "--sweep", "-o", "new")
        assert result.exit_code == 0, result.output
        assert "scored linearized instead of adaptive" in " ".join(result.stderr.split())
        one, other = (
            json.loads(Path(f"{folder}/simulation.json").read_text().replace("r.yaml", "p.yaml"))[
                "sweep"
            ]
            for folder in ("linear", "new")
        )
        assert one == other

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
