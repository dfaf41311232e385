"""The evaluations' statistics, by hand on tiny tables, and one tiny run of the restorer's."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import evaluate_best_of_n, evaluate_restorer, judge_measures
from benchmarks.evaluate_best_of_n import Trial, strategies
from restoration_guide.fidelity.full_reference import psnr
from restoration_guide.fidelity.measure import FidelityLimits
from restoration_guide.restorers import load_restorer
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer, TinyRestorationPipeline
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.selection import Index, Row
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.data.damage.kadid import DISTORTIONS
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.scorer import load_scorer


def trial(name: str, psnrs: list[float], ratings: list[float], choice: Index) -> Trial:
    """A crop by its PSNRs and ratings, the input's first; MS-SSIM is a hundredth of the PSNR."""
    indices: list[Index] = ["input", *range(len(psnrs) - 1)]
    rows = tuple(Row(i, r, 0.0) for i, r in zip(indices, ratings, strict=True))
    figures: dict[Index, dict[str, float]] = {
        i: {"psnr": p, "ms_ssim": p / 100} for i, p in zip(indices, psnrs, strict=True)
    }
    return Trial(name, rows, choice, figures, {"first": 0}, seconds=1.0, judging_share=0.1)


# random 24, oracle 26, the choice's 24, the first's 22; the ratings' ranks 1 3 2 against 1 2 3 give
# an SRCC of .5
A = trial("a", [20, 22, 24, 26], [3.0, 3.1, 3.5, 3.3], 1)
# random 30, oracle and choice 33, first 28; the ranks agree
B = trial("b", [30, 28, 29, 33], [3.0, 2.0, 2.5, 4.0], 2)
SKIPPED = Trial(
    "skipped",
    (Row("input", 3.0, 0.0), Row(0, status="not_finite")),
    "input",
    {"input": {"psnr": 10.0, "ms_ssim": 0.1}},
    {},
    seconds=1.0,
    judging_share=0.1,
)


# --- best of N -----------------------------------------------------------------------------------


def test_strategies_by_hand() -> None:
    expected = {
        "input": 25.0,
        "random": 27.0,
        "oracle": 29.5,
        "best of N": 28.5,
        "first": 25.0,
        "best of N - input": 3.5,
        "best of N - random": 1.5,
        "oracle - random": 2.5,
        "share of best of N": 0.6,
        "share of first": -0.8,
        "best of N - first": 3.5,
        "SRCC with rating": 0.75,
    }
    found = {name: estimate.value for name, estimate in strategies([A, B], "psnr").items()}
    assert found == pytest.approx(expected)
    assert strategies([A, B], "ms_ssim")["best of N"].value == pytest.approx(0.285)
    gain = strategies([A, B], "psnr")["best of N - random"]
    assert (gain.low, gain.high) == pytest.approx((0.0, 3.0))  # A twice, B twice


def test_crops_without_a_usable_candidate_are_left_out_and_counted() -> None:
    assert strategies([A, SKIPPED, B], "psnr") == strategies([A, B], "psnr")
    assert strategies([SKIPPED], "psnr") == {}
    assert evaluate_best_of_n.with_candidates([A, SKIPPED, B]) == [A, B]


def test_share_of_the_headroom() -> None:
    share: Callable[..., float] = evaluate_best_of_n._share
    judge, random, oracle = np.array([1.0, 3.0]), np.array([0.0, 2.0]), np.array([2.0, 4.0])
    assert share(judge, random, oracle) == pytest.approx(0.5)  # (2 - 1) / (3 - 1)
    assert share(random - 1, random, oracle) == pytest.approx(-0.5)  # worse than chance
    assert math.isnan(share(judge, random, random))


def test_a_rank_correlation_needs_three_judged_candidates() -> None:
    unjudged = trial("u", [20, 22, 24, 26], [3.0, 3.1, math.nan, 3.3], "input")
    assert math.isnan(evaluate_best_of_n.rank_correlation(unjudged, "psnr"))
    assert evaluate_best_of_n.rank_correlation(A, "psnr") == pytest.approx(0.5)


def test_a_trial_on_a_tiny_restorer(pipe: TinyRestorationPipeline) -> None:
    clean = torch.rand(3, 176, 176, generator=torch.Generator().manual_seed(0))
    damaged = (clean * 0.8 + 0.1).clamp(0, 1)
    limits = FidelityLimits(math.inf, -math.inf)
    search = BestOfN(BuiltinRestorer(pipe), load_scorer("proxy"), n=3, limits=limits)
    also = {"brisque": lambda image: -float(image.mean())}
    made = evaluate_best_of_n.run_trial(search, "a", damaged, clean, 0, also)
    assert set(made.figures) == {"input", 0, 1, 2}
    assert made.picks["first"] == 0
    assert made.picks["BRISQUE"] == max((0, 1, 2), key=lambda i: made.figures[i]["brisque"])
    ratings = {row.index: row.rating for row in made.rows if row.index != "input"}
    assert made.picks["rating alone"] == max(ratings, key=lambda i: ratings[i])


