from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from bayeslora_tool.policy import Policy
from bayeslora_tool.simulation.report import simulation_table, write_simulation
from bayeslora_tool.simulation.simulator import simulate
from tests.simulation.made_up import RandomClassifier, random_scenarios


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
