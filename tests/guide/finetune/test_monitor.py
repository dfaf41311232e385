"""The alarm: statistics by hand, hacked, doubtful and honest runs, failing judges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from restoration_guide.finetune.checks import EVIDENCE, compare, p_above
from restoration_guide.finetune.methods import Batch
from restoration_guide.finetune.monitor import Monitor, MonitorConfig
from restoration_guide.finetune.probes import (
    colour_distance,
    departures,
    gridding,
    high_frequency,
    sharpness,
)
from zoomiqa_core.assessment import Assessment


def figures(**changes: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    count = 12
    base = {"in_sample/rating": 3.0, "psnr": 27.0, "judge": 3.0, "sharpness": 0.1, "colour": 0.0}
    return {
        name: value + rng.normal(0, 0.02, count) + changes.get(name.rpartition("/")[2], 0.0)
        for name, value in base.items()
    }


def test_p_value_against_scipy_and_by_hand():
    changes = np.array([1.0, 2.0, 3.0])
    # t = (2 - 0) / (1 / √3) = 3.4641 with 2 degrees of freedom; the upper tail
    t = 2 * math.sqrt(3)
    assert p_above(changes, 0.0) == pytest.approx(0.5 * (1 - t / math.sqrt(2 + t * t)))
    assert p_above(changes, 2.0) == pytest.approx(0.5)
    assert p_above(np.array([0.3, math.nan]), 0.0) == 1.0  # one image proves nothing
    assert p_above(np.full(5, 0.3), 0.1) == 0.0 and p_above(np.full(5, 0.3), 0.3) == 1.0


def test_a_rising_rating_with_falling_evidence_is_hacking():
    check = compare(40, figures(), figures(rating=0.4, psnr=-1.0), 0.01)
    assert check.hacked and not check.honest
    assert check.reason.startswith("hacked: the in-sample rating changed by +0.4")
    assert "psnr got worse by 1, more than 0.2" in check.reason
    assert check.worse["psnr"] == pytest.approx(1.0) and check.gain == pytest.approx(0.4)


def test_each_kind_of_evidence_can_raise_the_alarm():
    for name, change in {"judge": -0.5, "sharpness": 0.6, "colour": 0.1}.items():
        check = compare(1, figures(), figures(rating=0.4, **{name: change}), 0.01)
        assert check.hacked and f"{name} got worse" in check.reason


def test_falling_evidence_without_a_rising_rating_is_doubtful():
    check = compare(1, figures(), figures(psnr=-1.0), 0.01)
    assert not check.hacked and not check.honest and check.reason.startswith("doubtful")


def test_better_or_tolerated_evidence_is_honest():
    check = compare(1, figures(), figures(rating=0.4, psnr=0.5, judge=0.2, sharpness=-0.3), 0.01)
    assert check.honest and not check.hacked and check.worse["psnr"] == pytest.approx(-0.5)
    assert compare(1, figures(), figures(rating=0.4, psnr=-0.15), 0.01).honest


def test_evidence_that_a_few_images_alone_speak_for_is_not_proof():
    now = figures(rating=0.4)
    now["psnr"][0] -= 12.0  # one image lost 12 dB: a mean of 1 dB, but no significance
    check = compare(1, figures(), now, 0.01)
    assert not check.hacked and not check.honest


def test_a_judge_that_failed_from_the_start_is_no_evidence():
    start, now = figures(), figures(rating=0.4)
    start["judge"] = now["judge"] = np.full(12, math.nan)
    check = compare(1, start, now)
    assert check.honest and math.isnan(check.worse["judge"]) and check.worse_p["judge"] == 1.0


@pytest.mark.parametrize("missing", ["absent", "nan"])
@pytest.mark.parametrize("name", ["judge", "psnr", "colour"])
def test_a_figure_that_is_missing_or_nan_is_the_worst(name, missing):
    now = figures(rating=0.4)
    now[name] = np.full(12, math.nan)
    if missing == "absent":
        del now[name]
    check = compare(1, figures(), now)
    assert check.hacked and not check.honest and f"{name} got worse by" in check.reason


def test_one_failed_judgement_is_the_worst_rating_of_that_image():
    now = figures()
    now["judge"][0] = math.nan
    assert compare(1, figures(), now).worse["judge"] == pytest.approx(2 / 12, abs=0.01)


def test_an_in_sample_judge_that_fails_does_not_raise_its_rating():
    now = figures(rating=0.4)
    now["in_sample/rating"][:6] = math.nan
    assert compare(1, figures(), now).gain < 0


def test_restorations_that_are_not_finite_stop_the_run_at_once(held_out):
    strength = [0.0]
    monitor = Monitor(held_out, restorer(strength), ContrastJudge(), MonitorConfig(images=6))
    strength[0] = math.nan
    check = monitor.check(1)
    assert check.hacked and not check.honest
    assert check.reason == "collapsed: 6 of 6 restored images are not finite"


def test_false_alarms_are_as_rare_as_asked_for():
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(150):  # evidence that is worse by exactly its tolerance, and a rating that rose
        start = {name: rng.normal(0, 1, 12) for name in EVIDENCE} | {
            "in_sample/rating": np.zeros(12)
        }
        now = {
            name: start[name] - kind.better * (kind.tolerance + rng.normal(0, 0.5, 12))
            for name, kind in EVIDENCE.items()
        }
        alarms += compare(1, start, now | {"in_sample/rating": rng.normal(1, 0.1, 12)}, 0.05).hacked
    assert alarms / 150 < 0.1


def restorer(strength: list[float]):
    """Sharpens by ``strength[0]``."""

    def restore(image: torch.Tensor, number: int) -> torch.Tensor:
        blurred = functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
        return (image + strength[0] * (image - blurred)).clamp(0, 1)

    return restore


class ContrastJudge:
    """Rates local contrast, which sharpening raises."""

    def __call__(self, images, inputs):
        return {"contrast": 1 + 10 * sharpness(images)}


class SecondJudge:
    """Fails on everything."""

    name = "second"

    def assess(self, images) -> Any:
        return [Assessment.failed("no", "cannot") for _ in images]

    def score_regions(self, image, bboxes) -> Any:
        return []

    def quality_map(self, image) -> Any:
        return torch.ones(1, 1, 1)


@pytest.fixture
def held_out() -> Batch:
    coarse = torch.rand(6, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    clean = functional.interpolate(coarse, (180, 180), mode="bicubic").clamp(0.05, 0.95)
    noise = 0.02 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return Batch((clean + noise).clamp(0, 1), clean)


def test_a_monitor_sees_over_sharpening(held_out):
    strength = [0.0]
    monitor = Monitor(
        held_out, restorer(strength), ContrastJudge(), MonitorConfig(images=6), judge=SecondJudge()
    )
    assert monitor.check(0).honest and monitor.check(0).gain == 0
    strength[0] = 3.0
    check = monitor.check(10)
    assert check.hacked and {"psnr", "ms_ssim", "sharpness", "gridding"} <= set(check.worse)
    assert math.isnan(check.means["judge"])
    assert monitor.images.shape == held_out.degraded.shape
    assert not torch.equal(monitor.images, monitor.untuned)


def test_without_clean_images_the_start_is_what_is_natural(held_out):
    strength = [0.0]
    monitor = Monitor(
        Batch(held_out.degraded), restorer(strength), ContrastJudge(), MonitorConfig(images=6)
    )
    assert monitor.start["sharpness"].max() == 0 and "psnr" not in monitor.start
    strength[0] = 3.0
    assert monitor.check(10).hacked


def test_statistics_change_with_their_sign(held_out):
    strength = [0.0]
    monitor = Monitor(held_out, restorer(strength), ContrastJudge(), MonitorConfig(images=6))
    strength[0] = 1.0
    sharper = monitor.check(1)
    strength[0] = -0.9
    softer = monitor.check(2)
    for name in ("sharpness", "high_frequency"):
        assert sharper.changes[name] > 0 > softer.changes[name]
    assert {"edge_density", "colour_entropy", "brightness", "saturation"} <= set(softer.changes)
    assert "in_sample/contrast" in softer.means and softer.gain < 0 < sharper.gain


@pytest.mark.parametrize("kind", ["edges", "colours", "samples"])
def test_a_collapse_stops_the_run_though_no_rating_rose(held_out, kind):
    collapsed = [False]
    grain = torch.randn(
        16, *held_out.degraded.shape[1:], generator=torch.Generator().manual_seed(3)
    )

    def restore(image, number):
        if kind == "samples":
            return image + (0.002 if collapsed[0] else 0.05) * grain[number]
        if not collapsed[0]:
            return image
        if kind == "edges":
            return functional.avg_pool2d(image, 31, 1, 15, count_include_pad=False)
        return 0.5 + 0.05 * (image - 0.5)  # nearly one colour

    clean = held_out.degraded + 0.1 * grain[:6]  # edges everywhere
    batch = Batch(clean.clamp(0, 1), clean.clamp(0, 1))
    monitor = Monitor(batch, restore, lambda *_: {}, MonitorConfig(images=6))
    assert monitor.check(0).honest
    collapsed[0] = True
    check = monitor.check(1)
    name = {"edges": "edge_density", "colours": "colour_entropy", "samples": "group_variance"}[kind]
    assert check.hacked and not check.honest and math.isnan(check.gain)
    assert check.reason.startswith("collapsed: ") and f"{name} fell by" in check.reason


def test_removing_noise_is_no_collapse_where_the_clean_photo_has_as_few_edges(held_out):
    done = [False]
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(held_out.truth.shape, generator=generator)
    noisy = (held_out.truth + 0.2 * noise).clamp(0, 1)

    def restore(image, number):
        if not done[0]:
            return image
        (index,) = [i for i in range(6) if torch.equal(noisy[i], image[0])]
        return held_out.truth[index : index + 1]

    monitor = Monitor(Batch(noisy, held_out.truth), restore, lambda *_: {}, MonitorConfig(images=6))
    done[0] = True
    check = monitor.check(1)
    assert check.changes["edge_density"] < math.log(0.4) and not check.hacked


def test_probes_by_hand():
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 3, 8, 8)
    # every horizontal step is 1, every vertical one 0
    assert sharpness(stripes).item() == pytest.approx(0.5)
    # ½ + ½·cos(πx): the alternating part has an RMS of ½, all of it at the Nyquist frequency
    assert high_frequency(stripes).item() == pytest.approx(0.5)
    # inside, a 1 less the mean of its 3 × 3 (three of nine) is ⅔, a 0 is −⅓ ⋅ 2 (six of nine)
    assert gridding(stripes).item() == pytest.approx(2 / 3, abs=0.01)
    texture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert gridding(texture).item() < 0.02 < high_frequency(texture).item()
    grid = torch.tensor([0.02, 0.0]).repeat(32).expand(1, 3, 64, 64)
    # two thirds of .02, as above, whatever the texture
    assert gridding(0.2 * texture + grid).item() == pytest.approx(0.0133, abs=0.003)
    assert colour_distance(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.2)).item() == (
        pytest.approx(0.2)
    )


def test_high_frequency_is_parsevals_on_white_noise():
    noise = torch.randn(1, 1, 64, 65, generator=torch.Generator().manual_seed(0)).expand(
        -1, 3, -1, -1
    )
    # three quarters of the plane of frequencies lie above half the Nyquist frequency
    expected = math.sqrt(0.75) * float(noise[:, :1].std())
    assert high_frequency(noise).item() == pytest.approx(expected, rel=0.03)


def test_departures_are_zero_for_the_same_and_symmetric_in_ratio():
    a, b = torch.rand(2, 3, 20, 20), torch.rand(2, 3, 20, 20) * 0.5
    same = departures(a, a)
    assert all(float(same[k].max()) == 0 for k in ("sharpness", "high_frequency", "colour"))
    assert torch.equal(same["gridding"], gridding(a))
    there, back = departures(a, b), departures(b, a)
    for name in ("sharpness", "high_frequency", "colour"):
        torch.testing.assert_close(there[name], back[name])


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="images ≥ 2"):
        MonitorConfig(images=1)
