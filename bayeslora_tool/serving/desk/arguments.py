"""A tool call's arguments as a form made from their JSON schema, and back.

What a field cannot hold without changing it (nested values, characters nobody sees) is edited as
JSON; what is too long for one stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from bayeslora_tool.quoting import visible

try:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match
    from referencing import Registry
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[desk]"') from None

Kind = Literal["line", "text", "number", "choice", "json", "kept"]

_LONGEST = 20_000  # characters that a field takes
_LINE = 80
_ABSENT: Any = object()


class Field(NamedTuple):
    """One argument in a form."""

    control: str
    """Name of the form's control; the argument's own may be anything."""

    key: str
    kind: Kind
    value: str
    choices: list[tuple[str, str]]
    """Of a choice: what is sent, as JSON, and what is shown."""

    required: bool
    note: str


def fields(
    args: Mapping[str, Any], schema: Mapping[str, Any] | None, index: int = 0
) -> list[Field]:
    """The form for a call's arguments: those that it has, and those that it may have.

    Args:
        args: Of the call.
        schema: JSON schema of them, if known.
        index: Which call of its request it is.
    """
    return [
        _field(f"arg-{index}-{n}", key, value, _part(schema, key), key in _required(schema))
        for n, (key, value) in enumerate(_all(args, schema).items())
    ]


def read(
    args: Mapping[str, Any],
    schema: Mapping[str, Any] | None,
    sent: Mapping[str, Any],
    index: int = 0,
) -> dict[str, Any]:
    """The arguments that a form of :func:`fields` has sent, checked against the schema.

    Raises:
        ValueError: They do not fit; the message names the argument.
    """
    values: dict[str, Any] = {}
    before = _all(args, schema)
    for field in fields(args, schema, index):
        was = before[field.key]
        text = sent.get(field.control)
        value = was if not isinstance(text, str) else _value(field, was, text, schema)
        if value is not _ABSENT:
            values[field.key] = value
    check(values, schema)
    return values


def check(values: Mapping[str, Any], schema: Mapping[str, Any] | None) -> None:
    """Refuse arguments that a schema does not allow.

    Raises:
        ValueError: The message names the argument, and what is wrong with it.
    """
    if schema is None:
        return
    # An empty registry: a reference to elsewhere is an error, and nothing is fetched.
    judge = Draft202012Validator(dict(schema), registry=Registry())
    try:
        Draft202012Validator.check_schema(dict(schema))
        wrong = best_match(judge.iter_errors(dict(values)))
    except SchemaError as error:
        raise ValueError(f"the tool's own schema cannot be read: {error.message:.200}") from None
    except Exception as error:  # of a reference that leads nowhere
        raise ValueError(f"the tool's own schema cannot be followed: {error}"[:300]) from None
    if wrong is not None:
        place = ".".join(str(one) for one in wrong.absolute_path) or "arguments"
        raise ValueError(f"`{place:.80}`: {wrong.message:.300}")


def _all(args: Mapping[str, Any], schema: Mapping[str, Any] | None) -> dict[str, Any]:
    known = (schema or {}).get("properties", {})
    return dict(args) | {key: _ABSENT for key in known if key not in args}


def _field(control: str, key: str, value: Any, part: Mapping[str, Any], required: bool) -> Field:
    kind, choices = _kind(value, part)
    note = str(part.get("description") or "")
    if kind == "kept":
        text = f"{len(json.dumps(value)):,} characters: too long to edit here, it stays as it is"
    elif value is _ABSENT:
        text = ""
    elif kind in ("choice", "json"):
        text = json.dumps(value) if kind == "choice" else json.dumps(value, indent=2)
    else:
        text = "" if value is None else str(value)
    return Field(control, key, kind, text, choices, required, note)


def _kind(value: Any, part: Mapping[str, Any]) -> tuple[Kind, list[tuple[str, str]]]:
    if value is not _ABSENT and len(json.dumps(value)) > _LONGEST:
        return "kept", []
    types = _types(part)
    options = part.get("enum")
    if options is None and types - {"null"} == {"boolean"}:
        options = [True, False, *([None] if "null" in types else [])]
    if options is None and isinstance(value, bool):
        options = [True, False]
    if isinstance(options, list) and options:
        if value is not _ABSENT and value not in options:
            options = [value, *options]
        choices = [(json.dumps(one), _words(one)) for one in options]
        if sum(len(sent) for sent, _ in choices) <= _LONGEST:
            return "choice", choices
    plain = types - {"null"} or {_type(value)}
    if plain == {"string"} and (value is _ABSENT or value is None or _plain(value)):
        text = value if isinstance(value, str) else ""
        return ("text" if len(text) > _LINE or "\n" in text else "line"), []
    if plain <= {"integer", "number"} and (value is _ABSENT or value is None or _counts(value)):
        return "number", []
    return "json", []


def _value(field: Field, was: Any, text: str, schema: Mapping[str, Any] | None) -> Any:
    """What one control says."""
    if field.kind == "kept":
        return was
    text = text.replace("\r\n", "\n")  # as browsers send line feeds
    if field.kind in ("line", "text"):
        if not text and was is _ABSENT:
            return _ABSENT
        return None if not text and was is None else text
    if not text.strip():
        if was is None:
            return None
        if field.required:
            raise ValueError(f"`{field.key:.80}` needs a value")
        return _ABSENT
    if field.kind == "number":
        return _read_number(field.key, text, _types(_part(schema, field.key)))
    try:
        return json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"`{field.key:.80}` is no JSON: {error}") from None


def _read_number(key: str, text: str, types: set[str]) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if number - number != 0 or "number" not in types | ({"number"} if not types else set()):
        what = "a number" if not types or "number" in types else "a whole number"
        raise ValueError(f"`{key:.80}` (={text!r:.40}) must be {what}")
    return number


def _part(schema: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    part = (schema or {}).get("properties", {}).get(key, {})
    return part if isinstance(part, Mapping) else {}


def _required(schema: Mapping[str, Any] | None) -> list[str]:
    found = (schema or {}).get("required", [])
    return found if isinstance(found, list) else []


def _types(part: Mapping[str, Any]) -> set[str]:
    """JSON types that a schema allows; empty if it does not say so plainly."""
    if "type" in part:
        said = part["type"]
        return {said} if isinstance(said, str) else {one for one in said if isinstance(one, str)}
    parts = part.get("anyOf", [])
    kinds = [one.get("type") if isinstance(one, Mapping) else None for one in parts]
    return {kind for kind in kinds if isinstance(kind, str)} if all(kinds) else {"?"}


def _type(value: Any) -> str:
    if isinstance(value, str):
        return "string"
    return "number" if _counts(value) else "?"


def _counts(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> bool:
    """Whether a text comes back from a browser's field as it was."""
    return isinstance(value, str) and visible(value) == value


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
