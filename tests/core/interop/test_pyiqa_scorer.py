"""Metrics of pyiqa as judges, with a module of the same interface in its place."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from zoomiqa_core import as_loss, load_scorer
from zoomiqa_core.cli.main import app
from zoomiqa_core.images.sources import to_pil

METRICS = {  # mode, lower_better, score_range: as pyiqa 0.1.16 states them
    "musiq": ("NR", False, "~0, ~100"),
    "musiq-ava": ("NR", False, "1, 10"),
    "niqe": ("NR", True, "~0, ~100"),
    "wadiqam_nr": ("NR", False, "~-1, ~0.1"),
    "pi": ("NR", True, "~0, ~"),
    "lpips": ("FR", True, "0, 1"),
    "fid": ("NR", True, "0, ~"),
}


class InferenceModel(torch.nn.Module):
    """Shapes, reduction and gradient modes of pyiqa's class; the value is 50 · mean."""

    def __init__(self, metric_name, as_loss=False, device=None, loss_reduction="mean"):
        super().__init__()
        _, self.lower_better, self.score_range = METRICS[metric_name]
        self.as_loss, self.loss_reduction, self.device = as_loss, loss_reduction, device

    def forward(self, target):
        assert target.min() >= 0 and target.max() <= 1
        with torch.set_grad_enabled(self.as_loss):
            output = 50 * target.mean((1, 2, 3))[:, None]
        return output.mean() if self.as_loss and self.loss_reduction == "mean" else output


@pytest.fixture(autouse=True)
def pyiqa(monkeypatch):
    module = ModuleType("pyiqa")
    module.__dict__["list_models"] = lambda metric_mode=None: [
        name for name, (mode, *_) in METRICS.items() if metric_mode in (None, mode)
    ]
    module.__dict__["create_metric"] = InferenceModel
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return module


def load(name: str, **settings: Any) -> Any:
    return load_scorer(f"pyiqa:{name}", **settings)


def photo() -> torch.Tensor:
    """Mean .5, so that every metric above gives 25."""
    return torch.linspace(0, 1, 64).expand(3, 64, 64)


# 25 of 0 … 100 is 1 + 4 · .25
@pytest.mark.parametrize(("name", "rating"), [("musiq", 2.0), ("niqe", 4.0)])
def test_direction_and_range_are_those_of_pyiqa(name, rating):
    judge = load(name)
    assert judge.name == f"pyiqa:{name}"
    assert judge.assess(photo()).rating == pytest.approx(rating, abs=1e-5)
    assert (judge.lowest, judge.highest) == (0, 100)
    assert judge.lower_is_better == (name == "niqe")


def test_a_range_of_ones_own():
    judge = load("niqe", lowest=0, highest=50)
    assert judge.assess(photo()).rating == pytest.approx(3.0, abs=1e-5)
    assert (judge.lowest, judge.highest) == (0, 50)


def test_an_open_range_asks_for_one():
    with pytest.raises(ValueError, match=r'range "~0, ~".*lowest=…, highest=…'):
        load("pi")
    assert load("pi", highest=50).assess(photo()).rating == pytest.approx(3.0, 1e-5)


def test_other_ranges_are_read():
    found = [load(name) for name in ("musiq-ava", "wadiqam_nr")]
    assert [(each.lowest, each.highest) for each in found] == [(1, 10), (-1, 0.1)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lpips", r"clean original.*takes_degraded=True"),
        ("fid", "compares sets of images"),
        ("musik", "no metric 'musik'; it has e.g. musiq"),
    ],
)
def test_what_cannot_judge_one_image_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


def test_it_judges_on_the_device_asked_for_and_not_on_any_gpu():
    judge = load("musiq")
    assert judge.metric.device == torch.device("cpu")


def test_values_have_a_gradient_when_asked_for_one_per_image():
    images = photo().expand(2, 3, 64, 64).clone().requires_grad_()
    judge = load("musiq", differentiable=True)
    assert judge.ratings(images).shape == (2,)
    as_loss(judge)(images).backward()
    assert images.grad.isfinite().all() and images.grad.abs().sum() > 0
    assert judge.assess(photo()).rating == pytest.approx(2.0, abs=1e-5)
    with pytest.raises(TypeError, match="pyiqa:musiq"):
        as_loss(load("musiq"))


def test_a_missing_pyiqa_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ImportError, match=r"pip install pyiqa.*Noncommercial"):
        load("musiq")
    to_pil(photo()).save(tmp_path / "a.png")
    ended = CliRunner().invoke(app, ["score", str(tmp_path / "a.png"), "--scorer", "pyiqa:musiq"])
    assert ended.exit_code == 1 and "pip install pyiqa" in ended.output.replace("\n", " ")
