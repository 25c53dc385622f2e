"""Calibrating and evaluating an adapter, from files to files, on the tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from bayeslora_tool import BayesLoRAClassifier, Policy, decide, load_preset
from bayeslora_tool.artifacts.manifest import read_manifest
from bayeslora_tool.calibration.adapter import calibrate_adapter, to_scores
from bayeslora_tool.calibration.guarantee import split
from bayeslora_tool.calibration.thresholds import Goal
from bayeslora_tool.training.dataset import LabelledText
from bayeslora_tool.training.typos import mistype_share
from tests.conftest import WORDS, failed
from tests.fakes import make_prediction


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 texts, one in twenty with the wrong label."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(200):
        label = "good" if i % 2 else "bad"
        written = label if rng.random() > 0.05 else "bad" if label == "good" else "good"
        rows.append(f"{WORDS[label].format('thing')} number {i}\t{written}")
    file = tmp_path_factory.mktemp("held") / "held_out.tsv"
    file.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return file


Calibrate = Callable[..., Result]


@pytest.fixture
def calibrate(run: Any, adapter_copy: Path, tmp_path: Path) -> Calibrate:
    """Runs the command on a copy of the tiny adapter; the preset goes to ``p.yaml``."""

    def calibrate(data: Path, *options: str, output: str = "p.yaml") -> Result:
        given = ("-a", str(adapter_copy), "-d", str(data), "-o", str(tmp_path / output))
        return run("calibrate", *given, *options)

    return calibrate


@pytest.fixture
def calibrated(
    calibrate: Calibrate,
    adapter_copy: Path,
    held_out: Path,
    tmp_path: Path,
) -> tuple[Path, Path]:
    preset = tmp_path / "preset.yaml"
    result = calibrate(held_out, "--target-risk", "0.2", output=preset.name)
    assert result.exit_code == 0, result.output
    assert "risk 20.0% kept with 95% confidence" in result.stdout
    for stage in ("fitting the temperature: 50", "taking 64 draws a text: 50", "scoring: 200"):
        assert stage in result.stderr
    return adapter_copy, preset


def test_is_written_down_and_taken_up(calibrated: tuple[Path, Path], held_out: Path) -> None:
    folder, path = calibrated
    manifest = read_manifest(folder)
    assert manifest is not None
    record = manifest.calibration
    assert record is not None
    assert record.n_tuning + record.n_testing == 200
    assert set(record.data_sha256) == {held_out.name}
    preset = load_preset(path)
    assert preset.policy.tau_conf == record.tau_conf
    assert "at most 20.0% wrong" in path.read_text()
    clf = BayesLoRAClassifier.from_preset(preset)
    assert clf.temperature == record.temperature != 1
    assert preset.policy.calibrated_for == record.scored_by == clf.scored_by()
    (p,) = clf.predict(["a good, fine, lovely song"])
    assert decide(p, preset.policy).action == "proceed"


def test_the_preset_finds_its_adapter_from_wherever(
    calibrated: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, path = calibrated
    assert f"adapter: ./{folder.relative_to(path.parent)}" in path.read_text()
    monkeypatch.chdir("/")
    assert Path(load_preset(path).adapter).samefile(folder)
    monkeypatch.chdir(path.parent)
    assert Path(load_preset(path.name).adapter).samefile(folder)


def test_what_an_old_policy_does_now_is_said(
    calibrate: Calibrate,
    run: Any,
    calibrated: tuple[Path, Path],
    held_out: Path,
    tmp_path: Path,
) -> None:
    _, path = calibrated
    rows = held_out.read_text().splitlines()
    other = tmp_path / "other.tsv"
    other.write_text("\n".join([rows[0], *rows[41:]]))
    again = calibrate(other, "--target-risk", "0.2", output="new.yaml")
    assert again.exit_code == 0, again.output
    assert "calibrated for this adapter before, all escalates now" in again.stderr
    told = run("predict", "-p", str(path), "a good song")
    assert "all escalate. The thresholds were calibrated for another scoring" in told.stderr
    refused = run("simulate", str(other), "-p", str(path))
    assert failed(refused, "all would escalate. The thresholds were calibrated for another")


def test_a_share_of_the_texts_can_be_mistyped_first(
    calibrate: Calibrate, adapter_copy: Path, held_out: Path, tmp_path: Path
) -> None:
    """As if the file held them so: the same slips written out give the same calibration."""
    result = calibrate(held_out, "--target-risk", "0.3", "--noise", "0.5")
    assert result.exit_code == 0, result.output
    manifest = read_manifest(adapter_copy)
    assert manifest is not None
    assert manifest.calibration is not None
    assert manifest.calibration.typos == 0.5
    assert "held_out.tsv, 50% of them mistyped." in (tmp_path / "p.yaml").read_text()

    head, *rows = held_out.read_text().splitlines()
    texts, labels = zip(*(row.split("\t") for row in rows), strict=True)
    typed = mistype_share(texts, 0.5, 0)
    assert typed != list(texts)
    written = tmp_path / "typed.tsv"
    written.write_text("\n".join([head, *map("\t".join, zip(typed, labels, strict=True))]))
    assert calibrate(written, "--target-risk", "0.3", output="q.yaml").exit_code == 0
    p, q = load_preset(tmp_path / "p.yaml"), load_preset(tmp_path / "q.yaml")
    assert p.policy == q.policy

    assert failed(calibrate(held_out, "--noise", "1.5"), "`typos` (=1.5) must be a share")


@pytest.mark.parametrize("change", [{"dropout": 0.1}, {"placement": "input"}])
def test_thresholds_are_refused_with_other_noise(
    calibrated: tuple[Path, Path], change: dict[str, Any]
) -> None:
    folder, path = calibrated
    clf = BayesLoRAClassifier.from_pretrained(folder, **change)
    decision = decide(clf.predict(["a good, fine, lovely song"])[0], Policy.from_preset(path))
    assert decision.action == "escalate"
    assert "calibrated for another scoring" in decision.reason


@pytest.mark.slow
def test_load_can_be_capped_instead(
    calibrate: Calibrate,
    held_out: Path,
    tmp_path: Path,
) -> None:
    preset = tmp_path / "p.yaml"
    result = calibrate(held_out, "--max-escalation", "0.3")
    assert result.exit_code == 0, result.output
    assert "load 30.0% kept" in result.stdout
    assert "at most 30.0% of texts do not proceed" in preset.read_text()


def test_a_load_that_nothing_keeps_to_is_an_answer_too(
    calibrate: Calibrate,
    held_out: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "long.tsv"
    rows = held_out.read_text().splitlines()
    file.write_text("\n".join([rows[0], *rows[1:101], *("word " * 90 + r for r in rows[101:])]))
    result = calibrate(file, "--max-escalation", "0.1")
    assert result.exit_code == 1
    assert "not reached: load 10.0%" in result.stderr
    assert "at the loosest thresholds" in result.stderr
    assert not (tmp_path / "p.yaml").exists()


def test_infeasible_is_an_answer_and_writes_nothing(
    calibrate: Calibrate,
    adapter_copy: Path,
    held_out: Path,
    tmp_path: Path,
) -> None:
    before = (adapter_copy / "bayeslora.json").read_bytes()
    preset = tmp_path / "p.yaml"
    result = calibrate(held_out, "--target-risk", "0.001")
    assert result.exit_code == 1
    assert "not reached" in result.stderr
    assert "more labels" in result.stderr or "no number of labels" in result.stderr
    assert not preset.exists()
    assert (adapter_copy / "bayeslora.json").read_bytes() == before


def test_recurring_texts_are_counted(
    calibrate: Calibrate,
    held_out: Path,
    tmp_path: Path,
) -> None:
    again = tmp_path / "again.tsv"
    lines = held_out.read_text().splitlines()
    again.write_text("\n".join([*lines, *lines[1:4]]) + "\n")
    result = calibrate(again, "--target-risk", "0.2", "--train", str(held_out))
    assert "203 texts recur in" in result.stderr
    assert "3 texts repeat another" in result.stderr


def test_strangers_must_not_crowd_out_the_labelled_texts(tiny: Any) -> None:
    examples = [LabelledText("a good film", ("good", "bad")[i % 2], i + 2) for i in range(30)]
    crowded = next(seed for seed in count() if split(430, seed)[0].min() >= 30)
    with pytest.raises(ValueError, match="none of the 30 labelled texts came into the tuning"):
        calibrate_adapter(
            tiny, examples, ["far away"] * 400, adapter="tiny", goal=Goal(0.1, 0.05), seed=crowded
        )


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (["x y z\tugly", "a b\tgood"], [], "line 2: label 'ugly' is not one of the classifier's 2"),
        (["x y z\tgood", "a b\tgood"], [], "hold one class only"),
        (["x y z\tgood", "a b\tbad"], [], "at least 30 are needed"),
        (None, ["--target-risk", "0"], "`target_risk` (=0.0) must lie strictly between 0 and 1"),
        (None, ["--target-risk", "1"], "`target_risk` (=1.0)"),
        (None, ["--max-out-of-scope", "0.1"], "no calibration text is out of scope"),
        (None, ["--estimator", "magic"], "`estimator` (='magic')"),
        (None, ["--estimator", "deterministic"], "has no variance to find a threshold for"),
        (None, ["--max-escalation", "0"], "`max_escalation` (=0.0) must lie strictly"),
        (None, ["--max-escalation", "0.5", "--max-out-of-scope", "0.1"], "give one"),
        (None, ["-o", "nowhere/p.yaml"], "no folder nowhere; make it first"),
    ],
)
def test_bad_input(
    calibrate: Calibrate,
    held_out: Path,
    tmp_path: Path,
    rows: list[str] | None,
    options: list[str],
    message: str,
) -> None:
    file = held_out
    if rows is not None:
        file = tmp_path / "bad.tsv"
        file.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    assert failed(calibrate(file, *options), message)


def test_a_plain_adapter_cannot_be_calibrated(
    calibrate: Calibrate,
    adapter_copy: Path,
    held_out: Path,
    tiny_backbone: Path,
) -> None:
    (adapter_copy / "bayeslora.json").unlink()
    config = json.loads((adapter_copy / "adapter_config.json").read_text())
    config["lora_dropout"] = 0.1
    (adapter_copy / "adapter_config.json").write_text(json.dumps(config))
    result = calibrate(held_out, "--base", str(tiny_backbone))
    assert failed(result, "has no bayeslora.json")


def test_report(run: Any, calibrated: tuple[Path, Path], held_out: Path, tmp_path: Path) -> None:
    _, preset = calibrated
    outside = tmp_path / "outside.txt"
    outside.write_text("où est la gare ?\n42 % of § 17 & co\n" * 10)
    folder = tmp_path / "report"
    result = run(
        "evaluate", "-p", str(preset), "-d", str(held_out), "-o", str(folder),
        "--outside", str(outside), "--outside-name", "nonsense", "--resamples", "20", "--perturb",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = json.loads((folder / "report.json").read_text())
    accuracy = content["intervals"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    clf = BayesLoRAClassifier.from_pretrained(load_preset(preset).adapter)
    rows = [line.split("\t") for line in held_out.read_text().splitlines()[1:]]
    right = [
        p.label == y for p, (_, y) in zip(clf.predict([t for t, _ in rows]), rows, strict=True)
    ]
    assert accuracy["value"] == pytest.approx(np.mean(right))
    clean, once, twice = content["mistyped"]
    routed = BayesLoRAClassifier.from_preset(load_preset(preset))
    assert clean["accuracy"] == accuracy["value"]
    assert clean["coverage"] == content["routes"]["inside"]["proceed"]
    assert clean["risk"] == content["routes"]["risk"]
    for row, slips in ((once, 1), (twice, 2)):
        typed = routed.predict(mistype_share([t for t, _ in rows], 1.0, 1, slips))
        go = [decide(p, load_preset(preset).policy).action == "proceed" for p in typed]
        bad = [p.label != y for p, (_, y) in zip(typed, rows, strict=True)]
        assert row["accuracy"] == pytest.approx(1 - np.mean(bad))
        assert (row["proceeded"], row["wrong"]) == (sum(go), np.logical_and(go, bad).sum())
    assert "2 typing errors each" in result.stdout
    assert content["gates"][0]["gate"] == "confidence alone"
    assert len(content["sentences"]) == 5
    assert [row["paper"] for row in content["paper"]][:3] == ["0.376", "rises", "0.0000"]
    page = (folder / "report.html").read_text()
    names = {"reliability", "risk_coverage", "deciles", "plane", "pca", "outside"}
    assert {file.stem for file in folder.glob("*.png")} == names
    assert page.count("data:image/png;base64,") == len(names)
    assert "http" not in page  # self-contained
    assert "nonsense" in page
    assert "Spearman" in content["facts"]["variance against error"]

    text = preset.read_text()
    few = tmp_path / "few.tsv"
    few.write_text("\n".join(held_out.read_text().splitlines()[:6]))
    for changed, data, message in (
        (text, few, "5 labelled texts say too little; give 30"),
        (
            text.replace("estimator: adaptive", "estimator: deterministic"),
            held_out,
            "has no variance to evaluate",
        ),
        (text.replace("temperature", "heat"), held_out, "calibrated for another scoring"),
    ):
        preset.write_text(changed)
        got = run("evaluate", "-p", str(preset), "-d", str(data), "-o", str(tmp_path / "none"))
        assert failed(got, message)
    shutil.rmtree(folder)


def test_no_threshold_lets_a_text_proceed_that_was_not_read_whole() -> None:
    predictions = [make_prediction(**gap) for gap in ({}, {"truncated": True}, {"unread": 0.01})]
    found = to_scores(predictions, ["yes"] * 3)
    loosest = Policy(0.0, 0.25)
    assert [decide(p, loosest).action for p in predictions] == ["proceed", "escalate", "escalate"]
    assert (found.variance <= 0.25).tolist() == [True, False, False]
