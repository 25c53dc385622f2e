"""A classifier that loads at first use, so that a server is up at once. Knows no protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Unpack

from bayeslora_tool.artifacts.manifest import bundled_adapters, find_adapter_folder, read_manifest
from bayeslora_tool.policy import Preset
from bayeslora_tool.prediction import Prediction
from bayeslora_tool.workers import begin_anew_after_fork

if TYPE_CHECKING:
    from bayeslora_tool.classifier import BayesLoRAClassifier, LoadOptions


class LazyClassifier:
    """The classifier of a preset: loaded once, when first asked, and never on an event loop.

    Thread-safe. If it does not load, each call says why and tries again.

    Args:
        preset: Names the adapter and how it scores.
        **loading: As for ``BayesLoRAClassifier.from_preset``.
    """

    def __init__(self, preset: Preset, **loading: Unpack[LoadOptions]) -> None:
        self.preset, self.loading = preset, loading
        self.after_fork()
        begin_anew_after_fork(self)
        self._loaded: BayesLoRAClassifier | None = None

    def after_fork(self) -> None:
        """Another thread of the parent may have been loading."""
        self._lock = Lock()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """From the adapter's manifest, or as given, without loading the model; empty if neither.

        Raises:
            FileNotFoundError: No such adapter.
            ValueError: A damaged manifest, or no adapter at all.
        """
        # A folder without weights still has labels: a graph is built, and loading says why.
        name = self.preset.adapter
        is_folder = name not in bundled_adapters() and Path(name).is_dir()
        manifest = read_manifest(Path(name) if is_folder else find_adapter_folder(name))
        labels = manifest.labels if manifest else self.loading.get("labels") or ()
        acts = self.preset.acts or {}
        merged = {label for some in acts.values() for label in some}
        return tuple(dict.fromkeys([*acts, *(x for x in labels if x not in merged)]))

    def load(self) -> BayesLoRAClassifier:
        """The classifier itself.

        Raises:
            FileNotFoundError, ValueError: As ``BayesLoRAClassifier.from_pretrained``.
        """
        with self._lock:
            if self._loaded is None:
                from bayeslora_tool.classifier import BayesLoRAClassifier

                self._loaded = BayesLoRAClassifier.from_preset(self.preset, **self.loading)
            return self._loaded

    def predict(self, texts: Sequence[str], /) -> list[Prediction]:
        """As ``BayesLoRAClassifier.predict``."""
        return self.load().predict(texts)

    async def apredict(self, texts: Sequence[str], /) -> list[Prediction]:
        """As ``BayesLoRAClassifier.apredict``: what waits at the same time is scored together."""
        if self._loaded is None:
            await asyncio.to_thread(self.load)
        assert self._loaded is not None
        return await self._loaded.apredict(texts)
