"""What people decided leaves the ledger as labelled texts, the same in each format."""

from __future__ import annotations

import csv
import json
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bayeslora_tool.desk import ledger as ledgers
from bayeslora_tool.desk.exporting import FIELDS, exported, write_export
from bayeslora_tool.desk.ledger import Ledger
from bayeslora_tool.training.dataset import read_labelled
from tests.desk.filed import APPROVE, REJECT, file, question
from tests.graphs.desk import EDIT_TO_NO

STRANGE = (
    "odd",
    "odd, \"quoted\" and; split",
    "odd\nof two lines\r\n",
    "=1+1 odd",
    "@odd",
    "-odd",
    "'odd",
    "odd \u202e\x00\x1b[2J",
    "odd \ud800",
    "\todd ü 漢",
)  # fmt: skip


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    for i, text in enumerate(STRANGE):
        asked = question(text, thread=f"t {i}", interrupt="i", key=f"k {i}")
        ledger.reconcile([asked])
        answer: Any = (APPROVE, EDIT_TO_NO, REJECT | {"message": "=no"})[i % 3]
        ledger.decide(asked.id, answer, "ann")
    file(ledger, "odd undecided")
    late = file(ledger, "odd late", due=0.001)
    ledger.keep_time()
    ledger.applied(late.id)
    return ledger


def from_csv(path: Path) -> list[dict[str, Any]]:
    """As somebody would who knows nothing but the page."""
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            cells: dict[str, Any] = {}
            for name, cell in row.items():
                kind = FIELDS[name]
                if cell == "":
                    cells[name] = None
                elif kind is bool:
                    cells[name] = cell == "True"
                else:
                    cells[name] = kind(cell.removeprefix("'") if kind is str else cell)
            found.append(cells)
    return found


def test_each_format_holds_the_same_rows(filled: Ledger, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    rows = [exported(review) for review in filled.decided()]
    for kind in ("jsonl", "csv", "parquet"):
        path = tmp_path / f"labels.{kind}"
        assert write_export(map(exported, filled.decided()), path) == len(STRANGE)
    lines = (tmp_path / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    # What UTF-8 cannot hold is an escape there.
    written = [
        {k: v.encode(errors="backslashreplace").decode() if isinstance(v, str) else v
         for k, v in row.items()} for row in rows
    ]  # fmt: skip
    assert pq.read_table(tmp_path / "labels.parquet").to_pylist() == written
    assert from_csv(tmp_path / "labels.csv") == written
    assert {path.name for path in tmp_path.iterdir()} >= {"labels.jsonl"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_row_says_what_was_decided_by_whom_and_how_likely_it_was_to_be_seen(
    filled: Ledger,
) -> None:
    rows = [exported(review) for review in filled.decided()]
    assert [row["text"] for row in rows] == list(STRANGE)  # the oldest first
    assert [(r["model_label"], r["reviewer_label"], r["decision"]) for r in rows[:3]] == [
        ("yes", "yes", "approve"), ("yes", "no", "edit"), ("yes", None, "reject")
    ]  # fmt: skip
    assert rows[2]["message"] == "=no"
    assert {(row["who"], row["inclusion"], row["audit"], row["erased"]) for row in rows} == {
        ("ann", 1.0, False, None)
    }


def test_no_cell_of_a_csv_begins_a_formula(filled: Ledger, tmp_path: Path) -> None:
    write_export(map(exported, filled.decided()), tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=1+1 odd" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_an_erased_review_is_exported_without_its_text(filled: Ledger) -> None:
    review = next(filled.decided())
    filled.applied(review.id)
    filled.erase(0)
    row = exported(next(filled.decided()))
    assert (row["text"], row["message"]) == (None, None)
    assert row["erased"] is not None
    assert (row["reviewer_label"], row["decision"], row["who"]) == ("yes", "approve", "ann")


def test_what_is_exported_can_be_trained_on(filled: Ledger, tmp_path: Path) -> None:
    def labelled() -> Iterator[dict[str, Any]]:
        for row in map(exported, filled.decided()):
            if row["reviewer_label"] and row["text"].isprintable():
                yield row

    for kind in ("jsonl", "parquet"):
        write_export(labelled(), tmp_path / f"labels.{kind}")
        examples = read_labelled(tmp_path / f"labels.{kind}", label_column="reviewer_label")
        assert [(one.text, one.label) for one in examples] == [
            (row["text"], row["reviewer_label"]) for row in labelled()
        ]
        assert len(examples) >= 4


def test_a_file_is_whole_or_as_it_was(filled: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("before")

    def broken() -> Iterator[dict[str, Any]]:
        yield exported(next(filled.decided()))
        raise OSError("disk full")

    for kind in ("jsonl", "csv", "parquet"):
        with pytest.raises(OSError, match="disk full"):
            write_export(broken(), path.with_suffix(f".{kind}"))
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir() if "labels" in one.name] == ["labels.jsonl"]


def test_another_ending_a_missing_folder_and_a_missing_pyarrow_are_named(
    filled: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"labels\.txt: .*use \.jsonl, \.csv, \.parquet"):
        write_export([], tmp_path / "labels.txt")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; make it"):
        write_export([], tmp_path / "nowhere" / "labels.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"bayeslora-tool\[parquet\]"):
        write_export([], tmp_path / "labels.parquet")


@pytest.mark.slow
def test_rows_are_read_and_written_a_few_at_a_time(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_PAGE", 3)
    path, most, n = tmp_path / "labels.jsonl", [], 0
    for rows in (6, 30):
        while n < rows:
            ledger.decide(file(ledger, "odd " + "x" * 100_000 + f" {n}").id, APPROVE, "ann")
            n += 1
        tracemalloc.start()
        assert write_export(map(exported, ledger.decided()), path) == rows
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        assert [int(text.split()[-1]) for text in texts] == list(range(rows))
    assert most[1] < 1.3 * most[0]
