"""What doubt costs and what it is worth: every estimator against the common practice, in one run.

Contestants take turns, round after round, so that a busy machine slows all of them alike; figures
are medians over rounds of ratios taken within a round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Unpack

import numpy as np
import torch
from scipy import stats

from bayeslora_tool.artifacts.loading import Source
from bayeslora_tool.benchmarking.baselines import PlainPipeline, train_mode
from bayeslora_tool.benchmarking.scaling import cost_curves
from bayeslora_tool.benchmarking.timing import Progress, peak_mb, ratio, take_turns
from bayeslora_tool.classifier import BayesLoRAClassifier
from bayeslora_tool.policy import Policy, Preset, decide
from bayeslora_tool.prediction import Prediction

BASELINE = "deterministic"
NARROW = "linearized, bfloat16"
PIPELINE = "pipeline, no doubt"
# Enough for sorting by length to matter, as it does in earnest; of them, those that are tried to
# find the pipeline's batch size.
MANY_TEXTS, TRIED_TEXTS = 1000, 250


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        name: Estimator and draws, or the practice it stands for.
        passes: Time over that of one deterministic pass on the same texts.
        texts_per_second: On those texts.
        p50_ms, p95_ms: Latency of one short text.
        peak_mb: Resident memory at its peak, over that before the call.
        rank_correlation: Spearman, of the variances with those of the reference draws.
        equal_routes: Share of texts routed as by the reference draws.
    """

    name: str
    passes: float
    texts_per_second: float
    p50_ms: float
    p95_ms: float
    peak_mb: float
    rank_correlation: float | None = None
    equal_routes: float | None = None


