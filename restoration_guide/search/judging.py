"""Judge images in memory; a judge that raises fails for that image alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoomiqa_core.assessment import Assessment

if TYPE_CHECKING:
    from zoomiqa_core.scorer import Scorer


def check_judge(scorer: object) -> None:
    """Refuse what is no judge, such as a plain function.

    Raises:
        TypeError: it has no ``assess``.
    """
    if not callable(getattr(scorer, "assess", None)) or isinstance(scorer, type):
        raise TypeError(
            f"expected a judge with assess(image), got {scorer!r}; load one with "
            "zoomiqa_core.load_scorer, which also wraps the folder of a model."
        )


def judge_images(scorer: Scorer, images: list[Tensor]) -> list[Assessment]:
    """Judge a batch; when the judge raises, one by one, so that one image fails alone.

    Args:
        scorer: the judge.
        images: (3, H, W) in [0, 1].

    Returns:
        One judgement per image; an image the judge raised on has the error ``"judge_error"``.
    """
    try:
        with torch.no_grad():
            return list(scorer.assess(images))
    except Exception as error:  # whatever a judge raises
        if len(images) > 1:
            return [judge_images(scorer, [image])[0] for image in images]
        return [Assessment.failed("judge_error", describe_error(error))]


def judge_image(scorer: Scorer, image: Tensor) -> Assessment:
    """Judge one (3, H, W) in [0, 1]; where the judge raises, the error is ``"judge_error"``."""
    try:
        with torch.no_grad():
            return scorer.assess(image)
    except Exception as error:  # whatever a judge raises
        return Assessment.failed("judge_error", describe_error(error))


def describe_error(error: BaseException) -> str:
    """Kind and message of an error in one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
