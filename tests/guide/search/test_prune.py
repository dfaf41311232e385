"""Pruning: the schedule by hand, the budget, and the search around it."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from restoration_guide.cli.config import RunConfig, resolve_config
from restoration_guide.report.write import write_report
from restoration_guide.restorers.base import Candidate, Preview, Settings
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer
from restoration_guide.search.best_of_n import BestOfN, BestOfNConfig
from restoration_guide.search.prune import NO_RUNGS, PruneConfig, Pruner
from restoration_guide.search.selection import Row

PLAN = tuple(Settings(steps, 1.0, 0.5, False) for steps in (1, 4, 4, 4, 4, 2))
PIXELS = torch.zeros(3, 8, 8)


def preview(index: int, step: int, steps: int = 4, shade: float | None = None) -> Preview:
    """A preview of one shade, by default the candidate's own."""
    return Preview(index, step, steps, PIXELS + (index / 10 if shade is None else shade))


def candidate(index: int, nfe: int | None) -> Candidate:
    return Candidate(index, 0, PLAN[0], PIXELS, 0.1, nfe)


class Table:
    """Rates previews by a table of index → rating; counts what it is asked."""

    def __init__(self, ratings: dict[int, float], status: dict[int, str] | None = None) -> None:
        self.ratings, self.status = ratings, status or {}
        self.asked: list[list[int]] = []

    def __call__(self, candidates):
        self.asked.append([c.index for c in candidates])
        return [
            Row(
                c.index,
                self.ratings[c.index],
                0.2,
                status=self.status.get(c.index, "ok"),
                detail="why",
            )
            for c in candidates
        ]


def pruner(config: PruneConfig, rate: Callable, **options: float) -> Pruner:
    return Pruner(config, PLAN, 0, rate=rate, value=lambda row: row.rating, **options)


# --- the schedule, by hand -----------------------------------------------------------------------


def test_the_best_share_goes_on_and_the_others_are_named() -> None:
    prune = pruner(PruneConfig(0, (0.25,), (0.5,)), Table({0: 2.0, 1: 3.0, 2: 3.5, 3: 1.0, 4: 2.5}))
    going_on = prune([preview(i, 1) for i in range(5)])
    assert going_on == {1, 2, 4}  # ⌈.5 · 5⌉ = 3
    assert [(row.index, row.rating, row.status) for row in prune.ended] == [
        (0, 2.0, "pruned"),
        (3, 1.0, "pruned"),
    ]
    assert prune.ended[0].detail == "after 1 of 4 evaluations, place 4 of 5 at 25% of the steps"
    assert (prune.ended[0].nfe, prune.ended[0].nfe_saved) == (1, 3)
    assert prune.ended[0].fidelity is None and prune.ended[0].seconds is None


def test_equal_previews_go_by_index() -> None:
    prune = pruner(PruneConfig(0, (0.25,), (0.5,)), Table(dict.fromkeys(range(4), 3.0)))
    assert prune([preview(i, 1) for i in (3, 1, 0, 2)]) == {0, 1}


def test_a_preview_that_repeats_an_earlier_candidate_comes_last() -> None:
    prune = pruner(PruneConfig(0, (0.25,), (0.6,)), Table({0: 4.0, 1: 4.0, 2: 3.0, 3: 2.0}))
    same = [preview(0, 1, shade=0.5), preview(1, 1, shade=0.5), preview(2, 1), preview(3, 1)]
    assert prune(same) == {0, 2, 3}  # ⌈.6 · 4⌉ = 3, and 1 is what 0 is


def test_the_first_candidates_face_no_rung() -> None:
    table = Table({2: 4.0, 3: 3.0, 4: 2.0})
    prune = pruner(PruneConfig(2, (0.25,), (0.3,)), table)
    assert prune([preview(i, 1) for i in range(5)]) == {0, 1, 2}  # ⌈.3 · 3⌉ = 1 of 2, 3 and 4
    assert table.asked == [[2, 3, 4]]
    prune = pruner(PruneConfig(2, (0.25,), (1.0,)), Table({1: 3.0, 3: 3.0}))
    repeated = [preview(1, 1, shade=0.5), preview(3, 1, shade=0.5)]
    assert prune(repeated) == {1, 3} and prune.config.expected_cost(repeated[0]) == 3


def test_a_rung_is_reached_by_the_share_of_the_steps() -> None:
    config = PruneConfig(0, (0.2, 0.5), (0.5, 0.5))
    reached = {
        (step, steps): config.rungs(preview(0, step, steps))
        for steps in (2, 3, 4, 5)
        for step in range(1, steps)
    }
    assert reached == {
        (1, 2): [0, 1],
        (1, 3): [0],
        (2, 3): [1],
        (1, 4): [0],
        (2, 4): [1],
        (3, 4): [],
        (1, 5): [0],
        (2, 5): [],
        (3, 5): [1],
        (4, 5): [],
    }


