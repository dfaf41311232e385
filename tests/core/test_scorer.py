"""The proxy behind the Scorer protocol, with the bundled weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from restoration_guide.cli.main import DEMO_PHOTO
from zoomiqa_core import QualityProxy, load_scorer
from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.images.sources import to_batch
from zoomiqa_core.proxy.scorer import ProxyScorer
from zoomiqa_core.scorer import Scorer


@pytest.fixture(scope="module")
def scorer() -> ProxyScorer:
    return load_scorer("proxy")


def photo(side: int = 96) -> torch.Tensor:
    """A smooth scene with edges: what can be blurred and what can be noisy."""
    y, x = torch.meshgrid(torch.linspace(0, 9, side), torch.linspace(0, 9, side), indexing="ij")
    return torch.stack([(x.sin() * y.cos()) * 0.3 + 0.5, (x.floor() % 2) * 0.5 + 0.2, y / 9])


def test_it_is_a_scorer(scorer):
    assert isinstance(scorer, Scorer)


def test_one_image_or_a_list(scorer, tmp_path):
    path = tmp_path / "photo.png"
    pixels = (photo() * 255).round().byte()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    one = scorer.assess(path)
    same = scorer.assess([path, pixels, pixels.float() / 255])
    assert one.valid and 1 <= one.rating <= 5 and one.rating_std > 0
    assert [a.rating for a in same] == pytest.approx([one.rating] * 3, abs=1e-6)


def test_a_bad_image_fails_alone_with_its_name(scorer, tmp_path):
    (tmp_path / "empty.png").touch()
    good, bad, missing = scorer.assess([photo(), tmp_path / "empty.png", tmp_path / "no.png"])
    assert good.valid
    assert (bad.valid, bad.error) == (False, "empty") and math.isnan(bad.rating)
    assert missing.error == "missing" and "no.png" in missing.name


def test_a_rating_that_is_not_finite_is_a_failure():
    torch.manual_seed(0)
    proxy = QualityProxy(width=8)
    proxy.rating_head.register_parameter("bias", torch.nn.Parameter(torch.tensor([math.nan])))
    failed = ProxyScorer(proxy).assess(photo())
    assert (failed.valid, failed.error) == (False, "not_finite")


def test_regions_and_map_agree_with_the_rating(scorer):
    quality_map = scorer.quality_map(photo())
    assert quality_map.shape == (1, 6, 6)
    (whole,) = scorer.score_regions(photo(), [(0, 0, 1, 1)])
    assert whole.rating == pytest.approx(scorer.assess(photo()).rating, abs=1e-4)


@pytest.mark.parametrize("name", ["white_noise", "jpeg", "gaussian_blur", "impulse_noise"])
def test_the_bundled_judge_rates_further_damage_lower(scorer, name):
    demo = to_batch(DEMO_PHOTO)
    generator = torch.Generator().manual_seed(0)
    damaged = [distort(demo, name, level, generator=generator) for level in (3, 5)]
    ratings = [assessment.rating for assessment in scorer.assess([demo, *damaged])]
    assert ratings[0] > ratings[1] > ratings[2]


def test_a_folder_without_weights_names_the_fix(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        load_scorer(tmp_path)


def test_a_saved_proxy_loads_by_folder(tmp_path):
    torch.manual_seed(0)
    QualityProxy(width=8).save_pretrained(tmp_path)
    assert load_scorer(tmp_path).assess(photo()).valid


def test_a_path_is_a_folder_and_home_is_expanded(tmp_path, monkeypatch):
    torch.manual_seed(0)
    mine = QualityProxy(width=8)
    mine.save_pretrained(tmp_path / "proxy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    image = photo()
    wanted = pytest.approx(mine(image[None]).rating.item(), abs=1e-5)
    for folder in (Path("proxy"), Path("./proxy"), "./proxy", "~/proxy"):
        assert load_scorer(folder).assess(image).rating == wanted, folder
    assert load_scorer("proxy").assess(image).rating != wanted


def test_settings_that_a_judge_does_not_take_are_named():
    with pytest.raises(TypeError, match="the judge proxy takes no settings, got samples"):
        load_scorer("proxy", samples=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match=r"give the name of one.*--model"):
        load_scorer("http://127.0.0.1:1/v1")
