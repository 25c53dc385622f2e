"""What people run today instead of this package: the contestants that ``bench`` compares with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import pipeline

from bayeslora_tool.artifacts.backbone_model import quiet
from bayeslora_tool.artifacts.loading import Source, load_adapter
from bayeslora_tool.benchmarking.timing import Call, take_turns
from bayeslora_tool.policy import Preset


def train_mode(
    preset: Preset, dropout: float, n_draws: int, source: Source
) -> Callable[[list[str]], Any]:
    """The common practice: dropout modules in train mode, T passes one after the other."""
    loaded = load_adapter(preset.adapter, **source)
    for layer in loaded.model.modules():
        if isinstance(layer, LoraLayer):
            for name in layer.lora_A:
                layer.lora_dropout[name] = torch.nn.Dropout(dropout).train()
    device = next(loaded.model.parameters()).device

    def run(texts: list[str]) -> list[Any]:
        results = []
        with torch.inference_mode():
            for start in range(0, len(texts), 32):
                batch = loaded.tokenizer(
                    texts[start : start + 32], padding=True, truncation=True, return_tensors="pt"
                ).to(device)
                passes = [loaded.model(**batch).logits.softmax(-1) for _ in range(n_draws)]
                stack = torch.stack(passes)
                results.append((stack.mean(0).tolist(), stack.var(0).tolist()))
        return results

    return run


class PlainPipeline:
    """Transformers' own, on the merged model (its fastest form), at its best batch size."""

    def __init__(self, preset: Preset, source: Source) -> None:
        loaded = load_adapter(preset.adapter, **source)
        merged: Any = loaded.model.merge_and_unload()  # type: ignore[operator]
        with quiet():
            self.classify = pipeline(
                "text-classification", model=merged, tokenizer=loaded.tokenizer
            )
        self.batch_size: int | None = None

    def __call__(self, texts: list[str]) -> Any:
        """Classify; the first call of several texts looks for the batch size."""
        if len(texts) == 1:
            return self.classify(texts)
        if self.batch_size is None:
            self.find_batch_size(texts)
        return self.classify(texts, batch_size=self.batch_size)

    def find_batch_size(self, texts: list[str]) -> None:
        """Take the quickest one for texts like these, in their order."""
        sizes = (1, 4, 8, 16, 32, 64)
        calls: dict[str, Call] = {
            str(n): partial(self.classify, texts, batch_size=n) for n in sizes
        }
        times = take_turns(calls, 2)
        self.batch_size = min(sizes, key=lambda n: median(times[str(n)]))
