"""The bundled restoration judge."""

from pathlib import Path

from torch.nn import functional

import zoomiqa_core as zi
from zoomiqa_core.images.sources import read_image
from zoomiqa_core.restoration.scorer import RestorationScorer

PHOTO = Path("restoration_guide/demo/photo.jpg")


def test_load_scorer_gives_the_bundled_judge_and_it_prefers_the_photo_to_its_blurred_copy():
    judge = zi.load_scorer("restoration")
    assert isinstance(judge, RestorationScorer) and judge.name == "restoration"
    photo = read_image(PHOTO).pixels[:, :256, :256]
    small = functional.interpolate(photo[None], scale_factor=0.25, mode="area")
    blurred = functional.interpolate(small, photo.shape[1:], mode="bicubic")[0].clamp(0, 1)
    found = judge.compare([blurred, photo], degraded=blurred)
    assert found.ranking == (1, 0) and found.gains[0] == 0 and found.gains[1] > 0
