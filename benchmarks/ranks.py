"""How much a greater rank sees: the rank-coverage trade-off of the BayesLoRA paper (section 5.3).

    python benchmarks/ranks.py clinc150 runs/ranks

One adapter a rank on the first intents of CLINC150 (folder as `examples/clinc150_to_tsv.py` makes
it), all else equal; the out-of-scope queries are then told apart by the variance.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.evaluation.geometry import inspect_adapter
from bayeslora_tool.inference.fused import FusedLoraLinear
from bayeslora_tool.training.dataset import LabelledText, read_labelled, read_texts
from bayeslora_tool.training.recipe import Recipe, TrainingData
from bayeslora_tool.training.trainer import train_adapter

RANKS = (2, 4, 8, 16, 32, 64)


def passes(clf: BayesLoRAClassifier, texts: list[str]) -> float:
    """Time of a linearized prediction over that of a deterministic one, median of 7 turns."""

    def seconds(estimator: Any) -> float:
        start = time.perf_counter()
        clf.predict(texts, estimator=estimator)
        return time.perf_counter() - start

    return median(seconds("linearized") / seconds("deterministic") for _ in range(7))


def main(
    folder: Path,
    output: Path,
    classes: Annotated[int, typer.Option(help="Intents taken, in the order of names.")] = 30,
    epochs: Annotated[int, typer.Option()] = 6,
) -> None:
    files = {name: read_labelled(folder / f"{name}.tsv") for name in ("train", "val", "test")}
    labels = tuple(sorted({e.label for e in files["train"]})[:classes])

    def chosen(name: str) -> list[LabelledText]:
        return [e for e in files[name] if e.label in labels]

    data = TrainingData(chosen("train"), chosen("val"), labels, dropped=0)
    test, outside = chosen("test"), read_texts(folder / "oos_test.tsv")
    table = Table(
        "rank", "parameters", "accuracy", "blind share", "AUROC OOD, variance", "1 - confidence",
        "novelty", "linearized, passes",
        title=f"{classes} intents, {len(test)} test texts, {len(outside)} out of scope",
    )  # fmt: skip
    for rank in RANKS:
        place = output / f"rank{rank}"
        if (place / "bayeslora.json").exists():
            clf = BayesLoRAClassifier.from_pretrained(place)
        else:
            clf = train_adapter(Recipe(rank=rank, alpha=2 * rank, epochs=epochs), data, place)
        texts = [e.text for e in test]
        inside, strangers = clf.predict(texts), clf.predict(outside)
        truth = np.r_[np.zeros(len(inside)), np.ones(len(strangers))]
        both = [*inside, *strangers]
        layers = [m for m in clf.network.model.modules() if isinstance(m, FusedLoraLinear)]
        parameters = sum(layer.down.numel() + layer.up.numel() for layer in layers)
        blind = np.mean([seen.null_energy for seen in inspect_adapter(clf, texts[:200])])
        table.add_row(
            str(rank),
            f"{parameters:,}",
            f"{np.mean([p.label == e.label for p, e in zip(inside, test, strict=True)]):.4f}",
            f"{blind:.1%}",
            f"{roc_auc_score(truth, [p.variance for p in both]):.3f}",
            f"{roc_auc_score(truth, [1 - p.confidence for p in both]):.3f}",
            f"{roc_auc_score(truth, [p.novelty for p in both]):.3f}",
            f"{passes(clf, texts[:64]):.2f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
