"""The judge over a scripted backend: lists, bad images, regions, maps, seeds."""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch

from tests.core.judges import BROKEN, CROP, FINAL, GOOD, ScriptedBackend, picture
from zoomiqa_core.images.inputs import read_or_fail
from zoomiqa_core.images.sources import ImageError
from zoomiqa_core.scorer import Scorer
from zoomiqa_core.zoom_iqa import photos as decoded_photos
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.prompts import BUILTIN


def judge(reply, **config) -> Any:  # a ZoomIQA whose backend keeps what it saw
    return ZoomIQA(ScriptedBackend(reply), config=JudgeConfig(**config))


def by_seed(request) -> str:
    """Final, or zoom and then good, as the seed has it."""
    if len(request.images) == 2:
        return GOOD
    return CROP if request.seed % 2 else FINAL


def test_it_is_a_scorer_and_named_after_its_backend():
    assert isinstance(judge(lambda _: FINAL), Scorer)
    assert judge(lambda _: FINAL).name == "scripted"


def test_one_image_or_a_list_and_bad_images_fail_alone(tmp_path):
    (tmp_path / "empty.png").touch()
    picture().save(tmp_path / "good.png")
    faded = picture().convert("RGBA")
    faded.putalpha(100)
    scorer = judge(lambda _: FINAL)
    assert scorer.assess(tmp_path / "good.png").rating == 3.5
    good, empty, missing, again = scorer.assess(
        [tmp_path / "good.png", tmp_path / "empty.png", "no.png", faded]
    )
    assert (good.rating, good.name) == (3.5, str(tmp_path / "good.png"))
    assert (empty.valid, empty.error, missing.error) == (False, "empty", "missing")
    assert again.valid and again.notes
    assert scorer.assess([]) == []


def test_chains_of_an_image_differ_by_seed_and_agree_in_any_list():
    scorer = judge(by_seed, samples=6)
    alone = scorer.assess(picture())
    assert len(alone.chains.ratings) == 6 and len(set(alone.chains.ratings)) == 2
    assert 0 < alone.chains.zoom_share < 1 and alone.chains.zoom_shift == 2.5
    assert [a.chains.ratings for a in scorer.assess([picture(), picture(50, 50)])] == [
        alone.chains.ratings
    ] * 2


def test_k_chains_are_k_calls_with_one_generator():
    scorer = judge(by_seed)
    together = scorer.assess(picture(), samples=5, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(9)
    apart = [scorer.assess(picture(), samples=1, generator=generator) for _ in range(5)]
    assert together.chains.ratings == tuple(a.rating for a in apart)


def test_fewer_chains_are_the_first_of_more():
    scorer = judge(by_seed)
    assert (
        scorer.assess(picture(), samples=2).chains.ratings
        == scorer.assess(picture(), samples=7).chains.ratings[:2]
    )


def test_another_seed_gives_other_chains():
    ratings = [
        judge(by_seed, samples=16, seed=seed).assess(picture()).chains.ratings for seed in (0, 1)
    ]
    assert ratings[0] != ratings[1]


def test_all_chains_of_an_image_share_the_image_object():
    scorer = judge(by_seed, samples=4)
    scorer.assess(picture())
    assert len({id(request.images[0]) for request in scorer.backend.seen}) == 1


def test_the_question_is_the_users_or_that_of_the_seed():
    asked = judge(lambda _: FINAL, question="Sharp?")
    asked.assess(picture())
    assert "Sharp?" in asked.backend.seen[0].messages[0]["content"][0]["text"]
    default = judge(lambda _: FINAL, seed=1)
    default.assess(picture())
    assert BUILTIN.questions[1] in default.backend.seen[0].messages[0]["content"][0]["text"]


def region_rating(request) -> str:
    """First look 3.5; a region is rated by how bright it is."""
    if len(request.images) == 1:
        return FINAL
    brightness = float(np.asarray(request.images[1]).mean() / 255)
    return FINAL.replace("3.50", f"{1 + 4 * brightness:.2f}")


def test_regions_are_rated_each_on_its_own_after_one_look_at_the_whole():
    scorer = judge(region_rating, samples=2)
    image = picture(96, 64, shade=0)  # black above, a ramp from black to white below
    boxes = [(0, 0, 1, 0.5), (0, 0.5, 0.5, 1), (0.5, 0.5, 1, 1)]
    top, left, right = scorer.score_regions(image, boxes)
    assert [r.bbox for r in (top, left, right)] == boxes
    assert top.rating == 1.0 and 1.0 < left.rating < right.rating
    assert top.rating_std == 0 and top.valid
    assert len(scorer.backend.seen) == 1 + 2 * 3


def test_the_map_tiles_the_image():
    quality_map = judge(region_rating).quality_map(picture(96, 64, shade=0), grid=(2, 3))
    assert quality_map.shape == (1, 2, 3) and quality_map.dtype == torch.float32
    assert quality_map[0, 0].tolist() == [1, 1, 1]
    assert quality_map[0, 1].diff().min() > 0


def test_the_regions_the_model_chose_come_with_ratings():
    said = judge(by_seed, samples=4).assess(picture(), regions="model")
    (region,) = said.regions
    assert region.rating == 4.75 and said.valid
    assert judge(lambda _: FINAL).assess(picture(), regions="model").regions == ()


def test_a_region_that_fails_has_an_error_and_no_rating():
    def reply(request):
        return FINAL if len(request.images) == 1 else BROKEN

    scorer = judge(reply, retries=0)
    (region,) = scorer.score_regions(picture(), [(0, 0, 1, 1)])
    assert not region.valid and region.error == "malformed_json" and math.isnan(region.rating)
    assert scorer.quality_map(picture(), grid=(1, 2)).isnan().all()


def test_without_a_first_look_no_region_is_rated():
    scorer = judge(lambda _: "", retries=0)
    (region,) = scorer.score_regions(picture(), [(0, 0, 1, 1)])
    assert region.error == "missing_answer" and len(scorer.backend.seen) == 1


def test_expected_mode_asks_the_backend_once_an_image():
    said = judge(by_seed, samples=3).assess([picture(), "no.png"], mode="expected")
    assert (said[0].rating, said[0].chains.digit_mass) == (3.0, 0.9)
    assert said[1].error == "missing"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "best"}, 'expected mode "rounds" or "expected"'),
        ({"regions": "all"}, "regions None or"),
        ({"mode": "expected", "samples": 2}, "has no chains"),
        ({"mode": "expected", "regions": "model"}, "has no chains"),
        ({"samples": 0}, "samples counts chains"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        judge(lambda _: FINAL).assess(picture(), **settings)


def test_boxes_and_grids_are_checked_first():
    scorer = judge(lambda _: FINAL)
    with pytest.raises(ValueError, match="normalised"):
        scorer.score_regions(picture(), [(0, 0, 1, 1), (0.5, 0, 0.5, 1)])
    with pytest.raises(ValueError, match="grid"):
        scorer.quality_map(picture(), grid=(0, 2))
    assert scorer.backend.seen == []


@pytest.mark.parametrize("field", ["samples", "max_rounds", "retries", "seed"])
def test_a_configuration_out_of_range_is_refused(field):
    with pytest.raises(ValueError, match="samples ≥ 1"):
        JudgeConfig(**{field: -1})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("mode", ["rounds", "expected"])
def test_one_flat_colour_is_not_judged_and_costs_no_call(mode):
    scorer = judge(by_seed)
    flat, good = scorer.assess([torch.full((3, 64, 64), 0.4), picture()], mode=mode)
    assert (flat.valid, flat.error, good.valid) == (False, "constant", True)
    assert math.isnan(flat.rating) and flat.chains is None
    assert all(np.ptp(np.asarray(request.images[0])) for request in scorer.backend.seen)
    with pytest.raises(ImageError, match="one flat colour"):
        scorer.score_regions(torch.zeros(3, 64, 64), [(0, 0, 1, 1)])


def test_batches_generators_and_other_iterables_are_lists_of_images():
    scorer, photos = judge(lambda _: FINAL), torch.rand(2, 3, 40, 50)
    several = [photos, photos.permute(0, 2, 3, 1).numpy(), iter(photos), deque(photos)]
    assert [[a.rating for a in scorer.assess(images)] for images in several] == [[3.5, 3.5]] * 4
    assert scorer.assess(photos[0]).rating == 3.5
    for wrong in (3, b"photo.jpg", [photos[0], None], photos[0] * 255):
        with pytest.raises((TypeError, ValueError)):
            scorer.assess(wrong)


def test_few_decoded_photos_are_held_at_once(monkeypatch):
    """Only 8-bit pictures are kept, and a group ends once it has enough pixels."""
    decoded, groups = [], []

    def read(source, **how):
        image: Any = read_or_fail(source, **how)
        decoded.append(weakref.ref(image.pixels))
        return image

    class Counting(ScriptedBackend):
        def run(self, chains):
            groups.append((len(chains), sum(pixels() is not None for pixels in decoded)))
            super().run(chains)

    monkeypatch.setattr(decoded_photos, "read_or_fail", read)
    monkeypatch.setattr(decoded_photos, "PIXELS_AT_ONCE", 3 * 40 * 40)
    scorer = ZoomIQA(Counting(lambda _: FINAL))
    photos = list(torch.rand(7, 3, 40, 40))
    assert [a.rating for a in scorer.assess(photos)] == [3.5] * 7
    assert groups == [(3, 0), (3, 0), (1, 0)]
