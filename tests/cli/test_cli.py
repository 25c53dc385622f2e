from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.cli import terminal
from tests.conftest import failed


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
        assert "distances to the training texts: 22" in result.stderr
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
        for check in (
            "environment",
            "backbone",
            "variance > 0",
            "preset cautious",
            "dropout",
            "self-check",
        ):
            assert check in result.stdout
        assert "merged as unmerged" in result.stdout
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
