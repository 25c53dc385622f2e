from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_parsing import ResponseParser

from bayeslora_tool.chat.response_template import TemplateReader
from bayeslora_tool.chat.tool_format import (
    FORMATS,
    BrokenCall,
    Call,
    MarkedReader,
    Reader,
    WrittenCall,
    held_from,
)

HERMES = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "content": {"content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "content": "json",
            "repeats": True,
            "transform": {"type": "function", "function": "{content}"},
        },
    },
}


def read(reader: Reader, text: str, size: int = 3) -> tuple[str, list[Call]]:
    shown = "".join(reader.feed(text[i : i + size]) for i in range(0, len(text), size))
    rest, calls = reader.finish()
    return shown + rest, calls


def marked(text: str, form: str = "hermes", size: int = 3) -> tuple[str, list[Call]]:
    return read(MarkedReader(FORMATS[form]), text, size)


def templated(text: str, size: int = 3) -> tuple[str, list[Call]]:
    return read(
        TemplateReader(partial(ResponseParser, HERMES, prefix="<|im_start|>assistant\n")),
        text,
        size,
    )


def only(calls: list[Call]) -> Any:
    (call,) = calls
    return call


def places(call: WrittenCall, text: str) -> tuple[str, dict[str, str]]:
    begin, end = call.named
    return text[begin:end], {name: text[i:j] for name, (i, j) in call.values.items()}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (
            "hermes",
            'Sure.<tool_call>\n{"name": "pay", "arguments": {"to": "Ada", "n": 3}}\n</tool_call>',
        ),
        ("hermes", 'Sure.<tool_call>{"arguments":{"to":"Ada","n":3},"name":"pay"}</tool_call>'),
        ("hermes", 'Sure.<tool_call> {"name": "pay", "arguments": {"to": "Ada", "n": 3}}'),
        ("mistral", 'Sure.[TOOL_CALLS] [{"name": "pay", "arguments": {"to": "Ada", "n": 3}}]'),
        ("mistral", 'Sure.[TOOL_CALLS]pay[ARGS]{"to": "Ada", "n": 3}'),
    ],
)
def test_a_call_is_read_with_the_places_of_its_words(form: str, text: str) -> None:
    shown, calls = marked(text, form)
    call = only(calls)
    assert (shown, call.name, call.args) == ("Sure.", "pay", {"to": "Ada", "n": 3})
    assert call.begin == len("Sure.")
    assert places(call, text) == ("pay", {"to": '"Ada"', "n": "3"})


@pytest.mark.parametrize("tag", ["", "<|python_tag|>", "\n"])
def test_llamas_call_is_all_that_it_writes(tag: str) -> None:
    text = tag + '{"name": "pay", "parameters": {"to": "Ada"}}'
    shown, calls = marked(text, "llama")
    assert shown == ""
    assert only(calls).args == {"to": "Ada"}
    assert places(only(calls), text) == ("pay", {"to": '"Ada"'})


@pytest.mark.parametrize("text", ["Hello {you}.", '{"answer": 42}', '{"answer": ', "", " \n"])
def test_what_names_no_tool_is_llamas_answer(text: str) -> None:
    assert marked(text, "llama") == (text if text.strip() else "", [])


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_several_calls_of_a_message_are_each_read(size: int) -> None:
    one = '<tool_call>\n{"name": "pay", "arguments": {"to": "Ada"}}\n</tool_call>'
    text = f"Both.{one}\n{one.replace('Ada', 'Bob')}"
    for shown, calls in (marked(text, size=size), templated(text, size)):
        assert shown.strip() == "Both."
        assert [call.args for call in calls] == [{"to": "Ada"}, {"to": "Bob"}]
        assert [places(call, text)[1]["to"] for call in calls] == ['"Ada"', '"Bob"']
        assert [text[call.begin :].strip().find("<tool_call>") for call in calls] == [0, 0]
    listed = '[TOOL_CALLS][{"name": "a", "arguments": {}}, {"name": "b", "arguments": {"x": 1}}]'
    assert [call.name for call in marked(listed, "mistral")[1]] == ["a", "b"]
    alone = '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": 1}}'
    assert [call.name for call in marked(alone, "llama")[1]] == ["a", "b"]


@pytest.mark.parametrize(
    "broken",
    [
        '<tool_call>\n{"name": "pay", "arguments": {"to": "A',
        "<tool_call>",
        "<tool_call>pay(Ada)</tool_call>",
        '<tool_call>{"name": "pay", "arguments": {"to": "Ada"}} twice</tool_call>',
        '<tool_call>{"name": "pay", "name": "pay", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "pay", "arguments": {"to": 1, "to": 2}}</tool_call>',
        '<tool_call>{"name": "pay", "arguments": {"to": {"a": 1, "a": 2}}}</tool_call>',
        '<tool_call>{"name": "pay", "arguments": "Ada"}</tool_call>',
        '<tool_call>{"name": "pay", "arguments": {"n": NaN}}</tool_call>',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": "pay", "arguments": {"n": ' + "[" * 20_000 + "</tool_call>",
    ],
)
def test_what_is_no_call_is_kept_as_a_broken_one(broken: str) -> None:
    good = '<tool_call>{"name": "pay", "arguments": {}}</tool_call>'
    shown, calls = marked("Well." + good + broken, size=50)
    assert shown == "Well."
    assert isinstance(calls[0], WrittenCall)
    assert [call.text for call in calls[1:]] == [broken]
    assert calls[1].error


def test_half_of_llamas_call_keeps_its_name_and_cannot_be_mended() -> None:
    call = only(marked('{"name": "pay", "parameters": {"to": "A', "llama")[1])
    assert isinstance(call, BrokenCall)
    assert call.name == "pay"
    assert call.text.startswith("<|python_tag|>{")


def test_words_that_look_like_a_mark_within_a_string_end_no_call() -> None:
    args = {"words": '</tool_call>\n"<tool_call>"'}
    text = f"<tool_call>{json.dumps({'name': 'say', 'arguments': args})}</tool_call>"
    shown, calls = marked(text)
    assert (shown, only(calls).args) == ("", args)


value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    args=st.dictionaries(st.text(), value, max_size=4),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 2]),
    size=st.integers(1, 20),
)
def test_any_arguments_come_back_and_stand_where_it_says(
    args: dict[str, Any], ascii_only: bool, indent: int | None, size: int
) -> None:
    whole = {"name": "a-tool_1", "arguments": args}
    text = f"<tool_call>\n{json.dumps(whole, ensure_ascii=ascii_only, indent=indent)}\n</tool_call>"
    shown, calls = marked(text, size=size)
    call = only(calls)
    assert (shown, call.name, call.args) == ("", "a-tool_1", args)
    assert {name: json.loads(text[i:j]) for name, (i, j) in call.values.items()} == args


@given(st.text(alphabet="<tol_ca>x"), st.integers(1, 5))
def test_nothing_of_a_mark_is_ever_shown_and_nothing_else_is_lost(text: str, size: int) -> None:
    reader = MarkedReader(FORMATS["hermes"])
    shown = ""
    for i in range(0, len(text), size):
        shown += reader.feed(text[i : i + size])
        assert text.startswith(shown)
        assert "<tool_call>" not in shown
    rest, calls = reader.finish()
    assert (
        shown + rest + "".join(call.text for call in calls if isinstance(call, BrokenCall)) == text
    )


def test_a_mark_is_held_from_its_first_character() -> None:
    assert held_from("abc<to", "<tool_call>") == 3
    assert held_from("abc<tool_call>x<t", "<tool_call>") == 3
    assert held_from("abc<x", "<tool_call>") == 5


def test_a_response_template_reads_the_calls_where_the_tokenizer_has_one() -> None:
    args = '{"to": "Zoë", "n": 3, "pay": true}'
    text = f'Sure.\n<tool_call>\n{{"name": "pay", "arguments": {args}}}\n</tool_call>'
    shown, calls = templated(text)
    call = only(calls)
    assert (shown, call.name, call.args) == ("Sure.\n", "pay", {"to": "Zoë", "n": 3, "pay": True})
    assert places(call, text) == ("pay", {"to": '"Zoë"', "n": "3", "pay": "true"})
    assert text[call.begin :].startswith("<tool_call>")


@pytest.mark.parametrize("name", ["call", "tool", "name", "arguments", "a", "Ada"])
def test_a_response_templates_words_are_found_where_they_count(name: str) -> None:
    args = '{"a": {"to": "Ada", "n": 1}, "to": "Ada", "n": 1, "m": "1"}'
    text = f'<tool_call>\n{{"name": "{name}", "arguments": {args}}}\n</tool_call>'
    first, second = templated(text * 2)[1]
    told = only(marked(text)[1])
    assert isinstance(first, WrittenCall)
    assert isinstance(second, WrittenCall)
    assert (first.named, first.values) == (told.named, told.values)
    n = len(text)
    assert second.named == tuple(at + n for at in told.named)
    assert second.values == {k: (i + n, j + n) for k, (i, j) in told.values.items()}
    assert second.begin is not None
    assert text.rindex("}") < second.begin <= n


@pytest.mark.parametrize("broken", ["pay(Ada)", '{"name": "pay", "argume'])
def test_what_the_template_cannot_read_is_kept_as_a_broken_call(broken: str) -> None:
    shown, calls = templated(f"Sure.<tool_call>{broken}</tool_call>")
    assert shown == "Sure."
    assert broken in only(calls).text
    assert isinstance(only(calls), BrokenCall)


def test_a_call_whose_words_are_not_found_again_has_no_place() -> None:
    template = json.loads(
        json.dumps(HERMES).replace('"{content}"', '{"name": "other", "arguments": {}}')
    )
    reader = TemplateReader(partial(ResponseParser, template, prefix=""))
    call = only(read(reader, "<tool_call>{}</tool_call>")[1])
    assert (call.name, call.begin) == ("other", None)
