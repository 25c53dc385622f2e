"""How far draws agree with themselves, with the linearization, and with both at once.

    python benchmarks/agreement.py intents clinc150/test.tsv

Where many draws repeat themselves badly, no estimator can agree with them well. "Regressed" takes
the draws' difference from the same draws to first order, whose moments are known (control variate).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.progress import track
from scipy import stats
from torch import Tensor

from bayeslora_tool import BayesLoRAClassifier
from bayeslora_tool.inference import estimators
from bayeslora_tool.inference.encoding import batches
from bayeslora_tool.policy import load_preset
from bayeslora_tool.training.recipe import read_as_trained

Pair = tuple[Tensor, Tensor]  # mean and variance of the likeliest label's probability, each (B,)


def main(
    preset: str,
    file: Path,
    texts: Annotated[int, typer.Option(help="Spread over the file.")] = 240,
    draws: Annotated[int, typer.Option()] = 400,
) -> None:
    chosen = load_preset(preset)
    clf = BayesLoRAClassifier.from_pretrained(chosen.adapter)
    examples = read_as_trained(clf.manifest, file)
    found = [e.text for e in examples[:: -(-len(examples) // texts)]]
    parts, order = [], []
    for batch in track(list(batches(clf.network.encoder.encode(found), 2048)), transient=True):
        order += [text.position for text in batch]
        passed, variance, gradients = clf.network.linearize(batch, keep=True)
        label = passed.logits.argmax(dim=1)
        rows = label.expand(draws, -1)[..., None]
        drawn = clf.network.draw(batch, 0, range(draws)).gather(2, rows)[..., 0]
        change = clf.posterior.project(gradients, 0, range(draws))
        at_once = torch.sigmoid(estimators.log_odds(passed.probabilities, label) + change)
        moments = estimators.linearized(passed.probabilities, variance)
        y = label[:, None]
        parts.append(
            (
                drawn,
                at_once,
                moments.mean.gather(1, y).T,
                moments.variance.gather(1, y).T,
                variance[None],
            )
        )
    p, q, mean, variance, first_order = (
        torch.cat(part, dim=1) for part in zip(*parts, strict=True)
    )
    linear = mean[0], variance[0]

    def plain(some: slice) -> Pair:
        return p[some].mean(dim=0), p[some].var(dim=0)

    def regressed(some: slice) -> Pair:
        centre = linear[0] + (p[some] - q[some]).mean(dim=0)
        square = linear[1] + linear[0].square() + (p[some].square() - q[some].square()).mean(dim=0)
        return centre, square - centre.square()

    def routes(pair: Pair) -> Tensor:
        steady, sure = pair[1] <= chosen.policy.tau_var, pair[0] >= chosen.policy.tau_conf
        return torch.where(steady, sure.long(), 2)

    def compare(name: str, *pairs: tuple[Pair, Pair]) -> None:
        rho = np.mean([stats.spearmanr(a[1], b[1]).statistic for a, b in pairs])
        same = np.mean([(routes(a) == routes(b)).double().mean().item() for a, b in pairs])
        print(f"{name:44} rank correlation {rho:.3f}, equal routes {same:.2%}")

    whole, half = slice(0, draws), draws // 2
    best = regressed(whole)
    halves = slice(0, half), slice(half, 2 * half)
    print(f"{preset}: {len(found)} texts, {draws} draws")
    compare("two halves of the draws", (plain(halves[0]), plain(halves[1])))
    compare("all draws, and the same regressed", (plain(whole), best))
    compare("linearized, and all draws", (linear, plain(whole)))
    over = p.logit().var(dim=0) / first_order[0]
    low, middle, high = (float(over.quantile(at)) for at in (0.025, 0.5, 0.975))
    print(f"variance of the log-odds over the linearized: {middle:.2f}, {low:.2f} to {high:.2f}")
    compare("linearized, and all draws regressed", (linear, best))
    for cap in (20, 64):
        # Other draws than those it is compared with.
        told = clf.predict(found, estimator="adaptive", n_draws=cap, seed=1, policy=chosen.policy)
        moments = torch.tensor([(p.confidence, p.variance) for p in told], dtype=torch.float64)
        adaptive = moments[order].T[0], moments[order].T[1]
        drawn_texts = np.mean([p.n_draws > 0 for p in told])
        print(f"adaptive, at most {cap} draws: {drawn_texts:.1%} of the texts are drawn")
        compare("  and all draws", (adaptive, plain(whole)))
        compare("  and all draws regressed", (adaptive, best))
    for n in (16, 64):
        some = [slice(i, i + n) for i in range(0, draws - n + 1, n)]
        if not some:
            continue
        compare(f"{n} draws, and all regressed", *((plain(s), best) for s in some))
        compare(f"{n} draws regressed, and all regressed", *((regressed(s), best) for s in some))


if __name__ == "__main__":
    typer.run(main)
