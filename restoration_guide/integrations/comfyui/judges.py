"""Judges by the name that a node gives, kept in memory between runs of a graph."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from zoomiqa_core.scorer import Scorer, load_scorer

BUNDLED = ("restoration", "proxy", "alarm", "tiny")
"""Judges of the wheel, in the order of the nodes' list."""


def load_judge(name: str, device: str = "cpu") -> Scorer:
    """A judge, loaded once; a folder is loaded again when its files have changed.

    >>> load_judge("proxy") is load_judge("proxy")
    True

    Args:
        name: of the wheel, ``"pyiqa:NAME"``, a folder, a hub id, or a server's address and, after a
            space, the name of its model: ``"http://127.0.0.1:8000/v1 zoom-iqa"``.
        device: where it judges.
    """
    return _load(name, version_of(name), device)


@lru_cache(maxsize=3)
def _load(name: str, version: float, device: str) -> Scorer:
    if "://" in name:
        address, _, model = name.partition(" ")
        return load_scorer(address, model=model.strip())
    return load_scorer(name, device=device)


def version_of(name: str) -> float:
    """When a folder's files last changed, in seconds; 0 for judges that are no folder.

    >>> version_of("proxy")
    0.0
    """
    folder = Path(name).expanduser()
    if name in BUNDLED or not folder.is_dir():
        return 0.0
    return max((file.stat().st_mtime for file in folder.iterdir()), default=0.0)


def problem_with(name: str) -> str | None:
    """What is wrong with a judge's name, found without loading it; None if nothing is.

    >>> problem_with("proxi")
    "no judge is called 'proxi': expected restoration, proxy, alarm, tiny, pyiqa:NAME, a ...
    >>> problem_with("http://127.0.0.1:8000/v1")
    'name the model after the address: http://127.0.0.1:8000/v1 MODEL'
    """
    if name in BUNDLED or name.startswith("pyiqa:") or Path(name).expanduser().is_dir():
        return None
    if name.startswith(("http://", "https://")):
        address, _, model = name.partition(" ")
        return None if model.strip() else f"name the model after the address: {address} MODEL"
    if name.count("/") == 1 and not name.startswith(("/", "~", ".")):
        return None  # a hub id
    return (
        f"no judge is called {name!r}: expected {', '.join(BUNDLED)}, pyiqa:NAME, a folder, a hub "
        "id, or a server's address and model"
    )
