"""The adapter's geometry, checkable: what its noise can reach, layer by layer.

For one layer ``y = W x + s B (m * (A x))`` with ``m_j = Bernoulli(1 - p) / (1 - p)`` (BayesLoRA,
arXiv 2506.22809, section 5)::

    Var[y_i] = p / (1 - p) * sum_j (s B_ij)^2 (A x)_j^2                       rank_variance
    sum_i Var[y_i] <= p / (1 - p) * max_j |s B_j|^2 * |A|_2^2 * |x|^2          spectral_bound

so an input with A x = 0 has variance exactly 0 (Proposition 1): its share lies in the null space.
Under input placement the same formulas hold with I for A and B A for B; Proposition 1 does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.inference.fused import FusedLoraLinear

_DRAWS = 1000  # of one layer, whose output's variance they give within 3 % or so
_TOKENS = 8


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
        sampled: Variance of the layer's output over draws of its noise, over what
            :func:`rank_variance` says; 1 if the formula holds, up to a few percent of chance.
        bound: Greatest share of :func:`spectral_bound` that a token's variance reaches, in [0, 1].
        null_variance: Sampled variance of what of the input lies in the null space, over that of
            the whole input; 0 up to rounding under rank placement (Proposition 1).
    """

    name: str
    singular_values: tuple[float, ...]
    effective_rank: float
    null_dimensions: float
    null_energy: float
    sampled: float
    bound: float
    null_variance: float


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
    total = x.double().square().sum(dim=-1).clamp(min=1e-30)
    share: Tensor = null_part(down, x).square().sum(dim=-1) / total
    return share.clamp(0, 1)


def null_part(down: Tensor, x: Tensor) -> Tensor:
    """(..., in) The part of x that A maps to nothing, in float64."""
    basis = torch.linalg.svd(down.double(), full_matrices=False).Vh  # (r, in)
    part: Tensor = x.double() - x.double() @ basis.T @ basis
    return part


def effective_rank(singular_values: Tensor) -> float:
    """Exp of the entropy of the normalised singular values."""
    share = singular_values / singular_values.sum().clamp(min=1e-30)
    return float((-torch.special.xlogy(share, share).sum()).exp())


def inspect_adapter(classifier: BayesLoRAClassifier, texts: Sequence[str]) -> list[LayerGeometry]:
    """The geometry of each adapted layer, on the activations of some texts."""
    energies: dict[str, list[Tensor]] = {}
    checks: dict[str, tuple[float, float, float]] = {}
    layers = {
        module.name: module
        for module in classifier.network.model.modules()
        if isinstance(module, FusedLoraLinear)
    }

    def watch(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        energies.setdefault(name, []).append(null_energy(layers[name].down, inputs[0]).flatten())
        if name not in checks:
            checks[name] = _check_formulas(layers[name], inputs[0][:1])

    hooks = [m.register_forward_pre_hook(partial(watch, name)) for name, m in layers.items()]
    network = classifier.network
    quick, network.quick = network.quick, None  # which passes by the modules
    try:
        classifier.passes(texts)
    finally:
        network.quick = quick
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
                sampled=checks[name][0],
                bound=checks[name][1],
                null_variance=checks[name][2],
            )
        )
    return found


def _check_formulas(layer: FusedLoraLinear, x: Tensor) -> tuple[float, float, float]:
    """``sampled``, ``bound`` and ``null_variance`` of :class:`LayerGeometry`, on x alone."""
    posterior = layer.posterior
    x = x[:, :_TOKENS] if x.dim() > 2 else x  # a pooler reads one token
    down, up = layer.down, layer.up
    if posterior.placement == "input":
        down, up = torch.eye(down.shape[1], dtype=down.dtype, device=down.device), up @ down

    def variance(x: Tensor) -> Tensor:
        with posterior.draws(0, range(_DRAWS), len(x)):
            y = layer.forward(x.repeat(_DRAWS, *[1] * (x.dim() - 1)))
        return y.reshape(_DRAWS, *x.shape[:-1], -1).var(dim=0).sum(dim=-1)

    formula = rank_variance(down, up, x, posterior.dropout).sum(dim=-1)
    bound = spectral_bound(down, up, x, posterior.dropout)
    sampled, unseen = variance(x), variance(null_part(layer.down, x).to(x.dtype))
    return (
        float(sampled.sum() / formula.sum()),
        float((formula / bound).max()),
        float(unseen.sum() / sampled.sum()),
    )
