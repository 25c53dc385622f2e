"""How an adapter is loaded is said alike to every command, and what makes no sense is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bayeslora_tool.policy import load_preset
from bayeslora_tool.serving.lazy_classifier import LazyClassifier
from tests.artifacts.test_plain_peft import save
from tests.conftest import THINGS, WORDS, failed

TEXT = "a good, fine, lovely film"
# Each with what else it needs to come so far.
COMMANDS: dict[str, list[str]] = {
    "predict": [TEXT],
    "doctor": ["-a", "sentiment"],
    "calibrate": ["-a", "sentiment", "-d", "none.tsv", "-o", "new.yaml"],
    "evaluate": ["-d", "none.tsv", "-o", "report"],
    "bench": ["-d", "none.tsv"],
    "inspect": ["sentiment"],
    "simulate": ["none.tsv"],
    "serve-mcp": [],
}
ALL = ("--base", "--labels", "--dropout", "--device", "--dtype")
# Labels and noise are what `adopt` recorded, or a promise would be tied to nothing.
KNOWN = {"calibrate": ("--base", "--device", "--dtype")}


@pytest.fixture
def plain(tiny_backbone: Path, tmp_path: Path) -> Path:
    return save(tmp_path / "plain", tiny_backbone, lora_dropout=0.1)


def test_a_plain_adapter_is_scored_as_the_options_say(
    plain: Path, tiny_backbone: Path, tmp_path: Path, run: Any
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("poor, bad\n\ngood\n")
    common = ["predict", "-a", str(plain), "--base", str(tiny_backbone), "--jsonl", TEXT]
    for labels, expected in (("no, yes", {"no", "yes"}), (str(names), {"poor, bad", "good"})):
        given = run(
            *common, "--labels", labels, "--dropout", "0.25", "--device", "cpu",
            "--dtype", "bfloat16",
        )  # fmt: skip
        assert given.exit_code == 0, given.output
        row = json.loads(given.stdout)
        assert row["probabilities"].keys() == expected
        assert "p=0.25" in row["scored_by"]
        assert row["scored_by"].endswith("torch.bfloat16")
    row = json.loads(run(*common).stdout)
    assert row["probabilities"].keys() == {"LABEL_0", "LABEL_1"}
    assert "p=0.1" in row["scored_by"]
    assert "bfloat16" not in row["scored_by"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--dtype", "int8", "--dtype (='int8') must be one of float32, bfloat16, float16"),
        ("--labels", " , ", "--labels (=' , ') names nothing"),
    ],
)
def test_each_command_knows_them_and_says_what_may_stand_there(
    command: str, option: str, value: str, message: str, run: Any
) -> None:
    if option in KNOWN.get(command, ALL):
        assert failed(run(command, *COMMANDS[command], option, value), message)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_them_in_a_panel_of_their_own(command: str, run: Any) -> None:
    said = run(command, "--help", env={"COLUMNS": "120"}).stdout
    before, panel = said.split("─ Adapter ─", 1)
    for option in ALL:
        assert (f"{option} " in panel) == (option in KNOWN.get(command, ALL))
        assert f"│ {option}" not in before


@pytest.mark.parametrize("device", ["nonsense", "cuda:77", "meta"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(device: str, run: Any) -> None:
    said = run("predict", TEXT, "--device", device)
    assert failed(said, f"`device` (='{device}') is of no use here")
    assert "leave it out, or name one that torch finds here (cpu" in said.stderr


@pytest.mark.parametrize("rate", ["0", "1", "nan", "-0.1"])
def test_a_rate_that_is_none_is_refused(rate: str, run: Any) -> None:
    said = run("predict", "-p", "default", "-a", "sentiment", TEXT, "--dropout", rate)
    assert failed(said, "must be a number in (0, 1)")


class TestCalibratedThresholds:
    """They hold for one noise, one precision and the labels of their adapter."""

    @pytest.mark.parametrize(("option", "value"), [("--dropout", "0.2"), ("--dtype", "bfloat16")])
    def test_another_scoring_is_refused_with_the_reason(
        self, option: str, value: str, run: Any
    ) -> None:
        said = run("predict", "-p", "sentiment", TEXT, option, value)
        assert failed(said, "all would escalate. The thresholds were calibrated for another")
        assert f"`{option[2:]}`" in said.stderr

    def test_the_same_scoring_and_thresholds_without_promise_are_not(self, run: Any) -> None:
        rate = run("predict", "-p", "sentiment", TEXT, "--dropout", "0.1", "--dtype", "float32")
        assert rate.exit_code == 0, rate.output
        by_hand = run("predict", "-p", "default", "-a", "sentiment", TEXT, "--dropout", "0.2")
        assert by_hand.exit_code == 0, by_hand.output

    def test_the_labels_of_a_manifest_stand(self, run: Any) -> None:
        assert failed(run("predict", TEXT, "--labels", "a,b"), "`labels` differ from those of")

    def test_what_is_calibrated_in_one_precision_holds_in_it_alone(
        self, adapter_copy: Path, tmp_path: Path, run: Any
    ) -> None:
        texts, preset = tmp_path / "texts.tsv", str(tmp_path / "p.yaml")
        rows = [f"{WORDS[label].format(t)} {i}\t{label}" for i in range(20)
                for t in THINGS for label in WORDS]  # fmt: skip
        texts.write_text("\n".join(["text\tlabel", *rows]) + "\n")
        said = run(
            "calibrate", "-a", str(adapter_copy), "-d", str(texts), "-o", preset,
            "--estimator", "linearized", "--target-risk", "0.2", "--dtype", "bfloat16",
        )  # fmt: skip
        assert said.exit_code == 0, said.output
        same = run("predict", "-p", preset, TEXT, "--dtype", "bfloat16", "--jsonl")
        assert same.exit_code == 0, same.output
        assert "calibrated for" not in json.loads(same.stdout)["reason"]
        assert failed(
            run("predict", "-p", preset, TEXT, "--dtype", "float32"), "all would escalate"
        )


def test_bench_compares_precisions_itself(tmp_path: Path, run: Any) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text(f"{TEXT}\n")
    assert failed(run("bench", "-d", str(texts), "--dtype", "bfloat16"), "beside bfloat16 itself")


def test_doctor_checks_one_adapter_so(plain: Path, tiny_backbone: Path, run: Any) -> None:
    assert failed(run("doctor", "--dropout", "0.2"), "are for --adapter; name one")
    said = run(
        "doctor", "-a", str(plain), "--base", str(tiny_backbone), "--labels", "no,yes",
        "--dropout", "0.2",
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert "p=0.2, input, token" in said.stdout
    assert "p=0.1, rank, sequence" in said.stdout  # of those bundled


def test_a_preset_of_a_plain_adapter_is_served_and_played(
    plain: Path, tiny_backbone: Path, tiny_files: Any, tmp_path: Path, run: Any
) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        f"adapter: {plain}\nscoring: {{estimator: linearized}}\n"
        "policy: {tau_conf: 0.5, tau_var: 0.2}\n"
    )
    how: Any = {"base": tiny_backbone, "labels": ["bad", "good"], "dtype": torch.bfloat16}
    lazy = LazyClassifier(load_preset(preset), **how)
    assert lazy.labels == ("bad", "good")
    assert lazy.predict([TEXT])[0].scored_by.endswith("torch.bfloat16")
    options = ["--base", str(tiny_backbone), "--labels", "bad,good", "--dropout", "0.2"]
    rows = tmp_path / "rows.tsv"
    header, *lines = tiny_files[0].read_text().splitlines()
    again = (f"{place} {line}" for place in ("here", "there", "now") for line in lines)
    rows.write_text("\n".join([header, *again]) + "\n")
    said = run("simulate", str(rows), "-p", str(preset), *options)
    assert said.exit_code == 0, said.output
    said = run(
        "evaluate", "-d", str(rows), "-p", str(preset), "-o", str(tmp_path / "report"),
        "--resamples", "20", "--baselines", *options,
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert run("inspect", str(plain), *options).exit_code == 0
