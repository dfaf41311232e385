"""What the checks of killed and resumed runs share: their command line, and how a run may fail."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

Check = Callable[[Path, int, int], Sequence[bool]]
"""Folder, number of kills and seed → whether each killed run ended like the unbroken one."""


def log_file(out: Path) -> Path:
    """Where the words of the run in ``out`` go: beside it, so that its folder is its own."""
    return out.parent / f"{out.name}.log"


def failed(out: Path) -> RuntimeError:
    """The error of a run that did not end well, with its last words."""
    log = log_file(out).read_text(encoding="utf-8", errors="replace")
    return RuntimeError(f"the run in {out} failed:\n{log[-3000:]}")


def main(description: str | None, check: Check) -> None:
    """Check, and say how many runs were the same; the exit code is 1 unless all were."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        same = check(Path(folder), args.kills, args.seed)
    print(f"{sum(same)} of {len(same)} killed runs ended like the unbroken one")
    sys.exit(0 if all(same) else 1)
