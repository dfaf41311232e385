"""A teacher's labels on disk, and a student that learns from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from zoomiqa_core.assessment import Assessment, Chains, RegionScore, Round
from zoomiqa_core.evaluation.correlation import srcc
from zoomiqa_core.images.sources import read_image, save_png
from zoomiqa_core.proxy.distill import (
    BOXES,
    TaughtBatch,
    distillation_losses,
    label_images,
    label_weight,
    read_labels,
    taught_batch,
)
from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy


@dataclass
class Brightness:
    """A judge that likes light; refuses names with "bad", breaks down at "down"."""

    name: str = "brightness"
    asked: list[str] = field(default_factory=list)

    def assess(self, path: Path) -> Assessment:
        self.asked.append(path.name)
        if "bad" in path.name:
            return Assessment.failed("truncated")
        if "down" in path.name:
            raise ConnectionError
        looks = (Round(3.0, "crop", (0.0, 0.0, 0.5, 0.5)), Round(3.0, "final"))
        return Assessment(1 + 4 * float(read_image(path).pixels.mean()), 0.2, chains=Chains(looks))

    def score_regions(self, path: Path, bboxes) -> list[RegionScore]:
        pixels = read_image(path).pixels
        side = pixels.shape[-1]
        scores = []
        for x0, y0, x1, y1 in bboxes:
            part = pixels[:, int(y0 * side) : int(y1 * side), int(x0 * side) : int(x1 * side)]
            scores.append(RegionScore((x0, y0, x1, y1), 1 + 4 * float(part.mean()), 0.2))
        scores[-1] = RegionScore(BOXES[-1], math.nan, math.nan, error="truncated")
        return scores


def pictures(folder: Path, names: list[str], size: int = 64) -> list[Path]:
    generator = torch.Generator().manual_seed(0)
    paths = []
    for index, name in enumerate(names):
        level = index / max(1, len(names) - 1)
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        photo = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[0].clamp(0, 1)
        paths.append(save_png(0.3 * photo + 0.7 * level, folder / name))
    return paths


def test_labels_are_asked_for_once_failures_too(tmp_path):
    teacher, file = Brightness(), tmp_path / "labels.jsonl"
    paths = pictures(tmp_path, ["a.png", "bad.png", "down.png", "b.png"])
    first = label_images(teacher, paths[:3], file)
    assert [label.error for label in first] == [None, "truncated", "ConnectionError"]
    assert first[0].zooms == ((0.0, 0.0, 0.5, 0.5),) and first[0].regions[-1] is None
    assert first[0].rating == pytest.approx(1 + 4 * float(read_image(paths[0]).pixels.mean()))
    (tmp_path / "renamed.png").write_bytes(paths[0].read_bytes())
    again = label_images(teacher, [tmp_path / "renamed.png", *paths[1:]], file)
    assert teacher.asked == ["a.png", "bad.png", "down.png", "b.png"]
    assert again[:3] == first
    assert len(read_labels(file)) == 4


def test_labels_of_other_weights_or_another_question_are_not_used(tmp_path):
    teacher, file = Brightness(), tmp_path / "labels.jsonl"
    (path,) = pictures(tmp_path, ["a.png"])
    settings: dict[str, Any]
    for settings in ({"weights": "one"}, {"weights": "two"}, {"weights": "two", "regions": False}):
        (label,) = label_images(teacher, [path], file, **settings)
        assert label.weights == settings["weights"]
        assert bool(label.regions) == settings.get("regions", True)
    assert len(teacher.asked) == len(read_labels(file)) == 3
    label_images(teacher, [path], file, weights="one")  # each is found again
    label_images(teacher, [path], file, weights="two", regions=False)
    assert len(teacher.asked) == 3
    (other,) = label_images(Brightness("another"), [path], file, weights="one")
    assert other.teacher == "another" and len(read_labels(file)) == 4


@pytest.mark.parametrize("method", ["assess", "score_regions"])
def test_a_fault_of_the_teacher_is_raised(method, tmp_path, monkeypatch):
    def broken(*_):
        raise AttributeError("no such thing")

    teacher = Brightness()
    monkeypatch.setattr(teacher, method, broken)
    with pytest.raises(AttributeError, match="no such thing"):
        label_images(teacher, pictures(tmp_path, ["a.png"]), tmp_path / "labels.jsonl")
    assert read_labels(tmp_path / "labels.jsonl") == {}


def test_a_line_cut_by_a_kill_is_asked_for_again(tmp_path):
    teacher, file = Brightness(), tmp_path / "labels.jsonl"
    paths = pictures(tmp_path, ["a.png", "b.png"])
    labels = label_images(teacher, paths, file)
    file.write_bytes(file.read_bytes()[:-20])
    assert label_images(teacher, paths, file) == labels
    assert teacher.asked == ["a.png", "b.png", "b.png"]
    assert label_images(teacher, paths, file) == labels and len(teacher.asked) == 3


def test_label_weights_by_hand():
    # .5² / (.5² + 0), .25 / (.25 + .25), .25 / (.25 + 2.25)
    found = label_weight(torch.tensor([0.0, 0.5, 1.5]), 0.5)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 0.1]))


def test_losses_by_hand():
    # weights 1 and ½ over 1½; ratings off by 1 and 0: (1 − .125) · ⅔
    taught = TaughtBatch(
        torch.zeros(2, 3, 16, 32),
        torch.tensor([4.0, 2.0]),
        torch.tensor([0.0, 0.5]),
        torch.tensor([[5.0, 1.0, math.nan, math.nan, math.nan], [math.nan] * 5]),
    )
    cells = torch.tensor([[5.0, 1.0]]).expand(2, 1, 1, 2)
    out = ProxyOutput(
        torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.5]), cells, *[torch.ones(2, 1, 1, 2)] * 2
    )
    found = distillation_losses(out, taught, 0.5)
    assert found["rating"].item() == pytest.approx(0.875 * 2 / 3)
    # log 1/.05 + (.0025 + 1) / 2 − ½ and log 1 + (.25 + 0) / .5 − ½ = 0
    assert found["spread"].item() == pytest.approx((math.log(20) + 0.00125) * 2 / 3, abs=1e-6)
    assert found["regions"].item() == pytest.approx(0)  # the quarters' cells are right
    # one clear pair, 4 over 2 by more than .5; the student puts it 1 apart
    assert found["order"].item() == pytest.approx(0.25 * math.log1p(math.exp(-4)), abs=1e-6)


def test_an_unsure_label_pulls_less_and_a_missing_region_not_at_all():
    def pull(std: float, region: float) -> tuple[float, float]:
        rating = torch.tensor([3.0, 3.0], requires_grad=True)
        cells = torch.full((2, 1, 2, 2), 3.0, requires_grad=True)
        out = ProxyOutput(rating, torch.ones(2), cells, *[torch.ones(2, 1, 2, 2)] * 2)
        regions = torch.full((2, 5), region)
        taught = TaughtBatch(
            torch.zeros(2, 3, 32, 32), torch.full((2,), 4.0), torch.tensor([std, 0.2]), regions
        )
        losses = distillation_losses(out, taught, 0.5)
        (slope,) = torch.autograd.grad(losses["rating"], rating, retain_graph=True)
        (mapped,) = torch.autograd.grad(losses["regions"], cells)
        return float(slope[0].abs()), float(mapped.abs().sum())

    assert pull(1.0, 4.0)[0] < 0.5 * pull(0.2, 4.0)[0]
    assert pull(0.2, math.nan)[1] == 0 < pull(0.2, 4.0)[1]


def test_a_student_learns_its_teachers_order_spread_and_regions(tmp_path):
    paths = pictures(tmp_path, [f"{index}.png" for index in range(12)])
    labels = label_images(Brightness(), paths, tmp_path / "labels.jsonl")
    taught = taught_batch(paths, labels, unknown_std=0.5)
    torch.manual_seed(0)
    student = QualityProxy(width=16)
    student.backbone.requires_grad_(False)
    heads = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(heads, lr=6e-3)
    with torch.no_grad():
        before = student(taught.images)
    for _ in range(50):
        optimizer.zero_grad()
        sum(distillation_losses(student(taught.images), taught, 0.5).values()).backward()  # pyright: ignore
        optimizer.step()
    with torch.no_grad():
        after = student(taught.images)
    wanted = [label.rating or 0 for label in labels]
    assert srcc(after.rating.tolist(), wanted) > max(0.9, srcc(before.rating.tolist(), wanted))
    losses = [distillation_losses(out, taught, 0.5) for out in (before, after)]
    assert losses[1]["regions"] < 0.7 * losses[0]["regions"]
    assert losses[1]["spread"] < losses[0]["spread"]


def test_a_teacher_without_regions_or_a_std(tmp_path):
    class Terse(Brightness):
        def assess(self, path: Path) -> Assessment:
            return Assessment(3.0, math.nan)

        def score_regions(self, path: Path, bboxes) -> list[RegionScore]:
            raise NotImplementedError

    paths = pictures(tmp_path, ["a.png"])
    (label,) = label_images(Terse(), paths, tmp_path / "labels.jsonl")
    assert label.error is None and label.std is None
    taught = taught_batch(paths, [label], unknown_std=0.7)
    assert taught.std.tolist() == [pytest.approx(0.7)] and bool(taught.regions.isnan().all())
