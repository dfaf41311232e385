"""Timing that survives a noisy machine: every round times every subject once, in turn."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import torch

Run = Callable[[], object]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Give torch this many threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(run: Run) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def interleaved_seconds(runs: Mapping[str, Run], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, after one unmeasured call of each.

    A slow moment of the machine falls on neighbours in time, so ratios within a round are steadier
    than ratios of separate measurements.
    """
    for run in runs.values():
        run()
    gc.collect()
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            measured[name].append(seconds(run))
    return measured


def ratios(measured: dict[str, list[float]], reference: list[float]) -> dict[str, float]:
    """Median over the rounds of each run's time as a multiple of the reference's."""
    return {
        name: median(own / base for own, base in zip(times, reference, strict=True))
        for name, times in measured.items()
    }
