"""Reads tool calls where the tokenizer says how its model writes them: by transformers' parser."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from bayeslora_tool.chat.tool_format import BrokenCall, Call, Span, WrittenCall


class TemplateReader:
    """Of a tokenizer that has a response template: transformers' own parser reads the calls.

    Args:
        new: Makes a parser, as ``tokenizer.get_response_parser`` with the prompt does.
        tools: By whose schemas arguments are cast; None leaves them as the template has them.
    """

    def __init__(self, new: Callable[..., Any], tools: list[Any] | None = None) -> None:
        self._new, self._parser = new, new(tools=tools)
        self._text, self._field = "", ""
        self._error = ""
        self._seen = self._begin = 0
        self._calls: list[tuple[int, Any]] = []

    def feed(self, piece: str) -> str:
        """See :class:`~bayeslora_tool.chat.tool_format.Reader`."""
        self._text += piece
        return self._read(lambda: self._parser.feed(piece))

    def finish(self) -> tuple[str, list[Call]]:
        """See :class:`~bayeslora_tool.chat.tool_format.Reader`."""
        shown = self._read(lambda: self._parser.finalize()[1])
        calls: list[Call] = []
        places, at = _Places(self._uncast, self._text), 0
        for i, (begin, given) in enumerate(self._calls):
            call = places.found(i, given, max(begin, at))
            if isinstance(call, WrittenCall) and call.begin is not None:
                at = max(end for _, end in [call.named, *call.values.values()])
            calls.append(call)
        if self._error:
            calls.append(BrokenCall(self._text[self._begin :], None, self._error))
        return shown, calls

    def _uncast(self, text: str) -> list[Any]:
        """All calls of another text, as the template has them."""
        other = TemplateReader(self._new)
        other.feed(text)
        other._read(lambda: other._parser.finalize()[1])
        return [given for _, given in other._calls]

    def _read(self, events: Callable[[], list[dict[str, Any]]]) -> str:
        if self._error:
            return ""
        shown = ""
        try:
            for event in events():
                kind = event["type"]
                if kind == "region_open":
                    self._field, self._begin = event["field"], self._seen
                elif kind == "region_chunk":
                    said = event["text"]
                    self._seen = self._text.find(said, self._seen) + len(said)
                    shown += said if self._field == "content" else ""
                elif self._field == "tool_calls":
                    value = event["value"]
                    values = value if isinstance(value, list) else [value]
                    self._calls += [(self._begin, each) for each in values]
        except ValueError as error:
            self._error = f"The model's call cannot be read: {error}"
        return shown


class _Places:
    """Finds where the words of calls stand that somebody else has read.

    The same words may stand elsewhere, in the format or in another argument. The place is the one
    where other words change nothing but what they stand for.

    Args:
        read: All calls of a text.
        text: That holds the calls.
    """

    def __init__(self, read: Callable[[str], list[Any]], text: str) -> None:
        self._read, self._text = read, text
        self._before = read(text)

    def found(self, i: int, given: Any, begin: int) -> Call:
        """The i-th call with its places, from ``begin`` on."""
        function = given.get("function") if isinstance(given, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        args = function.get("arguments", {}) if isinstance(function, dict) else None
        if not isinstance(name, str) or not name or not isinstance(args, dict):
            # From the mark on: LangChain would mend an object where chunks are put together.
            return BrokenCall(self._text[begin:], None, "The call has no name or arguments")
        named = self._place([name], f"{name}_", begin, i, ["function", "name"])
        if named is None:
            return WrittenCall(name, args, None)
        values = {}
        for key, value in args.items():
            forms = [json.dumps(value, ensure_ascii=False), json.dumps(value), str(value)]
            place = self._place(forms, "0", begin, i, ["function", "arguments", key])
            if place is not None:
                values[key] = place
        return WrittenCall(name, args, begin, named, values)

    def _place(
        self, forms: Sequence[str], other: str, begin: int, i: int, path: Sequence[str]
    ) -> Span | None:
        for form in filter(None, dict.fromkeys(forms)):
            instead = f'"{other}"' if form[0] == '"' else other
            instead = instead if instead != form else instead.replace("0", "1")
            at = self._text.find(form, begin)
            while at >= 0:
                end = at + len(form)
                changed = self._read(self._text[:at] + instead + self._text[end:])
                if self._differs_in(changed, i, path):
                    return at, end
                at = self._text.find(form, at + 1)
        return None

    def _differs_in(self, changed: list[Any], i: int, path: Sequence[str]) -> bool:
        """Whether there are the same calls but for one value of the i-th."""
        before = copy.deepcopy(self._before)
        if not i < len(before) == len(changed):
            return False
        old, new = before[i], changed[i]
        for key in path:
            if not (isinstance(old, dict) and isinstance(new, dict) and key in old and key in new):
                return False
            holder, old, new = old, old[key], new[key]
        holder[path[-1]] = new
        return bool(old != new and before == changed)
