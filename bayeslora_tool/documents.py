"""Files of JSON and YAML become plain data, within limits. Knows no schema.

A file may be damaged, or made to hang or fill whoever reads it. Whatever stands in one, it ends in
plain data (dict with string keys, list, str, int, float, bool, None) or in a ``ValueError`` of a
few lines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2_000_000
MAX_DEPTH = 20
MAX_VALUES = 100_000
_LONGEST_NUMBER = 64

_TAG = "tag:yaml.org,2002:"


def shown(text: object, width: int = 300) -> str:
    """``text`` for a message: one line without control characters, cut at ``width``."""
    line = str(text)[: width + 1]
    line = line if line.isprintable() else repr(line)[1:-1]
    return line if len(line) <= width else f"{line[:width]}..."


def read_document(path: Path) -> object:
    """The content of a file: YAML where its name says so, else JSON.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not UTF-8, not JSON or YAML, a key twice, or past a limit; names the file.
    """
    text = read_text(path)
    return from_yaml(text, str(path)) if is_yaml(path) else from_json(text, str(path))


def is_yaml(path: str | Path) -> bool:
    """Whether a file's name says that it holds YAML."""
    return str(path).endswith((".yaml", ".yml"))


def read_text(path: Path, *, limit: int = MAX_BYTES) -> str:
    """The text of a file, with or without a byte order mark.

    Args:
        path: Of the file.
        limit: In bytes.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No regular file, not readable, longer than ``limit``, or not UTF-8.
    """
    try:
        if not path.is_file():
            if path.exists():
                raise ValueError(f"{shown(path)} is no regular file; give the path of one")
            raise FileNotFoundError(f"no such file: {shown(path)}")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{shown(path)} cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise ValueError(f"{path.name} is longer than {limit:,} bytes, the most that is read")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 ({error}); save it as UTF-8") from None


def from_json(text: str, source: str) -> object:
    """Parse JSON.

    Args:
        text: One document.
        source: What to call it in messages.

    Raises:
        ValueError: See :func:`read_document`.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{source} is longer than {MAX_BYTES:,} characters")
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{source}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # also of numbers that are too long, and of the two below
        raise ValueError(f"{source} is not JSON ({shown(error)}); restore or correct it") from None
    _check(content, source)
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.80} comes twice")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def from_yaml(text: str, source: str) -> object:
    """Parse YAML; see :func:`from_json`."""
    return yaml_lines(text, source)[0]


def yaml_lines(text: str, source: str) -> tuple[object, dict[str, list[int]]]:
    """Parse YAML.

    Returns:
        The content, and for each list right below the top the lines (from 1) of its items.

    Raises:
        ValueError: See :func:`read_document`.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{source} is longer than {MAX_BYTES:,} characters")
    lines: dict[str, list[int]] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        content = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(f"{source} is not YAML: {_yaml_problem(error)}") from None
    _check(content, source)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(value, yaml.SequenceNode):
                lines[key.value] = [item.start_mark.line + 1 for item in value.value]
    return content, lines


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + shown(getattr(error, "problem", None) or error)


# libyaml reads forty times as fast; how its words make a document is the composer's to say.
_PARTS: Any = (
    (yaml.composer.Composer, yaml.CSafeLoader) if yaml.__with_libyaml__ else (yaml.SafeLoader,)
)


class _Loader(*_PARTS):  # type: ignore[misc]
    """What YAML shares with JSON: no aliases, tags or dates, no key twice, no more than limits."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML has it
        first: [(tag, pattern) for tag, pattern in pairs if tag != f"{_TAG}timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        _PARTS[-1].__init__(self, text)
        self.anchors: dict[str, yaml.Node] = {}
        self.values = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As ``SafeLoader``, within the limits."""
        event = self.peek_event()
        self.values += 1
        problem = None
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases (*name) are not read; write out what it stands for"
        elif getattr(event, "tag", None) is not None:
            problem = "tags (!name) are not read; leave it out, and quote what is text"
        elif self.values > MAX_VALUES:
            problem = f"more than {MAX_VALUES:,} values"
        elif self.depth > MAX_DEPTH:
            problem = f"nested deeper than {MAX_DEPTH} levels"
        if problem:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        if (
            isinstance(node, yaml.ScalarNode)
            and node.tag in (f"{_TAG}int", f"{_TAG}float")
            and len(node.value) > _LONGEST_NUMBER
        ):
            problem = f"a number of more than {_LONGEST_NUMBER} characters; quote what is text"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As ``SafeLoader``, but raises on a key that comes twice, or is no string."""
        seen: set[str] = set()
        for key, _ in node.value:
            problem = None
            if key.tag != f"{_TAG}str":
                problem = f"the key {key.value!r:.80} is no string; quote it"
            elif key.value in seen:
                problem = f"the key {key.value!r:.80} comes twice"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content


def _check(content: object, source: str) -> None:
    """Depth, number of values, and what a message or a database could not hold."""
    level, n_values = [content], 0
    for _ in range(MAX_DEPTH + 1):
        n_values += len(level)
        if n_values > MAX_VALUES:
            raise ValueError(f"{source} holds more than {MAX_VALUES:,} values")
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, int) and abs(value) >= 2**64:
                raise ValueError(f"{source}: a whole number of more than 64 bits")
            elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
                raise ValueError(f"{source}: {value!r:.80} holds a lone surrogate; it is no text")
        if not below:
            return
        level = below
    raise ValueError(f"{source}: nested deeper than {MAX_DEPTH} levels")
