"""What a scorer costs beside its network: a list of images against the bare forward.

    python -m benchmarks.assess_speed --count 64 --size 512

CPU seconds of one thread, the median of `--rounds`. The bare forward takes ready batches, in
groups of 1, 4 and 8; the fastest is what the list is compared with.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from zoomiqa_core import load_scorer
from zoomiqa_core.proxy.inference import for_inference


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one call; other programs on the machine count little."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Measure and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scorer = load_scorer("proxy")
    network = for_inference(scorer.model)
    images = torch.rand(options.count, 3, options.size, options.size)
    batches = {n: images.to(memory_format=torch.channels_last).split(n) for n in (1, 4, 8)}

    def bare(size: int) -> None:
        with torch.no_grad():
            for batch in batches[size]:
                network(batch)

    runs: dict[str, Callable[[], object]] = {
        f"bare, groups of {size}": (lambda size=size: bare(size)) for size in batches
    }
    runs["assess(list)"] = lambda: scorer.assess(list(images))
    seconds = {
        name: [cpu_seconds(run) for _ in range(options.rounds)] for name, run in runs.items()
    }
    typical = {name: median(times) for name, times in seconds.items()}
    fastest = min(value for name, value in typical.items() if name.startswith("bare"))
    for name, value in typical.items():
        print(f"{name}: {value:.2f} s, {options.count / value:.1f} images/s")
    print(f"assess(list) / fastest bare forward: {typical['assess(list)'] / fastest:.3f}")


if __name__ == "__main__":
    main()
