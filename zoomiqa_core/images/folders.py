"""Find images by paths, folders and glob patterns; files passed over are counted by kind."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zoomiqa_core.images.pillow import HEIF_SUFFIXES, can_read_heif

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"}
)
"""File name suffixes, in lower case, that are searched for in folders; with a plugin also HEIC."""

Inputs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One path or pattern, or several."""


class FoundImage(NamedTuple):
    """One input file."""

    path: Path
    relative: Path
    """Its path below the folder, or below the fixed part of the pattern, that it was found by; the
    name of a file that was given itself. Outputs mirror it."""


class Absent(NamedTuple):
    """An input that gave no image."""

    name: str
    """The input, as given."""
    code: str
    """``"missing"`` or ``"no_images"``."""
    message: str
    """E.g. ``"no images found in photos"``."""


@dataclass
class FoundImages:
    """What a search found."""

    images: list[FoundImage] = field(default_factory=list)
    """Each file once, in a stable order."""
    absent: list[Absent] = field(default_factory=list)
    """Inputs that gave no image."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Kind → number of files in folders that were not taken: by suffix (``".heic"``), or
    ``"hidden"``, ``"in the output folder"``, ``"link to a folder already searched"``."""

    @property
    def paths(self) -> list[Path]:
        """The files alone."""
        return [image.path for image in self.images]


def find_images(inputs: Inputs) -> list[Path]:
    """Expand files, folders and glob patterns into image paths, each once, in a stable order.

    A folder gives the files under it with an image suffix, recursively and sorted, hidden names
    left out and linked folders included; a pattern (``**`` recurses) gives its sorted matches. What
    matches nothing (a missing path, a folder without images) is kept as it is, so that reading it
    reports the named error. :func:`search_images` says which these are.

    >>> for name in ("photos/b.png", "photos/a.jpg", "photos/notes.txt"):
    ...     Path(name).parent.mkdir(exist_ok=True)
    ...     Path(name).touch()
    >>> [path.as_posix() for path in find_images("photos")]
    ['photos/a.jpg', 'photos/b.png']
    """
    inputs = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    paths: dict[Path, None] = {}
    for each in inputs:
        found = search_images(each)
        paths.update(dict.fromkeys([*found.paths, *(Path(each.name) for each in found.absent)]))
    return list(paths)


def search_images(inputs: Inputs, *, output: Path | None = None) -> FoundImages:
    """Search files, folders and glob patterns for images.

    Args:
        inputs: as of :func:`find_images`.
        output: a folder that results are written to: nothing inside it is an input, so that a
            second run does not take the results of the first.

    Raises:
        ValueError: an input file or folder lies in ``output``.

    >>> for name in ("in/a.jpg", "in/b/a.jpg", "in/out/a.jpg", "in/c.heic"):
    ...     Path(name).parent.mkdir(exist_ok=True, parents=True)
    ...     Path(name).touch()
    >>> found = search_images(["in", "none.png"], output=Path("in/out"))
    >>> [image.relative.as_posix() for image in found.images]
    ['a.jpg', 'b/a.jpg']
    >>> found.absent[0].message
    'none.png: no such file; check the path'
    >>> in_words(found.passed_over)
    '2 files passed over: 1 .heic, 1 in the output folder'
    """
    inputs = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    found = FoundImages()
    taken: dict[Path, FoundImage] = {}
    for given in inputs:
        images = list(_expand(str(Path(os.path.expanduser(given))), output, found))
        for image in images:
            taken.setdefault(image.path, image)
    found.images = list(taken.values())
    return found


def _expand(given: str, output: Path | None, found: FoundImages) -> Iterator[FoundImage]:
    """The images of one input; notes in ``found`` what is absent or passed over."""
    if glob.has_magic(given) and not os.path.lexists(given):
        matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
        if not matches:
            found.absent.append(Absent(given, "missing", f"{given}: no file matches this pattern"))
        root = _fixed_part(given)
        for match in matches:
            if _is_inside(match, output):
                found.passed_over["in the output folder"] += 1
            elif match.is_dir():
                for image in _images_under(match, output, found):
                    yield FoundImage(image, image.relative_to(root))
            else:
                yield FoundImage(match, match.relative_to(root))
        return
    path = Path(given)
    if _is_inside(path, output):
        raise ValueError(
            f"the input {path} lies in the output folder {output}; choose another output folder"
        )
    if os.path.isdir(path):
        before = found.passed_over.copy()
        images = [
            FoundImage(image, image.relative_to(path))
            for image in _images_under(path, output, found)
        ]
        if not images:
            passed = in_words(found.passed_over - before)
            message = f"no images found in {path}" + (f" ({passed})" if passed else "")
            found.absent.append(Absent(given, "no_images", message))
        yield from images
    elif os.path.lexists(path):
        yield FoundImage(path, Path(path.name))
    else:
        found.absent.append(Absent(given, "missing", f"{path}: no such file; check the path"))


def in_words(passed_over: Counter[str]) -> str:
    """Counts as words.

    >>> in_words(Counter({".heic": 2, "hidden": 1}))
    '3 files passed over: 2 .heic, 1 hidden'
    """
    total = passed_over.total()
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(passed_over.items()))
    return f"{total} file{'s' * (total != 1)} passed over: {kinds}" if total else ""


def _images_under(folder: Path, output: Path | None, found: FoundImages) -> list[Path]:
    """Images in a folder and below, sorted; no folder is searched twice, whatever links to it.

    Linked folders are searched last, so that a real folder keeps its own path.
    """
    images: list[Path] = []
    searched: set[tuple[int, int]] = set()
    links = [folder]
    while links:
        linked = links.pop(0)
        if _identity(linked) in searched:
            found.passed_over["link to a folder already searched"] += 1
            continue
        for parent, names, files in os.walk(linked):
            searched.add(_identity(parent))
            stay = []
            for name in sorted(names):
                path = Path(parent, name)
                if name.startswith("."):
                    continue
                if _is_inside(path, output):
                    count = sum(len(inside) for _, _, inside in os.walk(path))
                    found.passed_over["in the output folder"] += count
                elif path.is_symlink():
                    links.append(path)
                else:
                    stay.append(name)
            names[:] = stay  # os.walk descends into these
            for name in files:
                suffix = Path(name).suffix.lower()
                if name.startswith("."):
                    found.passed_over["hidden"] += 1
                elif suffix in SUFFIXES or (suffix in HEIF_SUFFIXES and can_read_heif()):
                    images.append(Path(parent, name))
                else:
                    found.passed_over[suffix or "without a suffix"] += 1
    return sorted(images)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_inside(path: Path, folder: Path | None) -> bool:
    """Whether a path is the folder or lies in it, links resolved."""
    if folder is None:
        return False
    # not Path.resolve, which raises on a path too long for the system
    real, top = os.path.realpath(path), os.path.realpath(folder)
    return real == top or real.startswith(top.rstrip(os.sep) + os.sep)


def _fixed_part(pattern: str) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[: min(first, len(parts) - 1)])
