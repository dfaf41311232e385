"""The statistics of the evaluations of strategies and of composition, by hand on tiny tables."""

import math
from typing import Any

import pytest
import torch

from benchmarks.damaged_photos import SIDE, Photo, damage
from benchmarks.evaluate_composition import KINDS, PAIRS, STRIDE, damaged_halves, grouped, summary
from benchmarks.evaluate_composition import Trial as Composed
from benchmarks.evaluate_strategies import Outcome, Remembered, Replay, ratio, run_trial
from benchmarks.evaluate_strategies import summary as strategies
from benchmarks.previews import Progress, Recorder, rank_correlations
from restoration_guide.restorers import Settings
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer
from restoration_guide.search.best_of_n import BestOfN
from tests.guide.conftest import NoiseScorer


def progress(offset: float = 0.0) -> Progress:
    """Candidates of 4, 2 and 5 steps; on the way 1 leads, in the end 2 does."""
    previews = {(0, 1): 2.0, (0, 2): 2.1, (0, 3): 2.2, (1, 1): 3.0}
    previews |= {(2, step): 2.5 + offset for step in range(1, 5)}
    return Progress(previews, {0: 4, 1: 2, 2: 5}, {0: 2.0, 1: 3.1, 2: 3.5, 3: 1.0})


def outcome(evaluations: int, label: float, judge: float) -> Outcome:
    return Outcome(0, evaluations, 2, label, judge)


def test_strategies_by_hand() -> None:
    """Two crops of one photo and one of another: sums by photo, so three crops weigh the same."""
    trials = {
        "a.png": {"fixed 8": outcome(20, 0.4, 0.2), "pruned, 8 begun": outcome(8, 0.4, 0.1)},
        "a.png, top left": {
            "fixed 8": outcome(20, 0.2, 0.2),
            "pruned, 8 begun": outcome(10, 0.1, 0.2),
        },
        "b.png": {"fixed 8": outcome(20, 0.6, 0.5), "pruned, 8 begun": outcome(12, 0.4, 0.3)},
    }
    found = strategies(trials)
    pruned = {name: estimate.value for name, estimate in found["pruned, 8 begun"].items()}
    assert pruned == pytest.approx(
        {
            "evaluations": 10,
            "candidates": 2,
            "label gain": 0.9 / 3,
            "label gain - fixed 8": -0.3 / 3,
            "judge gain": 0.2,
            "judge gain - fixed 8": -0.1,
        }
    )
    # photo a alone loses .1 in two crops, photo b .2 in one: no resample is outside
    loss = found["pruned, 8 begun"]["label gain - fixed 8"]
    assert (loss.low, loss.high) == pytest.approx((-0.2, -0.05))
    assert math.isnan(ratio(torch.ones(2).numpy(), torch.zeros(2).numpy()))


def test_strategies_see_the_same_candidates(pipe) -> None:
    """A replayed search chooses what a search of its own would, and judges no image twice."""
    damaged = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    scorer: Any = NoiseScorer()
    other: Any = NoiseScorer()
    restorer = BuiltinRestorer(pipe)
    judge: Any = Remembered(scorer)
    made = tuple(restorer.restore(damaged[None], n=4))
    replay: Any = Replay(restorer, made)
    for count in (2, 4):
        again = BestOfN(replay, judge, count)(damaged)
        assert again.choice == BestOfN(restorer, other, count)(damaged).choice
    assert scorer.judged == 5
    search = BestOfN(restorer, other, 2)
    found = run_trial(search, "a.png", damaged, damaged, 0)
    assert found["fixed 1"].evaluations == 1 < found["fixed 2"].evaluations == 5
    assert {one.label_gain <= 0 for one in found.values()} == {True}  # the input is the clean one


def test_bounds_at_a_share_of_the_steps() -> None:
    # 30 %: step 2 of 4, 1 of 2 and 2 of 5; at 80 % the candidate of two steps is finished
    assert progress().at(0.3) == {0: 2.1, 1: 3.0, 2: 2.5}
    assert progress().at(0.8) == {0: 2.0, 1: 3.1, 2: 2.5}


def test_rank_correlations_by_hand() -> None:
    # A: 2.1 3.0 2.5 against 2.0 3.1 3.5 at 30 %: ranks 1 3 2 and 1 2 3, .5. B: 2.1 3.0 3.5, 1.
    a, b = progress(), progress(offset=1.0)
    found = rank_correlations([a, b])
    assert found["SRCC at 30%"].value == pytest.approx(0.75)
    # the other's drift of candidate 2 is 0 for A (B: 3.5 - 3.5) and 1 for B: .5 and 1 again
    assert found["SRCC at 30%, drift"].value == pytest.approx(0.75)
    assert math.isnan(rank_correlations([a])["SRCC at 30%"].value) is False


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
