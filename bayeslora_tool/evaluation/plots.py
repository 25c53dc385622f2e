"""Pictures of figures measured elsewhere. Plain data in, files out; needs the [report] extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslora_tool.policy import Policy, decide
from bayeslora_tool.prediction import Prediction

try:
    import matplotlib as mpl
except ImportError as error:
    raise ValueError(f'{error}; pip install "bayeslora-tool[report]"') from None

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Okabe & Ito's palette: told apart by colour-blind readers too.
COLOURS = {
    "deterministic": "#000000",
    "linearized": "#0072B2",
    "adaptive": "#009E73",
    "monte_carlo": "#D55E00",
}
ROUTES = {"proceed": "#009E73", "clarify": "#E69F00", "escalate": "#D55E00"}
_CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1)))
MARKERS = {"deterministic": "s", "linearized": "o", "adaptive": "^", "monte_carlo": "D"}


def plot_bench(bench: Mapping[str, Any], path: Path) -> None:
    """How cost grows with draws, batch, length and labels, as a PNG."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axis, (what, lines) in zip(axes.flat, bench["curves"].items(), strict=True):
        _lines(axis, what, lines)
    axes.flat[0].legend(frameon=False)
    figure.suptitle(
        f"Milliseconds a text, {bench['adapter']} adapter, {bench['device']}, "
        f"{bench['threads']} threads (monte_carlo at T = 20 but for the first picture)"
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _lines(axis: Axes, what: str, lines: Mapping[str, list[list[float]]]) -> None:
    for name, points in lines.items():
        x, y = zip(*points, strict=True)
        axis.plot(x, y, color=COLOURS[name], marker=MARKERS[name], label=name)
    axis.set(xscale="log", yscale="log", xlabel=what, ylabel="ms a text")
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def reliability(series: Mapping[str, tuple[Floats, Bools]]) -> bytes:
    """Accuracy against confidence in 15 bins, for each named (confidence, correct)."""
    figure, axis = _figure("confidence", "share that is right")
    axis.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    for (name, (confidence, correct)), colour in zip(series.items(), _CYCLE, strict=False):
        bins = np.clip((confidence * 15).astype(int), 0, 14)
        used = [b for b in range(15) if (bins == b).any()]
        x = [confidence[bins == b].mean() for b in used]
        y = [correct[bins == b].mean() for b in used]
        size = [20 + 400 * (bins == b).mean() for b in used]
        axis.plot(x, y, color=colour, alpha=0.6)
        axis.scatter(x, y, s=size, color=colour, label=name, alpha=0.8)
    axis.set(xlim=(min(0.5, axis.get_xlim()[0]), 1.02), ylim=(0, 1.05))
    legend = axis.legend(frameon=False, loc="upper left", title="temperature (size: texts)")
    for handle in legend.legend_handles:
        handle.set_sizes([40])  # type: ignore[union-attr]
    return _png(figure)


def risk_coverage(doubts: Mapping[str, Floats], wrong: Bools, policy: tuple[float, float]) -> bytes:
    """Selective risk against coverage by each signal; ``policy`` is a (coverage, risk)."""
    from bayeslora_tool.evaluation.metrics import risk_coverage as curve

    figure, axis = _figure("coverage: share that is let through", "error rate among those")
    for (name, doubt), colour, style in zip(doubts.items(), _CYCLE, _STYLES, strict=False):
        coverage, risk = curve(doubt, wrong)
        shown = coverage > 0.05  # a handful of texts is noise
        axis.plot(coverage[shown], risk[shown], color=colour, linestyle=style, label=name)
    axis.plot(*policy, marker="*", markersize=16, color="black", linestyle="", label="policy")
    axis.set(xlim=(0, 1.01))
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    return _png(figure)


def deciles(variance: Floats, wrong: Bools) -> bytes:
    """Error rate in each tenth of the texts by variance, with Clopper-Pearson intervals."""
    figure, axis = _figure("tenth of the texts, from the least variance", "error rate")
    parts = np.array_split(np.argsort(variance, kind="stable"), 10)
    for i, part in enumerate(parts, start=1):
        k, n = int(wrong[part].sum()), len(part)
        interval = stats.binomtest(k, n).proportion_ci()
        axis.bar(i, k / n, color="#0072B2", alpha=0.8)
        axis.plot([i, i], [interval.low, interval.high], color="black", linewidth=1)
    axis.set_xticks(range(1, 11))
    return _png(figure)


def plane(predictions: Sequence[Prediction], wrong: Bools, policy: Policy) -> bytes:
    """Confidence and variance of each text, its route, and whether it is wrong."""
    figure, axis = _figure("confidence", "variance")
    actions = np.array([decide(p, policy).action for p in predictions])
    x = np.array([p.confidence for p in predictions])
    y = np.array([max(p.variance, 1e-9) for p in predictions])
    for action, colour in ROUTES.items():
        rows = actions == action
        axis.scatter(x[rows], y[rows], s=14, color=colour, alpha=0.5, linewidths=0, label=action)
    axis.scatter(x[wrong], y[wrong], s=36, marker="x", color="black", linewidths=1, label="wrong")
    axis.axvline(policy.tau_conf, color="black", linestyle="--", linewidth=1)
    axis.axhline(policy.tau_var, color="black", linestyle="--", linewidth=1)
    axis.set(yscale="log", ylim=(max(y.min(), 1e-7) / 2, 0.3))
    axis.legend(frameon=False, loc="lower left")
    return _png(figure)


def pca(
    features: Floats,
    predictions: Sequence[Prediction],
    n_inside: int,
    wrong: Bools,
    outside_name: str,
) -> bytes:
    """First two principal components of the features (N, d); markers grow with the variance."""
    figure, axis = _figure("first principal component", "second")
    centred = features - features[:n_inside].mean(axis=0)
    *_, directions = np.linalg.svd(centred[:n_inside], full_matrices=False)
    x, y = (centred @ directions[:2].T).T
    deviation = np.sqrt([p.variance for p in predictions])
    size = 4 + 120 * deviation / max(deviation.max(), 1e-12)
    outside = np.arange(len(predictions)) >= n_inside
    error = np.r_[wrong, np.zeros(len(predictions) - n_inside, bool)]
    groups = {"right": ~outside & ~error, "wrong": error, outside_name: outside}
    for (name, rows), colour in zip(groups.items(), ("#56B4E9", "#D55E00", "#000000"), strict=True):
        if rows.any():
            alpha = 0.9 if name == "wrong" else 0.35
            axis.scatter(x[rows], y[rows], s=size[rows], color=colour, alpha=alpha, linewidths=0,
                         label=name)  # fmt: skip
    legend = axis.legend(frameon=False)
    for handle in legend.legend_handles:
        handle.set_sizes([40])  # type: ignore[union-attr]
    return _png(figure)


def distributions(
    inside: Mapping[str, Floats], outside: Mapping[str, Floats], outside_name: str
) -> bytes:
    """How each signal is distributed in and out of distribution."""
    figure, axes = plt.subplots(
        1, len(inside), figsize=(3.6 * len(inside), 3.8), layout="constrained", squeeze=False
    )
    for axis, (name, values) in zip(axes.flat, inside.items(), strict=True):
        both = np.r_[values, outside[name]]
        edges = np.linspace(0, 1, 26)
        if name == "variance":
            edges = np.geomspace(max(both.min(), 1e-7), max(both.max(), 1e-6), 26)
            axis.set_xscale("log")
        for data, colour, label in (
            (values, "#0072B2", "ordinary"),
            (outside[name], "#D55E00", outside_name),
        ):
            weights = np.full(len(data), 1 / len(data))
            axis.hist(np.clip(data, edges[0], edges[-1]), edges, weights=weights, color=colour,
                      alpha=0.55, label=label)  # fmt: skip
        axis.set(xlabel=name, ylabel="share of texts")
        axis.spines[["top", "right"]].set_visible(False)
    axes.flat[0].legend(frameon=False)
    return _png(figure)


def _figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure, axis = plt.subplots(figsize=(6, 4.2), layout="constrained")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, dpi=130, format="png")
    plt.close(figure)
    return buffer.getvalue()


