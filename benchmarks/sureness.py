"""Does sureness let fewer errors through than confidence, at the same number of texts asked?

    python benchmarks/sureness.py intents clinc150/val.tsv clinc150/test.tsv clinc150/oos_test.tsv
        --stranger clinc150/oos_val.tsv --stranger clinc150/oos_train.tsv --asked 1451

Fits the sureness on the first file and the strangers given with it (with `--shipped` it is the one
that `calibrate` fitted), and nothing on the next two: there, of the texts in scope and the
strangers together, so many are asked about as `--asked` says, by each ordering, and what gets
through wrong is counted (a stranger is wrong under any label).
Interval: paired bootstrap over texts, of the difference to confidence at the same share asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score

from bayeslora_tool import BayesLoRAClassifier, Scoring
from bayeslora_tool.calibration.adapter import measure_sureness, predict_all
from bayeslora_tool.evaluation.metrics import FALSE_ALARMS, augrc, aurc, fpr_at_95, recall_at
from bayeslora_tool.training.dataset import read_texts
from bayeslora_tool.training.recipe import read_as_trained


def let_through(doubt: NDArray[np.float64], wrong: NDArray[np.bool_], asked: int) -> int:
    """Wrong ones among all but the ``asked`` most doubtful."""
    return int(wrong[np.argsort(doubt, kind="stable")[: len(doubt) - asked]].sum())


def main(
    adapter: str,
    fit: Path,
    test: Path,
    outside: Path,
    stranger: Annotated[list[Path] | None, typer.Option(help="To fit on, besides.")] = None,
    asked: Annotated[list[int] | None, typer.Option(help="Texts asked about (repeatable).")] = None,
    quarter: Annotated[bool, typer.Option(help="Fit on a quarter, as `calibrate` does.")] = False,
    shipped: Annotated[bool, typer.Option(help="Fit nothing: as the adapter has it.")] = False,
    resamples: Annotated[int, typer.Option()] = 2000,
) -> None:
    classifier = BayesLoRAClassifier.from_pretrained(adapter)
    known = read_as_trained(classifier.manifest, fit)
    tuning = [(e.text, e.label) for e in known]
    tuning += [(text, None) for path in stranger or [] for text in read_texts(path)]
    if quarter:
        rows = np.random.default_rng(0).permutation(len(tuning))[: len(tuning) // 4]
        tuning = [tuning[row] for row in rows]
    examples, strangers = read_as_trained(classifier.manifest, test), read_texts(outside)
    texts = [*(e.text for e in examples), *strangers]
    with Progress(transient=True) as bar:
        task = bar.add_task("scoring", total=len(tuning) + len(texts))
        if not shipped:
            measure_sureness(
                classifier, *map(list, zip(*tuning, strict=True)), lambda n: bar.advance(task, n)
            )
        found = predict_all(classifier, texts, Scoring(), lambda n: bar.advance(task, n))
    n = len(examples)
    wrong = np.array(
        [i >= n or p.label != examples[i].label for i, p in enumerate(found)], dtype=bool
    )
    is_stranger = (np.arange(len(texts)) >= n).astype(float)
    doubts = {
        "1 - confidence": np.array([1 - p.confidence for p in found]),
        "variance": np.array([p.variance for p in found]),
        "entropy": np.array([p.entropy for p in found]),
        "novelty": np.array([p.novelty for p in found], dtype=float),
        "1 - sureness": 1 - np.array([p.sureness for p in found], dtype=float),
    }
    loads = asked or [round(len(texts) * share) for share in (0.1, 0.2, 0.3)]
    table = Table(
        "", *(f"through at {load}" for load in loads), "AURC", "AUGRC", "AUROC errors",
        "AUROC strangers", "AUPR", "FPR95", *(f"recall at {a:.0%}" for a in FALSE_ALARMS),
        title=f"{adapter}: {n} texts, {int(wrong[:n].sum())} wrong, {len(strangers)} strangers; "
        f"fitted {'by calibrate' if shipped else f'on {len(tuning)}'}: {classifier.sureness}",
    )  # fmt: skip
    for name, doubt in doubts.items():
        table.add_row(
            name,
            *(str(let_through(doubt, wrong, load)) for load in loads),
            *(f"{1000 * area(doubt, wrong):.2f}e-3" for area in (aurc, augrc)),
            f"{roc_auc_score(wrong[:n], doubt[:n]):.4f}",
            f"{roc_auc_score(is_stranger, doubt):.4f}",
            f"{average_precision_score(is_stranger, doubt):.4f}",
            f"{fpr_at_95(is_stranger, doubt):.3f}",
            *(f"{recall_at(is_stranger, doubt, a):.3f}" for a in FALSE_ALARMS),
        )
    Console(width=200).print(table)
    rng = np.random.default_rng(0)
    plain, sure = doubts["1 - confidence"], doubts["1 - sureness"]
    draws = [rng.integers(len(texts), size=len(texts)) for _ in range(resamples)]
    for load in loads:
        gaps = [
            let_through(sure[rows], wrong[rows], load) - let_through(plain[rows], wrong[rows], load)
            for rows in draws
        ]
        low, high = np.quantile(gaps, [0.025, 0.975])
        gap = let_through(sure, wrong, load) - let_through(plain, wrong, load)
        print(
            f"{load} asked: sureness against confidence {gap:+d} errors [{low:+.0f}, {high:+.0f}]"
        )


if __name__ == "__main__":
    typer.run(main)