def test_rungs_between_evaluations_cost_no_judgement() -> None:
    table = Table({0: 2.0, 1: 3.0})
    prune = pruner(PruneConfig(0, (0.75,), (0.5,)), table)
    assert prune([preview(0, 1), preview(1, 1)]) == {0, 1} and table.asked == []
    assert prune([preview(0, 3), preview(1, 3)]) == {1} and table.asked == [[0, 1]]


def test_a_candidate_that_passes_two_rungs_at_once_faces_both() -> None:
    config = PruneConfig(0, (0.2, 0.5), (0.75, 0.5))
    prune = pruner(config, Table({1: 3.0, 2: 2.0, 3: 1.0, 5: 2.5}))
    # rung .2: ⌈.75 · 4⌉ = 3 stay (1, 5, 2); rung .5 sees only 5, the one of two steps: it stays
    here = [preview(1, 1), preview(2, 1), preview(3, 1), preview(5, 1, 2)]
    assert prune(here) == {1, 2, 5}
    # rung .5 has seen 5 (2.5) and now 1 (3.0) and 2 (2.0): ⌈.5 · 3⌉ = 2, and 2 is third
    assert prune([preview(1, 2), preview(2, 2)]) == {1}
    assert "place 3 of 3 at 50% of the steps" in prune.ended[-1].detail


def test_groups_are_compared_with_what_was_seen_so_far() -> None:
    prune = pruner(PruneConfig(0, (0.25,), (0.5,)), Table({0: 3.0, 1: 2.0, 2: 3.5, 3: 2.5, 4: 2.9}))
    assert prune([preview(0, 1)]) == {0}  # ⌈.5 · 1⌉: nobody waits
    assert prune([preview(1, 1)]) == set()  # second of two
    assert prune([preview(2, 1), preview(3, 1)]) == {2}  # 3 is third of four
    assert prune([preview(4, 1)]) == {4}  # third of five, ⌈.5 · 5⌉ = 3
    assert {row.index for row in prune.ended} == {1, 3}


def test_faulty_previews_come_last_and_say_why() -> None:
    table = Table({0: 4.0, 1: 2.0, 2: math.nan}, {0: "unfaithful", 2: "judgement_failed"})
    prune = pruner(PruneConfig(0, (0.25,), (0.3,)), table)
    assert prune([preview(i, 1) for i in range(3)]) == {1}
    assert prune.ended[0].detail.endswith("; its preview: unfaithful, why")


# --- the budget ----------------------------------------------------------------------------------


def test_expected_cost_by_hand() -> None:
    config = PruneConfig(0, (0.25, 0.5), (0.5, 0.4))
    # one evaluation for certain, then .5 and .5 · .4 twice over: 1 + .5 + .2 + .2
    assert config.expected_cost(preview(0, 0)) == pytest.approx(1.9)
    assert config.expected_cost(preview(0, 1)) == pytest.approx(1 + 0.4 + 0.4)
    assert config.expected_cost(preview(0, 3)) == 1 and NO_RUNGS.expected_cost(preview(0, 1)) == 3


def test_the_budget_pays_the_best_to_the_end() -> None:
    table = Table({1: 2.0, 2: 3.0, 3: 2.5, 4: 1.0})
    prune = pruner(PruneConfig(at=(), keep=(), max_nfe=11), table)
    prune.finish(candidate(0, 1))
    # 1 + 4 · 1 are spent, 6 of 11 are left: two candidates of three evaluations more each
    assert prune([preview(i, 1) for i in (1, 2, 3, 4)]) == {2, 3}
    assert prune.spent == 5 and {row.index for row in prune.ended} == {1, 4}
    assert "no budget" in prune.ended[0].detail


def test_a_budget_that_suffices_asks_no_judge() -> None:
    table = Table({})
    assert pruner(PruneConfig(at=(), keep=(), max_nfe=4), table)([preview(1, 1)]) == {1}
    assert table.asked == []


def test_a_cheaper_candidate_takes_what_the_best_cannot_use() -> None:
    prune = pruner(PruneConfig(at=(), keep=(), max_nfe=4), Table({1: 4.0, 5: 2.0}))
    assert prune([preview(1, 1, 4), preview(5, 1, 2)]) == {5}  # 2 left, the best needs 3


@pytest.mark.parametrize("max_nfe", range(1, 16))
@pytest.mark.parametrize("config", [NO_RUNGS, PruneConfig()])
def test_the_budget_is_never_passed(pipe, stubs, photo, max_nfe: int, config) -> None:
    restorer = BuiltinRestorer(pipe, plan=PLAN)
    prune = replace(config, max_nfe=max_nfe)
    result = BestOfN(restorer, stubs.Scorer(), n=6, prune=prune)(photo[:, :16, :16])
    nfe = result.nfe
    assert nfe is not None and nfe["spent"] <= max_nfe
    assert nfe["full"] == 1 + 4 * 3 + 1 and result.error is None
    assert 0 in [c.index for c in result.candidates]


