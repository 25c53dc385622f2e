"""Batches of token ids in, class probabilities out: the fused model and the noise it is run with.

Knows no text, no label name, no policy.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from bayeslora_tool.inference.bert import BertPass, quick_pass
from bayeslora_tool.inference.encoding import Encoded
from bayeslora_tool.inference.estimators import log_odds
from bayeslora_tool.inference.fused import fuse
from bayeslora_tool.inference.linearization import linearization
from bayeslora_tool.inference.posterior import AdapterPosterior, NoAdapter, activate
from bayeslora_tool.inference.wording import Wording
from bayeslora_tool.workers import begin_anew_after_fork

# Draws x texts x tokens up to which draws share a pass; past it, one by one is as fast.
TOKENS_SIDE_BY_SIDE = 1024


# Where a pass under way keeps what its classification head reads.
_HEAD_INPUTS: ContextVar[list[Tensor] | None] = ContextVar("bayeslora_head_inputs", default=None)


def keep_head_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """A hook on each layer of a head: the last one's input is what the head reads."""
    fed = _HEAD_INPUTS.get()
    if fed is not None:
        fed.append(inputs[0])


class Pass(NamedTuple):
    """One pass without noise over B texts, on the CPU, in float64 unless said otherwise."""

    logits: Tensor  # (B, C), divided by the temperature; logarithms of groups' probabilities
    features: Tensor  # (B, L, d), float32: each hidden state's mean over the tokens, at norm 1
    head: Tensor  # (B, d'), what the classification head reads
    energy: Tensor  # (B,), log-sum-exp of the logits, before temperature and groups
    lengths: Tensor  # (B,), in tokens

    @property
    def probabilities(self) -> Tensor:
        """(B, C)."""
        return self.logits.softmax(dim=-1)


class Raw(NamedTuple):
    """What a model gives for B texts, as its own numbers."""

    logits: Tensor  # (B, C)
    features: Tensor  # as in Pass, on the model's device
    head: Tensor
    lengths: Tensor

    def rows(self, some: slice) -> Raw:
        """Of some of the texts."""
        return Raw(*(part[some] for part in self))


class Reader(Protocol):
    """Makes batches of texts, see ``encoding.Encoder``."""

    pad_id: int
    wording: Wording | None

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Texts to token ids."""
        ...

    def tensors(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Padded ids and mask, both (B, L)."""
        ...


