"""Image-quality datasets with human labels, by name: scale, split and layout of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from zoomiqa_core.data.benchmarks import layouts
from zoomiqa_core.data.benchmarks.rated_images import RatedImage, Scale

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "RatedImage",
    "Scale",
    "find_benchmark",
    "read_benchmark",
    "read_biq2021",
]


@dataclass(frozen=True)
class Benchmark:
    """A dataset with human labels."""

    title: str
    scale: Scale
    split: Literal["official", "by reference", "none"]
    """Where its parts come from; ``by reference`` see :func:`split_by_reference`."""
    read: Callable[[Path, Scale], Iterator[RatedImage]]


BENCHMARKS = {
    "koniq10k": Benchmark("KonIQ-10k", Scale("MOS", 0, 100), "official", layouts.read_koniq10k),
    "spaq": Benchmark("SPAQ", Scale("MOS", 0, 100), "none", layouts.read_spaq),
    "kadid10k": Benchmark("KADID-10k", Scale("DMOS", 1, 5), "by reference", layouts.read_kadid10k),
    "pipal": Benchmark("PIPAL", Scale("Elo"), "official", layouts.read_pipal),
    "livechallenge": Benchmark(
        "LIVE-Challenge", Scale("MOS", 0, 100), "none", layouts.read_live_challenge
    ),
    "agiqa3k": Benchmark("AGIQA-3K", Scale("MOS", 0, 5), "none", layouts.read_agiqa3k),
    "csiq": Benchmark(
        "CSIQ", Scale("DMOS", 0, 1, lower_is_better=True), "by reference", layouts.read_csiq
    ),
    "tid2013": Benchmark("TID2013", Scale("MOS", 0, 9), "by reference", layouts.read_tid2013),
    "biq2021": Benchmark("BIQ2021", Scale("MOS", 0, 1), "official", layouts.read_biq2021),
}
"""The one table of scales: unit, declared range, direction. Only CSIQ's labels fall with quality;
KADID-10k calls its labels DMOS although they rise with it. PIPAL's Elo has no range."""


def find_benchmark(name: str) -> Benchmark:
    """The dataset called ``name``, ignoring case and hyphens, or that of an annotation file.

    >>> find_benchmark("KonIQ-10k").scale.high
    100

    Args:
        name: a key of :data:`BENCHMARKS` (``"KonIQ-10k"`` is ``"koniq10k"``), or the path of a
            ``.json`` file in Zoom-IQA's annotation format (:func:`layouts.read_annotations`).

    Raises:
        ValueError: an unknown name.
    """
    if name.lower().endswith(".json"):
        file = Path(name).expanduser()
        return Benchmark(
            file.stem,
            Scale("gt_score"),
            "none",
            lambda folder, scale: layouts.read_annotations(file, folder, scale),
        )
    key = "".join(letter for letter in name.lower() if letter.isalnum())
    if key not in BENCHMARKS:
        raise ValueError(
            f"unknown dataset {name!r}; expected one of {', '.join(BENCHMARKS)}, "
            "or a .json file in Zoom-IQA's annotation format"
        )
    return BENCHMARKS[key]


def read_benchmark(name: str, folder: str | Path, split: str | None = None) -> list[RatedImage]:
    r"""Read a dataset from its folder as distributed.

    >>> table = "image_name,mos,set\nss01 (1).jpg,0.75,training\n"
    >>> _ = Path("mos.csv").write_text(table)
    >>> [(image.path.name, image.rating) for image in read_benchmark("biq2021", ".")]
    [('ss01 (1).jpg', 4.0)]

    Args:
        name: see :func:`find_benchmark`.
        folder: the dataset's root; of an annotation file, what its image paths are relative to.
        split: keep one of ``training``, ``validation``, ``test``; None keeps all.

    Returns:
        The images in the order of the label file, none of them opened.

    Raises:
        FileNotFoundError: the folder or its label file is absent.
        ValueError: an unknown name, a malformed row (file, row and field named), or nothing left.
        ImportError: an Excel table without openpyxl.
    """
    benchmark = find_benchmark(name)
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder of {benchmark.title}")
    try:
        images = list(benchmark.read(folder, benchmark.scale))
    except UnicodeDecodeError as error:
        raise ValueError(f"{benchmark.title}: a label file in {folder} is not UTF-8") from error
    if benchmark.split == "by reference":
        images = split_by_reference(images)
    chosen = [image for image in images if split in (None, image.split)]
    if not chosen:
        known = sorted({image.split for image in images if image.split})
        raise ValueError(
            f"{benchmark.title} in {folder} has no image of split {split!r}; "
            f"it has {known or 'no split'}"
            if images
            else f"{benchmark.title} in {folder} lists no image"
        )
    return chosen


def split_by_reference(images: list[RatedImage]) -> list[RatedImage]:
    """Assign splits by reference, so that all versions of an original are in the same split.

    For datasets without an official split; results are not comparable with a paper's. Of every five
    references in alphabetical order, the fourth is for validation and the fifth for testing.

    >>> images = [RatedImage(Path(f"{r}.png"), 3.0, 3.0, reference=r) for r in "abcde"]
    >>> [image.split for image in split_by_reference(images)]
    ['training', 'training', 'training', 'validation', 'test']
    """
    references = sorted({image.reference for image in images})
    parts = ("training", "training", "training", "validation", "test")
    split = {name: parts[position % 5] for position, name in enumerate(references)}
    return [replace(image, split=split[image.reference]) for image in images]


def read_biq2021(folder: str | Path, split: str | None = None) -> list[RatedImage]:
    r"""Read BIQ2021, the dataset that the bundled proxy is trained on.

    >>> _ = Path("mos.csv").write_text("image_name,mos,set\nss01 (1).jpg,0.75,training\n")
    >>> len(read_biq2021(".", "training"))
    1
    """
    return read_benchmark("biq2021", folder, split)
