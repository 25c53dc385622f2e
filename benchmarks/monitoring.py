"""How often the monitors cry wolf, and how soon they see what has gone wrong.

    python examples/clinc150_to_tsv.py data_full.json clinc150
    python benchmarks/monitoring.py clinc150 --sst2 glue_dev.tsv --agnews test_2000.tsv

Streams are drawn, with replacement, from texts that were scored once: of the same kind as those of
calibration, then with a share of strangers among them, which rises to a half within 1,000 texts. A
stranger that proceeds is an error. A tenth of what proceeds is audited.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich import print as show
from rich.progress import track
from rich.table import Table

from bayeslora_tool import BayesLoRAClassifier, Policy, decide, load_preset
from bayeslora_tool.calibration.adapter import predict_all
from bayeslora_tool.monitoring import RiskMonitor, ShiftMonitor
from bayeslora_tool.training.dataset import read_labelled, read_texts

AUDIT = 0.1
RISES = 1000  # texts, until half of them are strangers


class Pool:
    """Texts that were scored once: do they proceed, are they wrong, and how do they look?"""

    def __init__(
        self, clf: BayesLoRAClassifier, policy: Policy, texts: list[str], labels: list[str | None]
    ) -> None:
        found = predict_all(clf, texts, clf.scoring, lambda n: None)
        self.proceeds = np.array([decide(one, policy).action == "proceed" for one in found])
        self.wrong = np.array(
            [one.label != label for one, label in zip(found, labels, strict=True)]
        )
        self.signals = [(one.confidence, one.novelty) for one in found]

    @property
    def risk(self) -> float:
        return float(self.wrong[self.proceeds].mean())


def rises(
    inside: Pool, outside: Pool, target: float, delta: float, rng: np.random.Generator
) -> tuple[int | None, int | None]:
    """Audits until the risk's alarm, and texts until the shift's, from where strangers come in."""
    risk, shift = RiskMonitor(target, delta), ShiftMonitor(delta, seed=int(rng.integers(2**31)))
    audits, seen = 0, [None, None]
    for i in range(-1000, 30_000):
        strange = rng.random() < min(max(i, 0) / RISES, 1) / 2
        pool = outside if strange else inside
        j = int(rng.integers(len(pool.wrong)))
        if not shift.alarm:
            shift.update(*pool.signals[j])
            if shift.alarm:
                seen[1] = i
        if not risk.alarm and pool.proceeds[j] and rng.random() < AUDIT:
            audits += i >= 0
            risk.update(bool(pool.wrong[j]))
            if risk.alarm:
                seen[0] = audits
        if risk.alarm and shift.alarm:
            break
    return seen[0], seen[1]


def doubles(target: float, delta: float, rng: np.random.Generator) -> int:
    """Audits until an alarm, once a risk of half the target has become twice the target."""
    risk = RiskMonitor(target, delta)
    for wrong in rng.random(200) < target / 2:
        risk.update(bool(wrong))
    audits = 0
    while not risk.alarm:
        audits += 1
        risk.update(bool(rng.random() < 2 * target))
    return audits


def calm(pool: Pool, delta: float, texts: int, seed: int) -> tuple[bool, bool]:
    """Whether either alarm is raised on a stream that stays as it is, at the worst risk allowed."""
    rng = np.random.default_rng(seed)
    risk, shift = RiskMonitor(0.02, delta), ShiftMonitor(delta, seed=seed)
    for wrong in rng.random(int(texts * AUDIT)) < 0.02:
        risk.update(bool(wrong))
    for j in rng.integers(len(pool.signals), size=texts):
        shift.update(*pool.signals[j])
    return risk.alarm, shift.alarm


def quantiles(values: list[int | None]) -> str:
    """Median and 95th percentile; what was never seen counts as later than all."""
    late: NDArray[np.float64] = np.array([np.inf if v is None else v for v in values])
    median, most = np.quantile(late, [0.5, 0.95], method="higher")
    return f"{median:.0f}, {most:.0f}"


def main(
    clinc: Annotated[Path, typer.Argument(help="The folder that clinc150_to_tsv.py wrote.")],
    sst2: Annotated[Path, typer.Option(help="GLUE's dev set: columns sentence, label.")],
    agnews: Annotated[Path, typer.Option(help="AG News: a text and its topic a line.")],
    streams: Annotated[int, typer.Option(help="Of each kind.")] = 1000,
    texts: Annotated[int, typer.Option(help="In a calm stream.")] = 10_000,
    delta: Annotated[float, typer.Option(help="False alarms allowed.")] = 0.05,
) -> None:
    """Measure both monitors on both tasks."""
    pools, promised = {}, {}
    for name in ("intents", "sentiment"):
        preset = load_preset(name)
        clf = BayesLoRAClassifier.from_preset(preset)
        assert clf.manifest is not None
        assert clf.manifest.calibration is not None
        promised[name] = clf.manifest.calibration.target_risk or 0.02
        if name == "intents":
            rows = read_labelled(clinc / "test.tsv")
            strange = read_texts(clinc / "oos_test.tsv")
        else:
            names = {"0": "negative", "1": "positive"}
            rows = read_labelled(sst2, text_column="sentence", labels=names)
            strange = [line.split("\t")[0] for line in agnews.read_text("utf-8").splitlines()]
        inside = [row.text for row in rows], [row.label for row in rows]
        pools[name] = (
            Pool(clf, preset.policy, list(inside[0]), list(inside[1])),
            Pool(clf, preset.policy, strange, [None] * len(strange)),
        )
    table = Table("stream", "audits until the risk's alarm", "texts until the shift's alarm")
    rng = np.random.default_rng(0)
    found = [doubles(0.02, delta, rng) for _ in track(range(streams), "doubled risk")]
    table.add_row("the risk goes from 1 % to 4 %, 2 % promised", quantiles(list(found)), "")
    for name, (inside, outside) in pools.items():
        both = [
            rises(inside, outside, promised[name], delta, rng)
            for _ in track(range(streams // 5), f"{name}: strangers")
        ]
        table.add_row(
            f"{name}: strangers come in ({promised[name]:.0%} promised, {inside.risk:.2%} before)",
            quantiles([a for a, _ in both]),
            quantiles([b for _, b in both]),
        )
    show(table)
    show("Median and 95th percentile.")
    alarms = [calm(pools["intents"][0], delta, texts, s) for s in track(range(streams), "calm")]
    error = 2 * (delta * (1 - delta) / streams) ** 0.5
    for what, count in zip(("risk", "shift"), np.sum(alarms, axis=0), strict=True):
        show(f"false alarms of {what}: {count / streams:.3f} (promised: {delta} + {error:.3f})")


if __name__ == "__main__":
    typer.run(main)
