"""Texts from a TSV, CSV, JSONL or plain file, checked before any model loads."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bayeslora_tool.text import check_text

_DELIMITERS = {".tsv": "\t", ".csv": ","}


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One example, and the line of the file it came from (1 is the first line)."""

    text: str
    label: str
    line: int


def read_labelled(
    path: str | Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    labels: Mapping[str, str] | None = None,
) -> list[LabelledText]:
    """Read a file of labelled texts.

    Args:
        path: ``.tsv`` (tab-separated, header line, quotes are plain characters), ``.csv`` (header
            line, RFC 4180 quotes) or ``.jsonl`` (an object a line).
        text_column: Name of the column (or JSON key) with the text.
        label_column: Name of the column (or JSON key) with the label.
        labels: From the label as written in the file to the label's name. None keeps what is
            written.

    Raises:
        FileNotFoundError: No such file.
        TypeError: A JSONL text that is not a string, or a label that is neither that nor a number.
        ValueError: Unknown file type, a missing column, an unreadable text, a label outside
            ``labels``, a broken line, not UTF-8, or no examples at all; names file and line.
    """
    path = _existing(path)
    rows = _rows(path, (text_column, label_column))
    examples = []
    for line, row in rows:
        text = check_text(row[text_column], f"{path.name}, line {line}: `{text_column}`")
        written = row[label_column]
        if not isinstance(written, str | int) or isinstance(written, bool):
            raise TypeError(
                f"{path.name}, line {line}: `{label_column}` must be a string or a whole number, "
                f"got {json.dumps(written):.60}"
            )
        raw = str(written)
        if not raw.strip():
            raise ValueError(f"{path.name}, line {line}: `{label_column}` is empty")
        if labels is not None and raw not in labels:
            raise ValueError(
                f"{path.name}, line {line}: unknown label {raw!r}; "
                f"known: {', '.join(map(repr, labels))}"
            )
        examples.append(LabelledText(text, labels[raw] if labels else raw, line))
    if not examples:
        raise ValueError(f"{path.name} holds no examples")
    return examples


def read_texts(path: str | Path, *, text_column: str = "text") -> list[str]:
    """Read the texts of a ``.tsv``, ``.csv`` or ``.jsonl`` file, or the lines of any other.

    Raises:
        FileNotFoundError, TypeError, ValueError: As :func:`read_labelled`.
    """
    path = _existing(path)
    rows: Iterator[tuple[int, object]]
    if path.suffix.lower() in (".json", ".yaml", ".yml"):
        raise ValueError(
            f"{path.name}: its lines are no texts; use .tsv, .csv, .jsonl (an object a line), or "
            f"plain text"
        )
    if path.suffix.lower() in (*_DELIMITERS, ".jsonl"):
        rows = ((line, row[text_column]) for line, row in _rows(path, (text_column,)))
    else:
        rows = _lines(path)
    texts = [check_text(text, f"{path.name}, line {line}") for line, text in rows]
    if not texts:
        raise ValueError(f"{path.name} holds no texts")
    return texts


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    return path


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, object]]]:
    if path.suffix.lower() == ".jsonl":
        return _jsonl_rows(path, columns)
    if path.suffix.lower() in _DELIMITERS:
        return _table_rows(path, columns)
    raise ValueError(f"{path.name}: unknown file type {path.suffix!r}; use .tsv, .csv or .jsonl")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, content in enumerate(_decoded(file, path), start=1):
            yield line, content.rstrip("\n")


def _decoded(file: Iterable[str], path: Path) -> Iterator[str]:
    """The lines of a file, split at line feeds only."""
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 ({error}); save it as UTF-8") from None


def _jsonl_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, object]]]:
    for line, content in _lines(path):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {line}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, line {line}: expected an object, got {row!r:.60}")
        for column in columns:
            if column not in row:
                raise ValueError(
                    f"{path.name}, line {line}: no key {column!r}; keys: {', '.join(row)}"
                )
        yield line, row


def _table_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, object]]]:
    delimiter = _DELIMITERS[path.suffix.lower()]
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(
            _decoded(file, path),
            delimiter=delimiter,
            quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL,
            strict=True,
        )
        header = next(reader, None)
        if header is None:
            raise ValueError(f"{path.name} is empty; expected a header line and examples")
        for column in columns:
            if header.count(column) != 1:
                found = "two columns" if column in header else "no column"
                raise ValueError(
                    f"{path.name}, line 1: {found} {column!r} in the header; columns: "
                    f"{', '.join(header)}. Name yours with "
                    f"{' and '.join(('--text-column', '--label-column')[: len(columns)])}"
                )
        line = reader.line_num + 1  # where the next row starts: a quoted text may span lines
        try:
            for row in reader:
                if row and len(row) != len(header):
                    raise ValueError(
                        f"{path.name}, line {line}: {len(row)} fields, expected {len(header)}"
                    )
                if row:
                    yield line, dict(zip(header, row, strict=True))
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(f"{path.name}, line {line}: {error}") from None
