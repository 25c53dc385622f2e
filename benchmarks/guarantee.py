"""Does the promise of `bayeslora calibrate` hold, and what does it cost?

The held-out texts are taken as the whole population. Again and again n of them are drawn with
replacement, thresholds are calibrated on those, and the true risk is the one on all. Printed: how
often the risk is over the target, the coverage beside an oracle that knows every risk, and beside
the confidence alone under the same promise (gain and worst: points, redraw by redraw where both
are feasible).

    python benchmarks/guarantee.py sentiment heldout.tsv
    python benchmarks/guarantee.py intents clinc150/val.tsv --out-of-scope oos_val.tsv
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import Progress, track

from bayeslora_tool import BayesLoRAClassifier, Scoring
from bayeslora_tool.calibration.adapter import predict_all, to_scores
from bayeslora_tool.calibration.guarantee import GATES, calibrate
from bayeslora_tool.calibration.thresholds import Goal, Scores, Thresholds
from bayeslora_tool.training.dataset import read_texts
from bayeslora_tool.training.recipe import read_as_trained


def risk_and_coverage(scores: Scores, thresholds: Thresholds) -> tuple[float, float]:
    passed = thresholds.passed(scores)
    risk = float((~scores.correct[passed]).mean()) if passed.any() else 0.0
    return risk, float(passed.mean())


def oracle(scores: Scores, target: float) -> float:
    """Greatest coverage by confidence at which the risk on all texts is within the target."""
    order = np.argsort(-scores.confidence)
    counts = np.arange(1, len(order) + 1)
    within = np.cumsum(~scores.correct[order]) / counts <= target
    return float(counts[within].max() / len(order)) if within.any() else 0.0


def main(
    adapter: str,
    file: Path,
    out_of_scope: Annotated[list[Path] | None, typer.Option()] = None,
    n: Annotated[int, typer.Option(help="Calibration texts a redraw.")] = 3000,
    redraws: Annotated[int, typer.Option()] = 1000,
    delta: Annotated[float, typer.Option()] = 0.05,
) -> None:
    classifier = BayesLoRAClassifier.from_pretrained(adapter)
    examples = read_as_trained(classifier.manifest, file)
    strangers = [text for path in out_of_scope or [] for text in read_texts(path)]
    with Progress(transient=True) as bar:
        task = bar.add_task("scoring", total=len(examples) + len(strangers))
        predictions = predict_all(
            classifier,
            [*(e.text for e in examples), *strangers],
            Scoring(),
            lambda k: bar.advance(task, k),
        )
    everyone = to_scores(predictions, [*(e.label for e in examples), *([None] * len(strangers))])
    print(f"{adapter}: {len(everyone)} texts, error rate {(~everyone.correct).mean():.4f}; "
          f"{redraws} redraws of {n}, delta {delta}")  # fmt: skip
    print("target  feasible  over target  allowed  coverage  alone  gain     worst   oracle")
    for target in (0.01, 0.02, 0.05):
        goal = Goal(target, delta)
        found, alone, gains = [], [], []
        for seed in track(range(redraws), f"target {target}", transient=True):
            rows = np.random.default_rng(seed).integers(len(everyone), size=n)
            results = [
                calibrate(everyone.take(rows), goal, seed=seed, gates=gates)
                for gates in (GATES, ())
            ]
            ours, simple = (risk_and_coverage(everyone, r.thresholds) for r in results)
            found += [ours] * results[0].feasible
            alone += [simple] * results[1].feasible
            if results[0].feasible and results[1].feasible:
                gains.append(100 * (ours[1] - simple[1]))
        over = sum(risk > target for risk, _ in found) / redraws
        allowed = delta + 2 * np.sqrt(delta * (1 - delta) / redraws)
        mean, mean_alone = (np.mean([c for _, c in kept]) if kept else 0 for kept in (found, alone))
        print(
            f"{target:6.2f}  {len(found) / redraws:8.3f}  {over:11.3f}  {allowed:7.3f}  "
            f"{mean:8.4f}  {mean_alone:6.4f}  {np.mean(gains or 0):+.4f}  "
            f"{min(gains, default=0):6.2f}  {oracle(everyone, target):6.4f}"
        )


if __name__ == "__main__":
    typer.run(main)
