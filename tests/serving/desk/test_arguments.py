"""A form for a call's arguments: what it sends back untouched is what was there."""

from __future__ import annotations

from typing import Any

import pytest

from bayeslora_tool.serving.desk.arguments import check, fields, read

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "account": {"type": "string", "description": "IBAN"},
        "amount": {"type": "number", "minimum": 0},
        "times": {"type": "integer"},
        "currency": {"enum": ["GBP", "EUR"]},
        "urgent": {"type": "boolean"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "plan": {"type": "object"},
        "later": {"type": "string"},
    },
    "required": ["account", "amount"],
    "additionalProperties": False,
}
ARGS: dict[str, Any] = {
    "account": "GB29",
    "amount": 50.5,
    "times": 2,
    "currency": "GBP",
    "urgent": False,
    "note": None,
    "plan": {"every": ["month", 1]},
}


def form(args: Any, schema: Any = None) -> dict[str, str]:
    """What a browser sends if nobody touches anything."""
    sent = {}
    for field in fields(args, schema):
        if field.kind != "kept":
            sent[field.control] = field.value.replace("\n", "\r\n")
    return sent


def control(args: Any, schema: Any, key: str) -> str:
    (found,) = [field.control for field in fields(args, schema) if field.key == key]
    return found


def test_each_argument_has_the_field_that_its_schema_asks_for() -> None:
    kinds = {field.key: field.kind for field in fields(ARGS, SCHEMA)}
    assert kinds == {
        "account": "line",
        "amount": "number",
        "times": "number",
        "currency": "choice",
        "urgent": "choice",
        "note": "line",
        "plan": "json",
        "later": "line",
    }
    account = fields(ARGS, SCHEMA)[0]
    assert (account.required, account.note) == (True, "IBAN")


@pytest.mark.parametrize(
    "schema", [SCHEMA, None, {"type": "object"}, {"properties": {"plan": True}}]
)
def test_untouched_it_gives_the_same_arguments(schema: Any) -> None:
    assert read(ARGS, schema, form(ARGS, schema)) == ARGS
    assert type(read(ARGS, schema, form(ARGS, schema))["times"]) is int


@pytest.mark.parametrize(
    "value",
    ["two\nlines", "\ttab", "odd \u202e\x00\ud800", "a\rb", "x" * 1_000_000, "", " ", "1", "null",
     1e300, -0.5, 2**70, True, None, [], {"\ud800": ["\u2066"]}, ["x" * 30_000]],
)  # fmt: skip
def test_untouched_any_value_comes_back_as_it_was(value: Any) -> None:
    args = {"odd key \u202e": value, "<b>": value}
    assert read(args, None, form(args)) == args
    assert all(field.control.replace("-", "").isalnum() for field in fields(args, None))


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("account", "GB 30", "GB 30"),
        ("account", "a\r\nb", "a\nb"),
        ("amount", "7", 7),
        ("amount", " 7.25 ", 7.25),
        ("times", "3", 3),
        ("currency", '"EUR"', "EUR"),
        ("urgent", "true", True),
        ("note", "soon", "soon"),
        ("note", "", None),
        ("plan", '{"every": "week"}', {"every": "week"}),
        ("later", "yes", "yes"),
    ],
)
def test_what_is_typed_counts(key: str, typed: str, value: Any) -> None:
    sent = form(ARGS, SCHEMA) | {control(ARGS, SCHEMA, key): typed}
    assert read(ARGS, SCHEMA, sent) == ARGS | {key: value}


def test_an_empty_field_of_an_argument_that_may_be_missing_takes_it_away() -> None:
    sent = form(ARGS, SCHEMA) | {control(ARGS, SCHEMA, "times"): ""}
    assert read(ARGS, SCHEMA, sent) == {k: v for k, v in ARGS.items() if k != "times"}


@pytest.mark.parametrize(
    ("key", "typed", "message"),
    [
        ("amount", "", "`amount` needs a value"),
        ("amount", "-1", "`amount`: -1 is less than the minimum"),
        ("amount", "NaN", "`amount`.*must be a number"),
        ("amount", "inf", "`amount`.*must be a number"),
        ("amount", "much", "`amount`.*must be a number"),
        ("times", "2.5", "`times`.*must be a whole number"),
        ("currency", '"USD"', "`currency`: 'USD' is not one of"),
        ("currency", "USD", "`currency` is no JSON"),
        ("urgent", '"yes"', "`urgent`"),
        ("plan", "[1", "`plan` is no JSON"),
        ("plan", "NaN", "`plan` is no JSON"),
        ("plan", "[" * 100_000, "`plan` is no JSON"),
        ("plan", "[]", "`plan`: .* is not of type 'object'"),
    ],
)
def test_what_does_not_fit_is_named(key: str, typed: str, message: str) -> None:
    sent = form(ARGS, SCHEMA) | {control(ARGS, SCHEMA, key): typed}
    with pytest.raises(ValueError, match=message):
        read(ARGS, SCHEMA, sent)


def test_a_value_outside_its_choices_is_kept_until_it_is_changed() -> None:
    args = {"currency": "USD"}
    schema = {"properties": {"currency": {"enum": ["GBP", "EUR"]}}}
    (field,) = fields(args, schema)
    assert [sends for sends, _ in field.choices] == ['"USD"', '"GBP"', '"EUR"']


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"properties": {"a": {"$ref": "#/$defs/missing"}}},
        {"type": "nothing"},
    ],
)
def test_a_schema_that_leads_elsewhere_or_nowhere_is_an_error_and_nothing_is_fetched(
    schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *one, **_: fetched.append(one))
    with pytest.raises(ValueError, match="the tool's own schema"):
        check({"a": 1}, schema)
    assert fetched == []
