"""Text in, predictions out: the one file that joins tokenizer, posterior and estimator."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils.quantization_config import QuantizationConfigMixin

from bayeslora_tool.artifacts.frozen import FrozenWeights
from bayeslora_tool.artifacts.in_memory import load_or_take, short_fingerprint
from bayeslora_tool.artifacts.loading import Source
from bayeslora_tool.artifacts.manifest import (
    Forecast,
    Manifest,
    Sureness,
)
from bayeslora_tool.inference import forecast, sequential
from bayeslora_tool.inference.batching import MicroBatcher
from bayeslora_tool.inference.encoding import Encoded, batches, check_texts
from bayeslora_tool.inference.neighbours import Neighbours
from bayeslora_tool.inference.network import Linearized, Pass
from bayeslora_tool.inference.novelty import Novelty
from bayeslora_tool.inference.positions import longest_text
from bayeslora_tool.inference.posterior import AdapterPosterior, Placement, Scope, posterior_of
from bayeslora_tool.inference.scorer import Scored, Stages, score, scored_by, scored_pass
from bayeslora_tool.inference.self_check import checked_network
from bayeslora_tool.inference.sureness import Reference
from bayeslora_tool.language.choices import reading
from bayeslora_tool.language.prompts import Choices, asked_for
from bayeslora_tool.policy import (
    Estimator,
    Policy,
    Preset,
    Scoring,
    calibration_mismatch,
    lead_to,
    load_preset,
)
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.records import hold_to_records
from bayeslora_tool.settings import parse

# Texts x tokens of one batch: bounds memory, whatever comes.
TOKENS_PER_PASS = 4096

_Submit = Callable[[tuple[Scoring, Policy | None], Sequence[str]], Future[list[Prediction]]]


class LoadOptions(Source, total=False):
    """How an adapter is loaded, where that is not as it says; see ``from_pretrained``."""

    dropout: float | None


class PresetOptions(LoadOptions, total=False):
    """The same, and what only Python can say."""

    quantization_config: QuantizationConfigMixin | None
    frozen: FrozenWeights | None


class BayesLoRAClassifier:
    """A LoRA-adapted classifier that says how much its adapter doubts.

    Thread-safe: the model stays in eval mode, and noise reaches only the pass that asked for it.
    Use :meth:`from_pretrained`, which also takes a model in memory; the constructor checks nothing
    of what it is given.

    Args:
        model: PEFT sequence classifier, or language model; fused in place (see ``fused.py``).
        tokenizer: Of the backbone.
        labels: Class names, in the order of the logits.
        posterior: Attached to ``model``.
        scoring: What :meth:`predict` does unless told otherwise.
        policy: Whose thresholds the ``adaptive`` estimator works for.
        manifest: The adapter's ``bayeslora.json``, if it has one.
        novelty: Distances to its training set, if they were fitted.
        neighbours: Its training texts to compare with, likewise.
        choices: Between which a language model chooses, one a label; None: it is a classifier.
        merge: Whether the adapter is merged into the backbone's weights; not if others share them.

    Attributes:
        self_check: How far the ways to compute a number lay apart, see ``self_check.py``.

    Raises:
        ValueError: They lay too far apart, so the model is none that can be trusted.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        labels: Sequence[str],
        posterior: AdapterPosterior,
        *,
        scoring: Scoring | None = None,
        policy: Policy | None = None,
        manifest: Manifest | None = None,
        novelty: Novelty | None = None,
        neighbours: Neighbours | None = None,
        choices: Choices | None = None,
        merge: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.labels = tuple(labels)
        self.posterior = posterior
        self.scoring = scoring or Scoring()
        self.policy = policy
        self.manifest = manifest
        # What `adaptive` starts from; both are measured at calibration, and sureness is fitted.
        self.offset, self._forecast = sequential.UNMEASURED, forecast.UNMEASURED
        self.sureness: Sureness | None = None
        self._adapter = short_fingerprint(model, manifest)
        self.max_tokens = longest_text(model, tokenizer)
        self.choices = choices
        encoder, head = reading(tokenizer, self.max_tokens, choices)
        recorded = manifest.self_check if manifest else None
        self.network, self.self_check = checked_network(
            model, posterior, encoder, recorded, head=head, merge=merge
        )
        self.novelty, self.neighbours = novelty, neighbours
        self.act_of: Mapping[str, str] = {label: label for label in self.labels}
        self._submit: _Submit = self._new_batcher().submit

    def share_batches(self, submit: _Submit) -> None:
        """Have :meth:`apredict` hand its texts to another batcher, which scores for several."""
        self._submit = submit

    def _new_batcher(self) -> MicroBatcher[tuple[Scoring, Policy | None], str, Prediction]:
        return MicroBatcher(lambda how, texts: self.score_texts(texts, *how))

    def for_acts(self, acts: Mapping[str, Collection[str]]) -> Self:
        """This classifier over acts: labels that lead to the same act no longer rival each other.

        ``P(act)`` is the sum of its labels' probabilities, in each draw of the adapter; confidence
        and variance are the mean and the variance of that sum, and every estimator counts as it
        does over labels. A label that leads to no act stays what it is. Model, temperature and
        novelty are shared with this classifier.

        Args:
            acts: The labels that lead to each act. No label may lead to two.

        Returns:
            A classifier whose ``labels`` are the acts and the labels that lead to none; ``act_of``
            tells which label leads where.

        Raises:
            ValueError: An unknown label, one that leads to two acts, an act without labels, or one
                that has the name of a label which does not lead to it.
        """
        act_of = lead_to(acts, self.labels)
        other = copy.copy(self)
        other.labels = tuple(dict.fromkeys([*acts, *act_of.values()]))
        other.act_of = act_of
        index = {act: i for i, act in enumerate(other.labels)}
        groups = torch.tensor([index[act_of[label]] for label in self.labels])
        other.network = self.network.merged(groups)
        if self.neighbours is not None:
            other.neighbours = self.neighbours.merged(groups)
        other._submit = other._new_batcher().submit
        return other

    @property
    def temperature(self) -> float:
        """Divides the logits; set by ``bayeslora calibrate``, else 1."""
        return self.network.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`temperature` (={value!r}) must be a finite number > 0")
        self.network.temperature = value
        # They were measured at another temperature.
        self.offset, self._forecast = sequential.UNMEASURED, forecast.UNMEASURED
        self.sureness = None

    @property
    def forecast(self) -> Forecast:
        """What a pass says of the variance; a wide guess unless measured over these acts."""
        measured = self._forecast
        return measured if measured.acts == self.acts_fingerprint else forecast.UNMEASURED

    @forecast.setter
    def forecast(self, value: Forecast) -> None:
        self._forecast = value

    @property
    def reference(self) -> Reference:
        """What a pass is held against, besides its own probabilities."""
        return Reference(self.novelty, self.neighbours, self.sureness)

    @property
    def acts_fingerprint(self) -> str | None:
        """Of the labels that lead to acts; None over labels."""
        if self.network.groups is None:
            return None
        return hashlib.sha256(repr(sorted(self.act_of.items())).encode()).hexdigest()[:6]

    def scored_by(self, scoring: Scoring | None = None) -> str:
        """Everything a prediction depends on besides its text, in one line.

        See ``Policy.calibrated_for``.
        """
        scoring, more = scoring or self.scoring, []
        if self.choices is not None:
            more.append(f"choices {self.choices.fingerprint}")
        if self.acts_fingerprint is not None:
            more.append(f"acts {self.acts_fingerprint}")
        if self.sureness is not None:
            fitted = hashlib.sha256(self.sureness.model_dump_json().encode()).hexdigest()[:6]
            more.append(f"sureness {fitted}")
        start = ""
        if scoring.estimator == "adaptive":
            start = hashlib.sha256(repr((self.forecast, self.offset)).encode()).hexdigest()[:6]
        return scored_by(self.network, self._adapter, scoring, more, start)

    @classmethod
    def from_pretrained(
        cls,
        adapter: str | Path | PeftModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        base: str | Path | None = None,
        base_revision: str | None = None,
        placement: Placement | None = None,
        scope: Scope | None = None,
        dropout: float | None = None,
        labels: Sequence[str] | None = None,
        choices: Mapping[str, str] | None = None,
        template: str | None = None,
        length_normalized: bool = False,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
        frozen: FrozenWeights | None = None,
        scoring: Scoring | None = None,
        policy: Policy | None = None,
    ) -> Self:
        """Load a bundled adapter, a folder, or a hub repository, and verify it; or take a model.

        Args:
            adapter: ``"sentiment"``, ``"intents"``, a folder, or a hub id; or a PEFT model in
                memory, which is fused in place: it serves inference from here on, and
                PEFT can no longer save its adapter.
            tokenizer: Of a model in memory.
            revision: Commit, tag or branch of a hub id.
            subfolder: Where in the hub's repository the adapter lies.
            base: Backbone folder or hub name, instead of the one the adapter names.
            base_revision: Of the backbone on the hub, likewise.
            placement: Override the recorded noise (default: the manifest's; ``"input"`` for a
                plain PEFT adapter, which is what PEFT trained it with).
            scope: As ``placement`` (plain PEFT adapter: ``"token"``).
            dropout: Override the recorded rate, in (0, 1).
            labels: Class names for a plain PEFT adapter, in the order of the logits.
            choices: Makes a causal language model a classifier: by label, what it writes behind
                the prompt for it, such as ``{"refund": " refund"}``, in tokens as many as it takes.
                The logit of a label is the log-probability of its tokens.
            template: The prompt, with ``{text}`` once, as the adapter was trained with it.
            length_normalized: Whether a choice's log-probability is divided by the number of its
                tokens.
            device: None takes CUDA where there is one.
            dtype: Of the frozen backbone, for example ``torch.bfloat16``; None is float32. A model
                in memory keeps its own, and stays where it is.
            quantization_config: Of transformers (bitsandbytes' 8 or 4 bits, torchao's int8): the
                frozen backbone's products are quantized, the adapter and the head stay exact.
            frozen: The backbone's weights as other adapters hold them, see ``AdapterHub``.
            scoring: Draws, seed and estimator that :meth:`predict` uses unless told otherwise.
            policy: Whose thresholds the ``adaptive`` estimator works for.

        Raises:
            FileNotFoundError: Adapter or backbone not found.
            TypeError: ``adapter`` is no name, path or PEFT model, or that has no ``tokenizer``.
            ValueError: A file is not the recorded one, the golden predictions do not come out, or
                the adapter has no usable posterior; the message says what to do.
        """
        on_disk: dict[str, Any] = {
            "revision": revision, "subfolder": subfolder, "base": base,
            "base_revision": base_revision, "device": device, "dtype": dtype,
            "quantization_config": quantization_config, "frozen": frozen,
        }  # fmt: skip
        asked = asked_for(choices, template, length_normalized=length_normalized)
        if asked is not None:
            if labels is not None:
                raise ValueError("`labels` are those of `choices`; leave labels= out")
            labels = [*asked.verbalizers]
        # What is on disk says itself whether it is a language model.
        causal = asked is not None or (None if isinstance(adapter, str | Path) else False)
        loaded = load_or_take(adapter, tokenizer, labels, causal=causal, **on_disk)
        asked = _as_recorded(asked, loaded.manifest)
        recorded = loaded.manifest.posterior if loaded.manifest else None
        posterior = posterior_of(
            loaded.model, recorded, placement=placement, scope=scope, dropout=dropout
        )
        classifier = cls(
            loaded.model,
            loaded.tokenizer,
            loaded.labels,
            posterior,
            scoring=scoring,
            policy=policy,
            manifest=loaded.manifest,
            choices=asked,
            merge=frozen is None,
        )
        if loaded.folder is not None:
            hold_to_records(classifier, loaded.folder)
        return classifier

    @classmethod
    def from_preset(
        cls,
        preset: Preset | str | Path,
        *,
        adapter: str | Path | None = None,
        **loading: Unpack[PresetOptions],
    ) -> Self:
        """The classifier that a preset's thresholds are for: its adapter, scoring, policy, acts.

        Args:
            preset: A bundled preset's name, a YAML file, or one that was read.
            adapter: Instead of the preset's.
            **loading: ``base``, ``labels``, ``dropout``, ``device``, ``dtype``,
                ``quantization_config`` and ``frozen`` of :meth:`from_pretrained`.

        Raises:
            FileNotFoundError, ValueError: As ``load_preset`` and :meth:`from_pretrained`; or the
                adapter does not know a label of the preset's acts; or the thresholds were
                calibrated for another ``dropout``, ``dtype`` or quantization.
        """
        chosen = preset if isinstance(preset, Preset) else load_preset(preset)
        classifier = cls.from_pretrained(
            adapter or chosen.adapter, scoring=chosen.scoring, policy=chosen.policy, **loading
        )
        if chosen.acts is not None:
            classifier = classifier.for_acts(chosen.acts)
        mismatch = calibration_mismatch(chosen.policy, classifier.scored_by())
        for name in ("dropout", "dtype", "quantization_config"):
            value = loading.get(name)
            if mismatch and value is not None:
                raise ValueError(
                    f"with `{name}` (={value}) all would escalate. {mismatch} Leave it out, or "
                    f"take thresholds that promise nothing, as preset 'default' has"
                )
        return classifier

    def predict(
        self,
        texts: Sequence[str],
        *,
        n_draws: int | None = None,
        seed: int | None = None,
        estimator: Estimator | None = None,
        policy: Policy | None = None,
    ) -> list[Prediction]:
        """Classify texts with doubt.

        Args:
            texts: A list of non-empty strings, or a column of pandas, datasets or NumPy. One longer
                than the model reads is scored on its beginning and marked ``truncated``, which no
                policy lets proceed. Characters that the tokenizer does not know make a share of
                ``unread``, which none does unless it says ``allow_unread``.
            n_draws: Draws T, >= 2; for ``adaptive`` the most it takes, >= 3. None takes
                ``self.scoring``'s, as do the next two.
            seed: Of the draws, >= 0.
            estimator: ``"adaptive"`` (one pass, and more only for texts whose route that leaves in
                doubt), ``"linearized"`` (about two passes, no sampling noise), ``"monte_carlo"``
                (T passes), or ``"deterministic"`` (one pass, no variance). None takes
                ``"monte_carlo"`` where ``n_draws`` is given and ``self.scoring``'s draws nothing.
            policy: Whose thresholds ``adaptive`` works for; None takes ``self.policy``.

        Returns:
            One prediction a text, in the caller's order. A text's prediction depends on nothing
            but itself and these arguments (up to float rounding, about 1e-6).

        Raises:
            TypeError: ``texts`` is one string, or holds something else than strings.
            ValueError: A text that cannot be read, an argument out of range, or ``adaptive``
                without a policy.
        """
        scoring, policy = self.how(n_draws, seed, estimator, policy)
        return self.score_texts(texts, scoring, policy)

    async def apredict(
        self,
        texts: Sequence[str],
        *,
        n_draws: int | None = None,
        seed: int | None = None,
        estimator: Estimator | None = None,
        policy: Policy | None = None,
    ) -> list[Prediction]:
        """:meth:`predict` for concurrent callers: what waits at the same time is scored together.

        A cancelled call is dropped unless its pass has begun; one that fails fails alone.

        Raises:
            OverloadedError: Over a thousand calls wait already.
            TypeError, ValueError: As :meth:`predict`.
        """
        texts = check_texts(texts)
        how = self.how(n_draws, seed, estimator, policy)
        return await asyncio.wrap_future(self._submit(how, texts))

    def draw(self, texts: Sequence[str], *, n_draws: int = 20, seed: int = 0) -> Tensor:
        """Class probabilities of every draw: (T, B, C), float64, texts in the caller's order."""
        scoring, _ = self.how(n_draws, seed, "monte_carlo", None)
        encoded = self.network.encoder.encode(texts)
        result = torch.empty(scoring.n_draws, len(encoded), len(self.labels), dtype=torch.float64)
        for batch in batches(encoded, TOKENS_PER_PASS):
            rows = [text.position for text in batch]
            result[:, rows] = self.network.draw(batch, scoring.seed, range(scoring.n_draws))
        return result

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Where texts lie as the backbone reads them: (N, d), float32, in the caller's order.

        The adapter is off: each is the mean of the backbone's last hidden state over the text's
        tokens, at norm 1, so that a product of two is their cosine, how alike they are.

        Args:
            texts: As for :meth:`predict`.
        """
        encoded = self.network.encoder.encode(texts)
        rows, parts = [], []
        for batch in batches(encoded, TOKENS_PER_PASS):
            rows += [text.position for text in batch]
            parts.append(self.network.backbone(batch))
        return torch.cat(parts)[torch.tensor(rows).argsort()]

    def passes(self, texts: Sequence[str]) -> Pass:
        """Logits and features without noise, texts in the caller's order."""
        encoded = self.network.encoder.encode(texts)
        rows, parts = [], []
        for batch in batches(encoded, TOKENS_PER_PASS):
            rows += [text.position for text in batch]
            parts.append(self.network.deterministic(batch))
        order = torch.tensor(rows).argsort()
        return Pass(*(torch.cat(part)[order] for part in zip(*parts, strict=True)))

    def how(
        self,
        n_draws: int | None = None,
        seed: int | None = None,
        estimator: Estimator | None = None,
        policy: Policy | None = None,
    ) -> tuple[Scoring, Policy | None]:
        """What the arguments of :meth:`predict` come to, with what the classifier says of them."""
        given = {"n_draws": n_draws, "seed": seed, "estimator": estimator}
        given = {name: value for name, value in given.items() if value is not None}
        scoring = self.scoring
        if n_draws is not None and scoring.estimator in ("linearized", "deterministic"):
            given.setdefault("estimator", "monte_carlo")  # the other two draw nothing
        if given:
            scoring = parse(Scoring, asdict(scoring) | given, source="arguments of predict")
        policy = policy or self.policy
        if scoring.estimator == "adaptive" and policy is None:
            raise ValueError(
                "estimator='adaptive' works until a text's route is settled, so it needs the "
                "thresholds: pass policy=, here or to from_pretrained, or take from_preset"
            )
        return scoring, policy

    def stages(self, texts: Sequence[str], scoring: Scoring) -> Stages:
        """The texts after their first pass, to be settled by one policy or several."""
        encoded = self.network.encoder.encode(texts)
        passes = (
            (batch, self.network.deterministic(batch))
            for batch in batches(encoded, TOKENS_PER_PASS)
        )
        return self._stages(encoded, scoring, passes)

    def _stages(
        self,
        texts: Sequence[Encoded],
        scoring: Scoring,
        passes: Iterable[tuple[list[Encoded], Any]],
    ) -> Stages:
        return Stages(
            self.network,
            self.reference,
            texts,
            passes,
            scoring,
            self.forecast,
            self.offset,
            TOKENS_PER_PASS,
        )

    def score_texts(
        self, texts: Sequence[str], scoring: Scoring, policy: Policy | None
    ) -> list[Prediction]:
        """:meth:`predict`, as :meth:`how` says."""
        if scoring.estimator == "adaptive":
            assert policy is not None
            stages = self.stages(texts, scoring)
            return self._predictions(stages.texts, stages.settle(policy), scoring)
        scored = (
            (batch, score(self.network, self.reference, batch, scoring))
            for batch in batches(self.network.encoder.encode(texts), TOKENS_PER_PASS)
        )
        return self._in_order(scored, scoring)

    def settle(
        self,
        texts: Sequence[Encoded],
        passes: Sequence[tuple[list[Encoded], Pass | Linearized]],
        scoring: Scoring,
        policy: Policy | None,
    ) -> list[Prediction]:
        """:meth:`score_texts` of texts whose first pass has been made.

        Args:
            texts: Encoded, in the caller's order.
            passes: Of batches of them: linearized for the estimator of that name, else without
                noise.
            scoring: Any but ``monte_carlo``.
            policy: Whose thresholds ``adaptive`` works for.
        """
        if scoring.estimator == "adaptive":
            assert policy is not None
            stages = self._stages(texts, scoring, passes)
            return self._predictions(texts, stages.settle(policy), scoring)
        scored = ((batch, scored_pass(self.reference, found)) for batch, found in passes)
        return self._in_order(scored, scoring)

    def _in_order(
        self, scored: Iterable[tuple[list[Encoded], Scored]], scoring: Scoring
    ) -> list[Prediction]:
        results: dict[int, Prediction] = {}
        for batch, found in scored:
            places = (text.position for text in batch)
            results |= zip(places, self._predictions(batch, found, scoring), strict=True)
        return [results[i] for i in range(len(results))]

    def _predictions(
        self, texts: Sequence[Encoded], scored: Scored, scoring: Scoring
    ) -> list[Prediction]:
        moments = scored.moments
        best = moments.mean.argmax(dim=1)
        column = best[:, None]
        scored_by = self.scored_by(scoring)
        # Lists at once: element by element a tensor takes its time.
        return [
            Prediction(
                label=self.labels[k],
                confidence=confidence,
                variance=variance,
                probabilities=dict(zip(self.labels, mean, strict=True)),
                entropy=entropy,
                mutual_information=mutual_information,
                n_draws=n_draws,
                estimator=scoring.estimator,
                seed=scoring.seed,
                n_tokens=len(text.ids),
                truncated=text.truncated,
                unread=text.unread,
                novelty=novelty,
                foreign=text.foreign,
                sureness=sureness,
                scored_by=scored_by,
                variance_from=source,
            )
            for (
                text,
                k,
                confidence,
                variance,
                mean,
                entropy,
                mutual_information,
                n_draws,
                novelty,
                sureness,
                source,
            ) in zip(
                texts,
                best.tolist(),
                moments.mean.gather(1, column)[:, 0].tolist(),
                moments.variance.gather(1, column)[:, 0].tolist(),
                moments.mean.tolist(),
                moments.entropy.tolist(),
                moments.mutual_information.tolist(),
                scored.n_draws,
                scored.novelty,
                scored.sureness,
                scored.variance_from,
                strict=True,
            )
        ]


def _as_recorded(asked: Choices | None, manifest: Manifest | None) -> Choices | None:
    if manifest is None or manifest.choices is None:
        return asked
    record = manifest.choices
    recorded = Choices(record.verbalizers, record.template, record.length_normalized)
    if asked not in (None, recorded):
        raise ValueError(
            "`choices`, `template` or `length_normalized` differ from those of the adapter's "
            "bayeslora.json; leave them out"
        )
    return recorded
