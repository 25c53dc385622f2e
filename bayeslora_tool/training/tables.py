"""Rows of a TSV, CSV, JSONL or Parquet file, or of lines, read as they are asked for.

What is wrong with a row stands in that row, and the next ones are still read; what is wrong with
the whole file is raised. Knows no label, and not what a text must be.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

# Of a .csv: the first that splits the header into the wanted columns.
_DELIMITERS = {".tsv": "\t", ".csv": ",;\t"}
TABLES = (*_DELIMITERS, ".jsonl", ".parquet")
# More than a model reads; a quote mark that never closes would make the rest of the file one cell.
_LONGEST_CELL = 10_000_000
_BYTES_AT_ONCE = 1 << 16
LINE = ""  # the one column of a file that is no table
SHOWN = 5  # lines of many that a message names


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        where: File and line, for messages.
        line: Where the row begins, from 1; of Parquet its number.
        cells: By column (or key).
        fault: Why it cannot be read, if it cannot.
    """

    where: str
    line: int
    cells: Mapping[str, object]
    fault: str | None = None


class Lines:
    """The lines that something is wrong with: all counted, the first few kept."""

    def __init__(self) -> None:
        self.count, self.first = 0, list[int | str]()

    def add(self, line: int | str) -> None:
        """Count a line, by its number."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(line)

    def __str__(self) -> str:
        more = f" and {self.count - SHOWN} more" if self.count > SHOWN else ""
        return f"line{'s'[: self.count > 1]} {', '.join(map(str, self.first))}{more}"


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a file that has these columns.

    Args:
        path: ``.tsv`` (header line, quotes are plain characters), ``.csv`` (header line, RFC 4180
            quotes, separated by ``,``, ``;`` or tabs), ``.jsonl`` (an object a line), or
            ``.parquet``.
        columns: Each must be there exactly once; the text's, then the label's.

    Raises:
        ValueError: Another type of file, a column that is missing or there twice, a header that is
            not UTF-8, a quote mark that never closes, or ``.parquet`` without pyarrow.
    """
    kind = path.suffix.lower()
    if kind == ".jsonl":
        return _jsonl_rows(path, columns)
    if kind == ".parquet":
        return _parquet_rows(path, columns)
    if kind in _DELIMITERS:
        return _table_rows(path, columns)
    raise ValueError(f"{path.name}: unknown file type {kind!r}; use {', '.join(TABLES)}")


def read_lines(stream: Any, name: str) -> Iterator[list[Row]]:
    """The lines of a stream, as they arrive: those that are there, without waiting for more.

    Args:
        stream: A buffered binary stream.
        name: What to call it in messages.
    """
    before, rest = 0, list[bytes]()
    while True:
        arrived = stream.read1(_BYTES_AT_ONCE)
        rest.append(arrived)
        if arrived and b"\n" not in arrived:
            continue
        *whole, last = b"".join(rest).split(b"\n")
        if not arrived and last:
            whole.append(last)
        rest, rows = [last], []
        for line, content in enumerate(whole, start=before + 1):
            encoding = "utf-8-sig" if line == 1 else "utf-8"
            text = content.removesuffix(b"\r").decode(encoding, errors="surrogateescape")
            rows.append(Row(f"{name}, line {line}", line, {LINE: text}, _not_utf8([text])))
        before += len(rows)
        if rows:
            yield rows
        if not arrived:
            return


def _not_utf8(cells: Iterable[str]) -> str | None:
    try:
        for cell in cells:
            cell.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 were decoded to lone surrogates
        return "not UTF-8; save the file as UTF-8"
    return None


def _jsonl_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    with path.open("rb") as file:
        for where, line, cells, fault in chain.from_iterable(read_lines(file, path.name)):
            content = str(cells[LINE])
            if not content.strip():
                continue
            row: Any = {}
            if not fault:
                try:
                    row = json.loads(content)
                except (json.JSONDecodeError, RecursionError) as error:
                    fault = f"not JSON ({error})"
            if not isinstance(row, dict):
                fault, row = f"expected an object, got {row!r:.60}", {}
            if not fault and (missing := [name for name in columns if name not in row]):
                fault = f"no key {missing[0]!r}; keys: {', '.join(row)}"
            yield Row(where, line, row, fault)


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(
            f'{path.name}: {error}; pip install "bayeslora-tool[parquet]", or save it as .csv'
        ) from None
    try:
        file = ParquetFile(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path.name} is not a Parquet file ({error})") from None
    with file:
        _check_columns(file.schema_arrow.names, columns, path.name)
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=list(columns)):
            for cells in batch.to_pylist():
                number += 1
                yield Row(f"{path.name}, row {number}", number, cells)


