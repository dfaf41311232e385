"""Timing that is robust on a noisy machine: each round times every function once, in turn."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import torch

Run = Callable[[], object]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block, let torch use this many threads."""
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
    """Seconds of each function in each round, after one unmeasured call of each.

    A slow phase of the machine affects all functions of a round, so ratios within a round vary less
    than ratios of separate measurements.

    >>> times = interleaved_seconds({"add": lambda: 1 + 1, "sum": lambda: sum(range(9))}, rounds=3)
    >>> {name: len(seconds) for name, seconds in times.items()}
    {'add': 3, 'sum': 3}
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
    """Median over the rounds of each function's time as a multiple of the reference's.

    >>> ratios({"slow": [2.0, 3.0, 9.0]}, [1.0, 1.0, 1.0])
    {'slow': 3.0}
    """
    return {
        name: median(time / base for time, base in zip(times, reference, strict=True))
        for name, times in measured.items()
    }
