"""Generated matrices: every bundled judge × ways to move it; every entry × mistakes of a caller.

A judge or an entry that is added to the lists below is tested with all of them.
"""

from __future__ import annotations

import copy
import functools
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import zoomiqa_core as zi
from tests.core.judges import contrast
from zoomiqa_core.alarm import Alarm
from zoomiqa_core.images.heatmap import draw_map, worst_region
from zoomiqa_core.images.sources import ImageLimits, read_image, to_batch, to_pil
from zoomiqa_core.proxy.views import ViewConfig

JUDGES: dict[str, dict[str, Any]] = {
    "proxy": {},
    "alarm": {},
    "restoration": {},
    "tiny": {"mode": "expected"},
    "metric": {},
    "ensemble": {},
}
"""Bundled judges, a wrapped metric and an ensemble, and how they are asked here."""


@functools.cache
def judge(name: str) -> Any:
    if name == "metric":
        return zi.MetricScorer(contrast, lowest=0, highest=0.5, name=name)
    if name == "ensemble":
        return zi.EnsembleScorer({judge("proxy"): 1, judge("metric"): 1}, name=name)
    return zi.load_scorer(name)


def images(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 64, 80, generator=generator) for _ in range(count)]


def rate(scorer: Any, how: dict[str, Any], image: torch.Tensor) -> float:
    return scorer.assess(image, **how).rating


def by_pickle(scorer, how, image):
    return rate(pickle.loads(pickle.dumps(scorer)), how, image)


def by_deepcopy(scorer, how, image):
    return rate(copy.deepcopy(scorer), how, image)


def by_threads(scorer, how, image):
    with ThreadPoolExecutor(8) as pool:
        ratings = list(pool.map(lambda _: rate(scorer, how, image), range(16)))
    assert len(set(ratings)) == 1
    return ratings[0]


def by_spawned_worker(scorer, how, image):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(rate, (scorer, how, image))


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize(
    "move",
    [by_pickle, by_deepcopy, by_threads, pytest.param(by_spawned_worker, marks=pytest.mark.slow)],
)
def test_a_judge_that_is_moved_gives_the_same_rating(name, move):
    scorer, how, image = judge(name), JUDGES[name], images(1)[0]
    scorer.assess(images(2)[1], **how)  # state left by an earlier call goes along
    here = rate(scorer, how, image)
    assert 1 <= here <= 5
    # another process may split sums over another number of threads
    assert move(scorer, how, image) == pytest.approx(here, abs=1e-4)
    assert copy.deepcopy(scorer).name == name


def scorer_entries(name: str) -> dict[str, Callable[[Any], object]]:
    return {
        f"{name}.assess": lambda x: judge(name).assess(x, **JUDGES[name]),
        f"{name}.quality_map": lambda x: judge(name).quality_map(x),
        f"{name}.score_regions": lambda x: judge(name).score_regions(x, [(0, 0, 1, 1)]),
    }


@functools.cache
def proxy() -> zi.QualityProxy:
    return zi.QualityProxy.from_pretrained()


