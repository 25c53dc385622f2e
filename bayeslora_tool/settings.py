"""Checks what people write: presets, recipes and mappings become frozen objects.

Writes what their programs read: JSON.

Knows no policy and no model; every error names the source, the key, what came and what was
expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import AfterValidator

from bayeslora_tool.documents import from_yaml, is_yaml, read_text, shown
from bayeslora_tool.text import check_label

T = TypeVar("T")

MAX_PROBLEMS = 4  # of those in one file, in one message

# The name of a class: see ``text.check_label``.
Label = Annotated[str, AfterValidator(partial(check_label, where="a label"))]


def parse(cls: type[T], values: object, *, source: str, strict: bool = False) -> T:
    """Check ``values`` against the pydantic type ``cls``.

    Args:
        cls: A pydantic model or pydantic dataclass that forbids extra keys.
        values: What came, normally a mapping.
        source: File or argument name for the message.
        strict: For what ``documents.py`` has read: types are those of JSON, so that neither
            ``"1"`` nor ``true`` passes for 1.

    Raises:
        ValueError: With one line for each problem; an unknown key lists the valid ones.
    """
    adapter: pydantic.TypeAdapter[T] = _adapter(cls)  # type: ignore[arg-type]
    try:
        if strict:
            return adapter.validate_json(json.dumps(values), strict=True)
        return adapter.validate_python(values)
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [f"  - {_describe(problem, cls)}" for problem in problems[:MAX_PROBLEMS]]
        if more := len(problems) - len(lines):
            lines.append(f"  - and {more} more")
        raise ValueError(f"{shown(source)} is not valid:\n" + "\n".join(lines)) from None


@cache
def _adapter(cls: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(cls)


def _describe(problem: Any, cls: object) -> str:
    path = shown(".".join(str(part) for part in problem["loc"]) or "(top level)", 100)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        owner = _owner(cls, problem["loc"][:-1])
        return f"unknown key `{path}`; valid keys: {', '.join(_keys(owner))}"
    if problem["type"] == "missing":
        return f"missing key `{path}`; add it"
    return f"`{path}` (={problem['input']!r:.100}): {shown(problem['msg'])}"


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


def read_settings(name_or_path: str | Path, *, kind: str = "") -> tuple[object, str]:
    """Read a bundled YAML file by name, or any YAML file by path.

    Args:
        name_or_path: A name such as ``"intents"``, or a path (anything that ends in ``.yaml`` or
            ``.yml``, or has a folder in it).
        kind: ``""`` for policy presets, ``"recipes"`` for training recipes.

    Returns:
        The parsed content, and the file's name for messages.

    Raises:
        ValueError: No such name (the message lists the names), or see ``documents.from_yaml``.
        FileNotFoundError: No such file.
    """
    name = str(name_or_path)
    source = shown(name)
    if is_yaml(name) or len(Path(name).parts) > 1:
        return from_yaml(read_text(Path(name)), source), source
    names = bundled(kind)
    if name not in names:
        what = "recipe" if kind else "preset"
        raise ValueError(
            f"unknown {what} {name!r:.80}; bundled: {', '.join(names)}; "
            f"or give the path of a YAML file"
        )
    file = resources.files("bayeslora_tool.configs").joinpath(kind, f"{name}.yaml")
    return from_yaml(file.read_text(encoding="utf-8"), source), source
