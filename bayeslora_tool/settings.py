"""Reads what people write: YAML presets, recipes and mappings become checked, frozen objects.

Writes what their programs read: JSON.

Knows no policy and no model; every error names the source, the key, what came and what was
expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

T = TypeVar("T")


def parse(cls: type[T], values: object, *, source: str) -> T:
    """Check ``values`` against the pydantic type ``cls``.

    Args:
        cls: A pydantic model or pydantic dataclass that forbids extra keys.
        values: What came, normally a mapping.
        source: File or argument name for the message.

    Raises:
        ValueError: With one line for each problem; an unknown key lists the valid ones.
    """
    try:
        return pydantic.TypeAdapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        lines = [_describe(problem, cls) for problem in error.errors(include_url=False)]
        raise ValueError(f"{source} is not valid:\n" + "\n".join(lines)) from None


def _describe(problem: Any, cls: object) -> str:
    path = ".".join(str(part) for part in problem["loc"]) or "(top level)"
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        owner = _owner(cls, problem["loc"][:-1])
        return f"  - unknown key `{path}`; valid keys: {', '.join(_keys(owner))}"
    if problem["type"] == "missing":
        return f"  - missing key `{path}`; add it"
    return f"  - `{path}` (={problem['input']!r}): {problem['msg']}"


def _fields(cls: Any) -> Mapping[str, Any]:
    return getattr(cls, "model_fields", None) or getattr(cls, "__pydantic_fields__", {})


def _owner(cls: object, path: tuple[Any, ...]) -> object:
    for part in path:
        info = _fields(cls).get(part)
        cls = info.annotation if info is not None else cls
    return cls


def _keys(cls: object) -> list[str]:
    return sorted(_fields(cls)) or ["(none)"]


def bundled(kind: str = "") -> list[str]:
    """Names of the presets (``kind=""``) or recipes (``kind="recipes"``) in this package."""
    folder = resources.files("bayeslora_tool.configs").joinpath(kind)
    return sorted(
        f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")
    )


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, with null for what is not a finite number."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_yaml(name_or_path: str | Path, *, kind: str = "") -> tuple[object, str]:
    """Read a bundled YAML file by name, or any YAML file by path.

    Args:
        name_or_path: A name such as ``"intents"``, or a path (anything that ends in ``.yaml`` or
            ``.yml``, or has a folder in it).
        kind: ``""`` for policy presets, ``"recipes"`` for training recipes.

    Returns:
        The parsed content, and the file's name for messages.

    Raises:
        ValueError: No such name (the message lists the names) or the file is not YAML.
        FileNotFoundError: No such file.
    """
    text_name = str(name_or_path)
    if text_name.endswith((".yaml", ".yml")) or len(Path(text_name).parts) > 1:
        path = Path(name_or_path)
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        content = read_utf8(path)
    else:
        names = bundled(kind)
        if text_name not in names:
            what = "recipe" if kind else "preset"
            raise ValueError(
                f"unknown {what} {text_name!r}; bundled: {', '.join(names)}; "
                f"or give the path of a YAML file"
            )
        file = resources.files("bayeslora_tool.configs").joinpath(kind, f"{text_name}.yaml")
        content = file.read_text(encoding="utf-8")
    try:
        return yaml.load(content, UniqueKeyLoader), text_name
    except yaml.YAMLError as error:
        raise ValueError(f"{text_name} is not YAML: {error}") from error


class UniqueKeyLoader(yaml.SafeLoader):
    """YAML 1.2 wants the keys of a mapping to differ; PyYAML would take the last of two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As ``SafeLoader``, but raises on a key that comes twice."""
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} comes twice", key.start_mark
                )
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_utf8(path: Path) -> str:
    """The text of a file, with or without a byte order mark.

    Raises:
        ValueError: Not UTF-8; names the file.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 ({error}); save it as UTF-8") from None