def in_list(entry: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda x: entry([images(1)[0], x])


def batched(entry: Callable[[Any], object]) -> Callable[[Any], object]:
    """A module takes (B, 3, H, W); what is no tensor of an image is passed on as it is."""
    return lambda x: entry(x[None] if isinstance(x, torch.Tensor) and x.ndim == 3 else x)


ENTRIES: dict[str, Callable[[Any], object]] = {
    "QualityProxy": batched(lambda x: proxy()(x)),
    "QualityProxy.reward": batched(
        lambda x: proxy().reward(
            x, generator=torch.Generator().manual_seed(0), views=ViewConfig(count=1)
        )
    ),
    "Alarm": batched(lambda x: Alarm()(x)),
    "read_image": read_image,
    "to_batch": to_batch,
    "draw_map": lambda x: draw_map(x, torch.ones(1, 2, 2)),
}
for _name in JUDGES:
    ENTRIES |= scorer_entries(_name)
    ENTRIES[f"{_name}.assess of a list"] = in_list(scorer_entries(_name)[f"{_name}.assess"])

MISTAKES: dict[str, Callable[[torch.Tensor], object]] = {
    "type: number": lambda x: 3,
    "type: None": lambda x: None,
    "type: bytes": lambda x: b"\x89PNG",
    "type: int64 tensor": lambda x: (x * 255).long(),
    "type: object": lambda x: object(),
    "range: 0 to 255": lambda x: x * 255,
    "range: -1 to 1": lambda x: x * 2 - 1,
    "shape: channels last": lambda x: x.permute(1, 2, 0),
    "shape: five channels": lambda x: torch.cat([x, x[:2]]),
    "shape: a row": lambda x: x[0, 0],
    "shape: video": lambda x: x[None, None],
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_caller_raises_and_says_what_was_expected(entry, mistake):
    with pytest.raises((TypeError, ValueError), match="expected"):
        ENTRIES[entry](MISTAKES[mistake](images(1)[0]))


@pytest.mark.parametrize("name", JUDGES)
@pytest.mark.parametrize("box", [(0, 0, 50, 50), (0.5, 0, 0.2, 1), (0, 0, 1), (-0.1, 0, 1, 1)])
def test_a_malformed_box_is_refused_by_every_judge(name, box):
    with pytest.raises(ValueError, match="divide pixel boxes"):
        judge(name).score_regions(images(1)[0], [box])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_pil(torch.zeros(2, 8, 8)), "expected shape"),
        (lambda: to_pil(torch.full((3, 8, 8), torch.nan)), "NaN or infinite"),
        (lambda: worst_region(torch.ones(3, 3)), "expected a map"),
        (lambda: worst_region(torch.ones(1, 3, 3), fraction=2), r"fraction in \(0, 1\]"),
        (lambda: draw_map(images(1)[0], torch.ones(8, 8)), "expected a map"),
        (lambda: judge("proxy").assess(np.zeros((2, 2, 2, 2, 3))), "expected an image"),
    ],
)
def test_other_mistakes(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_takes_limits_wherever_it_reads_an_image(name, tmp_path):
    path = tmp_path / "a.png"
    to_pil(images(1)[0]).save(path)  # 64 × 80 = 5,120 pixels
    small = {"limits": ImageLimits(max_pixels=5_119)}
    whole = {"limits": ImageLimits(max_pixels=5_120)}
    assert judge(name).assess(path, **small, **JUDGES[name]).error == "too_large"
    assert judge(name).assess([path], **whole, **JUDGES[name])[0].valid
    boxes = [(0, 0, 0.5, 0.5)]
    assert judge(name).quality_map(path, **whole).ndim == 3
    assert len(judge(name).score_regions(path, boxes, **whole)) == 1
    for call in (
        lambda: judge(name).quality_map(path, **small),
        lambda: judge(name).score_regions(path, boxes, **small),
    ):
        with pytest.raises(zi.ImageError, match="5,119 pixels"):
            call()


def good_inputs(tmp_path) -> dict[str, tuple[Any, int | None]]:
    """Inputs and the number of results; None for one result that is no list."""
    batch = torch.stack(images(3))
    to_pil(batch[0]).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    return {
        "path": (path, None),
        "name": (str(path), None),
        "picture": (to_pil(batch[0]), None),
        "tensor": (batch[0], None),
        "grey tensor": (batch[0, :1], None),
        "grey array": (batch[0, 0].numpy(), None),
        "array": (batch[0].permute(1, 2, 0).numpy(), None),
        "batch": (batch, 3),
        "batch of one": (batch[:1], 1),
        "arrays": (batch.permute(0, 2, 3, 1).numpy(), 3),
        "generator": ((image for image in batch), 3),
        "set": ({path, str(path)}, 2),
        "nothing": ([], 0),
    }


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_takes_every_kind_of_input(name, tmp_path):
    for kind, (given, count) in good_inputs(tmp_path).items():
        said = judge(name).assess(given, **JUDGES[name])
        results = [said] if count is None else said
        assert len(results) == (count or len(results)), kind
        assert all(result.valid for result in results), kind
