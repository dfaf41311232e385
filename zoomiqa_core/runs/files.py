"""Atomic writes, after which a reader sees the old file or the whole new one, and JSON."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block succeeds.

    The block must write one regular file there. Missing parent folders are made; if the block
    raises, ``path`` is left as it was and the temporary file is removed. The temporary name starts
    with a dot and keeps the suffix; a killed process may leave it behind, never a partial ``path``.

    >>> with atomic_path("run/notes.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> Path("run/notes.txt").read_text()
    'whole'
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        # Without this a power cut could leave the new name on data never written to the disk.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write ``data`` to ``path`` atomically and return the path, with ``~`` expanded."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path).expanduser()


def write_text_atomic(path: str | os.PathLike[str], text: str) -> Path:
    r"""Write ``text`` to ``path`` atomically as UTF-8 with its own line ends; return the path.

    A file name that is no text (``os.fsdecode`` of arbitrary bytes) is written as ``\udce9``,
    which JSON reads back as it was.
    """
    return write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def to_json(value: Any, *, sort_keys: bool = True, indent: int | None = 2) -> str:
    """JSON that is the same for the same value, with a line end at the end.

    NaN and infinities become null; NumPy scalars become plain numbers.

    >>> print(to_json({"rating": math.nan, "box": (0, 0.5)}, indent=None), end="")
    {"box": [0, 0.5], "rating": null}
    """
    plain = _plain(value)
    text = json.dumps(
        plain, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False
    )
    return f"{text}\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if getattr(value, "ndim", None) == 0:  # a NumPy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
