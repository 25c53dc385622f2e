"""Texts put to a language model: its prompts, and its choices of answer as a tree of tokens.

Choices that begin alike share their first tokens. The last token of a choice is never read, only
scored, so the tree holds what lies before: of choices of one token it holds nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bayeslora_tool.inference.encoding import Encoded, Encoder
from bayeslora_tool.inference.wording import Wording
from bayeslora_tool.language.template_tokenizer import TemplateTokenizer
from bayeslora_tool.text import beginning, check_label

TEXT = "{text}"  # where a template takes the text
# Ends of texts behind which a choice must begin with the same tokens.
_PROBES = ("so so", "why?", "at 42", "(no)")


@dataclass(frozen=True)
class Choices:
    """What a language model chooses between, and how it is asked.

    Args:
        verbalizers: By label, in order, what follows the prompt; usually it begins with a space.
        template: The prompt, with ``{text}`` once; it may hold the tokenizer's special tokens.
        length_normalized: Whether a choice's log-probability is divided by its number of tokens.

    Raises:
        TypeError: ``verbalizers`` is no mapping of strings, ``template`` no string.
        ValueError: Fewer than two choices, an empty one, a label that cannot be shown, or a
            template without ``{text}``, or with several.
    """

    verbalizers: Mapping[str, str]
    template: str
    length_normalized: bool = False

    def __post_init__(self) -> None:
        given = self.verbalizers
        if not isinstance(given, Mapping) or not all(isinstance(v, str) for v in given.values()):
            raise TypeError(
                f"`choices` (={given!r:.80}) must be a mapping from labels to what the model "
                f'writes for them, such as {{"refund": " refund", "other": " other"}}'
            )
        if not isinstance(self.template, str):
            raise TypeError(
                f"`template` (={self.template!r:.80}) must be the prompt that the adapter was "
                f"trained with, such as '{TEXT}\\nAnswer:'"
            )
        if len(given) < 2:
            raise ValueError(f"`choices` (={dict(given)!r:.80}) must be two or more")
        for label, verbalizer in given.items():
            check_label(label, "a label of `choices`")
            if not verbalizer.strip():
                raise ValueError(f"`choices[{label!r}]` (={verbalizer!r:.80}) must hold a word")
        if (n := self.template.count(TEXT)) != 1:
            raise ValueError(
                f"`template` (={self.template!r:.80}) holds {TEXT} {n} times; it must once, where "
                f"the text stands"
            )
        object.__setattr__(self, "verbalizers", dict(given))

    @property
    def fingerprint(self) -> str:
        """Of all that the logits depend on."""
        asked = repr(([*self.verbalizers.items()], self.template, self.length_normalized))
        return hashlib.sha256(asked.encode()).hexdigest()[:6]


def asked_for(
    choices: Mapping[str, str] | None, template: str | None, *, length_normalized: bool
) -> Choices | None:
    """The choices that a caller named, if any, with their template.

    Args:
        choices: Or None, for a classifier.
        template: See :class:`Choices`, as for the next.
        length_normalized: Of choices only.

    Raises:
        TypeError, ValueError: As :class:`Choices`; or one is named without the other.
    """
    if choices is None:
        given = {"template": template is not None, "length_normalized": length_normalized}
        if named := [name for name, there in given.items() if there]:
            raise ValueError(f"`{named[0]}` is for a language model; name its `choices` too")
        return None
    if template is None:
        raise ValueError(
            "`choices` need the `template` that the adapter was trained with, such as "
            "'{text}\\nAnswer:'"
        )
    return Choices(choices, template, length_normalized)


class ChoiceTree:
    """The tokens of choices, each beginning that several share only once.

    Args:
        choices: The tokens of each.

    Attributes:
        tokens: Of the N nodes: of each proper beginning of a choice the last token.
        depths: (N,), how many tokens lie between a node and the prompt.
        parents: (N,), the place that a node's own probability is read from, see ``steps``.
        above: (N, N), whether a node (row) follows on another, or is it.
        steps: For each token of each choice: the choice, the place that its probability is read
            from (0 is the prompt's last token, 1 + i node i), and the token, (3, E).
        lengths: (C,), tokens of each choice.
    """

    def __init__(self, choices: Sequence[Sequence[int]]) -> None:
        nodes: dict[tuple[int, ...], int] = {}
        steps = []
        for c, ids in enumerate(choices):
            for i, token in enumerate(ids):
                begun = tuple(ids[:i])
                place = 1 + nodes.setdefault(begun, len(nodes)) if begun else 0
                steps.append((c, place, token))
        self.choices = [list(ids) for ids in choices]
        self.tokens = [begun[-1] for begun in nodes]
        self.depths = torch.tensor([len(begun) - 1 for begun in nodes], dtype=torch.long)
        parents = [1 + nodes.get(begun[:-1], -1) for begun in nodes]
        self.parents = torch.tensor(parents, dtype=torch.long)
        self.above = torch.tensor(
            [[one[: len(other)] == other for other in nodes] for one in nodes], dtype=torch.bool
        ).view(len(nodes), len(nodes))
        self.steps = torch.tensor(steps).T
        self.lengths = torch.tensor([len(ids) for ids in choices])


def left_padded(batch: Sequence[Encoded], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, both (B, L), of rows that all end in the last column."""
    longest = max(len(text.ids) for text in batch)
    ids = torch.full((len(batch), longest), pad_id)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, longest - len(text.ids) :] = torch.tensor(text.ids)
        mask[row, longest - len(text.ids) :] = 1
    return ids, mask


