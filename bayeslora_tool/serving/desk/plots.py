"""Pictures of figures as SVG, made here: no script, no style of their own.

Colours come from the page's style sheet by class, so that light and dark follow it. Whoever cannot
see a picture reads the table that stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from bayeslora_tool.desk.figures import Outcome

_WIDTH, _HEIGHT = 400, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 12, 24
_MOST_POINTS = 200  # of a curve
_HIGHEST = 60.0  # natural logarithm of evidence that is drawn


def outcomes(days: Mapping[str, Mapping[Outcome, int]]) -> Markup:
    """A bar a day, its outcomes one on another.

    Args:
        days: By date, in order; at least one.
    """
    most = max(1, *(sum(counts.values()) for counts in days.values()))
    top = _round_up(most)
    inner, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = inner / len(days)
    parts = [_scale([(f"{value:g}", value / top) for value in _ticks(top)])]
    every = math.ceil(len(days) / 6)  # dates that fit beside each other
    for i, (date, counts) in enumerate(days.items()):
        x, height = _LEFT + i * step, 0.0
        for outcome, n in counts.items():
            if n:
                share = tall * n / top
                y = _TOP + tall - height - share
                parts.append(
                    Markup(
                        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                        "<title>{}: {} {}</title></rect>"
                    ).format(outcome, x + 0.1 * step, y, 0.8 * step, share, date, n, outcome)
                )
                height += share
        if i % every == 0:
            parts.append(_word(x + step / 2, _HEIGHT - 6, date[5:], "middle"))
    return _picture(f"Reviews settled each day, {most} at most", parts)


def evidence(log_wealth: Sequence[float], delta: float) -> Markup:
    """The evidence against a promise after each audit, on a scale of powers of ten.

    Args:
        log_wealth: After each, at least one.
        delta: The alarm is at ``1 / delta``.
    """
    alarm = math.log(1 / delta)
    curve = [0.0, *(min(value, _HIGHEST) for value in log_wealth)]
    ten = math.log(10)
    low = math.floor(min(curve) / ten)
    high = math.ceil(max(alarm, *curve) / ten)
    inner, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def y(value: float) -> float:
        return _TOP + tall * (1 - (value / ten - low) / (high - low))

    every = math.ceil((high - low) / 5)
    marks = [(f"{10.0**power:g}", (power - low) / (high - low)) for power in range(low, high + 1)]
    # A curve of many audits is told by some of its points, and always by the last.
    n = len(curve)
    stride = math.ceil(n / _MOST_POINTS)
    kept = [*range(0, n - 1, stride), n - 1]
    points = " ".join(f"{_LEFT + inner * i / (n - 1):.1f},{y(curve[i]):.1f}" for i in kept)
    parts = [
        _scale(marks[::every]),
        Markup('<line class="alarm" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
            _LEFT, _WIDTH - _RIGHT, y(alarm), y(alarm)
        ),
        _word(_WIDTH - _RIGHT, y(alarm) - 4, f"alarm at {1 / delta:g}", "end"),
        Markup('<polyline class="curve" points="{}"/>').format(points),
        _word(_LEFT, _HEIGHT - 6, "0", "middle"),
        _word(_WIDTH - _RIGHT, _HEIGHT - 6, f"{n - 1} audits", "end"),
    ]
    return _picture(f"Evidence against the promised risk after {n - 1} audits", parts)


def _picture(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, title, Markup("").join(parts))


def _scale(marks: Sequence[tuple[str, float]]) -> Markup:
    """Lines across, each with what it stands for and how high it is, in [0, 1]."""
    parts = []
    for name, share in marks:
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)
        line = '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
        parts.append(Markup(line).format(_LEFT, _WIDTH - _RIGHT, y, y))
        parts.append(_word(_LEFT - 6, y + 4, name, "end"))
    return Markup("").join(parts)


def _word(x: float, y: float, word: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, escape(word)
    )


def _round_up(most: int) -> int:
    """The least of 1, 2, 5 times a power of ten that is no less; whole."""
    power = 10 ** math.floor(math.log10(most))
    return next(int(step * power) for step in (1, 2, 5, 10) if step * power >= most)


def _ticks(top: int) -> list[int]:
    count = next(n for n in (5, 4, 2, 1) if top % n == 0)
    return [top * i // count for i in range(count + 1)]
