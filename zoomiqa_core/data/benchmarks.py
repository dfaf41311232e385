"""Image-quality datasets with human labels, read from their official layouts."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RatedImage:
    """One image and what people said of it."""

    path: Path
    rating: float
    """Mean opinion on 1–5, higher is better."""
    split: str
    """``training``, ``validation`` or ``test``."""
    subset: str
    """Part of the dataset with a provenance of its own, e.g. ``ss01``."""


def read_biq2021(folder: str | Path, split: str | None = None) -> list[RatedImage]:
    """Read BIQ2021 (Ahmed et al., J. Electronic Imaging 2022).

    Expects ``mos.csv`` with ``image_name, mos, set`` beside ``images/``; its MOS in [0, 1]
    (observers rated 1–5) becomes the rating 1 + 4·MOS. The subset is the name's first word:
    ``ss01`` gallery photos, ``ss02`` shot from bad to excellent, ``ss03`` from a photo site.

    Args:
        folder: dataset root.
        split: keep one of ``training``, ``validation``, ``test``; None keeps all.

    Raises:
        FileNotFoundError: no ``mos.csv`` in the folder.
        ValueError: a row is malformed (file, row and field named), or nothing is left.
    """
    table = Path(folder) / "mos.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} not found; give the BIQ2021 folder holding mos.csv")
    images: list[RatedImage] = []
    with table.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            images.append(_biq2021_row(row, f"{table}, line {number}", Path(folder) / "images"))
    chosen = [image for image in images if split in (None, image.split)]
    if not chosen:
        known = sorted({image.split for image in images})
        raise ValueError(f"{table} has no image of split {split!r}; it has {known}")
    return chosen


def _biq2021_row(row: dict[str, str], where: str, images: Path) -> RatedImage:
    missing = [key for key in ("image_name", "mos", "set") if not row.get(key)]
    if missing:
        raise ValueError(f"{where}: no value for {missing}")
    try:
        mos = float(row["mos"])
    except ValueError:
        raise ValueError(f"{where}: mos {row['mos']!r} is not a number") from None
    if not 0 <= mos <= 1:
        raise ValueError(f"{where}: mos {mos} lies outside [0, 1]")
    name = row["image_name"]
    return RatedImage(images / name, 1 + 4 * mos, row["set"], name.split()[0])
