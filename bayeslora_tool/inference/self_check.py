"""Builds a network and holds it against its own model, whatever the architecture.

What this package computes in fewer operations rests on how a model uses its layers. That a model
does so is not believed but tried, on a few texts: alone they must come out as in a batch, with the
adapter merged as without, and the derivatives by the masks must be what moving the masks does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayeslora_tool.inference.encoding import Encoded, Encoder
from bayeslora_tool.inference.estimators import log_odds
from bayeslora_tool.inference.fused import use_differentiable_kernels
from bayeslora_tool.inference.network import Linearized, Network
from bayeslora_tool.inference.posterior import AdapterPosterior

# Short, as each load reads them, and of three lengths, so that two are padded.
TEXTS = ("no", "so so", "it was too late")
# How far of the way to the masks: a strong adapter is straight over a short way only, and over that
# one rounding hides what a weak one does.
_PARTS = (0.03, 0.003)
_DRAWS = range(1)
_SLOPES = 0.1  # what a way that is not quite straight may leave


class SelfCheck(NamedTuple):
    """How far one way of computing lay from another, each a share of what is computed.

    Attributes:
        alone: Logits and variance of a text alone, from those in a batch.
        merged: Logits with the adapter merged, from those of PEFT's own layers.
        slopes: Change of the log-odds by the derivatives, from that where the masks were moved;
            NaN in half precision, which cannot tell.
        apart: Whether draws and texts do not share passes, see :class:`Network`.
        seconds: It took.
    """

    alone: float
    merged: float
    slopes: float
    apart: bool
    seconds: float


def checked_network(
    model: Any, posterior: AdapterPosterior, encoder: Encoder, *, merge: bool = True
) -> tuple[Network, SelfCheck]:
    """The network of a model, found to compute what the model does.

    Args:
        model: PEFT sequence classifier; fused in place.
        posterior: Attached to ``model``.
        encoder: Makes the batches.
        merge: Whether the frozen weights may change.

    Raises:
        ValueError: The ways to compute something differ, so no number could be trusted. The message
            names the architecture.
    """
    start = time.perf_counter()
    texts = sorted(encoder.encode(TEXTS), key=lambda text: len(text.ids))
    use_differentiable_kernels(model.eval())
    before, apart = _as_it_is(model, posterior, encoder, texts)
    seconds = time.perf_counter() - start
    network = Network(model, posterior, encoder, merge=merge, apart=apart)
    start = time.perf_counter()
    name = type(model.get_base_model()).__name__
    exact = network.exact
    rounding = 1e-3 if exact else 0.1
    batch, alone = network.linearize(texts, keep=True), network.linearize(texts[:1])
    size = max(1.0, float(before.abs().max()))
    merged = float((batch.passed.logits - before).abs().max()) / size
    _demand(merged, rounding, name, "logits with the adapter merged", "without")
    alone_by = float((batch.passed.logits[:1] - alone.passed.logits).abs().max()) / size
    _demand(alone_by, rounding, name, "logits of a text alone", "in a batch")
    slopes = math.nan
    if exact:
        deviation = batch.variance[:1].sqrt()
        by_noise = _share(alone.variance.sqrt() - deviation, deviation, 1e-2)
        _demand(by_noise, 0.02, name, "linearized deviation of a text alone", "in a batch")
        alone_by = max(alone_by, by_noise)
        for part in _PARTS:
            slopes = _slopes(network, texts, batch, part, 3e-5 * size / part)
            if slopes <= _SLOPES:
                break
        _demand(slopes, _SLOPES, name, "log-odds by the derivatives", "by moving the masks")
    seconds += time.perf_counter() - start
    return network, SelfCheck(alone_by, merged, slopes, apart, seconds)


def _as_it_is(
    model: Any, posterior: AdapterPosterior, encoder: Encoder, texts: Sequence[Encoded]
) -> tuple[Tensor, bool]:
    """Logits (B, C) before the model is fused, and whether a layer's rows are not the texts."""
    rows: dict[str, set[int]] = {name: set() for name in posterior.widths}

    def see(name: str) -> Callable[..., None]:
        return lambda module, inputs: rows[name].add(inputs[0].shape[0])

    hooks = [model.get_submodule(name).register_forward_pre_hook(see(name)) for name in rows]
    model.config.pad_token_id = encoder.pad_id
    device = next(model.parameters()).device
    try:
        ids, mask = (part.to(device) for part in encoder.tensors(texts))
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask).logits.cpu().double()
    finally:
        for hook in hooks:
            hook.remove()
    return logits, any(seen != {len(texts)} for seen in rows.values())


def _slopes(
    network: Network, texts: Sequence[Encoded], found: Linearized, part: float, rounding: float
) -> float:
    """How far the change of the log-odds by the derivatives is from that of moved masks."""
    label = found.passed.logits.argmax(dim=1).expand(len(_DRAWS), -1)
    ahead, back = (log_odds(network.draw(texts, 0, _DRAWS, way), label) for way in (part, -part))
    change = network.posterior.project(found.gradients, 0, _DRAWS)  # (T, B)
    return _share(change - (ahead - back) / (2 * part), found.variance.sqrt(), rounding)


def _share(difference: Tensor, deviation: Tensor, least: float) -> float:
    """The largest difference, as a share of the deviation, or of the least one that shows."""
    return float((difference.abs() / deviation.clamp(min=least)).max())


def _demand(off: float, allowed: float, name: str, one: str, other: str) -> None:
    if not off <= allowed:
        raise ValueError(
            f"{name}: the {one} differ from those {other} by {off:.2g} of their size (at most "
            f"{allowed:g} is rounding), so no number of this model could be trusted; its layers "
            f"are not used as LoRA for classification assumes: take another backbone, or leave "
            f"unusual layers out of target_modules"
        )
