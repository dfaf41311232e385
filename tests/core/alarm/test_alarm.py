"""The alarm: ratings, errors, gradients, save and load; the bundled one as a judge."""

from __future__ import annotations

import copy

import pytest
import torch

from restoration_guide.cli.main import DEMO_PHOTO
from zoomiqa_core import load_scorer
from zoomiqa_core.alarm import Alarm
from zoomiqa_core.alarm.scorer import AlarmScorer
from zoomiqa_core.alarm.statistics import COUNT
from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.images.sources import to_batch
from zoomiqa_core.scorer import Scorer


def images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def alarm() -> Alarm:
    return Alarm.from_pretrained()


@pytest.fixture(scope="module")
def scorer() -> AlarmScorer:
    scorer = load_scorer("alarm")
    assert isinstance(scorer, AlarmScorer)
    return scorer


@pytest.fixture(scope="module")
def demo() -> torch.Tensor:
    return to_batch(DEMO_PHOTO)[..., 100:356, 100:356]


@pytest.mark.parametrize("size", [(1, 1), (40, 300), (128, 128)])
def test_any_size_gives_ratings_in_range(alarm, size):
    out = alarm(images(2, *size))
    assert out.rating.shape == out.rating_std.shape == (2,)
    assert bool(((out.rating >= 1) & (out.rating <= 5) & (out.rating_std > 0)).all())


def test_each_image_is_judged_by_itself(alarm):
    batch = images(3, 80, 96)
    alone = torch.cat([alarm(image[None]).rating for image in batch])
    torch.testing.assert_close(alarm(batch).rating, alone, rtol=0, atol=1e-4)


def test_the_committee_by_hand():
    torch.manual_seed(0)
    alarm = Alarm(members=2, hidden=4)
    found = torch.randn(3, COUNT)
    ratings, errors = alarm.opinions(found).unbind(-1)
    out = alarm.judge(found)
    torch.testing.assert_close(out.rating, (ratings[0] + ratings[1]) / 2)
    # errors squared and averaged, and the variance of two: half their distance, squared
    variance = (errors[0] ** 2 + errors[1] ** 2) / 2 + ((ratings[0] - ratings[1]) / 2) ** 2
    torch.testing.assert_close(out.rating_std, variance.sqrt())
    torch.testing.assert_close(alarm.opinions(found, [1])[0], alarm.opinions(found)[1])


def test_standardised_statistics_are_white():
    alarm, generator = Alarm(members=1, hidden=2), torch.Generator().manual_seed(0)
    mixing = torch.randn(COUNT, COUNT, generator=generator) / COUNT**0.5 + torch.eye(COUNT)
    found = torch.randn(4000, COUNT, generator=generator) @ mixing + 3
    alarm.standardise(found)
    seen = (found - alarm.centre) @ alarm.whitening
    covariance = seen.T @ seen / len(seen)
    strong = covariance.diag() > 0.9  # directions of almost no variance are left small
    assert float(strong.float().mean()) > 0.9
    kept = covariance[strong][:, strong]
    torch.testing.assert_close(kept, torch.eye(len(kept)), rtol=0, atol=0.02)


def test_input_gradient_is_finite_and_nonzero(alarm, demo):
    for batch in (demo.clone().requires_grad_(), images(1, 64, 64).requires_grad_()):
        alarm(batch).rating.sum().backward()
        assert batch.grad is not None and bool(batch.grad.isfinite().all())
        assert float((batch.grad.abs().amax(1) > 0).float().mean()) > 0.99


def test_saved_and_loaded_it_is_the_same(tmp_path):
    torch.manual_seed(1)
    alarm = Alarm(members=2, hidden=8)
    alarm.save_pretrained(tmp_path)
    again = Alarm.from_pretrained(tmp_path)
    assert again.config == alarm.config
    torch.testing.assert_close(again(images(1, 64, 64)), alarm(images(1, 64, 64)), rtol=0, atol=0)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Alarm\.save_pretrained"):
        Alarm.from_pretrained(tmp_path)


def test_integers_are_refused(alarm):
    with pytest.raises(TypeError, match="floating-point"):
        alarm((images(1, 64, 64) * 255).byte())


@pytest.mark.parametrize("name", ["white_noise", "gaussian_blur", "jpeg", "over_sharpening"])
def test_the_bundled_alarm_rates_further_damage_lower(scorer, demo, name):
    generator = torch.Generator().manual_seed(0)
    levels = [distort(demo, name, level, generator=generator)[0] for level in (3, 5)]
    ratings = [found.rating for found in scorer.assess([demo[0], *levels])]
    assert ratings == sorted(ratings, reverse=True)


def test_it_is_a_scorer_with_map_and_regions(scorer, demo):
    assert isinstance(scorer, Scorer) and scorer.name == "alarm"
    halves = demo[0].clone()
    halves[..., 128:] = distort(
        demo[..., 128:], "white_noise", 5, generator=torch.Generator().manual_seed(0)
    )[0]
    found = scorer.quality_map(halves)
    assert found.shape == (1, 2, 2) and bool((found[..., 1] < found[..., 0]).all())
    left, right, whole, point = scorer.score_regions(
        halves, [(0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 1), (0.99, 0.99, 1, 1)]
    )
    assert right.rating < left.rating and point.valid
    assert whole.rating == pytest.approx(scorer.assess(halves).rating, abs=1e-4)
    with pytest.raises(ValueError, match="box"):
        scorer.score_regions(halves, [(0.5, 0, 0.2, 1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_of_model_and_images(alarm, dtype):
    batch = images(2, 64, 64)
    wanted = alarm(batch)
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.2, torch.float64: 1e-4}[dtype]
    whole = copy.deepcopy(alarm).to(dtype)
    for model, given in ((whole, batch.to(dtype)), (whole, batch), (alarm, batch.to(dtype))):
        rating = model(given).rating.float()
        torch.testing.assert_close(rating, wanted.rating, rtol=0, atol=tolerance)


def test_under_bf16_autocast_the_rating_is_the_same(alarm):
    batch = images(2, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = alarm(batch).rating
    assert torch.equal(found, alarm(batch).rating)


def test_values_out_of_range_are_refused(alarm):
    with pytest.raises(ValueError, match="divide by 255"):
        alarm(images(1, 64, 64) * 255)


def test_tiles_judged_together_have_the_ratings_of_tiles_judged_alone(scorer, demo):
    image = torch.cat([demo[0], demo[0].flip(2)], 2)[..., :390]  # tiles of 130 px
    found = scorer.quality_map(image)
    rows, columns = found.shape[1:]
    for y, row in enumerate(image.tensor_split(rows, 1)):
        for x, tile in enumerate(row.tensor_split(columns, 2)):
            assert float(found[0, y, x]) == pytest.approx(scorer.assess(tile).rating, abs=1e-4)


def test_a_saved_alarm_loads_by_its_folder(tmp_path):
    torch.manual_seed(1)
    alarm = Alarm(members=2, hidden=8)
    alarm.save_pretrained(tmp_path / "mine")
    scorer = load_scorer(tmp_path / "mine")
    assert isinstance(scorer, AlarmScorer) and scorer.name.endswith("mine")
    image = images(1, 64, 64)[0]
    assert scorer.assess(image).rating == pytest.approx(alarm(image[None]).rating.item(), abs=1e-6)
