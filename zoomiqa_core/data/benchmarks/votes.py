"""People's choices between two images: a folder of votes → pairs, none of their images opened.

=====================  ===========================================================================
layout                 what is there
=====================  ===========================================================================
table                  a CSV file with ``left,right,selected[,input][,photo]`` (`read_table`)
BAPPS                  ``judge/*.npy`` beside ``p0/`` and ``p1/``, at any depth (`read_bapps`)
scores by reference    PIPAL, KADID-10k, TID2013 or CSIQ as distributed (`pairs_by_score`)
=====================  ===========================================================================
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from zoomiqa_core.data.benchmarks.rated_images import Scale
from zoomiqa_core.data.benchmarks.sets import read_benchmark
from zoomiqa_core.data.benchmarks.tables import Row, csv_rows

COLUMNS = ("left", "right", "selected")
SHARE = Scale("share of votes for the right image", 0, 1)
SCORED = {
    "Train_Label": "pipal",
    "Val_Label": "pipal",
    "Test_Label": "pipal",
    "dmos.csv": "kadid10k",
    "mos_with_names.txt": "tid2013",
    "csiq.DMOS.xlsx": "csiq",
}
"""File or folder that marks a dataset → its name. They score distorted copies of references."""


@dataclass(frozen=True, slots=True)
class VotedPair:
    """Two images and which of them people chose."""

    left: Path
    right: Path
    share: float
    """Share of the votes for the right image, 0–1."""
    votes: int = 1
    """How many there are; 1 where only their share is known."""
    photo: str = ""
    """What intervals are clustered by: pairs of one photo are not independent."""
    input: Path | None = None
    """The degraded image that both were restored from; None where it is not known."""


def read_votes(data: str | Path) -> list[VotedPair]:
    r"""Read the votes of a folder, or of a CSV file.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it holds no votes, or a malformed row (file, row and field named).

    >>> _ = Path("votes.csv").write_text("left,right,selected\na.png,b.png,1\nb.png,a.png,right\n")
    >>> (pair,) = read_votes(".")
    >>> pair.left.name, pair.right.name, pair.share, pair.votes
    ('a.png', 'b.png', 0.5, 2)
    """
    data = Path(data).expanduser()
    if not data.exists():
        raise FileNotFoundError(f"{data} does not exist; give a folder of votes or a CSV file")
    table = find_table(data)
    marks = [name for mark, name in SCORED.items() if (data / mark).exists()]
    if table is not None:
        pairs = read_table(table)
    elif marks:
        pairs = _scored_pairs(marks[0], data)
    else:
        pairs = list(read_bapps(data))
    if not pairs:
        raise ValueError(
            f"{table or data} holds no votes; expected a CSV file with the columns "
            f"{','.join(COLUMNS)}[,input][,photo], folders p0, p1 and judge as in BAPPS, the "
            "folder of PIPAL, KADID-10k, TID2013 or CSIQ, or families of restorations"
        )
    return pairs


def find_table(data: Path) -> Path | None:
    """The CSV file of votes: ``data`` itself, or the one in it that has the columns.

    Raises:
        ValueError: the folder holds several.
    """
    if data.is_file():
        return data
    found = [path for path in sorted(data.glob("*.csv")) if set(COLUMNS) <= _header(path)]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{data} holds several tables of votes ({names}); give one of them")
    return found[0] if found else None


def read_table(table: Path) -> list[VotedPair]:
    """Read a CSV file with a header ``left,right,selected[,input][,photo]``, one vote a row.

    ``left``, ``right`` and ``input`` are paths of images, relative to the file or absolute;
    ``selected`` is ``left`` or ``right``, or a number in [0, 1]: the share of votes for the right
    image, so 0 is a vote for the left one and 1 for the right one. Several rows of a pair, in
    either order, are several votes. Pairs that share a ``photo``, an ``input`` or an image belong
    to the same photo.

    Raises:
        ValueError: a malformed row, or an image with two inputs.
    """
    shares: dict[tuple[Path, Path], list[float]] = {}
    inputs: dict[Path, Path | None] = {}
    same_photo = _Links()
    for row in csv_rows(table, COLUMNS):
        left, right = (table.parent / row.text(side) for side in ("left", "right"))
        if left == right:
            raise ValueError(f"{row.where}: left and right are both {row.text('left')!r}")
        name, photo = (str(row.values.get(key) or "").strip() for key in ("input", "photo"))
        degraded = table.parent / name if name else None
        for image in (left, right):
            if inputs.setdefault(image, degraded) != degraded:
                raise ValueError(
                    f"{row.where}: input {str(degraded)!r} of {image}, which an earlier row gives "
                    f"the input {str(inputs[image])!r}"
                )
        same_photo.join(*filter(None, (photo, degraded, left, right)))
        share = _share(row)
        if (right, left) in shares:
            left, right, share = right, left, 1 - share
        shares.setdefault((left, right), []).append(share)
    return [
        VotedPair(
            left, right, float(np.mean(found)), len(found), same_photo.name(left), inputs[left]
        )
        for (left, right), found in shares.items()
    ]


def read_bapps(folder: Path) -> Iterator[VotedPair]:
    """BAPPS, two-alternative part (Zhang et al., CVPR 2018): every patch is a photo of its own.

    ``judge/NAME.npy`` is the share of people to whom ``p1/NAME.png`` looked nearer to the reference
    than ``p0/NAME.png``. The reference is no degraded input, so these pairs have none.

    Raises:
        ValueError: a label is not one number in [0, 1].
    """
    for label in sorted(folder.glob("**/judge/*.npy")):
        try:
            found = np.load(label, allow_pickle=False).reshape(-1)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{label} is not a readable array: {error}") from error
        if found.shape != (1,) or not 0 <= found[0] <= 1:
            raise ValueError(f"{label}: expected one share in [0, 1], got {found[:3].tolist()}")
        part = label.parent.parent
        left, right = (part / side / f"{label.stem}.png" for side in ("p0", "p1"))
        photo = (part / label.stem).relative_to(folder).as_posix()
        yield VotedPair(left, right, float(found[0]), photo=photo)


def pairs_by_score(
    scores: Mapping[Path, float], photo: str, degraded: Path | None = None
) -> Iterator[VotedPair]:
    """Every pair of a photo's images, with one vote for the higher score; equal scores share it.

    >>> scores = {Path("a.png"): 2.5, Path("b.png"): 4.0, Path("c.png"): 4.0}
    >>> [pair.share for pair in pairs_by_score(scores, "photo")]
    [1.0, 1.0, 0.5]
    """
    for (left, low), (right, high) in combinations(scores.items(), 2):
        share = (1 + float(np.sign(high - low))) / 2
        yield VotedPair(left, right, share, photo=photo, input=degraded)


def _scored_pairs(name: str, folder: Path) -> list[VotedPair]:
    scores: dict[str, dict[Path, float]] = defaultdict(dict)
    for image in read_benchmark(name, folder):
        scores[image.reference][image.path] = image.mos
    return [pair for photo, found in scores.items() for pair in pairs_by_score(found, photo)]


def _share(row: Row) -> float:
    side = {"left": 0.0, "right": 1.0}.get(row.text("selected").lower())
    if side is not None:
        return side
    try:
        return row.label("selected", SHARE)
    except ValueError as error:
        raise ValueError(
            f"{error}; selected is left, right, or the share of votes for the right image"
        ) from None


def _header(table: Path) -> set[str]:
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        return set(next(csv.reader(lines), ()))


class _Links:
    """Which things are linked, directly or through others (union–find)."""

    def __init__(self) -> None:
        self.leader: dict[Hashable, Hashable] = {}

    def name(self, thing: Hashable) -> str:
        return str(self._root(thing))

    def join(self, first: Hashable, *others: Hashable) -> None:
        for other in others:
            self.leader[self._root(other)] = self._root(first)

    def _root(self, thing: Hashable) -> Hashable:
        while (leader := self.leader.setdefault(thing, thing)) != thing:
            self.leader[thing] = thing = self.leader.setdefault(leader, leader)
        return thing


def photos(pairs: Iterable[VotedPair]) -> list[str]:
    """The photos that pairs come from, in their order."""
    return list(dict.fromkeys(pair.photo for pair in pairs))