class Prompts:
    """Makes prompts of texts, tokenizes them, and puts the tokens of the choices behind.

    Args:
        tokenizer: Of the backbone, a fast one.
        max_tokens: Longer prompts are cut at the text's end, and say so.
        choices: With their template.

    Attributes:
        tree: The choices' tokens.

    Raises:
        ValueError: The choices cannot be told apart by their tokens, or merge with the prompt's; or
            the prompt leaves no room for a text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, choices: Choices
    ) -> None:
        self._tokens = TemplateTokenizer(tokenizer)
        self._plain = Encoder(tokenizer, max_tokens)
        self.pad_id = self._plain.pad_id
        self._before, self._after = choices.template.split(TEXT)
        own = self._tokens.encode(self._before).ids
        begin = self._tokens.begin
        self._begin = [] if own[: len(begin)] == begin else begin
        self.tree = ChoiceTree(self._tokens_of(choices))
        self._most = max_tokens - int(self.tree.lengths.max()) + 1
        if (n := len(self._ids(""))) >= self._most:
            raise ValueError(
                f"`template` has {n} tokens and the longest choice {int(self.tree.lengths.max())}, "
                f"which leaves none of {max_tokens} for a text; shorten them"
            )

    @property
    def wording(self) -> Wording | None:
        """Says how foreign a text looks, if that was fitted."""
        return self._plain.wording

    @wording.setter
    def wording(self, wording: Wording | None) -> None:
        self._plain.wording = wording

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """The tokens of each text's prompt and, behind them, of the choices' tree, in order.

        Raises:
            TypeError: ``texts`` is one string, or holds something else than strings.
            ValueError: A text that cannot be read.
        """
        found = []
        for text, read in zip(texts, self._plain.encode(texts), strict=True):
            ids, cut = self._prompt(beginning(str(text), self._plain.max_characters)[0])
            found.append(
                read._replace(
                    ids=(ids or [self.pad_id]) + self.tree.tokens, truncated=read.truncated or cut
                )
            )
        return found

    def tensors(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Ids and mask, both (B, L), padded on the left: the choices stand in the same columns."""
        return left_padded(batch, self.pad_id)

    def _ids(self, text: str, answer: str = "") -> list[int]:
        prompt = self._before + text + self._after + answer
        ids: list[int] = self._tokens.encode(prompt).ids
        return self._begin + ids

    def _prompt(self, text: str) -> tuple[list[int], bool]:
        """Of the prompt, and whether the text had to be cut."""
        text = self._tokens.as_words(text)
        cut = False
        while True:
            encoding = self._tokens.encode(self._before + text + self._after)
            over = len(self._begin) + len(encoding.ids) - self._most
            if over <= 0 or not text:
                return self._begin + encoding.ids, cut
            first = len(self._before)
            last = first + len(text)
            starts = [max(a - first, 0) for a, b in encoding.offsets if first < b and a < last]
            cut, text = True, text[: starts[max(len(starts) - over, 0)] if starts else 0]

    def _tokens_of(self, choices: Choices) -> list[list[int]]:
        found: dict[str, list[int]] = {}
        for label, verbalizer in choices.verbalizers.items():
            for probe in _PROBES:
                prompt, whole = self._ids(probe), self._ids(probe, verbalizer)
                ids = whole[len(prompt) :]
                if not prompt or whole[: len(prompt)] != prompt or found.get(label, ids) != ids:
                    raise ValueError(
                        f"`choices[{label!r}]` (={verbalizer!r:.80}): the tokenizer merges its "
                        f"beginning with the end of the prompt ({self._after or probe!r:.80}), so "
                        f"its tokens are none that follow the prompt; begin each choice with a "
                        f"space, and end `template` without one"
                    )
                found[label] = ids
        for label, ids in found.items():
            if not ids:
                raise ValueError(
                    f"`choices[{label!r}]` (={choices.verbalizers[label]!r:.80}) has no token"
                )
            for other, theirs in found.items():
                if other == label or theirs[: len(ids)] != ids:
                    continue
                if theirs == ids:
                    raise ValueError(
                        f"`choices` {label!r} and {other!r} have the same tokens {ids!r:.80}; name "
                        f"words that the tokenizer knows apart"
                    )
                raise ValueError(
                    f"`choices[{other!r}]` (={choices.verbalizers[other]!r:.80}) begins with all "
                    f"of `choices[{label!r}]`, so it could never be the likelier one; let each end "
                    f"with the same end of an answer, such as a full stop or a new line"
                )
        return list(found.values())
