"""Single draws from a generator, for whatever is made at random and must be made again."""

from __future__ import annotations

import torch


def below(limit: int, generator: torch.Generator) -> int:
    """A whole number from 0 up to, not including, ``limit`` ≥ 1, all equally likely."""
    return int(torch.randint(limit, (), generator=generator))