def test_an_undamaged_photo_that_comes_back_untouched_has_no_distance() -> None:
    def same(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return image

    def better(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return image * 0.5 + 0.25

    class Contrast:
        name = "contrast"

        def assess(self, images):
            return [Assessment(5 - 4 * float(image.std()), 0.0) for image in images]

    photo = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    limits = FidelityLimits(math.inf, -math.inf)
    for restore, distance in ((same, None), (better, psnr(photo * 0.5 + 0.25, photo))):
        judge: Any = Contrast()
        search = BestOfN(load_restorer(restore), judge, n=1, limits=limits)
        found = evaluate_best_of_n.distance_when_undamaged(search, photo, 0)
        assert found == (None if distance is None else pytest.approx(float(distance), abs=1e-3))


# --- the restorer --------------------------------------------------------------------------------


def test_plan_table_by_hand(pipe: TinyRestorationPipeline) -> None:
    restorer = BuiltinRestorer(pipe)
    per_photo = [
        [
            {"seconds": 1.0, "psnr": 20.0, "ms_ssim": 0.8},
            {"seconds": 3.0, "psnr": 22.0, "ms_ssim": 0.7},
        ],
        [
            {"seconds": 2.0, "psnr": 24.0, "ms_ssim": 0.9},
            {"seconds": 5.0, "psnr": 25.0, "ms_ssim": 0.6},
        ],
    ]
    first, second = evaluate_restorer.plan_table(restorer, per_photo)
    assert (first["index"], second["index"]) == (0, 1)
    assert second["steps"] == restorer.settings(1).steps
    assert (first["seconds"], first["psnr"], first["ms_ssim"]) == pytest.approx((1.5, 22.0, 0.85))
    assert (second["psnr"], second["ms_ssim"]) == pytest.approx((23.5, 0.65))
    assert (first["best psnr"], second["best psnr"]) == (0, 2)
    assert (first["best ms_ssim"], second["best ms_ssim"]) == (2, 0)


def test_a_tiny_run(pipe: TinyRestorationPipeline, tmp_path: Path, capsys) -> None:
    pipe.save_pretrained(tmp_path / "weights")
    photo = torch.rand(3, 260, 257, generator=torch.Generator().manual_seed(0))
    save_png(photo, tmp_path / "photos" / "a.png")
    out = tmp_path / "out.json"
    folders = f"--photos {tmp_path}/photos --weights {tmp_path}/weights --out {out}"
    evaluate_restorer.main(f"{folders} --presets blur --n 2".split())
    printed = capsys.readouterr().out
    record = json.loads(out.read_text(encoding="utf-8"))
    table = {name: estimate[0] for name, estimate in record["tables"]["blur"].items()}
    assert len(record["plans"]["blur"]) == 2
    assert all(name in printed for name in table)
    assert table["psnr headroom"] == pytest.approx(table["psnr best"] - table["psnr sample"])
    gain = table["ms_ssim one step"] - table["ms_ssim input"]
    assert table["ms_ssim gain of one step"] == pytest.approx(gain)


# --- the proxy -----------------------------------------------------------------------------------


def test_ordered_share_by_hand() -> None:
    people = np.array([[[4.0, 3.0, 2.0], [4.0, 3.9, 1.0]]])
    rating = np.array([[[5.0, 4.0, 3.0], [1.0, 2.0, 3.0]]])
    # all three pairs of the first type; of the second none of two, the third is no clear pair
    assert judge_measures._ordered_share(rating, people) == pytest.approx(3 / 5)
    assert judge_measures._ordered_share(np.zeros_like(people), people) == 0.0


def test_ordered_pairs_are_counted_with_and_without_ungraded_types() -> None:
    ratings = {name: np.array([d.mean_mos, d.mean_mos]) for name, d in DISTORTIONS.items()}
    for name in judge_measures.UNGRADED:
        ratings[name] = -ratings[name]
    table = {n: float(np.ravel(v)[0]) for n, v in _distortions(ratings).items()}
    assert table["KADID types seen: ordered level pairs, graded types"] == 1.0
    assert 0.5 < table["KADID types seen: ordered level pairs"] < 1.0
    assert table["KADID types unseen: ordered level pairs"] == 1.0


def _distortions(ratings: dict[str, np.ndarray]) -> judge_measures.Table:
    return judge_measures.against_distortions(ratings, seed=0)


def test_read_crop_cuts_to_cells(tmp_path: Path) -> None:
    photo = torch.linspace(0, 1, 40 * 50).reshape(1, 40, 50).expand(3, -1, -1)
    path = save_png(photo, tmp_path / "a.png")
    crop = judge_measures.read_crop(path, 48)
    assert crop.shape == (1, 3, 32, 48)
    assert torch.equal(crop, judge_measures.to_batch(path)[..., 4:36, 1:49])
