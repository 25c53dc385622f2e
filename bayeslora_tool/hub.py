"""Many adapters on one backbone: the frozen weights once, and texts of several in one pass."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.utils.quantization_config import QuantizationConfigMixin

from bayeslora_tool.artifacts.frozen import FrozenWeights
from bayeslora_tool.classifier import TOKENS_PER_PASS, BayesLoRAClassifier
from bayeslora_tool.inference.batching import MicroBatcher
from bayeslora_tool.inference.encoding import Encoded, batches, check_texts
from bayeslora_tool.inference.mixed import MixedNetwork
from bayeslora_tool.inference.network import Linearized, Pass
from bayeslora_tool.policy import Estimator, Policy, Preset, Scoring
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.quoting import brief
from bayeslora_tool.workers import FreshLock

logger = logging.getLogger(__name__)

_How = tuple[Scoring, Policy | None]


class _Task(NamedTuple):
    """A text, whose adapter reads it, and how it is scored."""

    adapter: str
    how: _How
    text: str


class AdapterHub(Mapping[str, BayesLoRAClassifier]):
    """Classifiers by name, whose adapters share one frozen backbone.

    Each is a :class:`BayesLoRAClassifier` like any other: it has its own labels, noise, calibration
    and policy, answers as it does alone, and may stand wherever a classifier does, in a gate or in
    one of its acts (``Act(labels, classifier=hub["refunds"])``). The adapters stay beside the
    shared weights instead of in them, which takes a little longer (``benchmarks/hub.py``).

    Thread-safe, like its classifiers.

    Args:
        base: Backbone folder or hub name that all adapters were trained on.
        device: None takes CUDA where there is one.
        dtype: Of the frozen backbone; None is float32.
        quantization_config: Of transformers, to quantize the frozen backbone by.
    """

    def __init__(
        self,
        base: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
    ) -> None:
        self._loading: dict[str, Any] = {
            "base": base,
            "device": device,
            "dtype": dtype,
            "quantization_config": quantization_config,
            "frozen": FrozenWeights(),
        }
        self._classifiers: dict[str, BayesLoRAClassifier] = {}
        self._lock = FreshLock()
        self._mixed: tuple[frozenset[str], MixedNetwork | None] = (frozenset(), None)
        self._batcher: MicroBatcher[None, _Task, Prediction] = MicroBatcher(
            lambda _, tasks: self._score(tasks)
        )

    def add(
        self,
        name: str,
        adapter: str | Path | None = None,
        *,
        preset: Preset | str | Path | None = None,
        **options: Any,
    ) -> BayesLoRAClassifier:
        """Load an adapter beside the others.

        Args:
            name: To find it by.
            adapter: Bundled name, folder, or hub id; None takes the preset's, else ``name``.
            preset: Takes scoring, policy and acts from there, see ``from_preset``.
            options: Of :meth:`BayesLoRAClassifier.from_pretrained` (``labels``, ``dropout``, ...),
                but for those that all adapters have in common; with a preset, of ``from_preset``.

        Returns:
            The classifier, which is also ``hub[name]``.

        Raises:
            FileNotFoundError, ValueError: As ``from_pretrained`` and ``from_preset``; the name is
                taken; or an adapter's manifest records another backbone.
            TypeError: An option that all adapters have in common.
        """
        if common := sorted(self._loading.keys() & options.keys()):
            raise TypeError(
                f"`{common[0]}` is the same for all adapters of a hub; give it to AdapterHub"
            )
        self._check_free(name)
        how = self._loading | options
        if preset is None:
            classifier = BayesLoRAClassifier.from_pretrained(adapter or name, **how)
        else:
            classifier = BayesLoRAClassifier.from_preset(preset, adapter=adapter, **how)
        classifier.share_batches(lambda how, texts: self._submit(name, how, texts))
        with self._lock:
            self._check_free(name)  # another thread may have been quicker
            self._classifiers = {**self._classifiers, name: classifier}
        return classifier

    def _check_free(self, name: str) -> None:
        if name in self._classifiers:
            raise ValueError(f"`name` (={name!r}) is taken: there is an adapter of that name")

    def __getitem__(self, name: str) -> BayesLoRAClassifier:
        return self._classifiers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classifiers)

    def __len__(self) -> int:
        return len(self._classifiers)

    def predict(
        self,
        tasks: Sequence[tuple[str, str]],
        *,
        n_draws: int | None = None,
        seed: int | None = None,
        estimator: Estimator | None = None,
    ) -> list[Prediction]:
        """Classify texts of several adapters together.

        Passes without noise and linearized ones are shared by all adapters; draws are made for
        each adapter by itself, as they fill a pass anyway.

        Args:
            tasks: Of each text the adapter's name and the text.
            n_draws: As for :meth:`BayesLoRAClassifier.predict`, like the next two; None takes each
                classifier's own.
            seed: Of the draws.
            estimator: Of all.

        Returns:
            One prediction a text, in order: what its classifier alone would predict.

        Raises:
            TypeError: ``tasks`` does not hold pairs of strings.
            ValueError: A name that no adapter has, a text that cannot be read, or an argument out
                of range.
        """
        return self._score(self._tasks(tasks, n_draws, seed, estimator))

    async def apredict(
        self,
        tasks: Sequence[tuple[str, str]],
        *,
        n_draws: int | None = None,
        seed: int | None = None,
        estimator: Estimator | None = None,
    ) -> list[Prediction]:
        """:meth:`predict` for concurrent callers: what waits at the same time is scored together.

        So is what waits in ``apredict`` of the hub's classifiers.

        Raises:
            OverloadedError: Over a thousand calls wait already.
            TypeError, ValueError: As :meth:`predict`.
        """
        waiting = self._batcher.submit(None, self._tasks(tasks, n_draws, seed, estimator))
        return await asyncio.wrap_future(waiting)

    def _tasks(
        self,
        tasks: Sequence[tuple[str, str]],
        n_draws: int | None,
        seed: int | None,
        estimator: Estimator | None,
    ) -> list[_Task]:
        names = []
        for i, task in enumerate(tasks):
            pair = isinstance(task, Sequence) and not isinstance(task, str) and len(task) == 2
            if not (pair and isinstance(task[0], str)):
                raise TypeError(f"tasks[{i}] (={brief(task)}) must be (adapter, text)")
            if task[0] not in self._classifiers:
                raise ValueError(
                    f"tasks[{i}]: no adapter {brief(task[0])} in this hub, which has "
                    f"{', '.join(self) or 'none yet'}; add it first"
                )
            names.append(task[0])
        texts = check_texts([text for _, text in tasks])
        hows = {name: self[name].how(n_draws, seed, estimator) for name in {*names}}
        return [_Task(name, hows[name], text) for name, text in zip(names, texts, strict=True)]

    def _submit(self, name: str, how: _How, texts: Sequence[str]) -> Future[list[Prediction]]:
        return self._batcher.submit(None, [_Task(name, how, text) for text in texts])

    def _score(self, tasks: Sequence[_Task]) -> list[Prediction]:
        groups: dict[tuple[str, _How], list[int]] = {}
        for i, task in enumerate(tasks):
            groups.setdefault((task.adapter, task.how), []).append(i)
        mixed = self._together() if len(groups) > 1 else None
        alone: list[_Group] = []
        rounds: list[tuple[bool, dict[str, _Group]]] = []
        for (name, (scoring, policy)), rows in groups.items():
            classifier, texts = self[name], [tasks[i].text for i in rows]
            group = _Group(classifier, scoring, policy, rows, texts)
            if mixed is None or scoring.estimator == "monte_carlo":
                alone.append(group)
                continue
            linear = scoring.estimator == "linearized"
            fits = (some for kind, some in rounds if kind == linear and name not in some)
            place = next(fits, None)
            if place is None:
                rounds.append((linear, place := {}))
            place[name] = group
        results: dict[int, Prediction] = {}
        for group in alone:
            found = group.classifier.score_texts(group.texts, group.scoring, group.policy)
            results |= zip(group.rows, found, strict=True)
        for linear, place in rounds:
            assert mixed is not None
            encoded = {
                name: group.classifier.network.encoder.encode(group.texts)
                for name, group in place.items()
            }
            passes = _passes(mixed, encoded, linear=linear)
            for name, group in place.items():
                found = group.classifier.settle(
                    encoded[name], passes[name], group.scoring, group.policy
                )
                results |= zip(group.rows, found, strict=True)
        return [results[i] for i in range(len(tasks))]

    def _together(self) -> MixedNetwork | None:
        """The network of all adapters there are; None if they cannot share a pass."""
        with self._lock:
            classifiers = self._classifiers
            if self._mixed[0] != classifiers.keys():
                mixed = None
                try:
                    mixed = MixedNetwork({name: c.network for name, c in classifiers.items()})
                except ValueError as error:
                    logger.warning("each adapter is run by itself: %s", error)
                self._mixed = frozenset(classifiers), mixed
            return self._mixed[1]


class _Group(NamedTuple):
    """Texts of one adapter that are scored alike, and their places."""

    classifier: BayesLoRAClassifier
    scoring: Scoring
    policy: Policy | None
    rows: list[int]
    texts: list[str]


def _passes(
    mixed: MixedNetwork, encoded: Mapping[str, Sequence[Encoded]], *, linear: bool
) -> dict[str, list[tuple[list[Encoded], Pass | Linearized]]]:
    """Of each adapter the batches its texts came to, and what was found of each."""
    owners = [(name, text) for name, texts in encoded.items() for text in texts]
    numbered = [text._replace(position=i) for i, (_, text) in enumerate(owners)]
    passes: dict[str, list[tuple[list[Encoded], Pass | Linearized]]] = {
        name: [] for name in encoded
    }
    for batch in batches(numbered, TOKENS_PER_PASS):
        parts: dict[str, list[Encoded]] = {}
        for text in batch:
            name, own = owners[text.position]
            parts.setdefault(name, []).append(own)
        found = mixed.linearize(parts) if linear else mixed.deterministic(parts)
        for name, part in parts.items():
            passes[name].append((part, found[name]))
    return passes