def test_a_deadline_is_a_budget_at_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, table = [100.0], Table({1: 2.0, 2: 3.0, 3: 1.0})
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    prune = pruner(NO_RUNGS, table, deadline=112.0, judging_s=0.5)
    clock[0] = 103.0
    # three evaluations took 3 s; of the 9 s left 3 are for judging three previews and three
    # candidates: 6 evaluations, two candidates of three
    assert prune([preview(i, 1) for i in (1, 2, 3)]) == {1, 2}
    clock[0] = 111.8
    assert prune([preview(1, 2), preview(2, 2)]) == set()
    # no time for any evaluation: nothing is looked at, and the rows say what ended
    assert table.asked == [[1, 2, 3]]
    assert [(row.index, row.status) for row in prune.ended[1:]] == [(1, "pruned"), (2, "pruned")]
    assert math.isnan(prune.ended[1].rating) and prune.ended[1].settings["steps"] == 4


def test_past_the_deadline_a_finished_candidate_ends_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    prune = pruner(NO_RUNGS, Table({}), deadline=5.0)
    assert prune([preview(1, 1), preview(5, 1, 2)]) == {1, 5}
    assert prune.finish(candidate(5, 1))
    clock[0] = 5.0
    assert not prune.finish(candidate(0, 1))
    assert [row.index for row in prune.ended] == [1]
    assert "the deadline was past" in prune.ended[0].detail


# --- the search ----------------------------------------------------------------------------------


def test_pruned_candidates_are_rows_and_the_others_are_unchanged(
    pipe, stubs, photo, tmp_path
) -> None:
    restorer, scorer = BuiltinRestorer(pipe, plan=PLAN), stubs.Scorer()
    full = BestOfN(restorer, scorer, n=6)(photo, seed=3)
    search = BestOfN(restorer, scorer, n=6, prune=PruneConfig(0, (0.25,), (0.4,)))
    result = search(photo, seed=3)
    ended = [row for row in result.rows if row.status == "pruned"]
    assert [row.index for row in result.rows] == ["input", *range(6)]
    assert len(ended) == 3 and result.skipped == {"pruned": 3}  # ⌈.4 · 5⌉ = 2 go on
    for row in ended:
        assert 1 <= row.rating <= 5 and row.rating_std == 0.1
        assert row.seed == 3 and row.settings == full.row(row.index).settings
    for kept in result.candidates:
        assert torch.equal(kept.image, full.image(kept.index))
        assert result.row(kept.index).rating == full.row(kept.index).rating
    assert full.nfe == {"spent": 14, "full": 14}
    assert result.nfe is not None and result.nfe["full"] == 14
    assert result.nfe["spent"] == 14 - sum(row.nfe_saved for row in ended) < 14
    assert result.timing.judging > 0 and result.timing.restoring > 0
    assert result.timing.judging + result.timing.restoring <= result.timing.total

    record = json.loads(
        (write_report(result, tmp_path / "report") / "report.json").read_text("utf-8")
    )
    assert record["nfe"] == result.nfe and record["skipped"] == {"pruned": 3}
    assert record["config"]["prune"] == {
        "protect": 0,
        "at": [0.25],
        "keep": [0.4],
        "max_nfe": None,
    }
    assert record["rows"][0]["nfe"] is None and record["rows"][1]["nfe"] == 1
    named = resolve_config(RunConfig, tmp_path / "report" / "config.yaml", {})
    assert named.prune == PruneConfig(0, (0.25,), (0.4,)) and named.deadline_s is None


def test_a_deadline_returns_what_is_finished(pipe, stubs, photo) -> None:
    restorer = BuiltinRestorer(pipe, plan=PLAN)
    result = BestOfN(restorer, stubs.Scorer(), n=6, deadline_s=1e-6)(photo)
    assert [c.index for c in result.candidates] == [0] and result.error is None
    assert BestOfN(restorer, stubs.Scorer(), n=6, deadline_s=600.0)(photo).skipped == {}


def test_a_restorer_that_shows_nothing_stops_between_candidates(stubs, photo) -> None:
    class Blind(stubs.Restorer):
        def restore(self, image, *, n, seed=0, batch_size=1, observer=None):
            return super().restore(image, n=n, seed=seed, batch_size=batch_size)

    result = BestOfN(Blind(), stubs.Scorer(), n=5, deadline_s=1e-6)(photo)
    assert len(result.candidates) == 1 and result.nfe is None
    assert len(BestOfN(Blind(), stubs.Scorer(), n=5, prune=PruneConfig())(photo).candidates) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"at": (0.2,), "keep": ()}, "one share to keep for each rung"),
        ({"at": (0.5, 0.2), "keep": (0.5, 0.5)}, "rise within"),
        ({"at": (0.0,), "keep": (0.5,)}, "rise within"),
        ({"at": (1.0,), "keep": (0.5,)}, "rise within"),
        ({"at": (0.5,), "keep": (0.0,)}, "shares to keep"),
        ({"max_nfe": 0}, "at least 1"),
        ({"protect": -1}, "at least 0"),
    ],
)
def test_schedules_that_are_none(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        PruneConfig(**settings)


def test_a_deadline_is_a_positive_time() -> None:
    with pytest.raises(ValueError, match="deadline_s is a time in seconds"):
        BestOfNConfig(deadline_s=0)
