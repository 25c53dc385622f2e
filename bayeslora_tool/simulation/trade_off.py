"""The picture of a sweep: errors that get through against how often people are asked."""

from __future__ import annotations

from io import BytesIO

from bayeslora_tool.evaluation import (
    plots,  # says which extra is missing, and draws without a screen
)
from bayeslora_tool.simulation.measures import Measures, Simulation

# isort: split
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogLocator, NullLocator

_POINTS = ("X", "P", "D", "s", "^", "v")


def trade_off(simulation: Simulation) -> bytes:
    """A PNG; needs ``simulation.sweep``.

    Each dot is a pair of thresholds, darker where less variance is let through; the line joins
    those that no other pair beats both in errors and in asking.
    """
    sweep = simulation.sweep
    assert sweep is not None
    figure, axis = plt.subplots(figsize=(8, 5.2), layout="constrained")
    _front(axis, sweep.confidence_alone, plots.COLOURS["monte_carlo"], "--", "confidence alone")
    _front(axis, sweep.grid, plots.COLOURS["linearized"], "-", "best pairs of thresholds")
    variances = [max(row.tau_var, 1e-9) for row in sweep.grid]
    dots = axis.scatter(
        *_at(sweep.grid), c=variances, cmap="viridis", s=22, edgecolors="#555555", linewidths=0.4,
        zorder=2, norm=LogNorm(min(variances), max(variances) * 1.0001),
    )  # fmt: skip
    bar = figure.colorbar(dots, label=f"dots: tau_var of '{sweep.varied}'", pad=0.02)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    best = sweep.best
    axis.scatter(
        *_at([best]), s=170, facecolors="none", edgecolors="black", linewidths=1.6, zorder=4,
        label=f"cheapest: tau_conf {best.tau_conf:.3g}, tau_var {best.tau_var:.2g}, "
        f"costs {best.cost:,.0f}",
    )  # fmt: skip
    no_gate, *others = simulation.rows
    given = [row for row in others if not row.name.startswith("confidence alone")]
    for i, row in enumerate(given):
        x, y = _at([row])
        axis.scatter(
            x, y, s=90, marker=_POINTS[i % len(_POINTS)], color="black", edgecolors="white",
            zorder=5, label=f"{row.name} (95 % interval), costs {row.cost:,.0f}",
        )  # fmt: skip
        axis.plot(x * 2, [100 * row.error_low, 100 * row.error_high], color="black", linewidth=1)
    # Without a gate the errors are so many that they would press all else to the ground.
    top = 100 * max(row.error_high for row in [*given, *sweep.grid]) * 1.3
    prices = simulation.prices
    axis.set(
        xlabel="texts about which a person is asked, in % (the user or a reviewer)",
        ylabel="errors that get through, in % of all texts",
        title=f"{best.n} scenarios; an error costs {prices.error:g}, a reviewer's hour "
        f"{prices.reviewer_hour:g}, a question {prices.clarification:g}\nwithout a gate "
        f"{no_gate.error_rate:.1%} errors get through and cost {no_gate.cost:,.0f}",
    )
    axis.set_ylim(0, top)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper right")
    buffer = BytesIO()
    figure.savefig(buffer, dpi=130, format="png")
    plt.close(figure)
    return buffer.getvalue()


def _at(rows: list[Measures]) -> tuple[list[float], list[float]]:
    return [100 * row.asked / row.n for row in rows], [100 * row.error_rate for row in rows]


def _front(axis: Axes, rows: list[Measures], colour: str, style: str, label: str) -> None:
    front: list[Measures] = []
    for row in sorted(rows, key=lambda row: (row.asked, row.errors)):
        if not front or row.errors < front[-1].errors:
            front.append(row)
    axis.plot(*_at(front), color=colour, linestyle=style, label=label, zorder=3)
