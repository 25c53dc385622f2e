"""A language model as a classifier: how likely each choice of answer is behind a prompt.

The logit of choice c is ``l_c = sum_i log p(token_i | prompt, tokens before i)``, or that divided
by the number of its tokens. All choices of a text are read in one row, behind its prompt: each
token sees the prompt and the tokens of its own choice, at the positions that they would have if the
choice stood there alone. So the prompt is read once, and one mask of the adapter's noise serves
all choices of a text: of scope "token", the same at equal positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from bayeslora_tool.inference.encoding import Encoded, Encoder
from bayeslora_tool.inference.network import ClassificationHead, Head, Raw, Reader
from bayeslora_tool.language.prompts import Choices, ChoiceTree, Prompts

_TRIED = 4  # choices that loading waits for
_FULL, _SLIDING = "full_attention", "sliding_attention"


class ChoiceHead:
    """Reads the choices' log-probabilities off a causal language model.

    Args:
        tree: Of the choices; its tokens stand at the end of each row.
        length_normalized: See ``prompts.Choices``.
        rest: Whether "anything else" is one more choice, the last: then the logits are logarithms
            of probabilities that sum to 1.
    """

    def __init__(
        self, tree: ChoiceTree, *, length_normalized: bool = False, rest: bool = False
    ) -> None:
        self.tree, self.length_normalized, self.rest = tree, length_normalized, rest

    def n_labels(self, model: Any) -> int:
        """Choices."""
        return len(self.tree.choices) + self.rest

    def run(self, model: Any, ids: Tensor, mask: Tensor) -> Raw:
        """A pass over rows padded on the left, ids and mask (B, L); features of the prompts."""
        output = self._forward(model, ids, mask, output_hidden_states=True)
        last = ids.shape[1] - len(self.tree.tokens)
        kept = mask[:, :last].to(output.logits.device)
        states = [state[:, :last].detach() for state in output.hidden_states]
        means = [normalize((state * kept[..., None]).sum(dim=1), dim=1) for state in states]
        head = states[-1][:, -1]
        return Raw(self._scores(output.logits), torch.stack(means, dim=1), head, kept.sum(dim=1))

    def logits(self, model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, C)."""
        return self._scores(self._forward(model, ids, mask).logits)

    def places(self, mask: Tensor) -> Tensor:
        """(B, L), the position of each token behind the beginning of its text; 0 of padding."""
        n = len(self.tree.tokens)
        begins = mask.shape[1] - mask.sum(dim=1, keepdim=True)  # (B, 1)
        prompt = mask.shape[1] - n
        places = torch.cat([torch.arange(prompt), prompt + self.tree.depths]).to(mask.device)
        return (places - begins).clamp(min=0)

    def plainly(
        self, model: Any, encoder: Reader, texts: Sequence[Encoded]
    ) -> tuple[Tensor, list[int]]:
        """Logits (B, C') of some choices, each in a row of its own, and which they are."""
        some = sorted(range(len(self.tree.choices)), key=lambda c: -len(self.tree.choices[c]))
        some = sorted(some[:_TRIED])
        prompts = [text.ids[: len(text.ids) - len(self.tree.tokens)] for text in texts]
        rows = [torch.tensor(prompt + self.tree.choices[c]) for prompt in prompts for c in some]
        ids = pad_sequence(rows, batch_first=True, padding_value=encoder.pad_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        device = next(model.parameters()).device
        output = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        found = []
        for row, whole in enumerate(rows):
            n = len(self.tree.choices[some[row % len(some)]])
            before = output.logits[row, len(whole) - n - 1 : len(whole) - 1].float()
            sure = before.log_softmax(dim=-1).gather(1, whole[-n:, None].to(device))
            found.append(sure.sum() / (n if self.length_normalized else 1))
        return torch.stack(found).view(len(texts), -1), some

    def _forward(self, model: Any, ids: Tensor, mask: Tensor, **options: Any) -> Any:
        device = next(model.parameters()).device
        ids, mask = ids.to(device), mask.to(device)
        places = self.places(mask)
        # Training by several processes has the model in a wrapper.
        base = getattr(model, "module", model).get_base_model()
        n = len(self.tree.tokens)
        if "logits_to_keep" in inspect.signature(base.forward).parameters:
            options["logits_to_keep"] = n + 1
        if n:
            options["attention_mask"] = self._attention(base, mask, places)
        elif not bool(mask.all()):
            options["attention_mask"] = mask
        return model(input_ids=ids, position_ids=places, use_cache=False, **options)

    def _attention(self, base: Any, mask: Tensor, places: Tensor) -> Any:
        """Which token (B, 1, L, L) may see which, as each kind of the model's layers takes it."""
        length, n = mask.shape[1], len(self.tree.tokens)
        seen = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        seen[length - n :, length - n :] = self.tree.above.to(mask.device)
        # Padding sees itself, lest it see nothing, which is no number.
        itself = torch.eye(length, dtype=torch.bool, device=mask.device)
        full = (seen & mask.bool()[:, None]) | itself
        config = base.config
        window = getattr(config, "sliding_window", None) or 0
        by_layer = getattr(config, "layer_types", None)
        kinds = {*(by_layer or [_SLIDING if window else _FULL])}
        if unknown := sorted(kinds - {_FULL, _SLIDING}):
            raise ValueError(
                f"{type(base).__name__} has layers of kind {unknown[0]}, which cannot read several "
                f"choices at once; choices of one token each can be scored, or take a model with "
                f"ordinary attention"
            )
        found = {_FULL: full}
        if _SLIDING in kinds:
            far = places[:, :, None] - places[:, None]
            found[_SLIDING] = full & (far < window)
        masks = {kind: _additive(allowed, base.dtype) for kind, allowed in found.items()}
        if by_layer and _SLIDING in kinds:
            return masks
        return masks[_SLIDING if _SLIDING in kinds else _FULL]

    def _scores(self, logits: Tensor) -> Tensor:
        """(B, C), of the logits (B, L', V) whose last places are those of the tree."""
        logits = logits[:, -1 - len(self.tree.tokens) :].float()
        choice, place, token = self.tree.steps.to(logits.device)
        norm = logits.logsumexp(dim=-1)  # (B, N + 1)
        sure = logits[:, place, token] - norm[:, place]  # (B, E)
        sums = sure.new_zeros(len(sure), len(self.tree.choices)).index_add(1, choice, sure)
        if self.length_normalized:
            return sums / self.tree.lengths.to(sums)
        return torch.cat([sums, self._leaving(logits, norm)], dim=1) if self.rest else sums

    def _leaving(self, logits: Tensor, norm: Tensor) -> Tensor:
        """(B, 1), log-probability that the text goes on with none of the choices.

        The sum over all places where it may leave the tree; 1 minus the choices' would lose all
        digits where they are almost certain.
        """
        tree = self.tree
        _, place, token = tree.steps.to(logits.device)
        others = logits.clone()
        others[:, place, token] = -torch.inf
        leave = others.logsumexp(dim=-1) - norm
        nodes = torch.tensor(tree.tokens, dtype=torch.long, device=logits.device)
        parents = tree.parents.to(logits.device)
        own = logits[:, parents, nodes] - norm[:, parents]  # (B, N)
        arrive = own @ tree.above.to(own).T
        return torch.cat([leave[:, :1], arrive + leave[:, 1:]], dim=1).logsumexp(
            dim=1, keepdim=True
        )


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    hidden = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return hidden.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def reading(
    tokenizer: PreTrainedTokenizerBase, max_tokens: int, choices: Choices | None
) -> tuple[Reader, Head]:
    """What makes batches of texts, and what reads logits off a model's passes over them.

    Args:
        tokenizer: Of the backbone.
        max_tokens: Longer texts are cut here, and say so.
        choices: Between which a language model chooses; None: it is a classifier.

    Raises:
        ValueError: See ``prompts.Prompts``.
    """
    if choices is None:
        return Encoder(tokenizer, max_tokens), ClassificationHead()
    prompts = Prompts(tokenizer, max_tokens, choices)
    return prompts, ChoiceHead(prompts.tree, length_normalized=choices.length_normalized)
