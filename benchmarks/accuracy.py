"""Accuracy of an adapter on labelled texts: one pass without noise, and the mean of T draws.

python benchmarks/accuracy.py sentiment glue_dev.tsv
python benchmarks/accuracy.py intents clinc150/test.tsv
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.training.packaging import measure
from bayeslora_tool.training.recipe import read_as_trained


def main(
    adapter: str, file: Path, draws: Annotated[int, typer.Option(help="Draws T.")] = 20
) -> None:
    classifier = BayesLoRAClassifier.from_pretrained(adapter)
    examples = read_as_trained(classifier.manifest, file)
    with Progress(transient=True) as bar:
        task = bar.add_task("scoring", total=len(examples))
        metrics = measure(
            classifier, examples, n_draws=draws, progress=lambda n: bar.advance(task, n)
        )
    plain, noisy = metrics["accuracy_deterministic"], metrics["accuracy_monte_carlo"]
    print(f"{adapter} on {file.name}: n = {metrics['n']}")
    print(f"  one pass without noise  {plain:.4f}")
    print(f"  mean of {draws} draws        {noisy:.4f}  ({100 * (noisy - plain):+.2f} points)")


if __name__ == "__main__":
    typer.run(main)
