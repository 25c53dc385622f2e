"""Where randomness enters the adapter. Draws masks; knows no tokenizer, no task, no batch order.

A LoRA layer computes ``W x + s B A x``. Dropout on it, kept on at inference, makes every pass a
draw from an approximate posterior over the adapter's weights (Gal & Ghahramani 2016; BayesLoRA,
arXiv 2506.22809, section 5)::

    placement "rank"    W x + s B (m * (A x))      m: r numbers
    placement "input"   W x + s B (A (m * x))      m: d_in numbers, as PEFT's ``lora_dropout``
    m_j = Bernoulli(1 - p) / (1 - p)

Scope "sequence" uses one mask for all tokens of a text, so a draw is one weight matrix,
``W + s B diag(m) A``; scope "token" takes a fresh mask at each position, as PEFT does in training.
A module that is called several times in a pass keeps its mask under "sequence", as it keeps its
weights, and takes a fresh one at each call under "token".

The model stays in eval mode throughout and PEFT's own forward is untouched: hooks on each
``lora_A`` read a context variable, so a pass in one thread never changes a pass in another. A mask
is a function of (seed, draw, module, channel[, call, position]) alone, never of the global random
state.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from bayeslora_tool.artifacts.manifest import PosteriorRecord
from bayeslora_tool.inference.lora_layers import check_layers, check_rate

Placement = Literal["rank", "input"]
Scope = Literal["sequence", "token"]


class _Noise(Protocol):
    posterior: AdapterPosterior


class Calls:
    """Names the mask of each call of a module in one pass."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._seen: Counter[str] = Counter()

    def mask(self, module: str) -> str:
        """Of the call that begins."""
        if self.scope == "sequence":
            return module
        self._seen[module] += 1
        return module if self._seen[module] == 1 else f"{module}#{self._seen[module]}"


def module_of(mask: str) -> str:
    """The module whose calls take a mask."""
    return mask.partition("#")[0]


# Of several posteriors at once where adapters share a pass; the latest first.
_ACTIVE: ContextVar[tuple[_Noise, ...]] = ContextVar("bayeslora_noise", default=())


def active_noise(posterior: AdapterPosterior) -> _Noise | None:
    """The noise of ``posterior`` in the pass under way, if there is any."""
    return next((noise for noise in _ACTIVE.get() if noise.posterior is posterior), None)


@contextmanager
def activate(noise: _Noise) -> Iterator[None]:
    """Within the context, passes in this thread or task carry ``noise``."""
    token = _ACTIVE.set((noise, *_ACTIVE.get()))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