def run_bench(
    preset: Preset,
    texts: Sequence[str],
    *,
    n_texts: int = 64,
    draws: Sequence[int] = (10, 20),
    rounds: int = 3,
    reference_texts: int = 64,
    reference_draws: int = 400,
    curves: bool = True,
    progress: Progress = lambda what: None,
    dropout: float | None = None,
    **source: Unpack[Source],
) -> dict[str, Any]:
    """Measure; returns plain data for JSON.

    Args:
        preset: Adapter and policy.
        texts: To choose from.
        n_texts: What each contestant scores, spread over ``texts``.
        draws: The T of the Monte Carlo contestants.
        rounds: Turns that each contestant takes.
        reference_texts: Whose routes and variances are compared, spread over ``texts``.
        reference_draws: Draws that stand for infinitely many.
        curves: Also how cost grows with T, batch, length and labels.
        progress: Called with what begins now.
        dropout: Rate of the noise, for an adapter that records none.
        **source: ``base``, ``labels`` and ``device`` of ``BayesLoRAClassifier.from_pretrained``.

    Raises:
        ValueError: ``dtype`` is given, which is compared here.
    """
    if source.get("dtype") is not None:
        raise ValueError(
            f"`dtype` (={source['dtype']}): bench sets float32 beside bfloat16 itself; leave it out"
        )
    compared = _spread(texts, reference_texts)
    repeated = [*texts] * -(-MANY_TEXTS // len(texts))  # where the file holds fewer
    many = _spread(repeated, MANY_TEXTS)
    texts = _spread(texts, n_texts)
    # Estimators are compared here, so the thresholds must not insist on theirs.
    preset = replace(preset, policy=replace(preset.policy, calibrated_for=None))
    classifier = BayesLoRAClassifier.from_pretrained(
        preset.adapter, policy=preset.policy, dropout=dropout, **source
    )
    progress("memory")
    # First, while the allocator holds nothing back from earlier passes. A token budget bounds each
    # pass and the rest takes turns: more texts or draws would not raise the peak.
    long = ["word " * 600] * 16
    peak = peak_mb(lambda: classifier.predict(long, estimator="monte_carlo", n_draws=8))
    half: Source = source | {"dtype": torch.bfloat16}
    narrow = BayesLoRAClassifier.from_pretrained(
        preset.adapter, policy=preset.policy, dropout=dropout, **half
    )
    pipeline = PlainPipeline(preset, source)
    common = train_mode(preset, classifier.posterior.dropout, 20, source)
    contestants = _contestants(classifier, narrow, preset, draws) | {
        "PEFT train mode T=20": common,
        PIPELINE: pipeline,
    }
    short = min(texts, key=lambda text: abs(len(classifier.tokenizer(text)["input_ids"]) - 12))

    memory = {}
    for name, run in contestants.items():
        progress(f"warming up, and memory: {name}")
        memory[name] = peak_mb(partial(run, texts))
        run([short])
    speed = take_turns(
        {name: partial(run, texts) for name, run in contestants.items()}, rounds, progress
    )
    progress("latency of one text")
    latency = take_turns({name: partial(run, [short]) for name, run in contestants.items()}, 15)
    progress(f"reference: {reference_draws} draws of {len(compared)} texts")
    agreement = _agreement(classifier, narrow, preset, compared, draws, reference_draws)
    rows = [
        Row(
            name=name,
            passes=ratio(speed, name, BASELINE),
            texts_per_second=len(texts) / median(speed[name]),
            p50_ms=1e3 * float(np.quantile(latency[name], 0.5)),
            p95_ms=1e3 * float(np.quantile(latency[name], 0.95)),
            peak_mb=memory[name],
            **agreement.get(name, {}),
        )
        for name in contestants
    ]
    progress("special cases")
    result: dict[str, Any] = {
        "adapter": preset.adapter,
        "device": str(classifier.network.device),
        "threads": torch.get_num_threads(),
        "texts": len(texts),
        "mean_tokens": float(np.mean([p.n_tokens for p in classifier.predict(texts)])),
        "rounds": rounds,
        "reference": {"texts": len(compared), "draws": reference_draws},
        "rows": [asdict(row) for row in rows],
        "cases": _cases(
            classifier,
            contestants,
            pipeline,
            preset.scoring.n_draws,
            texts,
            many,
            short,
            rounds,
            speed,
            peak,
            progress,
        ),
    }
    if curves:
        result["curves"] = cost_curves(classifier, texts, progress)
    return result


def _spread(texts: Sequence[str], n: int) -> list[str]:
    """At most n of the texts, evenly spaced."""
    n = min(n, len(texts))
    return [texts[i * len(texts) // n] for i in range(n)]


def _contestants(
    classifier: BayesLoRAClassifier,
    narrow: BayesLoRAClassifier,
    preset: Preset,
    draws: Sequence[int],
) -> dict[str, Callable[[list[str]], Any]]:
    def ours(estimator: Any, n_draws: int | None = None) -> Callable[[list[str]], Any]:
        return lambda texts: classifier.predict(texts, estimator=estimator, n_draws=n_draws)

    return {
        BASELINE: ours("deterministic"),
        "linearized": ours("linearized"),
        NARROW: lambda texts: narrow.predict(texts, estimator="linearized"),
        "adaptive": ours("adaptive", preset.scoring.n_draws),
        **{f"monte_carlo T={n}": ours("monte_carlo", n) for n in draws},
    }


def _agreement(
    classifier: BayesLoRAClassifier,
    narrow: BayesLoRAClassifier,
    preset: Preset,
    texts: list[str],
    draws: Sequence[int],
    reference_draws: int,
) -> dict[str, dict[str, float]]:
    reference = classifier.predict(texts, estimator="monte_carlo", n_draws=reference_draws)
    # Other draws than the reference's, or Monte Carlo would be compared with itself.
    found = {
        "linearized": classifier.predict(texts, estimator="linearized"),
        NARROW: narrow.predict(texts, estimator="linearized"),
        "adaptive": classifier.predict(
            texts, estimator="adaptive", n_draws=preset.scoring.n_draws, seed=1
        ),
    } | {
        f"monte_carlo T={n}": classifier.predict(texts, estimator="monte_carlo", n_draws=n, seed=1)
        for n in draws
    }
    return {
        name: {
            "rank_correlation": rank_correlation(predictions, reference),
            "equal_routes": equal_routes(predictions, reference, preset.policy),
        }
        for name, predictions in found.items()
    }


def rank_correlation(found: Sequence[Prediction], reference: Sequence[Prediction]) -> float:
    """Spearman correlation of the variances."""
    pairs = [[p.variance for p in predictions] for predictions in (found, reference)]
    return float(stats.spearmanr(*pairs).statistic)


def equal_routes(
    found: Sequence[Prediction], reference: Sequence[Prediction], policy: Policy
) -> float:
    """Share of texts with the same action, and the same label if that is to proceed."""
    same = 0
    for p, q in zip(found, reference, strict=True):
        a, b = decide(p, policy).action, decide(q, policy).action
        same += a == b and (a != "proceed" or p.label == q.label)
    return same / len(found)


def _cases(
    classifier: BayesLoRAClassifier,
    contestants: dict[str, Callable[[list[str]], Any]],
    pipeline: PlainPipeline,
    most: int,
    texts: list[str],
    many: list[str],
    short: str,
    rounds: int,
    speed: dict[str, list[float]],
    peak: float,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The questions a reader asks, each with the figure we set out to reach."""
    batch = sorted(texts, key=len)[len(texts) // 2 :][:32]
    progress("cases: a batch")
    times = take_turns(
        {
            BASELINE: lambda: classifier.predict(batch, estimator="deterministic"),
            "linearized": lambda: classifier.predict(batch, estimator="linearized"),
        },
        10 * rounds,
    )
    progress("cases: one short text")
    one = take_turns(
        {
            BASELINE: lambda: classifier.predict([short], estimator="deterministic"),
            "T=20": lambda: classifier.predict([short], estimator="monte_carlo", n_draws=20),
        },
        10 * rounds,
    )
    throughput = {}
    rivals = ("adaptive", "linearized", NARROW)
    for order, ordered in (("as they come", many), ("sorted by length", sorted(many, key=len))):
        progress(f"cases: {len(many)} texts, {order}")
        pipeline.find_batch_size(_spread(ordered, TRIED_TEXTS))
        what = f"throughput on {len(many)} texts {order}, over a pipeline's in batches of"
        times_of = take_turns(
            {name: partial(contestants[name], ordered) for name in (*rivals, PIPELINE)},
            rounds,
            progress,
        )
        throughput[f"{what} {pipeline.batch_size}"] = times_of
    asking = (texts * 64)[:64]

    async def concurrent() -> None:
        await asyncio.gather(*(classifier.apredict([text]) for text in asking))

    progress("cases: concurrent callers")
    callers = take_turns(
        {
            "sequential": lambda: [classifier.predict([text]) for text in asking],
            "concurrent": lambda: asyncio.run(concurrent()),
        },
        rounds,
    )
    passes = partial(ratio, base=BASELINE)
    n_short = len(classifier.tokenizer(short)["input_ids"])
    return [
        _case(f"linearized, batch of {len(batch)}, in passes", passes(times, "linearized"), "<=",
              2.2),
        _case(f"T=20 on one text of {n_short} tokens, in passes", passes(one, "T=20"), "<=", 8),
        *(_case(f"{name}, {what}", ratio(of_order, PIPELINE, name), ">=",
                1.2 if name == "adaptive" else 1)
          for what, of_order in throughput.items() for name in rivals),
        _case(f"adaptive, at most {most} draws, in passes",
              passes(speed, "adaptive"), "<=", 1.35),
        _case("64 concurrent apredict against 64 predict, throughput",
              ratio(callers, "sequential", "concurrent"), ">=", 3),
        _case(f"peak memory in MB, 16 texts of {classifier.max_tokens} tokens, T=8",
              peak, "<=", 1500),
    ]  # fmt: skip


def _case(what: str, value: float, sign: str, target: float) -> dict[str, Any]:
    reached = value <= target if sign == "<=" else value >= target
    return {"what": what, "value": value, "target": f"{sign} {target:g}", "reached": reached}
