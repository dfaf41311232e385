"""What benchmarks of the search share: its options, its configuration, and one search."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from benchmarks import tables
from restoration_guide.cli.config import RunConfig
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.selection import Selection


def search_options(doc: str | None, *, out: str, **defaults: Any) -> argparse.Namespace:
    """The command line: ``--photos``, those of ``defaults``, and those of the search."""
    return tables.arguments(
        doc,
        out=out,
        photos=...,
        **defaults,
        n=RunConfig.n,
        restorer=RunConfig.restorer,
        scorer=RunConfig.scorer,
    ).parse_args()


def search_config(options: argparse.Namespace, **more: Any) -> RunConfig:
    """Configuration of the search that the options name; ``more`` are further fields."""
    return RunConfig(n=options.n, restorer=options.restorer, scorer=options.scorer, **more)


def searched(search: BestOfN, image: Tensor, *, name: str, seed: int) -> Selection:
    """One search.

    Raises:
        RuntimeError: the restorer failed; such a photo would be missing from the means.
    """
    selection = search(image, seed=seed)
    if selection.error is not None:
        raise RuntimeError(f"{name}: the restorer failed: {selection.error}")
    return selection
