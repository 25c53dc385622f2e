"""One pass for texts of several adapters on one backbone.

Networks whose frozen weights are the same tensors are run as one model: a product by a shared
weight is made for all rows at once, and what an adapter adds, or has of its own, for the rows of
its texts. The rows of one adapter lie together, so each has its part of a batch as a view.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import BertForSequenceClassification

from bayeslora_tool.inference.bert import BertPass
from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.estimators import log_odds
from bayeslora_tool.inference.fused import FusedLoraLinear, linearized
from bayeslora_tool.inference.linearization import linearization
from bayeslora_tool.inference.network import (
    ClassificationHead,
    Linearized,
    Network,
    Pass,
    Raw,
    keep_head_input,
    run,
    run_quick,
)
from bayeslora_tool.inference.self_check import TEXTS


class _Part(NamedTuple):
    """How many rows are one adapter's in a pass under way, by texts or by tokens end to end."""

    adapter: int
    texts: int
    tokens: int


_PARTS: ContextVar[list[_Part]] = ContextVar("bayeslora_parts")


def _each_its_rows(*inputs: Tensor) -> Iterator[tuple[Any, ...]]:
    """Each adapter of the pass under way, and its rows of tensors (texts or tokens, ...)."""
    parts, n = _PARTS.get(), len(inputs[0])
    if n == sum(part.texts for part in parts):
        sizes = [part.texts for part in parts]
    elif n == sum(part.tokens for part in parts):
        sizes = [part.tokens for part in parts]
    else:
        raise ValueError(
            f"a layer receives {tuple(inputs[0].shape)}, where the first number should be that of "
            f"the texts or of their tokens, so which adapter's they are is unknown"
        )
    # The gradient of slices would be as many tensors of the size of all.
    return zip(
        (part.adapter for part in parts), *(torch.split(x, sizes) for x in inputs), strict=True
    )


class MixedNetwork:
    """Networks that share their frozen weights, run as one.

    Args:
        networks: By the adapter's name, none of them merged into the weights.

    Raises:
        ValueError: They cannot share a pass.
    """

    def __init__(self, networks: Mapping[str, Network]) -> None:
        self.networks = dict(networks)
        first = next(iter(networks.values()))
        for name, network in networks.items():
            if not isinstance(network.head, ClassificationHead):
                raise ValueError(f"adapter {name!r} is a language model's, with rows of its own")
            if network.apart:
                raise ValueError(f"the layers of adapter {name!r} read other rows than its texts")
            if network.encoder.pad_id != first.encoder.pad_id:
                raise ValueError(f"adapter {name!r} pads by another token than the others")
        self.model = _joined([network.model for network in networks.values()])
        self.quick: BertPass | None = None
        if all(network.quick is not None for network in networks.values()):
            self.quick = BertPass(
                next(
                    m for m in self.model.modules() if isinstance(m, BertForSequenceClassification)
                )
            )
        self._check()

    def _check(self) -> None:
        """Whatever this file missed shows in the numbers."""
        batch = {
            name: sorted(network.encoder.encode(TEXTS), key=lambda text: len(text.ids))
            for name, network in self.networks.items()
        }
        for name, mixed in self.linearize(batch).items():
            alone = self.networks[name].linearize(batch[name])
            near = 1e-3 if self.networks[name].exact else 0.1
            pairs = [
                (mixed.variance, alone.variance),
                *zip(mixed.passed, alone.passed, strict=True),
            ]
            if not all(torch.allclose(a, b, rtol=near, atol=near**2) for a, b in pairs):
                raise ValueError(
                    f"adapter {name!r} does not answer among the others as it does alone"
                )

    def deterministic(self, batch: Mapping[str, Sequence[Encoded]]) -> dict[str, Pass]:
        """``Network.deterministic`` of each adapter's texts, in one pass.

        Args:
            batch: Texts by adapter, each sorted by length.
        """
        with torch.inference_mode():
            raws = self._pass(batch, quick=self.quick is not None)
            return {name: self.networks[name].finished(raw) for name, raw in raws.items()}

    def linearize(self, batch: Mapping[str, Sequence[Encoded]]) -> dict[str, Linearized]:
        """``Network.linearize`` of each adapter's texts, in one pass and one backward pass."""
        networks = {name: self.networks[name] for name in batch}
        quick = self.quick is not None and all(
            network.posterior.scope == "sequence" for network in networks.values()
        )
        with ExitStack() as noises:
            found = {}
            for name, network in networks.items():
                sizes = torch.tensor([len(text.ids) for text in batch[name]])
                text_of = torch.arange(len(sizes)).repeat_interleave(sizes).to(network.device)
                noise = linearization(
                    network.posterior,
                    len(sizes),
                    network.device,
                    text_of=text_of if quick else None,
                )
                found[name] = noises.enter_context(noise)
            raws = self._pass(batch, quick=quick)
            passes = {name: networks[name].finished(raw) for name, raw in raws.items()}
            values = [
                log_odds(passed.probabilities, passed.logits.argmax(dim=1)).sum()
                for passed in passes.values()
            ]
            anchors = [noise.anchor for noise in found.values()]
            torch.autograd.grad(torch.stack(values).sum(), anchors, allow_unused=True)
        return {
            name: Linearized(
                Pass(*(part.detach() for part in passed)), found[name].total.cpu().double(), {}
            )
            for name, passed in passes.items()
        }

    def _pass(self, batch: Mapping[str, Sequence[Encoded]], *, quick: bool) -> dict[str, Raw]:
        texts = [text for some in batch.values() for text in some]
        names = [*self.networks]
        parts = [
            _Part(names.index(name), len(some), sum(len(text.ids) for text in some))
            for name, some in batch.items()
        ]
        token = _PARTS.set(parts)
        try:
            if quick:
                assert self.quick is not None
                raw = run_quick(self.quick, [text.ids for text in texts], features=True)
            else:
                encoder = next(iter(self.networks.values())).encoder
                raw = run(self.model, *encoder.tensors(texts))
        finally:
            _PARTS.reset(token)
        found, start = {}, 0
        for name, part in zip(batch, parts, strict=True):
            own = raw.rows(slice(start, start := start + part.texts))
            # The others have more labels, or fewer.
            n_labels = int(self.networks[name].model.config.num_labels)
            found[name] = own._replace(logits=own.logits[:, :n_labels])
        return found