class AdapterPosterior:
    """Dropout posterior over the weights of a model's one active LoRA adapter.

    Args:
        model: A PEFT model (or any module that holds PEFT LoRA layers) with LoRA on Linear layers.
        placement: Where the mask sits, see the module docstring.
        scope: One mask a text, or one a token.
        dropout: Rate p in (0, 1); None reads the adapter's own ``lora_dropout``.

    Raises:
        ValueError: The adapter has no LoRA layer, is merged or switched off, has several active
            adapters, bypasses ``lora_A`` (DoRA and other variants, embeddings, convolutions), or
            has rate 0 and no ``dropout`` was given. The message says what to do.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        placement: Placement = "rank",
        scope: Scope = "sequence",
        dropout: float | None = None,
    ) -> None:
        if placement not in get_args(Placement):
            raise ValueError(f"`placement` (={placement!r}) must be one of {get_args(Placement)}")
        if scope not in get_args(Scope):
            raise ValueError(f"`scope` (={scope!r}) must be one of {get_args(Scope)}")
        layers = check_layers(model)
        self.placement: Placement = placement
        self.scope: Scope = scope
        self.dropout = check_rate(layers, dropout)
        self.widths: dict[str, int] = {}
        for name, layer in layers.items():
            lora_a = layer.lora_A[layer.active_adapters[0]]
            if placement == "rank":
                self.widths[name] = lora_a.out_features
                lora_a.register_forward_hook(partial(self._after, name))
            else:
                self.widths[name] = lora_a.in_features
                lora_a.register_forward_pre_hook(partial(self._before, name))
        # 8 sets of (seed, draws): enough for the passes of a few predict() calls at once.
        self._sequence_masks = lru_cache(maxsize=8 * len(layers))(self._draw_masks)

    def _after(self, name: str, module: nn.Module, args: tuple[Any, ...], h: Tensor) -> Tensor:
        noise = active_noise(self)
        return h if noise is None else noise.perturb(name, h)  # type: ignore[attr-defined]

    def _before(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._after(name, module, args, args[0]), *args[1:])

    @contextmanager
    def draws(
        self,
        seed: int,
        draws: range,
        n_texts: int,
        part: float = 1.0,
        places: Tensor | None = None,
    ) -> Iterator[None]:
        """Within the context one forward pass computes several draws at once.

        The batch must hold ``len(draws) * n_texts`` rows, draw by draw: row ``t * n_texts + b`` is
        text b under draw ``draws[t]``. Masks are shared by all texts: draw t is one fixed
        sub-network, whatever it is asked about.

        Args:
            seed: In [0, 2**64).
            draws: Indices of the draws, for example ``range(20)``.
            n_texts: Texts in the batch.
            part: How far to go from no noise to the masks: they become ``1 + part * (m - 1)``.
            places: (n_texts, L), which position's mask each token takes under scope "token"; None:
                that of its column.
        """
        with activate(FixedDraws(self, seed, draws, n_texts, part, places)):
            yield

    @contextmanager
    def training_noise(
        self, n_texts: int, common: Collection[str] = (), places: Tensor | None = None
    ) -> Iterator[None]:
        """Within the context, in one pass, each text gets fresh masks from torch's generator.

        Args:
            n_texts: Texts in the batch.
            common: Layers whose mask all texts share, from :meth:`layers_in_common`.
            places: (B, L), where each token stands in its text: under scope "token" those at the
                same place share a mask. None: each has its own.
        """
        with activate(_FreshNoise(self, n_texts, common, places)):
            yield

    def layers_in_common(self, run: Callable[[int], object]) -> set[str]:
        """Layers that receive something else than a row a text: their rows are nobody's.

        Args:
            run: Passes a batch of so many texts through the model, of three tokens or more.
        """
        seen = _Rows(self)
        with activate(seen), torch.no_grad():
            run(2)
        return {module for module, rows in seen.rows.items() if rows != {2}}

    def project(self, gradients: Mapping[str, Tensor], seed: int, draws: range) -> Tensor:
        """What draws change to first order: ``sum_j (df/dm_j) (m_j - 1)``, (T, B).

        Args:
            gradients: From ``linearization.Linearization``.
            seed: As for :meth:`draws`, with the same masks.
            draws: Indices of the draws.
        """
        total = torch.zeros(())
        for mask, gradient in gradients.items():  # (B, L, n)
            if self.scope == "sequence":
                drawn = self._sequence_masks(mask, seed, draws, gradient.device)[:, None]
            else:
                drawn = self._stack(mask, seed, draws, gradient.shape[1], gradient.device)
            total = total + torch.einsum("tln,bln->tb", drawn - 1, gradient).cpu().double()
        return total

    def _draw_masks(self, mask: str, seed: int, draws: range, device: torch.device) -> Tensor:
        return self._stack(mask, seed, draws, 1, device)[:, 0]  # (T, n)

    def _stack(
        self, mask: str, seed: int, draws: range, length: int, device: torch.device, first: int = 0
    ) -> Tensor:
        """Masks of one name: (T, length, n), from position ``first`` on; more only append."""
        key = int.from_bytes(hashlib.blake2b(mask.encode(), digest_size=8).digest(), "little")
        threshold = np.uint64(round(self.dropout * 2**64))
        n = self.widths[module_of(mask)]
        keep = np.empty((len(draws), length, n), dtype=np.float32)
        for row, t in enumerate(draws):
            # Philox is counter-based: the draw index in the counter's top word gives each draw
            # its own stream of 2**192 numbers, and raw output is stable across NumPy releases.
            bits = np.random.Philox(key=[seed, key], counter=[0, 0, 0, t])
            bits.advance(first * n // 4)  # each count gives four numbers
            drawn = bits.random_raw(first * n % 4 + length * n)[first * n % 4 :]
            keep[row] = (drawn >= threshold).reshape(length, n)
        return torch.from_numpy(keep).to(device) / (1 - self.dropout)


class FixedDraws:
    """The masks of given draws, the same for every text, in one pass."""

    def __init__(
        self,
        posterior: AdapterPosterior,
        seed: int,
        draws: range,
        n_texts: int,
        part: float = 1.0,
        places: Tensor | None = None,
    ) -> None:
        self.posterior, self.seed, self.draws, self.n_texts = posterior, seed, draws, n_texts
        self.part, self.places = part, places
        self.calls = Calls(posterior.scope)
        self.clean: Tensor | None = None  # the input that no mask has touched, see fused.py

    def perturb(self, module: str, h: Tensor) -> Tensor:
        """Multiply ``h`` (T * B, ..., n), what the module masks, by its masks.

        One draw of masks that all tokens share, or of one text, may have any shape (..., n).
        """
        t, n = len(self.draws), h.shape[-1]
        name = self.calls.mask(module)
        sequence = self.posterior.scope == "sequence"
        # Then it is no question whose row is whose.
        one = t == 1 and (sequence or self.n_texts == 1)
        if not one and h.shape[0] != t * self.n_texts:
            raise ValueError(
                f"layer {module} receives {tuple(h.shape)}, where the first number should be "
                f"{t * self.n_texts}, {t} draws of {self.n_texts} texts, so which mask is whose "
                f"is unknown; run one draw of one text at a time"
            )
        rows = 1 if one else len(h)
        positions = h.numel() // (rows * n)
        if sequence:
            mask = self.posterior._sequence_masks(name, self.seed, self.draws, h.device)[:, None]
        elif self.places is not None:
            check_places(self.places, module, positions)
            first, last = (int(place) for place in self.places.aminmax())
            mask = self.posterior._stack(
                name, self.seed, self.draws, last + 1 - first, h.device, first
            )
            mask = mask[:, self.places - first]  # (T, B, positions, n)
        else:
            mask = self.posterior._stack(name, self.seed, self.draws, positions, h.device)
        if self.part != 1:
            mask = 1 + self.part * (mask - 1)
        if mask.dim() == 3:
            mask = mask[:, None]  # (T, 1, 1 or positions, n)
        mask = mask.to(h.dtype)
        return (h.reshape(t, -1, positions, n) * mask).reshape(h.shape)


class NoAdapter(FixedDraws):
    """Masks of zero: the pass under way is the backbone's alone."""

    def __init__(self, posterior: AdapterPosterior) -> None:
        super().__init__(posterior, 0, range(1), 1)

    def perturb(self, module: str, h: Tensor) -> Tensor:
        """Nothing of the adapter's part."""
        return torch.zeros_like(h)


