"""Collects how an output depends on each mask of an adapter, in one pass and its backward pass.

``fused.py`` hands over the derivatives as they come; here they are summed over the tokens that
share a mask, and squared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.linalg import vector_norm

from bayeslora_tool.inference.posterior import (
    AdapterPosterior,
    Calls,
    activate,
    check_places,
    module_of,
)


class Linearization:
    """Collects ``sum_j v_j (df/dm_j)^2`` over all masks, in one pass and its backward pass of f.

    Attributes:
        gradients: df/dm_j by mask, each (B, L, n) or, one mask a text, (B, 1, n); those of masks
            that differ from token to token only if they are kept.
        anchor: Differentiate f by it to start the collection; its own gradient is empty.
    """

    def __init__(
        self,
        posterior: AdapterPosterior,
        n_texts: int,
        device: torch.device,
        noise_variance: Mapping[str, Tensor] | None = None,
        keep: bool = False,
        text_of: Tensor | None = None,
        places: Tensor | None = None,
    ) -> None:
        self.posterior, self.n_texts, self.text_of = posterior, n_texts, text_of
        self.places = places
        self.shared = None if places is None or keep else _shared(places)
        self.n_dense = 0  # layers in a row whose gradient was mostly not 0, see _used()
        self.noise_variance = noise_variance
        self.keep = keep
        self.calls = Calls(posterior.scope)
        self.gradients: dict[str, Tensor] = {}
        self._of_tokens = torch.zeros(n_texts, device=device)
        self.anchor = torch.zeros(0, device=device, requires_grad=True)

    def collect(self, mask: str, gradient: Tensor) -> None:
        """Add one call's share, from the gradient by its mask at every token: (B, ..., n).

        A batch of one text may have any shape (..., n).
        """
        gradient = gradient.float()
        if self.text_of is not None and gradient.shape[:-1] == self.text_of.shape:  # (N, n)
            zeros = gradient.new_zeros(self.n_texts, gradient.shape[-1])
            gradient = zeros.index_add_(0, self.text_of, gradient)
        if self.n_texts > 1 and gradient.shape[0] != self.n_texts:
            raise ValueError(
                f"layer {module_of(mask)} receives {tuple(gradient.shape[:-1])} tokens, where the "
                f"first number should be {self.n_texts}, that of the texts, so which text they are "
                f"of is unknown; run one text at a time"
            )
        gradient = gradient.reshape(self.n_texts, -1, gradient.shape[-1])  # (B, L, n)
        if self.posterior.scope == "token":
            if self.places is not None:
                check_places(self.places, module_of(mask), gradient.shape[1])
            if self.keep and self.places is not None:
                shared = gradient.new_zeros(
                    self.n_texts, int(self.places.max()) + 1, gradient.shape[-1]
                )
                index = self.places[..., None].expand_as(gradient)
                gradient = shared.scatter_add_(1, index, gradient)
            if self.shared is None:
                self._of_tokens += self._variance(mask, gradient)
            else:
                begin, sums = self.shared
                self._of_tokens += self._variance(mask, gradient[:, :begin])
                self._of_tokens += self._variance(mask, sums @ gradient[:, begin:])
            if self.keep:
                self.gradients[mask] = gradient
            return
        gradient = gradient.sum(dim=1, keepdim=True)  # one mask for all tokens
        before = self.gradients.get(mask)  # and for all calls, so they add up before the square
        self.gradients[mask] = gradient if before is None else before + gradient

    @property
    def total(self) -> Tensor:
        """(B,), the first-order variance of f for each text; see ``estimators.linearized``."""
        if self.posterior.scope == "token":
            return self._of_tokens
        shares = (self._variance(mask, gradient) for mask, gradient in self.gradients.items())
        return sum(shares, torch.zeros_like(self._of_tokens))

    def _variance(self, mask: str, gradient: Tensor) -> Tensor:
        if self.noise_variance is None:
            rate = self.posterior.dropout
            # One read, where square and sum take three.
            size: Tensor = vector_norm(gradient, dim=(1, 2))
            return size.square() * (rate / (1 - rate))
        squared = gradient.square().sum(dim=1)  # (B, n)
        return squared @ self.noise_variance[module_of(mask)].to(squared)


@contextmanager
def linearization(
    posterior: AdapterPosterior,
    n_texts: int,
    device: torch.device,
    noise_variance: Mapping[str, Tensor] | None = None,
    keep: bool = False,
    text_of: Tensor | None = None,
    places: Tensor | None = None,
) -> Iterator[Linearization]:
    """Within the context one pass of a fused model records how its output depends on each mask.

    Args:
        posterior: Of the fused model.
        n_texts: Texts in the batch.
        device: Of the model.
        noise_variance: Variance of the multiplicative noise, per module of ``posterior.widths`` a
            tensor (n,) or a scalar broadcast to it; None takes dropout's p / (1 - p) throughout.
        keep: Keep the derivatives by all masks, not only the variance.
        text_of: (N,), the text of each token where texts lie end to end, for masks that a text's
            tokens share; None: they are padded to (B, L).
        places: As for ``AdapterPosterior.draws``.

    Raises:
        ValueError: A module is missing or a tensor does not fit.
    """
    if noise_variance is not None:
        for module, width in posterior.widths.items():
            given = noise_variance.get(module)
            if given is None or given.shape != (width,):
                found = "nothing" if given is None else f"shape {tuple(given.shape)}"
                raise ValueError(
                    f"`noise_variance` holds {found} for {module}; expected a tensor ({width},)"
                )
    noise = Linearization(posterior, n_texts, device, noise_variance, keep, text_of, places)
    with activate(noise), torch.enable_grad():
        yield noise


def _shared(places: Tensor) -> tuple[int, Tensor] | None:
    """From which column on tokens share places, and what sums them by place; None if none does.

    Args:
        places: (B, L); the columns that share a place are the same in all texts.

    Returns:
        The column, and (P, L - column) of 0 and 1.
    """
    longest = places[places.amax(dim=1).argmax()].tolist()  # without padding
    twice = [place for place, n in Counter(longest).items() if n > 1]
    if not twice:
        return None
    begin = longest.index(min(twice))
    behind = longest[begin:]
    sums = [[float(place == one) for place in behind] for one in dict.fromkeys(behind)]
    return begin, torch.tensor(sums, device=places.device)
