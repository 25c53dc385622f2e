"""How sure a language model is of one token: moments over the draws of its adapter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayeslora_tool.inference.estimators import entropy


@dataclass(frozen=True)
class TokenDoubt:
    """A token, and how likely it is behind all that stands before it.

    Attributes:
        token: Its id.
        text: What it adds to the text; nothing while a character is not whole yet.
        probability: In the pass without noise, in [0, 1].
        mean: Over the posterior of the adapter, in [0, 1]; NaN where nothing was drawn, as the
            next two.
        variance: Likewise, in [0, 0.25].
        mutual_information: Between the token and the adapter's weights, in nats, >= 0: of draws
            over the whole vocabulary; linearized, of this token against all others.
        entropy: Of the mean over the vocabulary, in nats; where nothing was drawn, of the pass
            without noise; linearized, of this token against all others.
    """

    token: int
    text: str
    probability: float
    mean: float = math.nan
    variance: float = math.nan
    mutual_information: float = math.nan
    entropy: float = math.nan


def drawn_moments(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and variance (S,) of tokens' probabilities, mutual information and entropy (S,).

    As ``estimators.monte_carlo``, for S places with distributions over the V tokens there are, of
    which one's moments are wanted: a mean and a variance of all of them would fill memory.

    Args:
        logits: (T, S, V) of T draws.
        tokens: (S,).
    """
    mean = torch.zeros(logits.shape[1:], dtype=torch.float64, device=logits.device)
    of_draws = torch.zeros(len(tokens), dtype=torch.float64, device=logits.device)
    chosen = []
    for draw in logits:
        p = draw.double().softmax(dim=-1)
        mean += p / len(logits)
        of_draws += entropy(p) / len(logits)
        chosen.append(p.gather(1, tokens[:, None])[:, 0])
    found = torch.stack(chosen)
    of_mean = entropy(mean)
    # Jensen makes the information >= 0; rounding may not.
    return (
        found.mean(dim=0),
        found.var(dim=0, correction=0),
        (of_mean - of_draws).clamp(min=0),
        of_mean,
    )


def doubts(
    tokens: Sequence[int], texts: Sequence[str], plain: Tensor, drawn: Tensor | None
) -> list[TokenDoubt]:
    """Of S tokens, by logits (S, V) without noise and (T, S, V) of draws."""
    at = torch.tensor(tokens, device=plain.device)
    p = plain.double().softmax(dim=-1)
    probabilities = p.gather(1, at[:, None])[:, 0].tolist()
    if drawn is None:
        rows = zip(tokens, texts, probabilities, entropy(p).tolist(), strict=True)
        return [TokenDoubt(t, text, sure, entropy=nats) for t, text, sure, nats in rows]
    moments = (part.tolist() for part in drawn_moments(drawn, at))
    return [TokenDoubt(*row) for row in zip(tokens, texts, probabilities, *moments, strict=True)]
