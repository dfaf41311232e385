"""Progressive re-sampling: weights by hand, shares over a run, grouping, resuming, the picture."""

import itertools
import random

import pytest
import torch
from PIL import Image

from zoomiqa_core.training.resampling import (
    ProgressiveSampler,
    bin_shares,
    bins_of,
    plot_shares,
    sample_weights,
)

NATURAL = [0.03, 0.11, 0.18, 0.48, 0.20]
"""Shares of BIQ2021's images in five equal bins."""


def natural_ratings(count=2000, seed=0):
    draw = random.Random(seed)
    middles = [1.4, 2.2, 3.0, 3.8, 4.6]
    ratings = [
        middle + draw.uniform(-0.39, 0.39)
        for middle, share in zip(middles, NATURAL, strict=True)
        for _ in range(round(share * count))
    ]
    draw.shuffle(ratings)
    return ratings


def sampler(ratings=None, *, total=400, epoch=0, **settings):
    made = ProgressiveSampler(
        natural_ratings() if ratings is None else ratings,
        mini_repeat_count=4,
        batch_size=8,
        repeat_count=2,
        total_chunks=total,
        seed=3,
        **settings,
    )
    made.set_epoch(epoch)
    return made


def test_weights_by_hand():
    """Three samples in bin 0, one in bin 2: (1 − t)/4 + t/(2·3) and (1 − t)/4 + t/(2·1)."""
    bins = torch.tensor([0, 0, 2, 0])
    assert sample_weights(bins, 0.0).tolist() == [0.25] * 4
    torch.testing.assert_close(
        sample_weights(bins, 1.0), torch.tensor([1 / 6, 1 / 6, 1 / 2, 1 / 6]).double()
    )
    torch.testing.assert_close(bin_shares(bins, 1.0), torch.tensor([0.5, 0, 0.5]).double())
    for t in (0.0, 0.3, 1.0):
        assert float(sample_weights(bins, t).sum()) == pytest.approx(1.0)


def test_an_edge_belongs_to_the_bin_above():
    assert bins_of([1.0, 1.8, 2.0, 4.2, 5.0]).tolist() == [0, 1, 1, 4, 4]
    with pytest.raises(ValueError, match="sample 1 is nan"):
        bins_of([1.0, float("nan")])


def test_t_rises_from_0_to_1():
    run = sampler(total=21)
    assert [run.progress(chunk) for chunk in range(21)] == pytest.approx(
        [n / 20 for n in range(21)]
    )
    assert sampler(total=1).progress(0) == 0
    assert sampler(total=21, enabled=False).progress(20) == 0


def test_shares_follow_the_schedule_and_end_balanced():
    run = sampler(total=2000)
    drawn, planned = run.drawn_shares(windows=8)
    assert float((drawn - planned).abs().max()) < 0.03
    start, end = run.drawn_shares(windows=200)[0][[0, -1]]  # 80 images each, so wide limits
    assert float((drawn[0] - torch.tensor(NATURAL)).abs().max()) < 0.08
    last = torch.bincount(
        run.bins[[i for c in range(1960, 2000) for i in run.chunk(c)]], minlength=5
    )
    assert float((last / last.sum() - 0.2).abs().max()) < 0.05
    assert start.shape == end.shape == (5,)


def test_switched_off_the_natural_shares_stay():
    drawn, _ = sampler(total=1000, enabled=False).drawn_shares(windows=2)
    assert float((drawn - torch.tensor(NATURAL)).abs().max()) < 0.03


def test_an_empty_bin_takes_no_share():
    run = sampler([1.2] * 30 + [3.0] * 60 + [4.9] * 10, total=500)
    drawn, planned = run.drawn_shares(windows=5)
    assert drawn[:, [1, 3]].sum() == 0
    torch.testing.assert_close(planned[-1], torch.tensor([1, 0, 1, 0, 1]) / 3, atol=0.03, rtol=0)


def test_a_chunk_repeats_distinct_images_in_groups():
    run = sampler()
    first = list(itertools.islice(run, 64))
    groups = [first[i : i + 4] for i in range(0, 64, 4)]
    assert all(len(set(group)) == 1 for group in groups)
    images = [group[0] for group in groups]
    assert images[:8] == images[8:] and len(set(images[:8])) == 8  # once more, for two steps
    assert len(list(run)) == len(run) == 250 * 64


def test_a_run_resumes_anywhere():
    ratings = natural_ratings(200)
    whole = [i for epoch in range(3) for i in sampler(ratings, total=75, epoch=epoch)]
    again = list(sampler(ratings, total=75, epoch=2))
    assert whole[-len(again) :] == again
    assert list(sampler(ratings, total=75, epoch=0)) != again


def test_a_chunk_too_large_for_the_images_is_refused():
    with pytest.raises(ValueError, match="8 distinct images of 5"):
        sampler([3.0] * 5)


def test_the_picture_is_drawn(tmp_path):
    path = plot_shares(sampler(total=60), tmp_path / "shares.png")
    assert Image.open(path).size[0] > 400
