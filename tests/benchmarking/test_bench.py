from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.benchmarking import bench
from bayeslora_tool.policy import Policy
from tests.conftest import failed
from tests.fakes import make_prediction


@pytest.fixture
def files(tiny_adapter: Path, tmp_path: Path) -> tuple[Path, Path]:
    preset, texts = tmp_path / "p.yaml", tmp_path / "texts.txt"
    preset.write_text(f"adapter: {tiny_adapter}\npolicy: {{tau_conf: 0.6, tau_var: 0.01}}\n")
    texts.write_text("a good film\na bad, poor day\na fine, lovely house and a car\nbad\n")
    return preset, texts


@pytest.mark.slow
def test_compares_all_contestants_and_draws_a_picture(
    run: Any,
    files: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    preset, texts = files
    result = run(
        "bench", "-p", str(preset), "-d", str(texts), "-o", str(tmp_path / "out"),
        "--rounds", "1", "--reference-draws", "16",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "bench.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert {"deterministic", "linearized", "linearized, bfloat16", "adaptive"} <= set(rows)
    assert {"PEFT train mode T=20", "pipeline, no doubt"} <= set(rows)
    assert rows["deterministic"]["passes"] == 1
    assert rows["monte_carlo T=20"]["passes"] > 0
    assert 0 <= rows["linearized"]["equal_routes"] <= 1
    assert all(
        row["texts_per_second"] > 0 and row["p95_ms"] >= row["p50_ms"] for row in rows.values()
    )
    what = [case["what"] for case in content["cases"]]
    for order in ("as they come", "sorted by length"):
        rivals = [w for w in what if f"1000 texts {order}, over a pipeline's in batches of" in w]
        assert len(rivals) == 3
    assert len(what) == 11
    assert set(content["curves"]) == {"draws T", "texts in a call", "tokens a text", "labels"}
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "rank corr." in result.stdout


def test_routes_are_equal_only_with_the_same_label_to_act_on() -> None:
    policy = Policy(0.8, 0.01)
    sure, other = make_prediction(), make_prediction(label="no")
    unsure = make_prediction(confidence=0.6)
    assert bench.equal_routes([sure, sure, unsure], [sure, other, unsure], policy) == 2 / 3
    assert bench.equal_routes([sure], [unsure], policy) == 0


def test_bad_numbers(run: Any, files: tuple[Path, Path]) -> None:
    preset, texts = files
    for option in ("--texts", "--rounds", "--reference-texts"):
        assert failed(
            run("bench", "-p", str(preset), "-d", str(texts), option, "0"), "must be >= 1"
        )
