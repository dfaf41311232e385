"""Restorers: what makes the candidates."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from restoration_guide.restorers.base import Candidate, Restorer, Settings, candidate_generator

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["Candidate", "Restorer", "Settings", "candidate_generator", "load_restorer"]


def load_restorer(source: str | os.PathLike[str] | DiffusionPipeline = "builtin") -> Restorer:
    """Load a restorer.

    Args:
        source: "builtin" for the bundled weights, the folder of a saved
            `TinyRestorationPipeline`, or such a pipeline object.

    Returns:
        The restorer, named "builtin", by the folder's path as given, or "pipeline".

    Raises:
        WeightsError: A folder without a pipeline.
        TypeError: A pipeline of another class.
    """
    # diffusers is heavy: imported only when a restorer is wanted
    from restoration_guide.restorers.builtin import BuiltinRestorer, load_builtin_pipeline
    from restoration_guide.restorers.pipeline import TinyRestorationPipeline

    if isinstance(source, (str, os.PathLike)):
        if source == "builtin":
            return BuiltinRestorer()
        path = os.fspath(source)
        return BuiltinRestorer(load_builtin_pipeline(path), name=path)
    if isinstance(source, TinyRestorationPipeline):
        return BuiltinRestorer(source, name="pipeline")
    kind: Any = type(source).__name__
    raise TypeError(
        f"Cannot restore with {kind}: give 'builtin', a folder, or a TinyRestorationPipeline."
    )
