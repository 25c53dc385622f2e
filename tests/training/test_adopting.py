"""An adapter that plain PEFT saved becomes one that can be checked and calibrated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.training.adopting import adopt_adapter
from tests.training.test_dataset import write

TEXTS = ["a good film", "a bad day", "a house and a car"]


@pytest.fixture
def plain(tiny_adapter: Path, tmp_path: Path) -> Path:
    """What PEFT knows of the tiny adapter, and nothing else."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tiny_adapter / name, folder)
    return folder


def test_says_what_the_adapter_said(
    plain: Path, tiny: Any, tiny_files: Any, tmp_path: Path
) -> None:
    adopted = adopt_adapter(
        plain,
        tiny_files[1],
        tmp_path / "adopted",
        train=tiny_files[0],
        labels=["bad", "good"],
        dropout=0.3,
        placement="rank",
        scope="sequence",
    )
    for estimator in ("deterministic", "linearized", "monte_carlo"):
        for p, q in zip(
            adopted.predict(TEXTS, estimator=estimator),
            tiny.predict(TEXTS, estimator=estimator),
            strict=True,
        ):
            assert (p.label, p.confidence, p.variance) == pytest.approx(
                (q.label, q.confidence, q.variance), abs=1e-6, nan_ok=True
            )
            assert p.novelty == pytest.approx(q.novelty, abs=0.02)
    card = (tmp_path / "adopted" / "README.md").read_text()
    assert "trained elsewhere" in card
    assert "learning_rate" not in card
    assert "n_train" not in adopted.manifest.metrics


def test_from_the_command_line_to_a_calibrated_policy(
    run: Any, plain: Path, tiny_files: Any, tmp_path: Path
) -> None:
    numbers = {"bad": "0", "good": "1"}
    lines = tiny_files[1].read_text().splitlines()[1:] + tiny_files[0].read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines] * 4
    held_out = write(
        tmp_path, "h.tsv", "text\tlabel\n" + "".join(f"{t}\t{numbers[x]}\n" for t, x in rows)
    )
    folder, preset = tmp_path / "adopted", tmp_path / "preset.yaml"
    said = run(
        "adopt", str(plain), "--labels", "bad,good", "--held-out", str(held_out),
        "--dropout", "0.2", "-o", str(folder),
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert json.loads((folder / "bayeslora.json").read_text())["posterior"] == {
        "placement": "input", "scope": "token", "dropout": 0.2,
    }  # fmt: skip
    calibrated = run(
        "calibrate", "-a", str(folder), "-d", str(held_out), "--target-risk", "0.3",
        "-o", str(preset),
    )  # fmt: skip
    assert calibrated.exit_code in (0, 1), calibrated.output
    clf = BayesLoRAClassifier.from_preset(preset)
    assert clf.manifest.calibration is not None
    assert {p.label for p in clf.predict(TEXTS)} <= {"bad", "good"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": None}, r"trained without dropout.*--dropout 0\.1"),
        ({"labels": ["no", "yes"]}, "label 'good' is none of the adapter's 2"),
        ({"labels": ["a", "b", "c"]}, "has 2 classes, but 3"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    plain: Path, tiny_files: Any, tmp_path: Path, change: Any, message: str
) -> None:
    settings: dict[str, Any] = {"labels": ["bad", "good"], "dropout": 0.1}
    with pytest.raises(ValueError, match=message):
        adopt_adapter(plain, tiny_files[1], tmp_path / "out", **settings | change)
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_ours_and_a_folder_that_is_there_are_refused(
    tiny_adapter: Path, plain: Path, tiny_files: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="can be calibrated as it is"):
        adopt_adapter(tiny_adapter, tiny_files[1], tmp_path / "out")
    with pytest.raises(FileExistsError, match="is there already"):
        adopt_adapter(plain, tiny_files[1], tmp_path)


def test_each_label_needs_texts_to_be_held_against(plain: Path, tmp_path: Path) -> None:
    held_out = write(tmp_path, "h.tsv", "text\tlabel\nfine\tgood\nnice\tgood\n")
    with pytest.raises(ValueError, match=r"h\.tsv has too few texts with label 'bad'"):
        adopt_adapter(plain, held_out, tmp_path / "o", labels=["bad", "good"], dropout=0.1)
