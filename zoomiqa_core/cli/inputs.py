"""Input files and output paths of a command, checked before any model is loaded."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import typer

from zoomiqa_core.cli.options import finish, stop
from zoomiqa_core.cli.results import report
from zoomiqa_core.images.folders import FoundImage, FoundImages, in_words, search_images

LONGEST_NAME = 200
"""Bytes; file systems allow 255, and what is written beside gets a longer name."""
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def find_inputs(inputs: Sequence[str], output: Path | None = None) -> FoundImages:
    """Find the images of a command; name on the standard error what gave none.

    Ends the program when no image was found, or when an input lies in the output folder.
    """
    try:
        found = search_images(inputs, output=output)
    except ValueError as error:
        stop(str(error), error)
    for absent in found.absent:
        report(absent.code, absent.message)
    if found.images and found.passed_over:
        typer.echo(f"note: {in_words(found.passed_over)}", err=True)
    if not found.images:
        finish([])
    return found


def check_output(folder: Path) -> None:
    """Make an output folder and end the program when nothing can be written there."""
    try:
        folder.expanduser().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.expanduser()):
            pass
    except OSError as error:
        stop(f"cannot write: {error}", error)


def is_picture(out: Path) -> bool:
    """Whether ``--out`` names a picture's file rather than a folder."""
    from zoomiqa_core.images.encoding import FORMATS

    return out.suffix.lower() in FORMATS and not out.expanduser().is_dir()


def check_picture(
    out: Path, paths: Sequence[Path], *, overwrite: bool | None = None, bits: int = 8
) -> Path:
    """The one image whose result goes to a picture's file; ends the program where that cannot be.

    Args:
        out: the picture's file.
        paths: the images of the command.
        overwrite: whether the file may be replaced, an input never is; None for a command without
            that option.
        bits: per channel of the picture.
    """
    if len(paths) != 1:
        stop(f"--out {out} is a file for one picture, not for {len(paths)}; give a folder")
    if bits == 16 and out.suffix.lower() != ".png":
        stop(f"--out {out}: 16 bits per channel need a .png")
    check_output(out.parent)
    if out.exists() and (not overwrite or out.samefile(paths[0])):
        fix = "give another name"
        if overwrite is False and not out.samefile(paths[0]):
            fix += " or --overwrite"
        stop(f"cannot write: {out} exists; {fix}")
    return paths[0]


def output_paths(images: Sequence[FoundImage], out: Path) -> list[Path]:
    """Where the results of each image go: below ``out``, at the image's own relative path.

    The path of one image does not depend on the others, so that a run with more of them goes on
    where an earlier one ended. Ends the program when two images would share a path.
    """
    paths = [out.expanduser().joinpath(*map(safe_name, image.relative.parts)) for image in images]
    taken: dict[Path, Path] = {}
    for image, path in zip(images, paths, strict=True):
        if (other := taken.setdefault(path, image.path)) != image.path:
            stop(
                f"{other} and {image.path} would both be written to {path}; give the folder that "
                "holds both, or run them apart with another --out"
            )
    return paths


def safe_name(name: str) -> str:
    """A file name that every file system takes: the name itself where it is one.

    Characters that some system refuses become ``_`` and long names are cut; a hash of the whole
    name keeps these apart.

    >>> safe_name("Photo (1).jpg")
    'Photo (1).jpg'
    >>> safe_name("<b>.png")
    '_b_.png-ebd92d93'
    """
    clean = _UNSAFE.sub("_", name).rstrip(". ")
    if _RESERVED.fullmatch(clean.split(".")[0]):
        clean = f"_{clean}"
    if clean == name and len(os.fsencode(clean)) <= LONGEST_NAME:
        return name
    cut = clean.encode()[: LONGEST_NAME - 20].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
