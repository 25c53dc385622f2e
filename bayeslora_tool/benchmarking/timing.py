"""Measures calls against each other: time in turns, and memory at its peak.

Knows no classifier. Turns, because a busy machine then slows all alike; ratios are taken within a
turn and their median is reported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import psutil

Call = Callable[[], Any]
Progress = Callable[[str], None]


def take_turns(
    calls: Mapping[str, Call], rounds: int, progress: Progress = lambda what: None
) -> dict[str, list[float]]:
    """Seconds of each call in each round; run each once before, for first calls are slow."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1, rounds + 1):
        for name, call in calls.items():
            progress(f"round {turn} of {rounds}: {name}")
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> float:
    """Median over the rounds of the time of ``name`` over that of ``base``."""
    return median(a / b for a, b in zip(times[name], times[base], strict=True))


def peak_mb(call: Call) -> float:
    """Resident memory at its peak during the call, over that before, sampled each 2 ms."""
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return (peak - before) / 1e6
