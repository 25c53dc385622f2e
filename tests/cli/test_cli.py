from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.cli import terminal
from tests.conftest import failed


class TestPredict:
    def test_table(self, run: Any) -> None:
        result = run("predict", "This movie was fantastic!", "what a [bold]waste[/] of time")
        assert result.exit_code == 0, result.output
        assert "positive" in result.stdout
        assert "proceed" in result.stdout
        assert "[bold]waste[/]" in result.stdout
        assert "negative" in result.stdout

    def test_no_text_or_error_steers_the_terminal(self, run: Any) -> None:
        steering = "a good\x1b[2J \x9b1A\u202e film"
        table = run("predict", steering)
        assert r"a good\x1b[2J \x9b1A\u202e film" in table.stdout
        jsonl = run("predict", "--jsonl", steering)
        assert json.loads(jsonl.stdout)["text"] == steering
        refused = run("predict", "-p", "none\x1b[2J.yaml", "x")
        assert refused.exit_code == 2
        for shown in (table.stdout, jsonl.stdout, refused.stderr):
            assert not set(shown) & set("\x1b\x9b\u202e")

    def test_jsonl_from_stdin(self, run: Any) -> None:
        result = run(
            "predict", "--jsonl", "--draws", "5", "--seed", "3", input="great\u2028fun\nawful\n"
        )  # fmt: skip
        rows = [json.loads(line) for line in result.stdout.split("\n") if line]
        assert [row["text"] for row in rows] == ["great\u2028fun", "awful"]
        assert {row["estimator"] for row in rows} == {"monte_carlo"}
        assert [row["label"] for row in rows] == ["positive", "negative"]
        assert all(row["n_draws"] == 5 and row["seed"] == 3 and row["reason"] for row in rows)

    def test_file_and_deterministic_estimator(self, run: Any, tmp_path: Path) -> None:
        file = tmp_path / "a.tsv"
        file.write_text("said\ngreat\n")
        result = run(
            "predict", "-f", str(file), "--text-column", "said", "--jsonl",
            "--estimator", "deterministic",
        )  # fmt: skip
        (row,) = map(json.loads, result.stdout.splitlines())
        assert row["variance"] is None
        assert row["action"] == "escalate"

    def test_own_adapter_and_preset(self, run: Any, tiny_adapter: Path, tmp_path: Path) -> None:
        preset = tmp_path / "p.yaml"
        preset.write_text(f"adapter: {tiny_adapter}\npolicy: {{tau_conf: 0.5, tau_var: 0.25}}\n")
        result = run("predict", "-p", str(preset), "--jsonl", "a good film")
        row = json.loads(result.stdout)
        assert (row["label"], row["action"]) == ("good", "proceed")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["-p", "sentimnet", "x"], "unknown preset 'sentimnet'"),
            (["-a", "nothing", "x"], "no adapter 'nothing'"),
            (["--base", "no/where", "x"], "no/where"),
            (["--draws", "0", "x"], "`n_draws` (=0)"),
            (["--estimator", "magic", "x"], "`estimator` (='magic')"),
            (["-f", "none.tsv"], "no such file: none.tsv"),
            (["-f", "none.tsv", "x"], "not both"),
            ([" "], "texts[0] is empty"),
            ([], "stdin was empty"),
        ],
    )
    def test_bad_input(self, run: Any, arguments: list[str], message: str) -> None:
        assert failed(run("predict", *arguments), message)


class TestTrain:
    def test_end_to_end(
        self, run: Any, tiny_files: tuple[Path, Path], tiny_backbone: Path, tmp_path: Path
    ) -> None:
        train, held_out = map(str, tiny_files)
        output = str(tmp_path / "out")
        arguments = ["--train", train, "--held-out", held_out, "-o", output, "--epochs", "1"]
        result = run("train", *arguments, "--backbone", str(tiny_backbone))
        assert result.exit_code == 0, result.output
        assert "14 texts to train on (0 dropped" in result.stderr
        assert "held-out accuracy" in result.stdout
        result = run("predict", "-a", output, "--jsonl", "a good film")
        assert json.loads(result.stdout)["label"] in ("good", "bad")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--text-column", "sentence"], "line 1: no column 'sentence'"),
            (["--recipe", "sentiment"], "no column 'sentence'"),
            (["--recipe", "none"], "unknown recipe 'none'"),
            (["--epochs", "0"], "`epochs` (=0)"),
        ],
    )
    def test_bad_data_is_refused_before_a_model_loads(
        self,
        run: Any,
        tiny_files: tuple[Path, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        options: list[str],
        message: str,
    ) -> None:
        monkeypatch.setattr("bayeslora_tool.artifacts.backbone.find_backbone", None)
        train, held_out = map(str, tiny_files)
        arguments = ["--train", train, "--held-out", held_out, "-o", str(tmp_path / "out")]
        assert failed(run("train", *arguments, *options), message)


class TestDemo:
    def test_scripted(self, run: Any) -> None:
        result = run("demo")
        assert result.exit_code == 0, result.output
        for expected in (
            "I've seen better films",
            "florgle wumpus theory extrapolates",
            "proceed",
            "clarify",
            "escalate",
            "scripted user:",
            "scripted reviewer:",
            "decided by model",
            "decided by user",
            "decided by human",
            "Try next",
        ):
            assert expected in result.stdout

    def test_a_person_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every question is answered at the prompt, first with a word that makes no sense."""
        from rich.console import Console

        from bayeslora_tool.cli import demo

        asked: list[str] = []

        def ask(prompt: str, console: Any) -> str:
            asked.append(prompt)
            review = "you review" in prompt
            return "hmm" if len(asked) == 1 else "reject no reason" if review else "never mind"

        monkeypatch.setattr(demo.Prompt, "ask", ask)
        console = Console(record=True, width=160)
        demo.run_demo(console, interactive=True)
        assert len(asked) >= 4
        text = console.export_text()
        assert "decided by human" in text
        assert "scripted" not in text


class TestDoctor:
    def test_healthy(self, run: Any) -> None:
        result = run("doctor")
        assert result.exit_code == 0, result.output
        for check in ("environment", "backbone", "variance > 0", "preset cautious", "dropout"):
            assert check in result.stdout
        assert "fails" not in result.stdout

    def test_damaged_adapter(
        self, run: Any, adapter_copy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(terminal.out, "width", 500)  # no line of the table is broken
        file = adapter_copy / "adapter_config.json"
        file.write_text(file.read_text() + " ")
        result = run("doctor", "-a", str(adapter_copy))
        assert result.exit_code == 1
        assert "1 checks failed" in result.stderr
        assert "is not the one" in result.stdout

    def test_threshold_out_of_range(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from dataclasses import replace

        from bayeslora_tool import policy
        from bayeslora_tool.cli import doctor
        from bayeslora_tool.policy import load_preset

        preset = load_preset("sentiment")
        by_hand = replace(preset.policy, tau_var=0.25, calibrated_for=None)
        monkeypatch.setattr(policy, "load_preset", lambda name: replace(preset, policy=by_hand))
        assert not doctor._preset("sentiment").ok
        stale = replace(preset.policy, calibrated_for="another scoring")
        monkeypatch.setattr(policy, "load_preset", lambda name: replace(preset, policy=stale))
        finding = doctor._preset("sentiment")
        assert not finding.ok
        assert "calibrated for another scoring; the adapter has" in finding.found


COMMANDS = ["predict", "demo", "doctor", "train", "calibrate", "evaluate", "inspect", "bench"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help(run: Any, command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout
