"""Reads tool calls out of what a model writes, in its own format, and tells where they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

Span = tuple[int, int]


@dataclass(frozen=True)
class WrittenCall:
    """A call, and its places in the text.

    Attributes:
        name: Of the tool.
        args: Its arguments.
        begin: Of all that belongs to the call; None where it cannot be found again.
        named: The name alone.
        values: Of each argument whose place is known, with the quotes of a string.
    """

    name: str
    args: dict[str, Any]
    begin: int | None
    named: Span = (0, 0)
    values: Mapping[str, Span] = field(default_factory=dict)


class BrokenCall(NamedTuple):
    """What begins as a call does and is none."""

    text: str
    name: str | None
    error: str


Call = WrittenCall | BrokenCall


class Reader(Protocol):
    """Takes what a model writes, piece by piece."""

    def feed(self, piece: str) -> str:
        """What of the text so far can be shown, beyond what was: it belongs to no call."""
        ...

    def finish(self) -> tuple[str, list[Call]]:
        """The rest that can be shown, and the calls."""
        ...


class ToolFormat(NamedTuple):
    """How models of a family write a call: marks around a JSON object, or such an object alone.

    Attributes:
        known_by: What the chat templates of the family hold.
        opens: Before the object; with ``alone``, it may be missing.
        alone: The object is all that the model writes.
        forced: What a call begins with, up to the name; None: it differs within the family.
        arguments: The key that follows the name.
    """

    known_by: str
    opens: str
    alone: bool
    forced: str | None
    arguments: str


FORMATS = {
    "hermes": ToolFormat(
        "<tool_call>", "<tool_call>", False, '<tool_call>\n{"name": "', "arguments"
    ),
    "mistral": ToolFormat("[TOOL_CALLS]", "[TOOL_CALLS]", False, None, "arguments"),
    "llama": ToolFormat("<|start_header_id|>", "<|python_tag|>", True, '{"name": "', "parameters"),
}
NO_JSON = ("<function=", "<arg_key>")
"""What other models write between Hermes' marks."""

_CLOSES = "</tool_call>"
_ARGUMENTS = ("arguments", "parameters")
# Mistral's later one: the name, and an object of the arguments.
_NAME_FIRST = re.compile(r"([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")


def held_from(text: str, mark: str) -> int:
    """Where a mark begins, or may begin as soon as more text comes."""
    if (at := text.find(mark)) >= 0:
        return at
    longest = min(len(mark) - 1, len(text))
    begun = (n for n in range(longest, 0, -1) if text.endswith(mark[:n]))
    return len(text) - next(begun, 0)


class Plain:
    """Of a model that has no tools: all is text."""

    def feed(self, piece: str) -> str:
        """See :class:`Reader`."""
        return piece

    def finish(self) -> tuple[str, list[Call]]:
        """See :class:`Reader`."""
        return "", []


class MarkedReader:
    """Of a family's format, see ``FORMATS``."""

    def __init__(self, form: ToolFormat) -> None:
        self._form, self._text, self._shown = form, "", 0

    def feed(self, piece: str) -> str:
        """See :class:`Reader`."""
        self._text += piece
        return self._show(self._held())

    def finish(self) -> tuple[str, list[Call]]:
        """See :class:`Reader`."""
        text, begin = self._text, self._held()
        if not (text.startswith(self._form.opens, begin) or self._form.alone):
            return self._show(len(text)), []
        shown = self._show(begin)
        calls, rest = _calls(text, begin, self._form)
        return shown + (rest if rest.strip() else ""), calls

    def _held(self) -> int:
        if not self._form.alone:
            return held_from(self._text, self._form.opens)
        bare, opens = self._text.lstrip(), self._form.opens
        waits = bare.startswith(("{", opens)) or opens.startswith(bare)
        return 0 if waits else len(self._text)

    def _show(self, until: int) -> str:
        shown = self._text[self._shown : until]
        self._shown = max(self._shown, until)
        return shown


def _calls(text: str, begin: int, form: ToolFormat) -> tuple[list[Call], str]:
    """The calls from a place on, and what stands between and behind them."""
    calls: list[Call] = []
    rest, at = "", begin
    while at < len(text):
        opened = at if form.alone and not calls else text.find(form.opens, at)
        if opened < 0:
            break
        rest += text[at:opened]
        try:
            found, at = _opened(text, opened, form)
            calls += found
        except (ValueError, RecursionError) as error:
            closes = text.find(_CLOSES, opened)
            at = len(text) if closes < 0 else closes + len(_CLOSES)
            broken = text[opened:at]
            if form.alone and '"name"' not in broken:  # JSON that somebody asked for
                rest += broken
                continue
            if form.alone and not broken.startswith(form.opens):
                # LangChain would mend half an object where chunks are put together.
                broken = form.opens + broken
            named = re.search(r'"name"\s*:\s*"([^"\\]+)"', broken)
            calls.append(BrokenCall(broken, named and named[1], f"The call is no call: {error}"))
    return calls, rest + text[at:]


def _opened(text: str, begin: int, form: ToolFormat) -> tuple[list[Call], int]:
    """The calls behind one mark, and where they end."""
    at = _blank(text, begin + len(form.opens) if text.startswith(form.opens, begin) else begin)
    if form.opens == "[TOOL_CALLS]" and (named := _NAME_FIRST.match(text, at)):
        args, values, end = _object(text, named.end())
        return [WrittenCall(named[1], args, begin, named.span(1), values)], end
    listed = text.startswith("[", at)
    at = _blank(text, at + 1) if listed else at
    calls: list[Call] = []
    while True:
        call, at = _one(text, begin, at)
        calls.append(call)
        at = begin = _blank(text, at)
        more = re.compile(r"[,;]\s*" if form.alone or listed else r"(?!)").match(text, at)
        if more is None or not text.startswith("{", more.end()):
            break
        at = more.end()
    ends = "]" if listed else _CLOSES
    if text.startswith(ends, at):
        at += len(ends)
    elif listed or (text[at:] and not text.startswith(form.opens, at)):
        raise ValueError(f"something else stands behind it ({text[at : at + 20]!r})")
    return calls, at


def _one(text: str, begin: int, at: int) -> tuple[WrittenCall, int]:
    given, spans, end = _object(text, at)
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("it has no `name`")
    key = next((key for key in _ARGUMENTS if key in given), None)
    start, stop = spans["name"]
    values: dict[str, Span] = {}
    if key is not None:
        if not isinstance(given[key], dict):
            raise ValueError(f"`{key}` must be an object")
        values = _object(text, spans[key][0])[1]
    args = {} if key is None else given[key]
    return WrittenCall(name, args, begin, (start + 1, stop - 1), values), end


def _object(text: str, at: int) -> tuple[dict[str, Any], dict[str, Span], int]:
    """A JSON object, where its values stand, and where it ends."""
    if not text.startswith("{", at):
        raise ValueError("it holds no JSON object")
    value, end = _JSON.raw_decode(text, at)
    spans: dict[str, Span] = {}
    at = _blank(text, at + 1)
    while not text.startswith("}", at):
        key, at = _JSON.raw_decode(text, at)
        start = _blank(text, _blank(text, at) + 1)  # behind the colon
        _, stop = _JSON.raw_decode(text, start)
        spans[key] = (start, stop)
        at = _blank(text, stop)
        if text.startswith(",", at):
            at = _blank(text, at + 1)
    return value, spans, end


def _blank(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ValueError("a key stands twice in it")
    return given


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


# Models write line breaks into strings.
_JSON = json.JSONDecoder(strict=False, object_pairs_hook=_once_each, parse_constant=_no_number)
