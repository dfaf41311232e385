"""Make a folder of images as nasty as folders get: ``python -m tests.nasty_folder DIR``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from zoomiqa_core.images.sources import to_pil


class NastyFolder(NamedTuple):
    """What is in the folder, as paths relative to it."""

    good: frozenset[str]
    """Images that can be judged, whatever they are called."""
    bad: frozenset[str]
    """Files with an image's name that cannot be read."""
    passed_over: tuple[str, ...]
    """Kinds of the other files, one word for each."""


GOOD = frozenset(
    {
        "a.jpg",
        "a.png",  # same stem
        "A.PNG",  # same name but for case
        "d1/a.png",
        "d2/a.png",
        "d1/photo.tif/inside.png",  # a folder with an image's suffix
        os.fsdecode(b"caf\xe9.jpg"),  # Latin-1, no UTF-8
        "n" * 246 + ".png",  # 250 bytes, a system's limit is 255
        "木" * 83 + ".png",  # 83 characters, 253 bytes
        "CON.png",  # a device on Windows
        "two\nlines.png",
        "<img src=x onerror=alert(1)>.png",
        "it's 100%, isn't [it] {n}?.png",
        "linked/far.png",  # in a linked folder
    }
)
BAD = {
    "empty.png": b"",
    "text.png": b"not an image at all",
    "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "half.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0",
    "gone.png": None,  # a link to nothing
    "pipe.png": None,
}
PASSED_OVER = ("notes.txt", "photo.heic", "README", ".hidden.png")


def make_nasty_folder(folder: Path) -> NastyFolder:
    """Fill ``folder``, and ``folder.parent / "elsewhere"``, which it links to."""
    folder.mkdir(parents=True)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (folder / "linked").symlink_to(elsewhere.resolve())
    (elsewhere / "circle").symlink_to(folder.resolve())
    for number, name in enumerate(sorted(GOOD)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(number))
        ramp = torch.linspace(0.2, 0.7, 48).expand(3, 40, 48)
        to_pil(ramp + 0.2 * noise).save(path, "JPEG" if path.suffix == ".jpg" else "PNG")
    for name, content in BAD.items():
        if content is not None:
            (folder / name).write_bytes(content)
    (folder / "gone.png").symlink_to("nothing.png")
    os.mkfifo(folder / "pipe.png")
    for name in PASSED_OVER:
        (folder / name).write_bytes(b"x")
    kinds = (".txt", ".heic", "without a suffix", "hidden", "link to a folder already searched")
    return NastyFolder(GOOD, frozenset(BAD), kinds)


if __name__ == "__main__":
    make_nasty_folder(Path(sys.argv[1]))
