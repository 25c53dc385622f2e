"""Which form of the first-order doubt ranks errors and strangers best.

    python benchmarks/signals.py sentiment sst2/glue_dev.tsv agnews.txt
    python benchmarks/signals.py intents clinc150/test.tsv clinc150/oos_test.tsv

The variance of the probability vanishes where the probability saturates; that of the log-odds does
not, and over the log-odds themselves it says how many deviations the decision is away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import typer
from rich.progress import track
from sklearn.metrics import roc_auc_score
from torch import Tensor

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.inference import estimators
from bayeslora_tool.inference.encoding import Encoded, batches
from bayeslora_tool.inference.linearization import linearization
from bayeslora_tool.training.dataset import read_texts
from bayeslora_tool.training.recipe import read_as_trained


def main(adapter: str, file: Path, outside: Path) -> None:
    clf = BayesLoRAClassifier.from_pretrained(adapter)
    examples = read_as_trained(clf.manifest, file)
    texts = [e.text for e in examples] + read_texts(outside)
    stranger = torch.arange(len(texts)) >= len(examples)
    wrong = torch.zeros(len(examples), dtype=torch.bool)
    found: dict[str, Tensor] = {}
    for batch in track(list(batches(clf.network.encoder.encode(texts), 2048)), transient=True):
        passed, variance, _ = clf.network.linearize(batch)
        label = passed.logits.argmax(dim=1)
        between, spread = _between_the_two_likeliest(clf, batch)
        odds = estimators.log_odds(passed.probabilities, label)
        moments = estimators.linearized(passed.probabilities, variance)
        y = label[:, None]
        rows = torch.tensor([text.position for text in batch])
        for name, values in {
            "1 - confidence": 1 - moments.mean.gather(1, y)[:, 0],
            "variance": moments.variance.gather(1, y)[:, 0],
            "variance of the log-odds": variance,
            "log-odds over their deviation, negative": -odds / variance.sqrt(),
            "of the two likeliest: variance": spread,
            "of the two likeliest: in deviations": -between / spread.sqrt(),
        }.items():
            found.setdefault(name, torch.empty(len(texts), dtype=values.dtype))[rows] = values
        for row, index in zip(rows.tolist(), label.tolist(), strict=True):
            if row < len(examples):
                wrong[row] = clf.labels[index] != examples[row].label
    print(
        f"{adapter}: {len(examples)} texts, {int(wrong.sum())} wrong, {int(stranger.sum())} outside"
    )
    for name, values in found.items():
        errors = roc_auc_score(wrong, values[~stranger])
        strangers = roc_auc_score(stranger, values)
        print(f"  {name:40} AUROC errors {errors:.3f}, strangers {strangers:.3f}")


def _between_the_two_likeliest(
    clf: BayesLoRAClassifier, batch: Sequence[Encoded]
) -> tuple[Tensor, Tensor]:
    """Their log-odds and its linearized variance, each (B,)."""
    network = clf.network
    with linearization(network.posterior, len(batch), network.device) as noise:
        two = network._pass(batch).logits.topk(2).values
        odds = two[:, 0] - two[:, 1]
        torch.autograd.grad(odds.sum(), noise.anchor, allow_unused=True)
    return odds.detach(), noise.total.cpu().double()


if __name__ == "__main__":
    typer.run(main)