def spectra(layers: Sequence[tuple[str, Sequence[float], float]], path: Path) -> None:
    """Singular values of each layer's update, and the share of its input that it cannot see.

    Args:
        layers: (name, singular values, null energy) of each.
        path: The PNG to write.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(layers)))
    for (_, values, _), colour in zip(layers, colours, strict=True):
        left.semilogy(range(1, len(values) + 1), values, color=colour, alpha=0.7)
    left.set(xlabel="index", ylabel="singular value of s B A",
             title="dark: first layers, bright: last")  # fmt: skip
    right.bar(range(1, len(layers) + 1), [share for *_, share in layers], color=colours)
    right.set(xlabel="layer", ylabel="share of the input's energy", ylim=(0, 1),
              title="in the null space of A: unseen by the variance")  # fmt: skip
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def evidence(curves: Mapping[str, Sequence[tuple[int, float]]], delta: float, path: Path) -> None:
    """How much a monitor has against the promise, after each observation.

    Args:
        curves: By what was counted, how many so far and the logarithm of the evidence.
        delta: The alarm is at 1 / delta.
        path: The PNG to write.
    """
    figure, axes = plt.subplots(1, len(curves), figsize=(5.5 * len(curves), 4), squeeze=False,
                                layout="constrained")  # fmt: skip
    for axis, (what, points) in zip(axes.flat, curves.items(), strict=True):
        x, y = zip(*[(0, 0.0), *points], strict=True)
        # Beyond this no scale helps, and exp overflows.
        axis.semilogy(x, np.exp(np.clip(y, -20, 60)), color=_CYCLE[0])
        axis.axhline(1 / delta, color=_CYCLE[1], linestyle="--", label=f"alarm: {1 / delta:.3g}")
        axis.set(xlabel=what, ylabel="evidence against the promise")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
