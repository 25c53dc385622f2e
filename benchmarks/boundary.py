"""Where the doubt sits: the adapter's variance against the backbone's (BayesLoRA paper, 5.4).

    python benchmarks/boundary.py sentiment sst2/glue_dev.tsv

Texts are put into tenths by their distance from the decision boundary, the gap of the two greatest
log-probabilities without noise; printed is the mean variance of each tenth, over that of the tenth
where it is greatest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy import stats

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.evaluation.baselines import Draw, backbone_dropout
from bayeslora_tool.training.recipe import read_as_trained


def main(adapter: str, file: Path, draws: int = 50) -> None:
    classifier = BayesLoRAClassifier.from_pretrained(adapter)
    texts = [e.text for e in read_as_trained(classifier.manifest, file)]
    logits = classifier.passes(texts).logits
    top = logits.topk(2, dim=1)
    margin = (top.values[:, 0] - top.values[:, 1]).numpy()
    likeliest = top.indices[:, 0]

    def variance(draw: Draw) -> np.ndarray:  # (B,)
        parts = []
        for start in range(0, len(texts), 256):
            p = draw(texts[start : start + 256])  # (T, b, C)
            label = likeliest[start : start + 256].expand(draws, -1)[..., None]
            parts.append(p.gather(2, label)[..., 0].var(dim=0, correction=0))
        return torch.cat(parts).numpy()

    ours = variance(lambda some: classifier.draw(some, n_draws=draws))
    theirs = variance(backbone_dropout(adapter, draws))
    table = Table(
        "margin, at most", "adapter", "backbone",
        title=f"variance by distance from the boundary, {len(texts)} texts, {draws} draws",
    )  # fmt: skip
    parts = np.array_split(np.argsort(margin), 10)
    means = np.array([[values[part].mean() for values in (ours, theirs)] for part in parts])
    for part, row in zip(parts, means / means.max(axis=0), strict=True):
        table.add_row(f"{margin[part].max():.2f}", *(f"{value:.2f}" for value in row))
    console = Console()
    console.print(table)
    for name, values in (("adapter", ours), ("backbone", theirs)):
        rho = stats.spearmanr(values, margin).statistic
        console.print(f"{name}: mean {values.mean():.2g}, Spearman with the margin {rho:.3f}")
    console.print(f"adapter with backbone: Spearman {stats.spearmanr(ours, theirs).statistic:.3f}")


if __name__ == "__main__":
    typer.run(main)
