"""Labels from the clean photo: zero for the clean one, worse for more damage."""

import torch
from torch.nn import functional

from zoomiqa_core.restoration.labels import TEACHERS, mixture_rating, teacher_distances
from zoomiqa_core.restoration.model import RestorationJudge


def distances(images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    judge = RestorationJudge(width=4, members=1)
    with torch.no_grad():
        return teacher_distances(images, clean, judge.features(torch.cat([images, clean])))


def photo() -> torch.Tensor:
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, (96, 96), mode="nearest")


def test_the_clean_photo_has_no_distance_and_the_best_rating():
    clean = photo()
    found = distances(clean, clean)
    assert found.shape == (1, len(TEACHERS))
    assert found.abs().max() < 2e-3
    assert mixture_rating(found) > 4.7


def test_every_teacher_finds_more_blur_and_shifted_colour_worse():
    clean = photo()
    little, much = (
        functional.interpolate(
            functional.interpolate(clean, scale_factor=1 / n, mode="area"), (96, 96), mode="bicubic"
        ).clamp(0, 1)
        for n in (2, 6)
    )
    found = distances(torch.cat([little, much]), clean)
    assert (found[1, :4] > found[0, :4]).all()
    colour = distances(clean + 0.1 * torch.tensor([1.0, -1, 0]).view(1, 3, 1, 1), clean)
    assert colour[0, -1] > 0.1


def test_no_distance_raises_the_rating():
    base = torch.full((1, 5), 0.1)
    for place in range(5):
        worse = base.clone()
        worse[0, place] += 0.1
        assert mixture_rating(worse) < mixture_rating(base)
