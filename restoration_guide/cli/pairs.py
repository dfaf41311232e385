"""Which restored image belongs to which input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from zoomiqa_core.cli.inputs import find_inputs, output_paths
from zoomiqa_core.cli.options import stop
from zoomiqa_core.images.folders import SUFFIXES, FoundImage

BEST = "best.png"
"""The chosen image in a report folder."""


class Pair(NamedTuple):
    """An input and its result."""

    before: Path
    after: Path
    """It need not exist."""
    problem: str = ""
    """Why the result cannot be told, in words; empty when it can."""


def image_pairs(before: str, after: str) -> list[Pair]:
    """Each input with its result.

    The result of an image in a folder is, below the other folder, the file of the same relative
    path, or the only one with another image suffix, or ``best.png`` in the report folder of that
    path. For a single input, ``after`` may also be the result, or its report folder.
    """
    from restoration_guide.report.folder import RECORD  # imports torch

    root, results = Path(before).expanduser(), Path(after).expanduser()
    found = find_inputs([before], results if root.is_dir() and results.is_dir() else None)
    images = found.images
    if not results.is_dir():
        if len(images) > 1 or root.is_dir():
            stop(f"{after} is not a folder with the results of the images of {before}")
        return [Pair(images[0].path, results)]
    if len(images) == 1 and (results / RECORD).is_file():
        return [Pair(images[0].path, results / BEST)]
    return pair_images(images, results)


def pair_images(images: Sequence[FoundImage], results: Path) -> list[Pair]:
    """Each image with its result below a folder, see :func:`image_pairs`.

    >>> for name in ("out/a.png", "out/b.jpg", "out/b.webp", "out/c.jpg/best.png"):
    ...     Path(name).parent.mkdir(parents=True, exist_ok=True)
    ...     Path(name).touch()
    >>> images = [FoundImage(Path("in", name), Path(name)) for name in ("a.jpg", "b.png", "c.jpg")]
    >>> for pair in pair_images(images, Path("out")):
    ...     print(pair.before.name, pair.after.as_posix(), pair.problem)
    a.jpg out/a.png
    b.png out/b.png it could be out/b.jpg or out/b.webp
    c.jpg out/c.jpg/best.png
    """
    stems = Counter(image.relative.with_suffix("") for image in images)
    pairs = []
    reports = [folder / BEST for folder in output_paths(images, results)]
    for image, report in zip(images, reports, strict=True):
        same = results / image.relative
        exact = [path for path in (same, report) if path.is_file()]
        namesakes = sorted(
            path
            for path in same.parent.glob("*")
            if path.stem == same.stem and path.suffix.lower() in SUFFIXES and path.is_file()
        )
        candidates = exact if same in exact else [*namesakes, *exact]
        problem = ""
        if len(candidates) > 1:
            problem = "it could be " + " or ".join(path.as_posix() for path in candidates)
        elif candidates and not exact and stems[image.relative.with_suffix("")] > 1:
            problem = f"{candidates[0].as_posix()} has the name of several inputs"
        after = candidates[0] if len(candidates) == 1 else same
        pairs.append(Pair(image.path, after, problem))
    return pairs