class Head(Protocol):
    """How a model's pass becomes logits over labels."""

    def n_labels(self, model: Any) -> int:
        """C."""
        ...

    def run(self, model: Any, ids: Tensor, mask: Tensor) -> Raw:
        """A pass over padded ids and their mask, both (B, L)."""
        ...

    def logits(self, model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, C), without the rest."""
        ...

    def places(self, mask: Tensor) -> Tensor | None:
        """(B, L), where each token stands in its text; None: in its own column."""
        ...

    def plainly(
        self, model: Any, encoder: Reader, texts: Sequence[Encoded]
    ) -> tuple[Tensor, list[int]]:
        """Logits (B, C') the way the model's authors meant, and the labels that they are of."""
        ...


class ClassificationHead:
    """That of a sequence classifier: the model has it."""

    def n_labels(self, model: Any) -> int:
        """See :class:`Head`, as for the rest."""
        return int(model.config.num_labels)

    def run(self, model: Any, ids: Tensor, mask: Tensor) -> Raw:  # noqa: D102
        return run(model, ids, mask)

    def logits(self, model: Any, ids: Tensor, mask: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = _forward(model, ids, mask).logits
        return logits

    def places(self, mask: Tensor) -> None:  # noqa: D102
        return None

    def plainly(  # noqa: D102
        self, model: Any, encoder: Reader, texts: Sequence[Encoded]
    ) -> tuple[Tensor, list[int]]:
        device = next(model.parameters()).device
        ids, mask = (part.to(device) for part in encoder.tensors(texts))
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits, [*range(logits.shape[1])]


class Linearized(NamedTuple):
    """A pass without noise, and how the log-odds of the likeliest label answer to the masks."""

    passed: Pass
    variance: Tensor  # (B,), first-order, of those log-odds
    gradients: dict[str, Tensor]  # by mask, see linearization.py


class _Threads:
    """OpenMP's threads stay behind in the parent of a fork: a pass that needs them never ends."""

    def after_fork(self) -> None:
        torch.set_num_threads(1)


_THREADS = _Threads()


class Network:
    """A fused model in eval mode.

    Args:
        model: PEFT model; fused in place.
        posterior: Attached to ``model``.
        encoder: Makes the batches.
        head: How the model's passes become logits; None: it is a sequence classifier.
        merge: Whether the frozen weights may change, see ``fused.fuse``.
        apart: Whether a layer reads something else than (texts, ..., features): then draws do not
            share a pass, nor do texts where it must be told whose mask or gradient is whose.
    """

    def __init__(
        self,
        model: Any,
        posterior: AdapterPosterior,
        encoder: Reader,
        *,
        head: Head | None = None,
        merge: bool = True,
        apart: bool = False,
    ) -> None:
        self.model, self.posterior, self.encoder = model.eval(), posterior, encoder
        self.head: Head = head or ClassificationHead()
        self.apart = apart
        self.temperature = 1.0
        self.groups: Tensor | None = None  # (C,), see merged()
        fuse(self.model, posterior, merge=merge)
        self.quick = quick_pass(self.model)
        for name, module in self.model.named_modules():
            # PEFT wraps the head, under the name that transformers gave it.
            if isinstance(module, nn.Linear) and {"classifier", "score"} & {*name.split(".")}:
                module.register_forward_pre_hook(keep_head_input)
        model.config.pad_token_id = encoder.pad_id  # decoders find a text's last token by it
        begin_anew_after_fork(_THREADS)

    @property
    def exact(self) -> bool:
        """Whether it computes in float32 throughout, so that rounding is all that may differ."""
        return precision_of(self.model) == "torch.float32"

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def n_classes(self) -> int:
        """Of the probabilities that come out: labels, or groups of them."""
        if self.groups is None:
            return self.head.n_labels(self.model)
        return int(self.groups.max()) + 1

    def deterministic(self, batch: Sequence[Encoded]) -> Pass:
        """The pass at the posterior mean of the weights (all masks 1)."""
        with torch.inference_mode():
            return self.finished(self._pass(batch, quick=self.quick is not None))

    def linearize(
        self, batch: Sequence[Encoded], *, keep: bool = False, features: bool = True
    ) -> Linearized:
        """That pass and one backward pass.

        Args:
            batch: Of texts.
            keep: The gradients, and not only their variance.
            features: Whether anybody asks for those of the pass.
        """
        if self.apart and len(batch) > 1:
            return _joined([self.linearize([t], keep=keep, features=features) for t in batch])
        # Masks that differ from token to token are told by their place in a padded batch.
        quick = self.quick is not None and self.posterior.scope == "sequence"
        sizes = torch.tensor([len(text.ids) for text in batch])
        text_of = torch.arange(len(batch)).repeat_interleave(sizes).to(self.device)
        with linearization(
            self.posterior,
            len(batch),
            self.device,
            keep=keep,
            text_of=text_of if quick else None,
            places=self._places(batch),
        ) as noise:
            passed = self.finished(self._pass(batch, quick=quick, features=features))
            value = log_odds(passed.probabilities, passed.logits.argmax(dim=1))
            torch.autograd.grad(value.sum(), noise.anchor, allow_unused=True)
        passed = Pass(*(part.detach() for part in passed))
        return Linearized(passed, noise.total.cpu().double(), noise.gradients)

    def draw(self, batch: Sequence[Encoded], seed: int, draws: range, part: float = 1.0) -> Tensor:
        """Probabilities (T, B, C): as many draws side by side in one pass as pays.

        See ``AdapterPosterior.draws`` for the arguments.
        """
        if self.apart and self.posterior.scope == "token" and len(batch) > 1:
            return torch.cat([self.draw([text], seed, draws, part) for text in batch], dim=1)
        tokens = len(batch) * len(batch[-1].ids)
        side_by_side = 1 if self.apart else TOKENS_SIDE_BY_SIDE // tokens
        step = max(1, min(len(draws), side_by_side))
        parts = []
        places = self._places(batch)
        for start in range(0, len(draws), step):
            some = draws[start : start + step]
            noise = self.posterior.draws(seed, some, len(batch), part, places)
            with torch.inference_mode(), noise:
                logits = self._forward(batch, copies=len(some))
            parts.append(self._tempered(logits).softmax(dim=-1))
        return torch.cat(parts).reshape(len(draws), len(batch), -1)

    def backbone(self, batch: Sequence[Encoded]) -> Tensor:
        """(B, d) The backbone's last hidden state, its mean over the tokens, at norm 1.

        The adapter is off, so this is what the backbone was trained for, if that was to embed.
        """
        with torch.inference_mode(), activate(NoAdapter(self.posterior)):
            return self._pass(batch, quick=False).features[:, -1].cpu().float()

    def _pass(self, batch: Sequence[Encoded], *, quick: bool, features: bool = True) -> Raw:
        if quick:
            assert self.quick is not None
            return run_quick(self.quick, [text.ids for text in batch], features=features)
        return self.head.run(self.model, *self.encoder.tensors(batch))

    def finished(self, raw: Raw) -> Pass:
        """A pass of this model, of its temperature and groups."""
        energy = raw.logits.double().logsumexp(dim=-1)
        parts = (part.cpu().double() for part in (raw.head, energy, raw.lengths))
        return Pass(self._tempered(raw.logits), raw.features.cpu().float(), *parts)

    def merged(self, groups: Tensor) -> Network:
        """The same model, in whose passes the classes of a group count as one.

        The probability of a group is the sum of its classes', in each draw, so mean and variance
        are those of the sum.

        Args:
            groups: (C,), the group of each class, 0 to G - 1; each at least once.
        """
        other = copy.copy(self)
        other.groups = groups
        return other

    def asked(self, head: Head) -> Network:
        """The same model, asked for something else."""
        other = copy.copy(self)
        other.head = head
        return other

    def _tempered(self, logits: Tensor) -> Tensor:
        """Logits (B, C) over the temperature, of the groups (B, G) if there are."""
        tempered = logits.cpu().double() / self.temperature
        if self.groups is None:
            return tempered
        p = tempered.softmax(dim=-1)
        summed = p.new_zeros(len(p), int(self.groups.max()) + 1).index_add(1, self.groups, p)
        return summed.clamp(min=torch.finfo(p.dtype).tiny).log()

    def _forward(self, batch: Sequence[Encoded], *, copies: int) -> Tensor:
        ids, mask = self.encoder.tensors(batch)
        return self.head.logits(self.model, ids.repeat(copies, 1), mask.repeat(copies, 1))

    def _places(self, batch: Sequence[Encoded]) -> Tensor | None:
        if self.posterior.scope == "sequence":  # its masks are the same everywhere
            return None
        places = self.head.places(self.encoder.tensors(batch)[1])
        return None if places is None else places.to(self.device)


def precision_of(model: Any) -> str:
    """That of the backbone's products: a dtype of torch, and how transformers quantized them."""
    dtype = str(next(model.parameters()).dtype)
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return dtype
    how = json.dumps(config.to_dict(), sort_keys=True, default=str)
    method = getattr(config.quant_method, "value", config.quant_method)
    return f"{dtype} {method} {hashlib.sha256(how.encode()).hexdigest()[:6]}"


def run_quick(quick: BertPass, ids: Sequence[Sequence[int]], *, features: bool) -> Raw:
    """A pass over texts of token ids the quick way."""
    states = range(len(quick.blocks) + 1) if features else ()
    found = quick(ids, states)
    means = torch.full_like(found.head[:, None], torch.nan)
    if features:
        means = normalize(torch.stack([*found.means.values()], dim=1), dim=2)
    return Raw(found.logits, means, found.head, torch.tensor([len(text) for text in ids]))


def run(model: Any, ids: Tensor, mask: Tensor) -> Raw:
    """A pass over padded ids and their mask, both (B, L), the way the model does it.

    Raises:
        ValueError: The model is none that has features.
    """
    fed: list[Tensor] = []
    token = _HEAD_INPUTS.set(fed)
    try:
        output = _forward(model, ids, mask, output_hidden_states=True)
    finally:
        _HEAD_INPUTS.reset(token)
    lengths = mask.sum(dim=1).to(output.logits.device)
    states = getattr(output, "hidden_states", None)  # of each layer (B, L, d)
    if not states or not fed:
        lacking = "hidden states of its tokens" if fed else "head called classifier or score"
        raise ValueError(
            f"{type(model.get_base_model()).__name__} has no {lacking}, which features "
            f"are made of; take a backbone that is one encoder or one decoder, with such a head"
        )
    kept = torch.arange(states[0].shape[1], device=lengths.device) < lengths[:, None]
    means = [normalize((state * kept[..., None]).sum(dim=1), dim=1) for state in states]
    head = fed[-1]
    if head.dim() == 3:  # decoders score every token; the text's last one counts
        head = head[torch.arange(len(ids), device=lengths.device), lengths - 1]
    return Raw(output.logits, torch.stack(means, dim=1), head, lengths)


def _forward(model: Any, ids: Tensor, mask: Tensor, **options: Any) -> Any:
    device = next(model.parameters()).device
    # Without padding there is nothing to mask, and attention has a faster way.
    padded = not bool(mask.all())
    return model(
        input_ids=ids.to(device), attention_mask=mask.to(device) if padded else None, **options
    )


def _joined(parts: Sequence[Linearized]) -> Linearized:
    """Of one text each, as of a batch."""
    passed = Pass(*(torch.cat(part) for part in zip(*(p.passed for p in parts), strict=True)))
    gradients = {}
    for mask in dict.fromkeys(mask for part in parts for mask in part.gradients):
        rows = [part.gradients[mask][0] for part in parts if mask in part.gradients]
        none = torch.zeros_like(rows[0][:0])  # where the pass of a text did not call the module
        rows = [part.gradients[mask][0] if mask in part.gradients else none for part in parts]
        gradients[mask] = pad_sequence(rows, batch_first=True)
    return Linearized(passed, torch.cat([part.variance for part in parts]), gradients)
