"""Reads tool calls where the tokenizer says how its model writes them: by transformers' parser."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bayeslora_tool.agents.tool_format import BrokenCall, Call, WrittenCall


class TemplateReader:
    """Of a tokenizer that has a response template: transformers' own parser reads the calls.

    Args:
        parser: Of ``tokenizer.get_response_parser``.
    """

    def __init__(self, parser: Any) -> None:
        self._parser, self._text, self._field = parser, "", ""
        self._raw, self._error = "", ""
        self._seen = self._begin = 0
        self._calls: list[tuple[int, Any]] = []

    def feed(self, piece: str) -> str:
        """See :class:`~bayeslora_tool.agents.tool_format.Reader`."""
        self._text += piece
        return self._read(lambda: self._parser.feed(piece))

    def finish(self) -> tuple[str, list[Call]]:
        """See :class:`~bayeslora_tool.agents.tool_format.Reader`."""
        shown = self._read(lambda: self._parser.finalize()[1])
        calls, at = [], 0
        for begin, given in self._calls:
            call = _found_again(given, self._text, max(begin, at))
            if isinstance(call, WrittenCall) and call.begin is not None:
                at = max(end for _, end in [call.named, *call.values.values()])
            calls.append(call)
        if self._error:
            calls.append(BrokenCall(self._raw, None, self._error))
        return shown, calls

    def _read(self, events: Callable[[], list[dict[str, Any]]]) -> str:
        if self._error:
            return ""
        shown = ""
        try:
            for event in events():
                kind = event["type"]
                if kind == "region_open":
                    self._field, self._raw, self._begin = event["field"], "", self._seen
                elif kind == "region_chunk":
                    said = event["text"]
                    self._seen = self._text.find(said, self._seen) + len(said)
                    self._raw += said
                    shown += said if self._field == "content" else ""
                elif self._field == "tool_calls":
                    value = event["value"]
                    values = value if isinstance(value, list) else [value]
                    self._calls += [(self._begin, each) for each in values]
        except ValueError as error:
            self._error = f"The model's call cannot be read: {error}"
        return shown


def _found_again(given: Any, text: str, at: int) -> Call:
    """A call that somebody else has read, with the places where its words stand."""
    function = given.get("function") if isinstance(given, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    args = function.get("arguments", {}) if isinstance(function, dict) else None
    if not isinstance(name, str) or not name or not isinstance(args, dict):
        return BrokenCall(json.dumps(given, default=str), None, "The call has no name or arguments")
    start = text.find(name, at)
    if start < 0:
        return WrittenCall(name, args, None)
    named, values = (start, start + len(name)), {}
    cursor = named[1]
    for key, value in args.items():
        after = text.find(key, cursor)
        forms = [json.dumps(value, ensure_ascii=False), json.dumps(value), str(value)]
        places = [(text.find(form, after + len(key)), form) for form in forms] if after >= 0 else []
        place = next(((begins, form) for begins, form in places if begins >= 0), None)
        if place is not None:
            cursor = place[0] + len(place[1])
            values[key] = (place[0], cursor)
    return WrittenCall(name, args, at, named, values)
