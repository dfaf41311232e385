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
