"""A text that grows, as a model reads it on: each token once, in passes that keep what was read."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from bayeslora_tool.inference.network import Network

TOKENS_AT_ONCE = 2048  # draws x tokens of one pass
LOGITS_AT_ONCE = 2**24  # numbers: draws x tokens x vocabulary


class Continuation:
    """One text under the draws of an adapter, or without noise; grows by :meth:`feed`.

    Each draw keeps keys and values of its own: the noise changes them from the first layer on, so
    no draw can share another's.

    Args:
        network: Of a causal language model.
        draws: Which, for example ``range(20)``; None reads without noise.
        seed: Of the draws.
    """

    def __init__(self, network: Network, draws: range | None = None, seed: int = 0) -> None:
        self.network, self.seed, self.n_read = network, seed, 0
        together = [draws]
        if draws is not None and network.apart:  # a layer that cannot tell whose row is whose
            together = [range(t, t + 1) for t in draws]
        self._draws: list[range | None] = together
        self._kept: list[Any] = [None] * len(together)
        base = network.model.get_base_model()
        self._few = "logits_to_keep" in inspect.signature(base.forward).parameters
        rows = 1 if draws is None else len(draws)
        vocabulary = int(base.config.get_text_config().vocab_size)
        self._at_once = max(1, TOKENS_AT_ONCE // rows)
        # Tokens whose logits may be asked for at once.
        self.most = max(1, min(self._at_once, LOGITS_AT_ONCE // (rows * vocabulary)))

    def read(self, ids: Sequence[int]) -> Tensor:
        """Logits (T, V) of what follows, behind as many tokens as there are.

        Args:
            ids: One or more.
        """
        for start in range(0, len(ids), self._at_once):
            logits = self.feed(ids[start : start + self._at_once], 1)
        return logits[:, 0]

    def feed(self, ids: Sequence[int], n_last: int) -> Tensor:
        """Logits (T, n_last, V) of what follows each of the last tokens; T is 1 without noise.

        Args:
            ids: The next tokens.
            n_last: At most ``most``, and at most as many as there are.
        """
        device = self.network.device
        places = torch.arange(self.n_read, self.n_read + len(ids), device=device)[None]
        posterior, parts = self.network.posterior, []
        for i, draws in enumerate(self._draws):
            rows = 1 if draws is None else len(draws)
            noise: Any = nullcontext()
            if draws is not None:
                noise = posterior.draws(
                    self.seed, draws, 1, places=places if posterior.scope == "token" else None
                )
            with torch.inference_mode(), noise:
                output = self.network.model(
                    input_ids=torch.tensor([list(ids)] * rows, device=device),
                    position_ids=places.expand(rows, -1),
                    past_key_values=self._kept[i],
                    use_cache=True,
                    **({"logits_to_keep": n_last} if self._few else {}),
                )
            self._kept[i] = output.past_key_values
            parts.append(output.logits[:, -n_last:].float())
        self.n_read += len(ids)
        return torch.cat(parts)
