"""LoRA layers for inference: the adapter merged into the weight, its noise added beside it.

PEFT computes ``W x + s B A x`` in five steps. Here the deterministic part is one product with
``W' = W + s B A``, and a draw adds what its mask changes (rank placement; input alike)::

    y = W' x + s B ((m - 1) * (A x))

so a pass without noise costs what the bare backbone costs, and one backward pass gives the
derivative by every mask at once (``linearization.py``). Where W must stay what it is, because
other adapters share it or because it is quantized, a draw is ``y = W x + s B (m * (A x))``. Knows
no tokenizer, no task.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import linear

from bayeslora_tool.inference.linearization import Linearization
from bayeslora_tool.inference.posterior import (
    AdapterPosterior,
    FixedDraws,
    active_noise,
)


def fuse(model: nn.Module, posterior: AdapterPosterior, *, merge: bool = True) -> None:
    """Replace, in place, each LoRA layer under ``posterior`` by a :class:`FusedLoraLinear`.

    Args:
        model: That holds the layers.
        posterior: Attached to it.
        merge: Whether the weights may change; those of a quantized layer never do.

    The model then serves inference only: it computes the same numbers (up to float rounding) in
    fewer operations, and what would save or switch its adapter raises a RuntimeError: PEFT would
    switch, or save, the head alone.
    """
    use_differentiable_kernels(model)
    for name in posterior.widths:
        layer = FusedLoraLinear(name, model.get_submodule(name), posterior, merge=merge)
        model.set_submodule(name, layer)
    for module in model.modules():
        for method in _OF_PEFT:
            if hasattr(type(module), method):
                setattr(module, method, partial(_refuse, method))
    model.requires_grad_(False)


def use_differentiable_kernels(model: nn.Module) -> None:
    """Have bitsandbytes' layers compute as they do in training; they know no dropout.

    Its kernels for eval mode have no derivative (4 bits on a CPU), or round what they read by all
    that shares a batch (8 bits).

    Raises:
        ValueError: A weight has been packed for such a kernel already.
    """
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")  # PEFT's layers pass on that of their base
        if not (hasattr(weight, "quant_state") or hasattr(weight, "has_fp16_weights")):
            continue
        if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
            raise ValueError(
                f"layer {name} was run in eval mode, which packs its 4 bits for a kernel without "
                f"derivatives; hand over a model that has not been run since it was loaded"
            )
        # That it reads half precision it would say at every call.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        module.train()


# Methods of PEFT's models, wrappers and of transformers that count on layers which are gone.
_OF_PEFT = (
    "add_adapter",
    "add_weighted_adapter",
    "delete_adapter",
    "disable_adapter",
    "disable_adapter_layers",
    "enable_adapter_layers",
    "enable_adapters",
    "load_adapter",
    "merge_adapter",
    "merge_and_unload",
    "push_to_hub",
    "save_pretrained",
    "set_adapter",
    "unload",
    "unmerge_adapter",
)


def _refuse(method: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError(
        f"{method}: this model is fused for inference (by BayesLoRAClassifier), so its adapter can "
        f"be neither switched nor saved; do that before, or with a model loaded anew"
    )


class FusedLoraLinear(nn.Module):
    """One LoRA layer of a frozen model."""

    weight: Tensor | None  # (out, in), W or W + s B A; None where `frozen` has a W of its own kind
    down: Tensor  # (r, in), A
    up: Tensor  # (out, r), s B
    bias: Tensor | None

    def __init__(
        self, name: str, layer: Any, posterior: AdapterPosterior, *, merge: bool = True
    ) -> None:
        super().__init__()
        self.name, self.posterior = name, posterior
        adapter, base = layer.active_adapters[0], layer.get_base_layer()
        plain = base.weight.is_floating_point() and type(base.weight) is nn.Parameter
        self.merged = merge and plain
        self.frozen = None if plain else base
        down = layer.lora_A[adapter].weight.detach()
        up = layer.lora_B[adapter].weight.detach().float() * layer.scaling[adapter]
        weight, bias = None, None
        extra = layer.lora_B[adapter].bias
        if extra is not None:
            bias = extra.detach() * layer.scaling[adapter]
        if plain:
            weight = base.weight.detach()
            weight = weight.T if layer.fan_in_fan_out else weight
            if base.bias is not None:
                bias = base.bias.detach() if bias is None else base.bias.detach() + bias
            if merge:
                weight = (weight.float() + up @ down.float()).to(weight.dtype).contiguous()
        dtype = down.dtype if weight is None else weight.dtype
        self.register_buffer("weight", weight)
        self.register_buffer("down", down.to(dtype))
        self.register_buffer("up", up.to(dtype))
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _refuse("state_dict")

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        _refuse("load_state_dict")

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), with the noise of the context it is called in."""
        noise = active_noise(self.posterior)
        if isinstance(noise, FixedDraws):
            return self._draw(x, noise)
        if noise is not None:
            return linearized(self, x, [(self, len(x))])
        return self.product(x) if self.merged else self.adapt(self.product(x), x)

    def product(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), by the weight and the bias alone."""
        if self.frozen is None:
            assert self.weight is not None
            return linear(x, self.weight, self.bias)
        y: Tensor = self.frozen(x)
        return y if self.bias is None else y + self.bias

    def adapt(self, y: Tensor, x: Tensor) -> Tensor:
        """Add to the product of a weight without the adapter what the adapter does.

        Args:
            y: (..., out), changed in place.
            x: (..., in).
        """
        return self.add(y, self.reduced(x))

    def _draw(self, x: Tensor, noise: FixedDraws) -> Tensor:
        # No mask has touched the first layer's input yet, nor that of layers which read the very
        # same tensor (query, key and value): its rows repeat, so one draw's rows stand for all.
        if noise.clean is None:
            noise.clean = x
        draws = len(noise.draws)
        shared = draws if x is noise.clean and len(x) == draws * noise.n_texts else 1
        return self.add(
            _repeat(self.product(x[: len(x) // shared]), shared), self._noisy(x, noise, shared)
        )

    def _noisy(self, x: Tensor, noise: FixedDraws, shared: int = 1) -> Tensor:
        """(..., r), what the masks let through; of a merged adapter, what they change."""
        if self.posterior.placement == "input":
            noisy = noise.perturb(self.name, x)
            return self.reduced(noisy - x if self.merged else noisy)
        h = _repeat(self.reduced(x[: len(x) // shared]), shared)
        noisy = noise.perturb(self.name, h)
        return noisy - h if self.merged else noisy

    def reduced(self, x: Tensor) -> Tensor:
        """``A x``, (..., in) to (..., r)."""
        return linear(x.to(self.down.dtype), self.down)

    def add(self, y: Tensor, h: Tensor) -> Tensor:
        """``y + s B h``, in place."""
        rows = y.view(-1, y.shape[-1])  # never a copy
        rows.addmm_(h.flatten(0, -2).to(y.dtype), self.up.T.to(y.dtype))
        return y


def _repeat(x: Tensor, times: int) -> Tensor:
    return x if times == 1 else x.repeat(times, *[1] * (x.dim() - 1))


def linearized(
    frozen: FusedLoraLinear, x: Tensor, parts: Sequence[tuple[FusedLoraLinear | None, int]]
) -> Tensor:
    """A product and what adapters add to it, each to its rows; derivatives by masks are collected.

    Args:
        frozen: Whose weight and bias; it may be merged if it is the one part, too.
        x: (rows, ..., in).
        parts: Layers with the same weight, each active in a :class:`Linearization`, or None where
            no adapter is, and how many of the rows are theirs, in order.
    """
    shape = x.shape[:-1]
    x = x.flatten(0, -2)
    inner = len(x) // shape[0]
    active, start = [], 0
    for layer, n in parts:
        if layer is not None:
            noise = active_noise(layer.posterior)
            assert isinstance(noise, Linearization)
            rows = slice(inner * start, inner * (start + n))
            mask = noise.calls.mask(layer.name)
            active.append(_Active(layer, noise, mask, rows, torch.Size((n, *shape[1:]))))
        start += n
    anchors = [part.noise.anchor for part in active]
    # What comes out of it must be no view: some models change it in place.
    y: Tensor = _Linearized.apply(x, frozen, active, *anchors)  # type: ignore[no-untyped-call]
    if frozen.frozen is not None:  # a product of its own kind, which autograd knows
        y = frozen.product(x) + y.to(x.dtype)
    return y.view(*shape, -1)


class _Active(NamedTuple):
    """A layer in a linearized pass, and the rows that it reads, flattened and in shape."""

    layer: FusedLoraLinear
    noise: Linearization
    mask: str
    rows: slice
    shape: torch.Size


class _Linearized(torch.autograd.Function):
    """See :func:`linearized`; its backward hands the gradients by the masks to the collectors."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: FusedLoraLinear, parts: list[_Active], *anchors: Tensor
    ) -> Tensor:
        if frozen.frozen is None:
            y = frozen.product(x)
        else:
            y = torch.zeros(len(x), len(frozen.up), dtype=frozen.up.dtype, device=x.device)
        kept = []
        for part in parts:
            layer, own = part.layer, x[part.rows]
            rank = layer.posterior.placement == "rank"
            h = layer.reduced(own) if rank or not layer.merged else own
            if not layer.merged:
                layer.add(y[part.rows], h)
            kept.append(h if rank else own)
        ctx.save_for_backward(*kept)
        ctx.frozen, ctx.parts, ctx.dtype = frozen, parts, x.dtype
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), frozen = gradients, ctx.frozen
        # In a batch of several adapters' texts it may be that none of theirs is on this layer.
        used = _used(gradient, ctx.parts[0].noise) if ctx.parts else None
        on = None
        if ctx.needs_input_grad[0]:
            if frozen.frozen is None:
                on = _product(gradient, used, frozen.weight)
            else:
                on = gradient.new_zeros(len(gradient), frozen.down.shape[1])
        for part, h in zip(ctx.parts, ctx.saved_tensors, strict=True):
            layer, own = part.layer, gradient[part.rows]
            start, stop = part.rows.start, part.rows.stop
            theirs = used
            if used is not None and len(own) < len(gradient):
                theirs = used[(start <= used) & (used < stop)] - start
            by_rank = _product(own, theirs, layer.up)  # (N, r)
            rank = layer.posterior.placement == "rank"
            by_mask = by_rank * h if rank else (by_rank @ layer.down).mul_(h)
            part.noise.collect(part.mask, by_mask.view(*part.shape, -1))
            if on is not None and not layer.merged:
                on[part.rows].addmm_(by_rank, layer.down)
        return (None if on is None else on.to(ctx.dtype), *[None] * (2 + len(ctx.parts)))


def _used(gradient: Tensor, noise: Linearization) -> Tensor | None:
    """The rows of a gradient (N, n) that are not 0, or None where most are not.

    A head that reads one token of each text leaves the others no gradient in the last layer. Behind
    it, on the way back, all have one, and nobody looks any more.
    """
    if gradient.device.type != "cpu":  # to count them, the processor would wait for the device
        return None
    if noise.n_dense > 2:  # query, key and value of one layer may come in any order
        return None
    used = vector_norm(gradient, dim=1).nonzero()[:, 0]  # any() is slower
    dense = 2 * len(used) > len(gradient)
    noise.n_dense = noise.n_dense + 1 if dense else 0
    return None if dense else used


def _product(x: Tensor, used: Tensor | None, weight: Tensor) -> Tensor:
    """``x @ weight``, where all rows of x (N, n) but the ``used`` ones are 0."""
    if used is None:
        return x @ weight
    y = x.new_zeros(len(x), weight.shape[1])
    y[used] = x[used] @ weight
    return y
