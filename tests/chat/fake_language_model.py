"""A language model whose words, and whose beliefs, a test writes down."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bayeslora_tool.policy import Scoring
from bayeslora_tool.prediction import Prediction

_TOKEN = re.compile(r"</?tool_call>|<\|python_tag\|>|\[TOOL_CALLS\]|\w+|\W\"?", re.DOTALL)
OTHER = "(something else)"


@dataclass(frozen=True)
class Token:
    """As ``TokenDoubt``."""

    token: int
    text: str
    probability: float = 0.9
    mean: float = math.nan
    variance: float = math.nan
    mutual_information: float = math.nan
    entropy: float = 0.3


class FakeTokenizer:
    """A token a word or sign; ids are given out as they come."""

    name_or_path = "somebody/tiny"
    response_template: Any = None

    def __init__(self, chat_template: str = "<tool_call>") -> None:
        self.chat_template = chat_template
        self.known: list[str] = []

    def ids(self, text: str) -> list[int]:
        for piece in _TOKEN.findall(text):
            if piece not in self.known:
                self.known.append(piece)
        return [self.known.index(piece) for piece in _TOKEN.findall(text)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.known[i] for i in ids)


@dataclass
class FakeLanguageModel:
    """Writes what ``says`` makes of the messages.

    ``believes`` has the probability of a label: of a tool in a choice, of "(as written)" in an
    argument, or of an argument's text itself; 0.95 where it has none.
    """

    says: Callable[[Sequence[Mapping[str, Any]]], str]
    believes: dict[str, float] = field(default_factory=dict)
    variance: float = 0.001
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    max_tokens: int = 4096
    asked: list[Any] = field(default_factory=list)
    scored: list[tuple[str, dict[str, str], Scoring | None]] = field(default_factory=list)
    generated: list[dict[str, Any]] = field(default_factory=list)
    reply: str = ""
    prompted: int = 0

    def scored_by(self, scoring: Scoring) -> str:
        return f"fake, {scoring.estimator}"

    def prompt(self, messages: Any, *, tools: Any = None) -> list[int]:
        self.asked.append((messages, tools))
        self.reply = self.says(messages)
        ids = self.tokens(json.dumps(messages))
        self.prompted = len(self.tokenizer.decode(ids))
        return ids

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer.ids(text)

    def generate(self, prompt: Sequence[int], **kwargs: Any) -> Iterator[Token]:
        self.generated.append({**kwargs, "prompt": self.tokenizer.decode(prompt)})
        text = self.reply
        for end in kwargs["stop"]:
            text = text.partition(end)[0]
        for token in self.tokens(text)[: kwargs["max_tokens"]]:
            yield Token(token, self.tokenizer.known[token])

    def choice(
        self,
        before: Sequence[int],
        options: Mapping[str, Sequence[int]],
        scoring: Scoring | None = None,
    ) -> Prediction:
        texts = {name: self.tokenizer.decode(ids) for name, ids in options.items()}
        self.scored.append((self.tokenizer.decode(before), texts, scoring))
        here = self.tokenizer.decode(before)[self.prompted :]
        shares = {}
        for name, text in texts.items():
            meant = 0.95 if self.reply.startswith(here + text) else 0.0
            shares[name] = self.believes.get(text, self.believes.get(name, meant))
        shares[OTHER] = max(0.0, 1 - sum(shares.values()))
        label = max(shares, key=lambda name: shares[name])
        entropy = -sum(p * math.log(p) for p in shares.values() if p)
        return Prediction(
            label=label,
            confidence=shares[label],
            variance=self.variance,
            probabilities=shares,
            entropy=entropy,
            mutual_information=0.0,
            n_draws=0,
            estimator="linearized",
            seed=0,
            n_tokens=len(before),
            truncated=False,
            scored_by="fake, linearized",
            variance_from="linearization",
        )