def posterior_of(
    model: nn.Module,
    record: PosteriorRecord | None,
    *,
    placement: Placement | None = None,
    scope: Scope | None = None,
    dropout: float | None = None,
) -> AdapterPosterior:
    """The posterior that an adapter was trained with, but for what is named.

    Args:
        model: See :class:`AdapterPosterior`, also for what it raises.
        record: Of the training; None: PEFT's own, which masks inputs, token by token.
        placement: Instead of the recorded one, as the next two.
        scope: See above.
        dropout: See above.
    """
    return AdapterPosterior(
        model,
        placement=placement or (record.placement if record else "input"),
        scope=scope or (record.scope if record else "token"),
        dropout=dropout if dropout is not None or not record else record.dropout,
    )


def check_places(places: Tensor, module: str, positions: int) -> None:
    """See that a layer reads as many tokens of a text as there are places (B, L) of them.

    Raises:
        ValueError: It does not.
    """
    if places.shape[1] != positions:
        raise ValueError(
            f"layer {module} receives {positions} of a text's {places.shape[1]} tokens, so which "
            f"mask is whose is unknown; leave it out of target_modules, or take scope='sequence', "
            f"where all tokens share one"
        )


class _Rows:
    """No noise, but an eye on how many rows each layer receives in a pass."""

    def __init__(self, posterior: AdapterPosterior) -> None:
        self.posterior = posterior
        self.rows: dict[str, set[int]] = {}

    def perturb(self, module: str, h: Tensor) -> Tensor:
        self.rows.setdefault(module, set()).add(h.shape[0])
        return h


class _FreshNoise:
    """New masks for each text (or token) of a training batch, in one pass.

    Under scope "sequence" a mask makes one weight matrix of the layer. Where the layer's rows are
    those of no text (relative positions that all texts share, tokens of all texts in one row, or
    tokens first and texts second), no row can have its text's matrix, so all texts share one. Each
    text still meets a draw from the posterior that inference uses, and the gradient has the same
    mean; it only varies more from step to step.
    """

    def __init__(
        self,
        posterior: AdapterPosterior,
        n_texts: int,
        common: Collection[str] = (),
        places: Tensor | None = None,
    ) -> None:
        self.posterior, self.n_texts, self.common = posterior, n_texts, common
        self.places = places
        self._masks: dict[str, Tensor] = {}

    def perturb(self, module: str, h: Tensor) -> Tensor:
        rate, n = self.posterior.dropout, h.shape[-1]
        if self.posterior.scope == "token":
            if self.places is None:
                return nn.functional.dropout(h, rate)
            check_places(self.places, module, h.numel() // (self.n_texts * n))
            longest = int(self.places.max()) + 1
            masks = nn.functional.dropout(h.new_ones(self.n_texts, longest, n), rate)
            texts = torch.arange(self.n_texts, device=h.device)[:, None]
            mask = masks[texts, self.places.to(h.device)]  # (B, L, n)
            return (h.reshape(mask.shape) * mask).reshape(h.shape)
        rows = 1 if module in self.common else self.n_texts
        if rows != 1 and h.shape[0] != rows:
            raise ValueError(
                f"layer {module} receives {tuple(h.shape)}, where the first number should be "
                f"{rows}, that of the texts, so no text can have a mask of its own; name it in "
                f"`common`, see layers_in_common()"
            )
        if module not in self._masks:  # (B or 1, 1, n); each call of it has the same weights
            self._masks[module] = nn.functional.dropout(h.new_ones(rows, 1, n), rate)
        return (h.reshape(rows, -1, n) * self._masks[module]).reshape(h.shape)
