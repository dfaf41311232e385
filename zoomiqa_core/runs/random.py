"""Random draws that can be repeated: seeds derived from numbers, single draws from a generator."""

from __future__ import annotations

import numpy as np
import torch


def below(limit: int, generator: torch.Generator) -> int:
    """A whole number from 0 up to, not including, ``limit`` ≥ 1, all equally likely.

    >>> below(6, torch.Generator().manual_seed(0))
    2
    """
    return int(torch.randint(limit, (), generator=generator))


def numbered_generator(seed: int, number: int) -> torch.Generator:
    """CPU generator of one item of a run: a training step, an image, a model of a committee.

    An item draws the same whatever was drawn before, so a resumed run equals an unbroken one.

    Args:
        seed: of the run, ≥ 0.
        number: of the item, from 0 to 1,000,002.

    >>> torch.rand(2, generator=numbered_generator(0, 3))
    tensor([0.0043, 0.1056])
    """
    return torch.Generator().manual_seed(seed * 1_000_003 + number)


def derived_seed(*numbers: int, stream: int | None = None) -> int:
    """A seed for ``torch`` from several numbers ≥ 0; those of different numbers are unrelated.

    Args:
        numbers: For example the run's seed and the index of an image.
        stream: Separates uses that would otherwise count with the same numbers.

    >>> derived_seed(0, 1)
    2918264622725855778
    """
    spawn_key = () if stream is None else (stream,)
    state = np.random.SeedSequence(numbers, spawn_key=spawn_key).generate_state(1, np.uint64)
    return int(state[0]) >> 1  # torch seeds are signed 64-bit numbers


def derived_generator(*numbers: int, stream: int | None = None) -> torch.Generator:
    """A CPU generator with :func:`derived_seed`.

    >>> torch.rand(2, generator=derived_generator(0, 1))
    tensor([0.5167, 0.3940])
    """
    return torch.Generator().manual_seed(derived_seed(*numbers, stream=stream))
