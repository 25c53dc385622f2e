"""What many adapters on one backbone cost: memory beside one alone, passes beside unmixed ones.

    python benchmarks/hub.py clinc150/test.tsv

The adapters are the bundled two in turn, each loaded on its own. Memory is that of a fresh process;
what its libraries take, with no model, is told apart.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import typer
from rich.console import Console
from rich.table import Table

from bayeslora_tool import AdapterHub, BayesLoRAClassifier
from bayeslora_tool.benchmarking.timing import ratio, take_turns
from bayeslora_tool.training.dataset import read_texts
from bayeslora_tool.training.recipe import DEFAULT_BACKBONE

KINDS = ("intents", "sentiment")


def resident() -> float:
    """Of this process, in MiB."""
    gc.collect()
    return float(psutil.Process().memory_info().rss) / 2**20


def filled(adapters: int) -> AdapterHub:
    hub = AdapterHub(DEFAULT_BACKBONE, device="cpu")
    for i in range(adapters):
        hub.add(f"{KINDS[i % 2]} {i}", KINDS[i % 2])
    return hub


def memory(adapters: int | None, tasks: int = 64) -> tuple[float, float]:
    """Of a process without a model and with it; None: one classifier as it is without a hub."""
    before = resident()
    if adapters is None:
        classifier = BayesLoRAClassifier.from_pretrained(KINDS[0], device="cpu")
        classifier.predict(["move forty dollars to savings"] * tasks, estimator="linearized")
    else:
        hub = filled(adapters)
        names = [*hub] * tasks
        hub.predict([(n, "move forty dollars to savings") for n in names[:tasks]])
    return before, resident()


def main(file: Path, texts: int = 1000, adapters: int = 8, rounds: int = 5) -> None:
    out = Console()
    table = Table("process with", "MiB", "of them the model's", "to one", "model's to one")
    first: tuple[float, float] | None = None
    whats = {"one classifier": None, "a hub of 1": 1, f"a hub of {adapters}": adapters}
    for name, n in whats.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            before, after = pool.submit(memory, n).result()
        own = after - before
        first = first or (after, own)
        table.add_row(name, *(f"{x:.0f}" for x in (after, own)), f"{after / first[0]:.2f}",
                      f"{own / first[1]:.2f}")  # fmt: skip
    out.print(table)
    found = read_texts(file)[:texts]
    hub, alone = filled(adapters), BayesLoRAClassifier.from_pretrained(KINDS[0], device="cpu")
    names = [*hub]
    mixed = [(names[i % adapters], text) for i, text in enumerate(found)]
    one = [(names[0], text) for text in found]
    table = Table("estimator", "texts a second, mixed", "to unmixed", "to one without a hub")
    for estimator in ("deterministic", "linearized"):
        calls: dict[str, Callable[[], Any]] = {
            "mixed": lambda e=estimator: hub.predict(mixed, estimator=e),
            "one": lambda e=estimator: hub.predict(one, estimator=e),
            "alone": lambda e=estimator: alone.predict(found, estimator=e),
        }
        take_turns(calls, 1)
        seconds = take_turns(calls, rounds)
        rate = len(found) / median(seconds["mixed"])
        shares = [f"{ratio(seconds, name, 'mixed'):.2f}" for name in ("one", "alone")]
        table.add_row(estimator, f"{rate:.0f}", *shares)
    out.print(table)


if __name__ == "__main__":
    typer.run(main)
