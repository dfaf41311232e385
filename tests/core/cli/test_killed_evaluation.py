"""A `zoomiqa eval` that is killed at any moment ends with the summary of an unbroken one.

The command judges a miniature dataset on one process or on two (torchrun); SIGKILL ends all of its
processes at a random moment; it is resumed on one process or two, and `summary.json` is compared
without its timing. One thread per process: their number changes a CPU's results in the seventh
digit.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from zoomiqa_core.data.benchmarks.sets import read_benchmark
from zoomiqa_core.images.sources import save_png

IMAGES = 12
SIDE = 192
"""Pixels; judging the set then takes a second or two."""


class Trial(NamedTuple):
    """One kill and what came of it."""

    processes: int
    resumed_on: int
    kept: int
    """Judgements on disk when it was killed."""
    left: int
    """Images without one."""
    torn: int
    """Files whose last line was cut short."""
    shares: int
    """Processes that judged something in the resumed launch."""
    twice: int
    """Images judged more than once, over both launches."""
    same: bool
    """Whether the summary equals the unbroken run's."""

    @property
    def good(self) -> bool:
        """Whether the resumed launch came to the same end, all its processes judging, once each."""
        return self.same and self.twice == 0 and self.shares == min(self.resumed_on, self.left)


def write_miniature(folder: Path, count: int = IMAGES, side: int = SIDE) -> Path:
    """A dataset in BIQ2021's layout: noisier and noisier ramps, one absent and one truncated."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, side).expand(3, side, side)
    rows = ["image_name,mos,set"]
    for index in range(count):
        noise = torch.randn(3, side, side, generator=generator) * 0.4 * index / count
        name = f"ss01 ({index}).png"
        if index != 3:
            save_png((ramp + noise).clamp(0, 1), folder / "images" / name)
        wobble = 0.1 * torch.rand((), generator=generator).item()
        rows.append(f"{name},{0.9 * (1 - index / count) + wobble:.4f},test")
    torn = folder / "images" / "ss01 (5).png"
    torn.write_bytes(torn.read_bytes()[:200])
    (folder / "mos.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def log_file(out: Path) -> Path:
    """Beside the run's folder, which is the run's own."""
    return out.parent / f"{out.name}.log"


def start(data: Path, out: Path, processes: int) -> psutil.Popen:
    """Start the command on one process, or on more through torchrun."""
    command = f"-m zoomiqa_core.cli.main eval biq2021 --data {data} --out {out}".split()
    if processes > 1:
        # On CPUs `accelerate launch` starts several processes through MPI only.
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        command = [*launcher, "--nproc_per_node", str(processes), *command]
    with log_file(out).open("a") as log:
        return psutil.Popen(
            [sys.executable, *command],
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def kill(process: psutil.Popen) -> None:
    """End a process and everything it started, at once."""
    family = [*process.children(recursive=True), process]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family)
    process.wait()


def finish(process: psutil.Popen, out: Path) -> dict[str, Any]:
    """Wait for a run to end well; its summary without the timing."""
    if process.wait(timeout=600) != 0:
        raise RuntimeError(f"the run failed:\n{log_file(out).read_text()[-3000:]}")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    del summary["timing"]
    return summary


def judged(out: Path) -> tuple[int, int]:
    """Whole lines on disk, and files that end in the middle of one."""
    contents = [file.read_bytes() for file in out.glob("judgements-*.jsonl")]
    whole = sum(content.count(b"\n") for content in contents)
    return whole, sum(bool(content) and not content.endswith(b"\n") for content in contents)


def trial(data: Path, out: Path, expected: dict[str, Any], chance: random.Random) -> Trial:
    """Kill a run after a random number of judgements (and some milliseconds), and resume it."""
    processes, resumed_on = chance.choice((1, 2)), chance.choice((1, 2))
    images = expected["images"]
    moment, delay = chance.randint(0, images), chance.uniform(0, 0.05)
    process = start(data, out, processes)
    while judged(out)[0] < moment and process.poll() is None:
        time.sleep(0.002)
    time.sleep(delay if moment else 40 * delay)  # before the first judgement it takes long to load
    kill(process)
    kept, torn = judged(out)
    (out / "summary.json").unlink(missing_ok=True)  # what is compared is the resumed run's
    files = len(list(out.glob("judgements-*.jsonl")))
    same = finish(start(data, out, resumed_on), out) == expected
    shares = len(list(out.glob("judgements-*.jsonl"))) - files
    twice = judged(out)[0] - images
    return Trial(processes, resumed_on, kept, images - kept, torn, shares, twice, same)


def test_the_miniature_is_a_dataset_with_two_faults(tmp_path: Path) -> None:
    images = read_benchmark("biq2021", write_miniature(tmp_path, 8, 32), "test")
    assert len(images) == 8
    assert [image.path.exists() for image in images].count(False) == 1
    assert images[0].mos > images[-1].mos


@pytest.mark.slow
def test_killed_evaluations_end_like_the_unbroken_one(tmp_path: Path) -> None:
    """20 kills (``ZOOMIQA_TEST_KILLS=20``, 40 images) all ended alike."""
    data = write_miniature(tmp_path / "data")
    expected = finish(start(data, tmp_path / "unbroken", 1), tmp_path / "unbroken")
    chance = random.Random(0)
    kills = range(int(os.environ.get("ZOOMIQA_TEST_KILLS", "2")))
    trials = [trial(data, tmp_path / f"killed-{number}", expected, chance) for number in kills]
    assert all(made.good for made in trials), trials
