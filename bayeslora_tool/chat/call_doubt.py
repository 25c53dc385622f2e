"""How much a language model doubts a call that it wrote: its choice of tool, each argument."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from bayeslora_tool.chat.tool_format import Span, WrittenCall
from bayeslora_tool.policy import Scoring

OTHER = "(something else)"
"""As the room ``language`` calls it, which this one does not know."""

AS_WRITTEN = "(as written)"
"""The label of an argument's value, in the doubt of it."""


class Written:
    """What a model wrote, as text and as tokens.

    Args:
        prompt: Tokens before it.
        pieces: Of each token its id and the text that it adds.
    """

    def __init__(self, prompt: Sequence[int], pieces: Sequence[tuple[int, str]]) -> None:
        self._prompt, self._ids = list(prompt), [token for token, _ in pieces]
        self.text = "".join(text for _, text in pieces)
        self._ends = list(accumulate(len(text) for _, text in pieces))

    def tokens(self, span: Span) -> tuple[int, int]:
        """The tokens that hold a span of characters, from the first to behind the last."""
        # A character of several tokens is the text of its last one: those before it add nothing.
        at = bisect_left(self._ends, span[0])
        first = at + 1 if span[0] and self._ends[at] == span[0] else at
        return first, min(bisect_right(self._ends, span[1] - 1) + 1, len(self._ids))

    def start(self, token: int) -> int:
        """The first character of a token."""
        return self._ends[token - 1] if token else 0

    def before(self, token: int) -> list[int]:
        """All tokens before one."""
        return self._prompt + self._ids[:token]

    def ids(self, first: int, last: int) -> list[int]:
        """Of some tokens."""
        return self._ids[first:last]


def plain_token(doubt: Any) -> dict[str, Any]:
    """A ``TokenDoubt`` as plain data; what was not measured is None."""
    values = asdict(doubt).items()
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values}


def pieces_of(model: Any, text: str) -> list[tuple[int, str]]:
    """Tokens of a text, each with what it adds; see :class:`Written`."""
    ids = model.tokens(text) if text else []
    wholes = ["", *(model.tokenizer.decode(ids[:n]) for n in range(1, len(ids) + 1))]
    return [(ids[i], wholes[i + 1][len(wholes[i]) :]) for i in range(len(ids))]


def doubt_of_call(
    model: Any, written: Written, call: WrittenCall, tools: Sequence[str], scoring: Scoring | None
) -> dict[str, Any]:
    """The doubt of one call as plain data: ``choice``, ``arguments``, and what failed, if any did.

    The tools compete at the place where the call begins: each one's tokens from there to behind its
    name, the next character included, so that no name begins with another. Whatever else could
    stand there, no call at all among it, is "(something else)". So is whatever could stand in the
    place of an argument's value, which is "(as written)".

    Args:
        model: With ``tokens`` and ``choice`` of a ``LanguageModel``.
        written: All of it.
        call: One of it.
        tools: Names of those that could be called.
        scoring: How; None is the model's own default.
    """
    found: dict[str, Any] = {"choice": None, "arguments": {}, "failure": None}
    if call.begin is None:
        return {**found, "failure": "the call was not found in what the model wrote"}
    if call.name not in tools:
        return {**found, "failure": f"no tool {call.name!r} was bound"}
    try:
        first, _ = written.tokens((call.begin, call.begin + 1))
        _, last = written.tokens((call.named[1], call.named[1] + 1))
        start, end = call.named
        lead = written.text[written.start(first) : start]
        tail = written.text[end : written.start(last)]
        options = {tool: model.tokens(lead + tool + tail) for tool in tools}
        options[call.name] = written.ids(first, last)
        found["choice"] = model.choice(written.before(first), options, scoring).to_dict()
        for name, (begin, end) in call.values.items():
            value = written.text[begin:end]
            # Of a number, or of words without quotes, only what follows says that it ends.
            ends = end if value[:1] + value[-1:] in ('""', "[]", "{}") else end + 1
            first, last = written.tokens((begin, ends))
            options = {AS_WRITTEN: written.ids(first, last)}
            belief = model.choice(written.before(first), options, scoring)
            found["arguments"][name] = belief.to_dict()
    except ValueError as error:
        found["failure"] = str(error)
    return found
