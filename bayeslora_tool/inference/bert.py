"""A pass of a BERT classifier, without what its answer does not need.

The one file that knows an architecture. It computes what transformers' own ``forward`` does, in
fewer operations:

- texts lie end to end, so nothing is padded; those of one length meet in one attention;
- query, key and value are one product, unless their masks are told apart;
- where nobody asks for the other tokens, the last layer is computed for the first one only, which
  is all that the head reads;
- of the hidden states only the means over each text's tokens are kept.

:func:`quick_pass` gives None for anything else than it knows, and for a model that does not answer
here as it does by itself; such a model runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForSequenceClassification

from bayeslora_tool.inference.fused import FusedLoraLinear

logger = logging.getLogger(__name__)
_PROBES = ([2, 9], [3, 5, 7], [11, 4, 6], [1, 8, 10, 12, 13])  # lengths that differ, and two alike


class Quick(NamedTuple):
    """What a pass over B texts gives."""

    logits: Tensor  # (B, C)
    head: Tensor  # (B, d), what the classification head reads
    means: dict[int, Tensor]  # (B, d) of each hidden state that was asked for, over its tokens


class _Block(NamedTuple):
    """The modules of one layer, and weight and bias of its first three as one."""

    three: tuple[nn.Module, nn.Module, nn.Module]  # query, key, value
    weight: Tensor | None  # (3 d, d); None where the adapter is not merged into it
    bias: Tensor | None  # (3 d,)
    joined: nn.Module
    norm: nn.Module
    wide: nn.Module  # with the activation
    narrow: nn.Module
    last_norm: nn.Module


class _Stretch(NamedTuple):
    """Neighbouring texts of one length."""

    start: int  # their first token
    n_texts: int
    length: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.start + self.n_texts * self.length)


class BertPass:
    """A fused BERT classifier, run without noise, or linearized (``linearization``).

    Args:
        model: A BertForSequenceClassification whose LoRA layers are fused.
    """

    def __init__(self, model: BertForSequenceClassification) -> None:
        self.embeddings, self.pooler = model.bert.embeddings, model.bert.pooler
        self.classifier: Any = model.classifier
        self.n_heads = int(model.config.num_attention_heads)
        self.blocks = [_block(layer) for layer in model.bert.encoder.layer]

    def __call__(self, ids: Sequence[Sequence[int]], states: Collection[int]) -> Quick:
        """Run texts of token ids.

        Args:
            ids: Of each text, at least one.
            states: Hidden states to give the means of; 0 is the embeddings.
        """
        device = self.embeddings.LayerNorm.weight.device
        stretches, start = [], 0
        for length, some in groupby(ids, key=len):
            n = sum(1 for _ in some)
            stretches.append(_Stretch(start, n, length))
            start += n * length
        firsts: list[int] = []
        positions: list[int] = []
        for s in stretches:
            firsts += range(s.start, s.rows.stop, s.length)
            positions += [*range(s.length)] * s.n_texts
        flat = torch.tensor([[token for text in ids for token in text]], device=device)
        x = self.embeddings(input_ids=flat, position_ids=torch.tensor([positions], device=device))[
            0
        ]  # (N, d), all tokens
        first = torch.tensor(firsts, device=device)
        means = {}
        for i, block in enumerate(self.blocks):
            if i in states:
                means[i] = _means(x, stretches)
            if i + 1 < len(self.blocks) or i + 1 in states:
                x = self._layer(x, block, stretches)
            else:
                x = self._layer(x, block, stretches, first)
        if len(self.blocks) in states:
            means[len(self.blocks)] = _means(x, stretches)
            x = x[first]
        head = self.pooler(x[:, None])
        return Quick(self.classifier(head), head, means)

    def _layer(
        self, x: Tensor, block: _Block, stretches: list[_Stretch], first: Tensor | None = None
    ) -> Tensor:
        """(N, d) of all tokens to the same, or to (B, d) of each text's first one."""
        d = x.shape[1]
        asks = x if first is None else x[first]
        if torch.is_grad_enabled() or block.weight is None:  # by each module's masks
            q, k, v = (part(some) for part, some in zip(block.three, (asks, x, x), strict=True))
        elif first is None:
            q, k, v = linear(x, block.weight, block.bias).chunk(3, dim=1)
        else:
            assert block.bias is not None
            q = linear(asks, block.weight[:d], block.bias[:d])
            k, v = linear(x, block.weight[d:], block.bias[d:]).chunk(2, dim=1)
        rows = [s.n_texts * s.length for s in stretches]
        asking = rows if first is None else [s.n_texts for s in stretches]
        parts = []
        # The gradient of slices would be as many tensors of the size of all.
        for s, *three in zip(stretches, q.split(asking), k.split(rows), v.split(rows), strict=True):
            heads = (
                some.view(s.n_texts, -1, self.n_heads, d // self.n_heads).transpose(1, 2)
                for some in three
            )
            parts.append(scaled_dot_product_attention(*heads).transpose(1, 2).reshape(-1, d))
        x = block.norm(block.joined(torch.cat(parts)) + asks)
        y: Tensor = block.last_norm(block.narrow(block.wide(x)) + x)
        return y


def _means(x: Tensor, stretches: list[_Stretch]) -> Tensor:
    x = x.detach()
    return torch.cat([x[s.rows].view(s.n_texts, s.length, -1).mean(dim=1) for s in stretches])


def _block(layer: Any) -> _Block:
    attention = layer.attention.self
    three = (attention.query, attention.key, attention.value)
    weight, bias = _joined(three)
    return _Block(
        three,
        weight,
        bias,
        layer.attention.output.dense,
        layer.attention.output.LayerNorm,
        layer.intermediate,
        layer.output.dense,
        layer.output.LayerNorm,
    )


def _joined(three: Sequence[Any]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    if any(not getattr(part, "merged", isinstance(part, nn.Linear)) for part in three):
        return None, None
    weight = torch.cat([part.weight.detach() for part in three])
    bias = torch.cat([part.bias.detach() for part in three])
    for part, own, shift in zip(three, weight.chunk(3), bias.chunk(3), strict=True):
        if isinstance(part, FusedLoraLinear):  # draws read the same numbers, kept once
            part.weight, part.bias = own, shift
    return weight, bias


def quick_pass(model: nn.Module) -> BertPass | None:
    """The quick way for a model whose LoRA layers are fused; None if there is none.

    Args:
        model: In eval mode, as PEFT wraps it.
    """
    found: Any = next(
        (m for m in model.modules() if type(m) is BertForSequenceClassification), None
    )
    if found is None or not _known(found):
        return None
    quick = BertPass(found)
    # Whatever this file missed shows in the numbers.
    n_words: int = found.config.vocab_size
    texts = [[token % n_words for token in probe] for probe in _PROBES]
    n_states = len(quick.blocks) + 1
    device = quick.embeddings.LayerNorm.weight.device
    rows = [torch.tensor(text, device=device) for text in texts]
    kept = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.inference_mode():
        own = found(
            input_ids=pad_sequence(rows, batch_first=True),
            attention_mask=kept,
            output_hidden_states=True,
        )
        weights = kept / kept.sum(dim=1, keepdim=True)
        for states in (range(n_states), ()):
            got = quick(texts, states)
            pairs = [(got.logits, own.logits)]
            pairs += [
                (mean, torch.einsum("bl,bld->bd", weights.to(mean), own.hidden_states[i]))
                for i, mean in got.means.items()
            ]
            scale = 1e-3 if got.logits.dtype == torch.float32 else 0.1
            if not all(torch.allclose(a, b, rtol=scale, atol=scale) for a, b in pairs):
                logger.warning("the quick pass does not answer as the model does; not used")
                return None
    return quick


def _known(model: BertForSequenceClassification) -> bool:
    """Whether each product is a plain one, of query, key and value with a bias."""
    config = model.config
    if config.is_decoder or config.add_cross_attention or model.bert.pooler is None:
        return False
    if config.max_position_embeddings < max(map(len, _PROBES)):
        return False
    for layer in model.bert.encoder.layer:
        attention = layer.attention
        three = (attention.self.query, attention.self.key, attention.self.value)
        rest = (attention.output.dense, layer.intermediate.dense, layer.output.dense)
        if not all(type(part) in (nn.Linear, FusedLoraLinear) for part in (*three, *rest)):
            return False
        if any(type(part.weight) not in (nn.Parameter, Tensor) for part in three):  # quantized
            return False
        if any(part.bias is None for part in three):
            return False
    return True
