"""What a faster frozen backbone would buy, and how many routes it would change.

    python benchmarks/backbone.py sentiment sst2/glue_dev.tsv

bfloat16 is scored through the classifier as shipped (`dtype=`). int8 (dynamic quantization of the
linear layers) and torch.compile are tried on the merged model without noise, in the same batches:
if they do not pay there, they do not pay. A route of a pass without noise is "confident enough".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.artifacts.loading import load_adapter
from bayeslora_tool.benchmarking.bench import equal_routes
from bayeslora_tool.benchmarking.timing import ratio, take_turns
from bayeslora_tool.inference.encoding import batches
from bayeslora_tool.policy import load_preset
from bayeslora_tool.training.dataset import read_texts

TOKENS_PER_PASS = 1024


def main(preset: str, file: Path, texts: int = 256, rounds: int = 5) -> None:
    chosen = load_preset(preset)
    # Thresholds as they are, whatever the scoring: the question is how many routes change.
    policy = replace(chosen.policy, calibrated_for=None)
    found = read_texts(file, text_column="sentence" if preset == "sentiment" else "text")
    found = found[:: -(-len(found) // texts)]
    ours = {
        str(dtype).removeprefix("torch."): BayesLoRAClassifier.from_pretrained(
            chosen.adapter, dtype=dtype
        )
        for dtype in (torch.float32, torch.bfloat16)
    }
    calls: dict[str, Callable[[], Any]] = {
        f"{name}, {estimator}": lambda clf=clf, estimator=estimator: clf.predict(
            found, estimator=estimator
        )
        for name, clf in ours.items()
        for estimator in ("deterministic", "linearized")
    }
    merged: Any = load_adapter(chosen.adapter).model.merge_and_unload()  # type: ignore[operator]
    encoder = ours["float32"].network.encoder
    groups = [encoder.tensors(b) for b in batches(encoder.encode(found), TOKENS_PER_PASS)]

    def scored(model: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            logits = [model(input_ids=i, attention_mask=m).logits for i, m in groups]
        return (torch.cat(logits) / ours["float32"].temperature).softmax(-1)

    plain = {"merged float32": merged}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain["merged int8"] = torch.ao.quantization.quantize_dynamic(merged, {nn.Linear})
    plain["merged, compiled"] = torch.compile(merged, dynamic=True)
    for name, model in list(plain.items()):
        try:
            scored(model)
        except Exception as error:  # no C++ compiler, say: a finding too
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            del plain[name]
    calls |= {name: lambda model=model: scored(model) for name, model in plain.items()}
    for call in calls.values():
        call()
    times = take_turns(calls, rounds)

    reference = ours["float32"].predict(found)
    changed = {
        f"{name}, linearized": 1 - equal_routes(clf.predict(found), reference, policy)
        for name, clf in ours.items()
    }
    base = scored(merged)
    for name, model in plain.items():
        p = scored(model)
        sure, was_sure = (q.amax(-1) >= policy.tau_conf for q in (p, base))
        other = (sure != was_sure) | (sure & (p.argmax(-1) != base.argmax(-1)))
        changed[name] = float(other.double().mean())
    table = Table("", "time", "routes changed", title=f"{preset}, {len(found)} texts")
    for name in calls:
        share = f"{changed[name]:.2%}" if name in changed else "-"
        table.add_row(name, f"{ratio(times, name, 'float32, deterministic'):.2f}", share)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
