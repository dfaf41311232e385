"""Check that a judge rates the better image higher."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from zoomiqa_core.images.inputs import read_to_judge
from zoomiqa_core.images.sources import ImageSource

if TYPE_CHECKING:
    from zoomiqa_core.assessment import Assessment

NOISE = 0.2
"""Standard deviation of the noise that is added, in pixel values of [0, 1]."""


def check_direction(scorer: Any, photo: ImageSource) -> bool:
    """Whether a judge rates a photo above the same photo under strong noise; warns if not.

    It finds a metric wrapped with the wrong ``lower_is_better``, one that takes noise for detail,
    and a range so wide or narrow that both get the same rating. Use a clean photo.

    Args:
        scorer: the judge.
        photo: one image.

    Raises:
        ImageError: the photo cannot be read.
        ValueError: the judge fails on the photo or on its noisy copy.

    >>> from zoomiqa_core import MetricScorer
    >>> def roughness(images):
    ...     return images.diff(dim=-1).abs().mean((1, 2, 3))
    >>> judge = MetricScorer(roughness, lowest=0, highest=0.5, lower_is_better=True)
    >>> check_direction(judge, torch.linspace(0.2, 0.8, 96).expand(3, 96, 96))
    True
    """
    pixels = read_to_judge(photo).pixels
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    given = {"degraded": pixels} if getattr(scorer, "takes_degraded", False) else {}
    noisy_pixels = (pixels + NOISE * noise).clamp(0, 1)
    found: list[Assessment] = scorer.assess([pixels, noisy_pixels], **given)
    for what, said in zip(("the photo", "its noisy copy"), found, strict=True):
        if not said.valid:
            raise ValueError(f"{scorer.name} cannot rate {what}: {said.error}: {said.message}")
    clean, noisy = (said.rating for said in found)
    if clean > noisy:
        return True
    how = "lower than" if clean < noisy else "the same as"
    warnings.warn(
        f"{scorer.name} rates the photo {clean:.2f}, {how} the photo with noise added "
        f"({noisy:.2f}); check lower_is_better, lowest and highest",
        stacklevel=2,
    )
    return False
