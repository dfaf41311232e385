"""When a search ends and where it looks further: by hand, and through the search."""

import math
from statistics import NormalDist

import pytest
import torch

from restoration_guide.search.best_of_n import BestOfN, BestOfNConfig
from restoration_guide.search.prune import PruneConfig
from restoration_guide.search.strategy import Strategy, expected_improvement, refined


def test_expected_improvement_by_hand() -> None:
    # mean .2, standard deviation .1 · √(4/3) = .11547, best .3: z = −.866,
    # φ(z) = .27418, Φ(z) = .19324: .11547 · (.27418 − .866 · .19324) = .01234
    assert expected_improvement([0.1, 0.2, 0.3]) == pytest.approx(0.01234, abs=1e-5)


def test_expected_improvement_is_that_of_samples() -> None:
    gains = [-0.4, 0.1, 0.3, 0.6]
    spread = torch.tensor(gains).std().item() * math.sqrt(1.25)
    draws = torch.tensor(NormalDist(0.15, spread).samples(200_000, seed=0))
    sampled = (draws - 0.6).clamp_min(0).mean().item()
    assert expected_improvement(gains) == pytest.approx(sampled, rel=0.02)


def test_what_is_worse_than_the_input_improves_nothing() -> None:
    assert expected_improvement([-2.0, -2.1, -1.9]) < 1e-6  # the best is the input's gain, 0
    assert expected_improvement([0.2, 0.2]) == 0.0  # no spread


@pytest.mark.parametrize(
    ("strategy", "gains", "left", "reason"),
    [
        (Strategy(), [9.0, 9.0, 9.0], 5, ""),
        (Strategy(target_gain=0.5), [0.1, 0.5], 5, "the target gain of 0.5 was reached"),
        (Strategy(target_gain=0.5), [0.1, 0.49], 5, ""),
        (Strategy(target_gain=0.5), [], 5, ""),
        (Strategy(target_gain=0.5), [0.9], 0, ""),  # nothing left to save
        (Strategy(min_improvement=0.02), [0.1, 0.2, 0.3], 5, "one more was expected to add 0.012"),
        (Strategy(min_improvement=0.01), [0.1, 0.2, 0.3], 5, ""),
        (Strategy(min_improvement=9.0), [0.1, 0.2], 5, ""),  # two say nothing of a spread
    ],
)
def test_reasons_to_stop(strategy, gains, left, reason) -> None:
    assert strategy.reason_to_stop(gains, left) == reason


def test_refinement_climbs_to_the_best_strength() -> None:
    tried: list[float] = []

    def rate(strength: float) -> float:
        tried.append(strength)
        return -abs(strength - 0.61)

    refined(rate(1.0), rate, 12)
    assert len(tried) == 13 == len(set(tried))
    assert min(abs(strength - 0.61) for strength in tried) < 0.02


def test_refinement_passes_over_unusable_strengths_and_stays_in_range() -> None:
    tried: list[float] = []

    def rate(strength: float) -> float | None:
        tried.append(strength)
        return None if strength > 1 else strength

    refined(1.0, rate, 10)
    assert all(0 < strength <= 1.5 for strength in tried) and tried[:2] == [0.75, 1.25]


# --- through the search --------------------------------------------------------------------------


def test_a_target_ends_the_search(photo, stubs) -> None:
    made: list[int] = []
    restorer = stubs.Restorer()
    search = BestOfN(restorer, stubs.Scorer(), n=8, target_gain=0.3)
    result = search(photo, progress=lambda each: made.append(each.index))
    assert made == [0] and result.choice == 0 and result.error is None
    assert result.reason.endswith("ended after 1 of 8: the target gain of 0.3 was reached")
    whole = BestOfN(restorer, stubs.Scorer(), n=8, target_gain=5.0)(photo)
    assert len(whole.candidates) == 8 and "ended" not in whole.reason


def test_candidates_that_are_alike_end_the_search(photo, stubs) -> None:
    result = BestOfN(stubs.Restorer(), stubs.Scorer(), n=8, min_improvement=0.01)(photo)
    assert len(result.candidates) == 3 and "ended after 3 of 8: one more" in result.reason


def test_an_ended_search_ends_what_is_on_its_way(pipe, photo, stubs) -> None:
    from restoration_guide.restorers.builtin.restorer import BuiltinRestorer

    class Pleased(stubs.Scorer):
        """Likes the second candidate that is finished: the first previews are shown by then."""

        def _rate(self, image):
            return torch.full_like(image[:1], 4.0 if self.judged >= 3 else 1.0)

    loose = PruneConfig(at=(), keep=())
    search = BestOfN(BuiltinRestorer(pipe), Pleased(), n=4, target_gain=1.0, prune=loose)
    result = search(photo)
    assert [row.status for row in result.rows[1:]].count("pruned") == 2
    assert all(
        "the search was ended" in row.detail for row in result.rows if row.status == "pruned"
    )


def test_refinements_are_other_strengths_of_the_best(photo, stubs) -> None:
    plain = BestOfN(stubs.Restorer(), stubs.Scorer(), n=2)(photo, seed=3)
    result = BestOfN(stubs.Restorer(), stubs.Scorer(), n=2, refine=3)(photo, seed=3)
    best = plain.choice
    assert [row.index for row in result.rows] == ["input", 0, 1, 2, 3, 4]
    for row in result.rows[3:]:
        assert row.settings["refined from"] == best and row.nfe == 0
        strength = row.settings["strength of it"]
        blended = photo + strength * (plain.image(best) - photo)
        torch.testing.assert_close(result.image(row.index), blended.clamp(0, 1))
    for index in (0, 1):  # the others are what they were
        assert torch.equal(result.image(index), plain.image(index))
    bounds = {row.index: result.rule.lower_gain(row) for row in result.rows[1:]}
    assert bounds[result.choice] == max(bounds.values()) >= plain.rule.lower_gain(plain.row(best))


def test_nothing_usable_is_not_refined(photo, stubs) -> None:
    restorer = stubs.Restorer([lambda image, _: torch.zeros_like(image)])
    result = BestOfN(restorer, stubs.Scorer(), n=2, refine=3)(photo)
    assert result.choice == "input" and len(result.candidates) == 2


@pytest.mark.parametrize(
    "settings",
    [{"target_gain": 0}, {"target_gain": math.nan}, {"min_improvement": -1}, {"refine": -1}],
)
def test_settings_out_of_range(settings) -> None:
    with pytest.raises(ValueError, match=r"[>≥] 0; got"):
        BestOfNConfig(**settings)
