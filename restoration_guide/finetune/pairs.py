"""Pairs of degraded and clean files, found by the names that data sets give them.

A pattern is a path inside the folder with placeholders: ``{name}`` is a name without slashes,
``{path}`` may contain some, ``{factor}`` is the number in names like ``0001x4``; ``*`` matches
anything but a slash, ``**/`` any folders. Two files whose ``{name}`` or ``{path}`` are equal are a
pair. Files that match neither pattern are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from zoomiqa_core.images.sources import find_images

LAYOUTS = {
    "folders": ("degraded/{path}.*", "clean/{path}.*"),
    "div2k": ("**/*LR*/**/{name}x{factor}.*", "**/*HR*/**/{name}.*"),
    "realsr": ("{path}_LR{factor}.*", "{path}_HR.*"),
}
"""Layouts by name: ``degraded/`` and ``clean/`` with equal names; DIV2K (``0001x4.png`` in
``DIV2K_train_LR_bicubic/X4``, ``0001.png`` in ``DIV2K_train_HR``); RealSR and DRealSR
(``Canon_001_LR4.png`` beside ``Canon_001_HR.png``)."""

_PARTS = {
    "{name}": "(?P<key>[^/]+?)",
    "{path}": "(?P<key>.+?)",
    "{factor}": "(?P<factor>[0-9]+)",
    "**/": "(?:.*/)?",
    "*": "[^/]*",
}


def find_pairs(folder: str | Path, pairs: str = "folders") -> list[tuple[Path, Path]]:
    """Pairs (degraded, clean) in a folder, in the order of their names.

    >>> from zoomiqa_core.images.sources import save_png
    >>> import torch
    >>> for name in ("DIV2K_LR_bicubic/X4/0001x4", "DIV2K_HR/0001"):
    ...     _ = save_png(torch.rand(3, 32, 32), Path(f"{name}.png"))
    >>> [(a.name, b.name) for a, b in find_pairs(".", "div2k")]
    [('0001x4.png', '0001.png')]

    Args:
        folder: contains both.
        pairs: a name of ``LAYOUTS``, or two patterns, ``"DEGRADED | CLEAN"``.

    Raises:
        ValueError: no such layout, no pair, a file without partner, or a name with several files.
    """
    patterns = LAYOUTS.get(pairs) or tuple(part.strip() for part in pairs.split("|"))
    if len(patterns) != 2 or not all("{name}" in p or "{path}" in p for p in patterns):
        raise ValueError(
            f"pairs={pairs}: expected one of {', '.join(LAYOUTS)}, or two patterns with {{name}} "
            "such as 'lr/{name}x4.png | hr/{name}.png'"
        )
    files = find_images([Path(folder)])
    degraded, clean = (_by_key(Path(folder), files, pattern) for pattern in patterns)
    if not degraded and not clean:
        raise ValueError(
            f"{folder}: no file matches {patterns[0]} or {patterns[1]} (pairs={pairs})"
        )
    if degraded.keys() != clean.keys():
        odd = sorted(degraded.keys() ^ clean.keys())[:3]
        raise ValueError(
            f"{folder}: the images of a pair must have the same name; without partner: {odd}"
        )
    return [(degraded[key], clean[key]) for key in sorted(clean)]


def _by_key(folder: Path, files: list[Path], pattern: str) -> dict[str, Path]:
    tokens = re.split(r"(\{\w+\}|\*\*/|\*)", pattern)
    unknown = [t for t in tokens if t.startswith("{") and t not in _PARTS]
    if unknown:
        raise ValueError(f"{pattern}: unknown placeholder {unknown[0]}; there are {list(_PARTS)}")
    expression = re.compile("".join(_PARTS.get(token, re.escape(token)) for token in tokens))
    found: dict[str, Path] = {}
    for path in files:
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        if match is None:
            continue
        key = match["key"]
        if key in found:
            raise ValueError(
                f"{folder}: {found[key].relative_to(folder)} and {path.relative_to(folder)} are "
                f"both {key!r} of {pattern}; give a folder with one scale, or a narrower pattern"
            )
        found[key] = path
    return found