def _table_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    # The limit is one for everybody who uses the csv module: raise it, never lower it.
    csv.field_size_limit(max(_LONGEST_CELL, csv.field_size_limit()))
    plain = path.suffix.lower() == ".tsv"  # SST-2's quotes are characters of its texts
    quoted = Lines()
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader, header = _reader(file, path, columns, plain=plain)
        wanted = [header.index(name) for name in columns]
        while True:
            line = reader.line_num + 1  # where the next row begins: a quoted text may span lines
            where, cells, fault = f"{path.name}, line {line}", dict[str, str](), None
            try:
                row = next(reader, None)
            except csv.Error as error:
                if "end of data" in str(error) or "field limit" in str(error):
                    raise ValueError(
                        f"{where}: {error}: a quote mark opens a cell and none closes it; close "
                        f"it, or double the quote marks that belong to a text"
                    ) from None
                row, fault = [], str(error)
            if row is None:
                break
            if row and len(row) != len(header):
                fault = f"{len(row)} fields, expected {len(header)}"
                if plain and any(c.startswith('"') and c.count('"') % 2 for c in row):
                    fault += (
                        "; a cell begins with a quote mark, which in a .tsv is a character of the "
                        "text and holds nothing together: save the file as .csv"
                    )
            elif row:
                cells, fault = dict(zip(header, row, strict=True)), _not_utf8(row)
                if plain and any(map(_looks_quoted, (row[i] for i in wanted))):
                    quoted.add(line)
            if row or fault:
                yield Row(where, line, cells, fault)
    if quoted.count:
        logger.warning(
            "%s, %s: cells stand in quote marks, with doubled ones inside. In a .tsv these are "
            "characters of the text; if they are not meant to be, save the file as .csv",
            path.name, quoted,
        )  # fmt: skip


def _looks_quoted(cell: str) -> bool:
    return len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in cell[1:-1]


def _reader(
    file: Iterable[str], path: Path, columns: Sequence[str], *, plain: bool
) -> tuple[Any, list[str]]:
    """A reader past the header, and the header."""
    lines = iter(file)
    first = next(lines, "")

    def opened(rows: Iterable[str], delimiter: str) -> Any:
        quoting: Any = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
        return csv.reader(rows, delimiter=delimiter, quoting=quoting, strict=True)

    def fits(delimiter: str) -> bool:
        try:
            header: list[str] = next(opened([first], delimiter), [])
        except csv.Error:  # of several lines
            return False
        return all(header.count(name) == 1 for name in columns)

    usual = _DELIMITERS[path.suffix.lower()]
    chosen = next(filter(fits, usual), usual[0])
    reader = opened(chain([first], lines), chosen)
    header: list[str] = next(reader, [])
    if not header:
        raise ValueError(f"{path.name} is empty; expected a header line and examples")
    if fault := _not_utf8(header):
        raise ValueError(f"{path.name}, line 1: {fault}")
    other = next(filter(fits, ",;|\t"), chosen)
    _check_columns(header, columns, f"{path.name}, line 1", chosen, other)
    return reader, header


def _check_columns(
    header: Sequence[str],
    columns: Sequence[str],
    where: str,
    delimiter: str | None = None,
    other: str | None = None,
) -> None:
    for column in columns:
        if header.count(column) == 1:
            continue
        if other != delimiter:
            raise ValueError(
                f"{where}: the columns are separated by {other!r}, expected {delimiter!r}; save "
                f"the file as .csv, with commas"
            )
        found = "two columns" if column in header else "no column"
        raise ValueError(
            f"{where}: {found} {column!r} in the header; columns: {', '.join(header)}. Name yours "
            f"with {' and '.join(('--text-column', '--label-column')[: len(columns)])}"
        )