class _EachItsOwn(nn.Module):
    """A module that adapters have one each of."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        """(texts or tokens, ...) to the same; of outputs that differ in width, the widest."""
        outputs = [self.each[adapter].forward(own) for adapter, own in _each_its_rows(x)]
        width = max(y.shape[-1] for y in outputs)
        # Labels that another adapter does not have are impossible.
        return torch.cat([pad(y, (0, width - y.shape[-1]), value=-torch.inf) for y in outputs])


class _SharedProduct(nn.Module):
    """Layers with one frozen weight, and what each adapter adds to its product, if it does."""

    merged = False

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(texts or tokens, ..., in) to (..., out)."""
        if torch.is_grad_enabled():
            frozen = next(layer for layer in self.each if isinstance(layer, FusedLoraLinear))
            parts = [(self._adapted(adapter), len(own)) for adapter, own in _each_its_rows(x)]
            return linearized(frozen, x, parts)
        first: Any = self.each[0]
        y: Tensor = first.product(x) if isinstance(first, FusedLoraLinear) else first(x)
        for adapter, own, out in _each_its_rows(x, y):
            if (layer := self._adapted(adapter)) is not None:
                layer.adapt(out, own)  # in place
        return y

    def _adapted(self, adapter: int) -> FusedLoraLinear | None:
        layer = self.each[adapter]
        return layer if isinstance(layer, FusedLoraLinear) else None


def _joined(models: Sequence[nn.Module]) -> Any:
    """One model of the structure of each, of their own tensors, that runs rows of all of them.

    Raises:
        ValueError: They differ in more than the layers that an adapter has of its own.
    """
    trees = [dict(model.named_modules(remove_duplicate=False)) for model in models]
    known: dict[int, Any] = {}  # what the copy has instead of a copy
    replaced: list[str] = []
    for name, module in trees[0].items():
        if name.startswith(tuple(f"{path}." for path in replaced)):
            continue
        each = [tree[name] for tree in trees if name in tree]
        if all(one is module for one in each) and len(each) == len(models):
            known[id(module)] = module  # quantized: it keeps more than its tensors
            replaced.append(name)
            continue
        if len(each) < len(models):
            raise ValueError(f"one adapter has a layer {name} that another lacks")
        if any(isinstance(one, FusedLoraLinear) for one in each):
            known[id(module)] = _SharedProduct(each) if _one_weight(each) else _EachItsOwn(each)
        elif len({type(one) for one in each}) > 1:
            known[id(module)] = _EachItsOwn(each)
        elif _same_tensors(each):
            tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
            known |= {id(tensor): tensor for tensor in tensors}
            continue
        elif next(module.children(), None) is None:
            known[id(module)] = _EachItsOwn(each)
        else:
            raise ValueError(f"adapters have other weights in {name}, around layers they share")
        replaced.append(name)
        if keep_head_input in module._forward_pre_hooks.values():
            known[id(module)].register_forward_pre_hook(keep_head_input)
    return copy.deepcopy(models[0], known)


def _one_weight(layers: Sequence[Any]) -> bool:
    if any(getattr(layer, "merged", False) for layer in layers):
        return False

    def kept(layer: Any) -> list[int | None]:
        frozen = getattr(layer, "frozen", None)
        tensors = (layer.weight, layer.bias)
        return [id(frozen), *(None if tensor is None else tensor.data_ptr() for tensor in tensors)]

    return all(kept(layer) == kept(layers[0]) for layer in layers[1:])


def _same_tensors(modules: Sequence[nn.Module]) -> bool:
    weights = [[*module.parameters(recurse=False)] for module in modules]
    buffers = [[*module.buffers(recurse=False)] for module in modules]
    return all(
        len(weights[0]) == len(own)
        and all(a is b for a, b in zip(weights[0], own, strict=True))
        and len(buffers[0]) == len(rest)
        and all(torch.equal(a, b) for a, b in zip(buffers[0], rest, strict=True))
        for own, rest in zip(weights[1:], buffers[1:], strict=True)
    )
