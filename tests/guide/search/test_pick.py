"""Choosing among images that exist already, by the search's own rules."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from restoration_guide import NoCandidateError, pick_best, write_report
from restoration_guide.report.index import image_row
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.compose import compose_regions
from zoomiqa_core.images.sources import ImageError, read_image, save_png, to_pil


def test_a_pick_is_the_second_half_of_a_search(photo, stubs) -> None:
    """Same candidates, same figures, same choice, with a second judge too."""
    search = BestOfN(stubs.Restorer(), stubs.Scorer(), n=4, second=stubs.Scorer(std=0.2))
    found = search(photo, seed=5)
    images = [candidate.image for candidate in found.candidates]
    picked = pick_best(photo, images, stubs.Scorer(), second=stubs.Scorer(std=0.2))
    assert picked.choice == found.choice and picked.ranking == found.ranking
    assert picked.reason == found.reason and picked.seed is None
    figures = ("rating", "rating_std", "gain", "gain_std", "fidelity", "status", "second_rating")
    for row, other in zip(picked.rows, found.rows, strict=True):
        assert [str(getattr(row, name)) for name in figures] == [
            str(getattr(other, name)) for name in figures
        ]


def test_foreign_images_are_named_counted_and_passed_over(photo, stubs, tmp_path) -> None:
    better = stubs.smooth(photo, torch.Generator().manual_seed(0))
    good = save_png(better, tmp_path / "good.png")
    (tmp_path / "notes.png").write_text("no image")
    (tmp_path / "half.png").write_bytes(good.read_bytes()[:900])
    save_png(better[:, ::2, ::2], tmp_path / "small.png")
    to_pil(better).convert("L").save(tmp_path / "grey.png")
    with_alpha = to_pil(better).convert("RGBA")
    with_alpha.putalpha(250)
    with_alpha.save(tmp_path / "alpha.png")
    names = ["notes.png", "half.png", "small.png", "none.png", "grey.png", "alpha.png", "good.png"]
    picked = pick_best(photo, [tmp_path / name for name in names], stubs.Scorer())
    found = {row.settings["image"].split("/")[-1]: row for row in picked.rows[1:]}
    assert {name: row.status for name, row in found.items()} == {
        "notes.png": "unreadable",
        "half.png": "unreadable",
        "small.png": "wrong_size",
        "none.png": "unreadable",
        "grey.png": "unfaithful",  # read as RGB: the colour is gone
        "alpha.png": "ok",
        "good.png": "ok",
    }
    assert picked.skipped == {"unreadable": 3, "wrong_size": 1, "unfaithful": 1}
    assert "40 × 32 px, expected the input's 80 × 64; resize it" in found["small.png"].detail
    assert "none.png: no such file; check the path" in found["none.png"].detail
    assert "alpha" in found["alpha.png"].detail  # a note of what was done
    assert picked.choice in (5, 6)


def test_tensors_out_of_range_or_not_finite_are_skipped(photo, stubs) -> None:
    broken = photo.clone()
    broken[0, 0, 0] = math.nan
    picked = pick_best(photo, [photo * 2, broken, photo], stubs.Scorer())
    assert [row.status for row in picked.rows] == ["ok", "out_of_range", "not_finite", "ok"]
    assert picked.choice == "input" and "0 px" not in picked.reason


def test_all_of_another_size_keep_the_input(photo, stubs) -> None:
    picked = pick_best(photo, photo[None, :, ::2], stubs.Scorer())
    assert picked.choice == "input" and "all 1 were skipped (1 wrong_size)" in picked.reason


def test_a_folder_a_batch_and_names_are_images(photo, stubs, tmp_path) -> None:
    for name in "ab":
        save_png(photo, tmp_path / f"{name}.png")
    picked = pick_best(photo, str(tmp_path), stubs.Scorer())
    assert [row.settings["image"][-5:] for row in picked.rows[1:]] == ["a.png", "b.png"]
    assert len(pick_best(photo, torch.stack([photo, photo]), stubs.Scorer()).rows) == 3
    array = (photo.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    picked = pick_best(to_pil(photo), {"x": Image.fromarray(array), "y": array}, stubs.Scorer())
    assert [row.settings for row in picked.rows] == [{}, {"image": "x"}, {"image": "y"}]


def test_without_an_input_the_best_rated_wins(photo, stubs) -> None:
    smooth = stubs.smooth(photo, torch.Generator().manual_seed(0))
    images = [photo, smooth, photo[:, :40], torch.zeros(3, 8, 8)]
    picked = pick_best(None, images, stubs.Scorer())
    assert picked.choice == 1 == picked.ranking[0] and picked.input is None
    assert [row.status for row in picked.rows] == ["ok", "ok", "ok", "constant"]
    assert all(row.fidelity is None and math.isnan(row.gain) for row in picked.rows)
    assert "best of 3: rating" in picked.reason
    with pytest.raises(KeyError, match="no finished candidate 'input'"):
        picked.image("input")
    with pytest.raises(ValueError, match="no input"):
        compose_regions(picked)
    likes_noise = stubs.Scorer()
    likes_noise._rate = lambda image: 6 - stubs.Scorer._rate(likes_noise, image)
    assert pick_best(None, images[:2], stubs.Scorer(), second=likes_noise).choice == 0


def test_without_an_input_and_without_a_usable_image_there_is_an_error(stubs) -> None:
    with pytest.raises(NoCandidateError, match=r"all 2 were skipped \(1 constant, 1 unreadable\)"):
        pick_best(None, ["none.png", torch.zeros(3, 8, 8)], stubs.Scorer())
    with pytest.raises(ValueError, match='take "gain" or "rating"'):
        pick_best(None, [torch.rand(3, 8, 8)], stubs.Scorer(), select="consensus")


def test_reports_of_picks(photo, stubs, tmp_path) -> None:
    smooth = stubs.smooth(photo, torch.Generator().manual_seed(0))
    images = {"mine": smooth, "theirs": photo, "none": "none.png"}
    for source, name in ((photo, "with"), (None, "without")):
        picked = pick_best(source, images, stubs.Scorer())
        folder = write_report(picked, tmp_path / name)
        assert sorted(path.name for path in (folder / "candidates").iterdir()) == [
            "00.png",
            "01.png",
        ]
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert (
            "image mine" in page and "no such file" in page and "seed" not in page.split("<dl>")[0]
        )
        assert image_row(folder)["status"] == "restored"


def test_the_ranking_and_what_is_saved_of_it(photo, stubs, tmp_path) -> None:
    smooth = stubs.smooth(photo, torch.Generator().manual_seed(0))
    rough = photo + 0.02 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
    picked = pick_best(photo, [rough.clamp(0, 1), smooth, photo[:, 1:]], stubs.Scorer())
    assert picked.ranking == (1, "input", 0)
    assert [torch.equal(a, b) for a, b in zip(picked.top(9), [smooth, photo], strict=False)] == [
        True,
        True,
    ]
    assert np.array_equal(np.asarray(picked.to_pil()), np.asarray(to_pil(smooth)))
    folder = picked.save(tmp_path / "ranked")
    names = ["1-candidate-1.png", "2-input.png", "3-candidate-0.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    torch.testing.assert_close(read_image(folder / names[1]).pixels, photo, rtol=0, atol=0.5 / 255)


def test_a_composition_joins_the_ranking(photo, stubs) -> None:
    left, right = photo.clone(), photo.clone()
    smooth = stubs.smooth(photo, torch.Generator().manual_seed(0))
    left[..., :40], right[..., 40:] = smooth[..., :40], smooth[..., 40:]
    composed = compose_regions(
        pick_best(photo, [left, right], stubs.Scorer(), select=lambda row: row.rating)
    )
    assert composed.choice == 2 == composed.ranking[0] and len(composed.ranking) == 4


def test_what_is_no_image_or_judge_is_the_callers_error(photo, stubs) -> None:
    with pytest.raises(ImageError, match=r"images\[1\]: expected a path"):
        pick_best(photo, [photo, 3], stubs.Scorer())  # pyright: ignore
    with pytest.raises(TypeError, match="expected a judge"):
        pick_best(photo, [photo], lambda image: 3.0)  # pyright: ignore
    with pytest.raises(ValueError, match="got none; give at least one"):
        pick_best(photo, [], stubs.Scorer())
    with pytest.raises(ImageError, match="no such file"):
        pick_best("none.png", [photo], stubs.Scorer())
