"""Builds a network and holds it against its own model, whatever the architecture.

What this package computes in fewer operations rests on how a model uses its layers. That a model
does so is not believed but tried, on two texts: alone they must come out as in a batch, with the
adapter merged as without, and the derivatives by the masks must be what moving the masks does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from bayeslora_tool.artifacts.manifest import SelfCheck
from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.estimators import log_odds
from bayeslora_tool.inference.fused import use_differentiable_kernels
from bayeslora_tool.inference.network import (
    ClassificationHead,
    Head,
    Linearized,
    Network,
    Reader,
    precision_of,
)
from bayeslora_tool.inference.posterior import AdapterPosterior

# Short, as loading waits for them, and of two lengths, so that one is padded.
TEXTS = ("no", "so so")
# How far of the way to the masks: a strong adapter is straight over a short way only, and over that
# one rounding hides what a weak one does. Shorter yet where log-odds deviate by more than _STRONG.
_PARTS = (0.03, 0.003)
_SHORTEST = 0.0003  # where log-odds deviate enough to show beside rounding even so
_STRONG = 10.0
_DRAWS = range(1)
_SLOPES = 0.1  # what a way that is not quite straight may leave


def checked_network(
    model: Any,
    posterior: AdapterPosterior,
    encoder: Reader,
    recorded: SelfCheck | None = None,
    *,
    head: Head | None = None,
    merge: bool = True,
) -> tuple[Network, SelfCheck]:
    """The network of a model, found to compute what the model does.

    Args:
        model: PEFT model; fused in place.
        posterior: Attached to ``model``.
        encoder: Makes the batches.
        recorded: What was found of the very same files; stands if it holds for what runs here.
        head: See :class:`Network`.
        merge: Whether the frozen weights may change.

    Raises:
        ValueError: The ways to compute something differ, so no number could be trusted. The message
            names the architecture.
    """
    under = _conditions(model, posterior, merge=merge)
    if recorded is not None and recorded.under == under:
        network = Network(model, posterior, encoder, head=head, merge=merge, apart=recorded.apart)
        return network, recorded
    start = time.perf_counter()
    texts = sorted(encoder.encode(TEXTS), key=lambda text: len(text.ids))
    use_differentiable_kernels(model.eval())
    head = head or ClassificationHead()
    (before, labels), apart = _as_it_is(model, posterior, encoder, texts, head)
    seconds = time.perf_counter() - start
    network = Network(model, posterior, encoder, head=head, merge=merge, apart=apart)
    start = time.perf_counter()
    name = type(model.get_base_model()).__name__
    exact = network.exact
    rounding = 1e-3 if exact else 0.1
    batch, alone = network.linearize(texts, keep=True), network.deterministic(texts[:1])
    size = max(1.0, float(before.abs().max()))
    merged = float((batch.passed.logits[:, labels] - before).abs().max()) / size
    _demand(merged, rounding, name, "logits with the adapter merged", "without")
    alone_by = float((batch.passed.logits[:1] - alone.logits).abs().max()) / size
    _demand(alone_by, rounding, name, "logits of a text alone", "in a batch")
    slopes = None
    if exact:
        slopes = _slopes(network, texts, batch, size)
        _demand(slopes, _SLOPES, name, "log-odds by the derivatives", "by moving the masks")
    seconds += time.perf_counter() - start
    found = SelfCheck(
        alone=alone_by, merged=merged, slopes=slopes, apart=apart, seconds=seconds, under=under
    )
    return network, found


def _conditions(model: Any, posterior: AdapterPosterior, *, merge: bool = True) -> str:
    """All that the outcome depends on besides the files."""
    # Builds of one version differ by the device, which is told by itself.
    packages = ("torch", "transformers", "peft")
    versions = (f"{name} {version(name).partition('+')[0]}" for name in packages)
    device = next(model.parameters()).device.type
    noise = f"{posterior.placement} {posterior.scope} p={posterior.dropout:g}"
    way = [] if merge else ["not merged"]
    return ", ".join([*versions, device, precision_of(model), noise, *way])


def _as_it_is(
    model: Any,
    posterior: AdapterPosterior,
    encoder: Reader,
    texts: Sequence[Encoded],
    head: Head,
) -> tuple[tuple[Tensor, list[int]], bool]:
    """Logits before the model is fused, of which labels, and whether layers read other rows."""
    rows: dict[str, set[int]] = {name: set() for name in posterior.widths}
    given: set[int] = set()

    def see(name: str) -> Callable[..., None]:
        return lambda module, inputs: rows[name].add(inputs[0].shape[0])

    hooks = [model.get_submodule(name).register_forward_pre_hook(see(name)) for name in rows]
    hooks.append(
        model.register_forward_pre_hook(
            lambda module, inputs, named: given.add(len(named["input_ids"])), with_kwargs=True
        )
    )
    model.config.pad_token_id = encoder.pad_id
    try:
        with torch.inference_mode():
            logits, labels = head.plainly(model, encoder, texts)
    finally:
        for hook in hooks:
            hook.remove()
    return (logits.cpu().double(), labels), any(seen != given for seen in rows.values())


def _slopes(network: Network, texts: Sequence[Encoded], found: Linearized, size: float) -> float:
    """How far the change of the log-odds by the derivatives is from that of moved masks.

    As a share of the log-odds' deviation, or of the least one that shows beside rounding.
    """
    label = found.passed.logits.argmax(dim=1).expand(len(_DRAWS), -1)
    here = log_odds(found.passed.probabilities.expand(len(_DRAWS), -1, -1), label)
    change = network.posterior.project(found.gradients, 0, _DRAWS)  # (T, B)
    short = _STRONG / max(_STRONG, float(found.variance.max().sqrt()))
    off = float("inf")
    deviation = found.variance.sqrt()
    for part in (short * part for part in (*_PARTS, _SHORTEST)):
        rounding = 3e-5 * size / part
        if part < short * _PARTS[-1] and rounding > float(deviation.min()):
            break  # a way so short would hide a fault
        least = deviation.clamp(min=rounding)
        ahead = log_odds(network.draw(texts, 0, _DRAWS, part), label)
        off = float(((change - (ahead - here) / part).abs() / least).max())
        if not off <= _SLOPES:  # the way bends; its chord about here does less
            back = log_odds(network.draw(texts, 0, _DRAWS, -part), label)
            off = float(((change - (ahead - back) / (2 * part)).abs() / least).max())
        if off <= _SLOPES:
            break
    return off


def _demand(off: float, allowed: float, name: str, one: str, other: str) -> None:
    if not off <= allowed:
        raise ValueError(
            f"{name}: the {one} differ from those {other} by {off:.2g} of their size (at most "
            f"{allowed:g} is rounding), so no number of this model could be trusted; its layers "
            f"are not used as LoRA for classification assumes: take another backbone, or leave "
            f"unusual layers out of target_modules"
        )
