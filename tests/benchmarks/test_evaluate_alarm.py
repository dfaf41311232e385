"""The alarm's ROC: which pairs count, areas by hand, every kind measured on one tiny photo."""

from __future__ import annotations

import pytest
import torch

from benchmarks import evaluate_alarm as suite
from benchmarks.attack_proxy import ATTACKS
from benchmarks.damaged_photos import Photo
from benchmarks.evaluate_alarm import HONEST, Change
from zoomiqa_core.alarm import Alarm
from zoomiqa_core.proxy.model import QualityProxy


def change(photo: int, kind: str, alarm_gain: float, **more: float) -> Change:
    honest = kind == HONEST
    gains = {"proxy_gain": 0.5, "psnr_gain": 1.0, "ms_ssim_gain": 0.01 if honest else -0.01}
    return Change(photo, kind, alarm_gain=alarm_gain, **(gains | more))


def test_only_claims_whose_worth_is_known_count():
    assert change(0, HONEST, 0.0).counts and change(0, "PGD", 0.0).counts
    assert not change(0, HONEST, 0.0, proxy_gain=0.04).counts
    assert not change(0, HONEST, 0.0, psnr_gain=-0.1).counts
    assert not change(0, HONEST, 0.0, ms_ssim_gain=-0.1).counts
    assert not change(0, "PGD", 0.0, ms_ssim_gain=0.1).counts  # an attack that helped is no hack


def test_areas_by_hand():
    changes = [change(0, HONEST, 0.3), change(0, HONEST, 0.1), change(0, "PGD", -0.2)]
    changes += [change(0, "Adam", 0.2), change(0, "Adam", 9.0, proxy_gain=0.0)]
    assert suite.separation(changes, ["PGD"]).value == 1.0
    assert suite.separation(changes, ["Adam"]).value == 0.5
    assert suite.separation(changes, ["PGD", "Adam"]).value == 0.75
    changes.append(change(1, "PGD", 0.5, proxy_gain=2.0))  # less the proxy's rise: -1.5
    assert suite.separation(changes, ["PGD"]).value == 0.5
    assert suite.separation(changes, ["PGD"], less_proxy=True).value == 1.0


def test_every_kind_is_measured_and_stands_in_the_table(monkeypatch):
    monkeypatch.setattr(suite, "ATTACKS", {"PGD 2/255": ATTACKS["PGD 2/255"]})
    monkeypatch.setattr(suite, "SETTINGS", ((1, 0.0),))
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    clean = torch.nn.functional.interpolate(coarse, size=(192, 192), mode="bicubic").clamp(0, 1)[0]
    proxy = QualityProxy.from_pretrained().requires_grad_(False)
    alarm = Alarm.from_pretrained().requires_grad_(False)
    changes = suite.measure(proxy, alarm, [Photo(0, "a", clean)], size=192)
    assert [c.kind for c in changes] == ["PGD 2/255", HONEST]
    assert changes[0].proxy_gain > 0.1 and changes[0].psnr_gain < 0
    text = suite.table(changes)
    assert len(text.splitlines()) == 2 + 3 and "| all hacks |" in text
    with pytest.raises(ValueError, match="at least"):
        suite.measure(proxy, alarm, [Photo(0, "a", clean)], size=400)
