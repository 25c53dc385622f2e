"""What people decided, as labelled texts in a file: JSON lines, CSV or Parquet.

Rows go from the ledger to the file a few at a time, so that neither size nor memory matters.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from bayeslora_tool.desk.answer import said
from bayeslora_tool.desk.review import FiledReview
from bayeslora_tool.quoting import json_line

FIELDS: Final[dict[str, type]] = {
    "text": str,
    "model_label": str,
    "reviewer_label": str,
    "inclusion": float,
    "who": str,
    "when": str,
    "decision": str,
    "message": str,
    "confidence": float,
    "variance": float,
    "audit": bool,
    "tool": str,
    "group": str,
    "graph": str,
    "thread": str,
    "key": str,
    "policy": str,
    "scored_by": str,
    "review": str,
    "erased": str,
}
"""The columns of an export, in order. Any may be null but ``who``, ``when``, ``audit``, ``tool``,
``graph``, ``thread`` and ``review``."""

# What spreadsheets take for the beginning of a formula; and what stands before such a cell here.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "'")
_AT_ONCE = 1000  # rows


def exported(review: FiledReview) -> dict[str, Any]:
    """The row of a decided review; of an erased one, what is no text."""
    assert review.decided_at is not None
    word = said(review.request, review.answer)
    return {
        "text": review.text,
        "model_label": review.label,
        "reviewer_label": review.reviewer_label,
        "inclusion": review.inclusion,
        "who": review.decided_by,
        "when": review.decided_at.isoformat(),
        "decision": review.decision,
        "message": word and word.message,
        "confidence": review.confidence,
        "variance": review.variance,
        "audit": review.audit,
        "tool": review.tool,
        "group": review.group,
        "graph": review.graph,
        "thread": review.thread,
        "key": review.key,
        "policy": review.policy,
        "scored_by": review.scored_by,
        "review": review.id,
        "erased": review.erased_at and review.erased_at.isoformat(),
    }


def write_export(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """Write rows to a new file, which takes the place of the old one when it is whole.

    Args:
        rows: As :func:`exported` gives them.
        path: Ends in ``.jsonl``, ``.csv`` or ``.parquet``.

    Returns:
        How many there were.

    Raises:
        ValueError: It ends otherwise, or pyarrow is missing.
        FileNotFoundError: There is no such folder.
    """
    if (write := _WRITERS.get(path.suffix.lower())) is None:
        raise ValueError(f"{path.name}: unknown file type; use {', '.join(_WRITERS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}; make it first")
    with _replaced(path) as part:
        return write(rows, part)


def json_lines(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The lines of a ``.jsonl``."""
    return (json_line(row) + "\n" for row in rows)


def _write_jsonl(rows: Iterable[dict[str, Any]], path: Path) -> int:
    n = 0
    with path.open("w", encoding="utf-8") as file:
        for line in json_lines(rows):
            file.write(line)
            n += 1
    return n


def _write_csv(rows: Iterable[dict[str, Any]], path: Path) -> int:
    n = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for row in rows:
            writer.writerow([_cell(row[name]) for name in FIELDS])
            n += 1
    return n


def _write_parquet(rows: Iterable[dict[str, Any]], path: Path) -> int:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise ValueError(
            f'{path.name}: {error}; pip install "bayeslora-tool[parquet]", or write .jsonl'
        ) from None
    kinds = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in FIELDS.items()])
    left, n = iter(rows), 0
    with ParquetWriter(path, schema) as writer:
        while some := [{k: _text(v) for k, v in row.items()} for row in islice(left, _AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(some, schema))
            n += len(some)
    return n


_WRITERS: Final[dict[str, Callable[[Iterable[dict[str, Any]], Path], int]]] = {
    ".jsonl": _write_jsonl,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet runs: what would begin a formula has an apostrophe before it."""
    if not isinstance(value, str):
        return value
    return _text(f"'{value}" if value.startswith(_FORMULAS) else value)


def _text(value: Any) -> Any:
    r"""Half of a surrogate pair, which UTF-8 cannot hold, as ``\ud800``."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    part = path.with_name(f".{path.name}.{token_hex(4)}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
