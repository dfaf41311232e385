"""The statistics of the pruning and composition evaluations, by hand on tiny tables."""

import math

import pytest
import torch

from benchmarks.damaged_photos import SIDE, Photo, damage
from benchmarks.evaluate_composition import KINDS, PAIRS, STRIDE, damaged_halves, grouped, summary
from benchmarks.evaluate_composition import Trial as Composed
from benchmarks.evaluate_pruning import (
    Progress,
    Recorder,
    Trial,
    costs,
    first_within,
    gains,
    rank_correlations,
)
from restoration_guide.restorers import Settings
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer


def progress(offset: float = 0.0) -> Progress:
    """Candidates of 4, 2 and 5 steps; on the way 1 leads, in the end 2 does."""
    previews = {(0, 1): 2.0, (0, 2): 2.1, (0, 3): 2.2, (1, 1): 3.0}
    previews |= {(2, step): 2.5 + offset for step in range(1, 5)}
    return Progress(previews, {0: 4, 1: 2, 2: 5}, {0: 2.0, 1: 3.1, 2: 3.5, 3: 1.0})


def trial(psnrs: dict[str, float], nfe: dict[str, int], offset: float = 0.0) -> Trial:
    figures = {"psnr": psnrs, "ms_ssim": {key: value / 100 for key, value in psnrs.items()}}
    same = psnrs["full"] == psnrs["pruned"]
    return Trial("a", figures, nfe, {"full": 10.0, "pruned": 6.0}, same, progress(offset))


A = trial(
    {
        "input": 20.0,
        "full": 24.0,
        "pruned": 23.0,
        "first 1": 21.0,
        "first 2": 22.0,
        "first 3": 24.0,
    },
    {"full": 20, "pruned": 10, "first 1": 1, "first 2": 9, "first 3": 14},
)
B = trial(
    {
        "input": 30.0,
        "full": 32.0,
        "pruned": 32.0,
        "first 1": 30.0,
        "first 2": 31.0,
        "first 3": 30.0,
    },
    {"full": 20, "pruned": 12, "first 1": 1, "first 2": 9, "first 3": 14},
    offset=1.0,
)


def test_gains_by_hand() -> None:
    found = {name: estimate.value for name, estimate in gains([A, B], "psnr").items()}
    assert first_within([A, B]) == "first 2"  # 18 evaluations against 22; three would be 28
    assert found == pytest.approx(
        {
            "gain, full": 3.0,
            "gain, pruned": 2.5,
            "gain, fewer": 1.5,
            "share of the gain, pruned": 2.5 / 3,
            "share of the gain, fewer": 0.5,
        }
    )
    assert gains([A, B], "ms_ssim")["gain, pruned"].value == pytest.approx(0.025)


def test_costs_by_hand() -> None:
    found = {name: estimate.value for name, estimate in costs([A, B]).items()}
    assert found == pytest.approx({"NFE": 22 / 40, "time": 0.6, "same choice": 0.5})


def test_bounds_at_a_share_of_the_steps() -> None:
    # 30 %: step 2 of 4, 1 of 2 and 2 of 5; at 80 % the candidate of two steps is finished
    assert progress().at(0.3) == {0: 2.1, 1: 3.0, 2: 2.5}
    assert progress().at(0.8) == {0: 2.0, 1: 3.1, 2: 2.5}


def test_rank_correlations_by_hand() -> None:
    # A: 2.1 3.0 2.5 against 2.0 3.1 3.5 at 30 %: ranks 1 3 2 and 1 2 3, .5. B: 2.1 3.0 3.5, 1.
    found = rank_correlations([A.progress, B.progress])
    assert found["SRCC at 30%"].value == pytest.approx(0.75)
    # the other's drift of candidate 2 is 0 for A (B: 3.5 - 3.5) and 1 for B: .5 and 1 again
    assert found["SRCC at 30%, drift"].value == pytest.approx(0.75)
    assert math.isnan(rank_correlations([A.progress])["SRCC at 30%"].value) is False


def test_a_recorder_keeps_every_preview_and_changes_nothing(pipe) -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    restorer = BuiltinRestorer(pipe, plan=(Settings(1, 1.0, 0.0, False), Settings(3, 1.0, 1, True)))
    recorder = Recorder(restorer)
    made = list(recorder.restore(image, n=4))
    assert [(p.index, p.step) for p in recorder.previews] == [(1, 1), (3, 1), (1, 2), (3, 2)]
    plain = {c.index: c.image for c in restorer.restore(image, n=4)}
    assert all(torch.equal(c.image, plain[c.index]) for c in made) and len(made) == 4


# --- composition ---------------------------------------------------------------------------------


def test_a_dozen_photos_see_every_pair() -> None:
    seen = {PAIRS[place * STRIDE % len(PAIRS)] for place in range(len(PAIRS))}
    assert seen == {(a, b) for a in KINDS for b in KINDS if a != b}


def test_halves_come_from_their_own_damage() -> None:
    clean = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    photo = Photo(3, "a", clean)
    mixed = damaged_halves(photo, ("undamaged", "blur"), seed=1)
    blurred = damage(photo, "blur", seed=1)
    assert torch.equal(mixed[..., : SIDE // 2], clean[..., : SIDE // 2])
    assert torch.equal(mixed[..., SIDE // 2 :], blurred[..., SIDE // 2 :])


def test_composition_summary_by_hand() -> None:
    def composed(status: str, mixed: bool, before: float, after: float) -> Composed:
        return Composed("a", "x4", "blur", status, "", mixed, {"p": before}, {"p": after}, 1.0)

    trials = [
        composed("ok", True, 20.0, 22.0),
        composed("rejected", True, 30.0, 30.0),
        composed("none", False, 40.0, 40.0),
    ]
    groups = grouped(trials)
    assert {name: len(group) for name, group in groups.items()} == {
        "all": 3,
        "mixed winners": 2,
        "composed": 1,
    }
    found = {name: summary(group)["p"]["difference"][0] for name, group in groups.items()}
    assert found == pytest.approx({"all": 2 / 3, "mixed winners": 1.0, "composed": 2.0})
    assert summary([]) == {}
