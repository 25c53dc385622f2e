"""Texts, with labels or without, from a file: checked before any model loads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bayeslora_tool.text import check_label, check_text, normal_text
from bayeslora_tool.training.tables import LINE, SHOWN, TABLES, Lines, Row, read_lines, read_rows

logger = logging.getLogger(__name__)

BATCH = 64  # texts that are scored together, at most


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One example, and the line of the file it came from (1 is the first line)."""

    text: str
    label: str
    line: int


class Text(NamedTuple):
    """A text to classify: ``content`` is one that :func:`check_text` takes, or has a ``fault``."""

    content: Any
    fault: ValueError | TypeError | None = None


def read_labelled(
    path: str | Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    labels: Mapping[str, str] | None = None,
) -> list[LabelledText]:
    """Read a file of labelled texts.

    Warns of labels that differ in nothing but case, and of texts with two labels.

    Args:
        path: See ``tables.read_rows``.
        text_column: Name of the column (or JSON key) with the text.
        label_column: Name of the column (or JSON key) with the label.
        labels: From the label as written in the file to the label's name. None keeps what is
            written.

    Raises:
        FileNotFoundError: No such file.
        TypeError: A text that is not a string, or a label that is neither that nor a number.
        ValueError: Unknown file type, a missing column, an unreadable text, a label outside
            ``labels`` or that :func:`check_label` refuses, a broken line, not UTF-8, or no examples
            at all; names file and line.
    """
    path = _existing(path)
    examples = []
    for row in read_rows(path, (text_column, label_column)):
        text = _checked(row, text_column)
        if text.fault:
            raise text.fault
        written = row.cells[label_column]
        if not isinstance(written, str | int) or isinstance(written, bool):
            raise TypeError(
                f"{row.where}: `{label_column}` must be a string or a whole number, got "
                f"{json.dumps(written, default=repr):.60}"
            )
        raw = str(written)
        if not raw.strip():
            raise ValueError(f"{row.where}: `{label_column}` is empty")
        if labels is not None and raw not in labels:
            raise ValueError(
                f"{row.where}: unknown label {raw!r}; known: {', '.join(map(repr, labels))}"
            )
        label = check_label(labels[raw] if labels else raw, f"{row.where}: `{label_column}`")
        examples.append(LabelledText(text.content, label, row.line))
    if not examples:
        raise ValueError(f"{path.name} holds no examples")
    _warn_of_contradictions(examples, path.name)
    return examples


def read_texts(path: str | Path, *, text_column: str = "text") -> list[str]:
    """All texts of a file: see :func:`text_batches`.

    Raises:
        TypeError, ValueError: As :func:`read_labelled`, also for a single faulty text.
    """
    texts = []
    for text in (text for batch in text_batches(path, text_column=text_column) for text in batch):
        if text.fault:
            raise text.fault
        texts.append(text.content)
    return texts


def text_batches(path: str | Path, *, text_column: str = "text") -> Iterator[list[Text]]:
    """The texts of a table (see ``tables.read_rows``), or the lines of another file, as they come.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_labelled`, for what is wrong with the file.
    """
    path = _existing(path)
    kind = path.suffix.lower()
    if kind in (".json", ".yaml", ".yml"):
        raise ValueError(
            f"{path.name}: its lines are no texts; use {', '.join(TABLES)}, or plain text"
        )
    if kind not in TABLES:
        with path.open("rb") as file:
            yield from line_batches(file, path.name)
        return
    rows = read_rows(path, (text_column,))
    empty = True
    while batch := [_checked(row, text_column) for row in islice(rows, BATCH)]:
        empty = False
        yield batch
    if empty:
        raise ValueError(f"{path.name} holds no texts")


def line_batches(stream: Any, name: str) -> Iterator[list[Text]]:
    """The lines of a buffered binary stream, as they arrive.

    Raises:
        ValueError: There is none.
    """
    empty = True
    for rows in read_lines(stream, name):
        empty = False
        for start in range(0, len(rows), BATCH):
            yield [_checked(row, LINE) for row in rows[start : start + BATCH]]
    if empty:
        raise ValueError(f"{name} holds no texts; expected a text a line")


def checked_text(content: object, where: str) -> Text:
    """A text and, if :func:`check_text` refuses it, why."""
    try:
        return Text(check_text(content, where))
    except (TypeError, ValueError) as fault:
        return Text(content, fault)


def _checked(row: Row, column: str) -> Text:
    if row.fault:
        return Text(row.cells.get(column), ValueError(f"{row.where}: {row.fault}"))
    return checked_text(row.cells[column], f"{row.where}: `{column}`" if column else row.where)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    return path


def _warn_of_contradictions(examples: Iterable[LabelledText], name: str) -> None:
    spellings: dict[str, dict[str, int]] = {}  # of a label: each with its first line
    before: dict[str, LabelledText] = {}
    again = Lines()
    for example in examples:
        written = spellings.setdefault(normal_text(example.label), {})
        written.setdefault(example.label, example.line)
        first = before.setdefault(normal_text(example.text), example)
        if first.label != example.label:
            again.add(f"{example.line} (as in {first.line})")
    unlike = [written for written in spellings.values() if len(written) > 1]
    for written in unlike[:SHOWN]:
        logger.warning(
            "%s: the labels %s differ only in case, and count as %d",
            name, " and ".join(f"{w!r} (line {n})" for w, n in written.items()), len(written),
        )  # fmt: skip
    if len(unlike) > SHOWN:
        logger.warning("%s: and %d more labels like these", name, len(unlike) - SHOWN)
    if again.count:
        logger.warning(
            "%s: %d texts stand under another label than before: %s", name, again.count, again
        )
