"""Starts a test script on several processes, as users start a training."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def launch(processes: int, script: str, *words: str) -> str:
    """Standard output of a script under torchrun; each process asserts how many there are."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    command += ["--nproc-per-node", str(processes), sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EXPECTED_WORLD_SIZE": str(processes)}
    ended = subprocess.run(
        [*command, str(ROOT / "tests" / script), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout
