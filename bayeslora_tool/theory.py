"""The adapter's geometry, checkable: what its noise can reach, layer by layer.

For one layer ``y = W x + s B (m * (A x))`` with ``m_j = Bernoulli(1 - p) / (1 - p)`` (BayesLoRA,
arXiv 2506.22809, section 5)::

    Var[y_i] = p / (1 - p) * sum_j (s B_ij)^2 (A x)_j^2                       rank_variance
    sum_i Var[y_i] <= p / (1 - p) * max_j |s B_j|^2 * |A|_2^2 * |x|^2          spectral_bound

so an input with A x = 0 has variance exactly 0 (Proposition 1): its share lies in the null space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.fused import FusedLoraLinear


@dataclass(frozen=True)
class LayerGeometry:
    """One adapted layer.

    Attributes:
        name: Of the module.
        singular_values: (r,), of the update s B A, greatest first.
        effective_rank: exp of the entropy of the normalised singular values, in [1, r] (Roy &
            Vetterli 2007).
        null_dimensions: Share of the input's dimensions that A maps to nothing, in [0, 1].
        null_energy: Mean share of |x|^2 that lies there, over the tokens of given texts: what the
            adapter's noise cannot see of them.
    """

    name: str
    singular_values: tuple[float, ...]
    effective_rank: float
    null_dimensions: float
    null_energy: float


def rank_variance(down: Tensor, up: Tensor, x: Tensor, rate: float) -> Tensor:
    """(..., out) Variance of the layer's output under rank placement; exact.

    Args:
        down: (r, in), A.
        up: (out, r), s B.
        x: (..., in).
        rate: p, in (0, 1).
    """
    variance: Tensor = rate / (1 - rate) * (x @ down.T).square() @ up.square().T
    return variance


def spectral_bound(down: Tensor, up: Tensor, x: Tensor, rate: float) -> Tensor:
    """(...) Bound on the sum of :func:`rank_variance` over the outputs."""
    largest = up.square().sum(dim=0).max() * torch.linalg.matrix_norm(down, 2).square()
    bound: Tensor = rate / (1 - rate) * largest * x.square().sum(dim=-1)
    return bound


def null_energy(down: Tensor, x: Tensor) -> Tensor:
    """(...) Share of |x|^2 in the null space of A, in [0, 1]."""
    basis = torch.linalg.svd(down.double(), full_matrices=False).Vh  # (r, in)
    seen: Tensor = (x.double() @ basis.T).square().sum(dim=-1)
    share: Tensor = seen / x.double().square().sum(dim=-1).clamp(min=1e-30)
    return (1 - share).clamp(0, 1)


def effective_rank(singular_values: Tensor) -> float:
    """Exp of the entropy of the normalised singular values."""
    share = singular_values / singular_values.sum().clamp(min=1e-30)
    return float((-torch.special.xlogy(share, share).sum()).exp())


def inspect_adapter(classifier: BayesLoRAClassifier, texts: Sequence[str]) -> list[LayerGeometry]:
    """The geometry of each adapted layer, on the activations of some texts."""
    energies: dict[str, list[Tensor]] = {}
    layers = {
        module.name: module
        for module in classifier.network.model.modules()
        if isinstance(module, FusedLoraLinear)
    }

    def watch(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        energies.setdefault(name, []).append(null_energy(layers[name].down, inputs[0]).flatten())

    hooks = [m.register_forward_pre_hook(partial(watch, name)) for name, m in layers.items()]
    try:
        classifier.passes(texts)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for name, layer in layers.items():
        rank, width = layer.down.shape
        values = torch.linalg.svdvals((layer.up @ layer.down).double())[:rank]
        reached = int(torch.linalg.matrix_rank(layer.down.double()))
        found.append(
            LayerGeometry(
                name=name,
                singular_values=tuple(values.tolist()),
                effective_rank=effective_rank(values),
                null_dimensions=1 - reached / width,
                null_energy=float(torch.cat(energies[name]).mean()),
            )
        )
    return found
