"""One folder per input: a readable name that no other input of the run shares."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def output_folders(paths: Sequence[Path], out: Path) -> list[Path]:
    """``out/STEM`` for each input; inputs whose names meet get a hash of their path as well.

    Letters, digits, ``_``, ``-`` and ``.`` of the file's stem stay, runs of anything else become
    one ``_``. Names that differ only in case meet too, as some file systems take them for one.
    """
    names = [_safe(path.stem) for path in paths]
    counts = Counter(name.casefold() for name in names)
    return [
        out / (name if counts[name.casefold()] == 1 else f"{name}-{_digest(path)}")
        for path, name in zip(paths, names, strict=True)
    ]


def _safe(stem: str) -> str:
    return re.sub(r"[^\w.-]+", "_", stem).strip("._")[:100] or "image"


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:8]
