"""Windows around boxes: whole pixels, one rule for all judges."""

import pytest
import torch

from zoomiqa_core.images.windows import pixel_window
from zoomiqa_core.restoration.model import RestorationJudge
from zoomiqa_core.restoration.scorer import RestorationScorer


@pytest.mark.parametrize(
    ("start", "stop", "side", "least", "expected"),
    [
        (0.0, 0.07, 100, 1, (0, 7)),  # .07 · 100 is 7.000000000000001
        (0.29, 1.0, 100, 1, (29, 100)),  # .29 · 100 is 28.999999999999996
        (0.101, 0.199, 100, 1, (10, 20)),  # pixels that it touches count
        (0.5, 0.5, 100, 1, (50, 51)),
        (0.0, 0.1, 100, 64, (0, 64)),
        (0.45, 0.55, 30, 64, (0, 30)),
    ],
)
def test_windows_by_hand(start, stop, side, least, expected) -> None:
    assert pixel_window(start, stop, side, least) == expected


def test_the_restoration_judge_rates_the_same_window() -> None:
    judge = RestorationScorer(RestorationJudge(width=8, members=2))
    image = torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(0))
    bbox = (0.104, 0.0, 0.903, 1.0)  # 10.4 to 90.3: the pixels 10 to 91
    assert judge.score_regions(image, [bbox])[0].rating == judge.assess(image[..., 10:91]).rating
