"""Attempts until a result passes: seeds, settings, bounds, records, crashes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from restoration_guide.gate.gate import QualityGate
from restoration_guide.gate.run import RetryPolicy, run_gated
from restoration_guide.restorers.base import Settings
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer
from restoration_guide.search.best_of_n import BestOfN

NAN = lambda image, _: image * math.nan  # noqa: E731
SAME = lambda image, _: image  # noqa: E731


class Takes:
    """Attempt k of the run is ``steps[k]`` applied to the input; keeps what it was asked."""

    name = "takes"
    plan = (Settings(2, 1.0, 0.5, False), Settings(4, 1.0, 0.5, True))

    def __init__(self, stubs, *steps):
        self.stubs, self.steps, self.seen = stubs, list(steps), []
        self.limits = stubs.Restorer.limits

    def restore(self, image, *, n, seed=0, batch_size=1, observer=None):
        self.seen.append((n, seed, self.plan))
        yield from self.stubs.Restorer([self.steps.pop(0)]).restore(image, n=n, seed=seed)


def test_the_first_good_result_ends_it(photo, stubs) -> None:
    restorer = Takes(stubs, NAN, RuntimeError("crash"), stubs.smooth, stubs.smooth)
    run: Any = run_gated(QualityGate(stubs.Scorer(), 3.0), restorer, photo, seed=7)
    assert [attempt.verdict.action for attempt in run.attempts] == ["retry", "retry", "accept"]
    assert [attempt.seed for attempt in run.attempts] == [7, 8, 9]
    assert [attempt.verdict.defect for attempt in run.attempts] == [
        "not_finite",
        "no_candidate",
        None,
    ]
    assert [attempt.error for attempt in run.attempts] == [None, "RuntimeError: crash", None]
    assert run.action == "accept" and run.image is not None
    assert torch.equal(run.image, run.attempts[2].image)
    assert len(restorer.steps) == 1  # not asked again
    assert restorer.plan is Takes.plan  # and left as it was
    assert json.loads(json.dumps(run.to_dict()))["attempts"][1]["error"] == "RuntimeError: crash"


def test_attempts_run_out(photo, stubs) -> None:
    scorer = stubs.Scorer()
    rating = scorer.assess(photo).rating
    run: Any = run_gated(
        QualityGate(scorer, rating + 0.01),
        Takes(stubs, *[SAME] * 9),
        photo,
        policy=RetryPolicy(attempts=4),
    )
    assert [attempt.verdict.action for attempt in run.attempts] == ["retry"] * 3 + ["reject"]
    assert run.image is None


def test_the_input_is_judged_once_and_kept_when_good(photo, stubs) -> None:
    scorer = stubs.Scorer()
    run: Any = run_gated(QualityGate(scorer, 1.0), Takes(stubs, SAME, SAME), photo)
    assert (run.action, len(run.attempts), scorer.judged) == ("keep_input", 1, 2)
    assert torch.equal(run.image, photo)


def test_the_result_of_a_greyscale_input_is_greyscale(photo, stubs) -> None:
    def tinted(image, generator):
        return (stubs.smooth(image, generator) + torch.tensor([0.03, 0, 0])[:, None, None]).clamp(
            0, 1
        )

    grey = photo.mean(0, keepdim=True).expand(3, -1, -1).contiguous()
    run: Any = run_gated(QualityGate(stubs.Scorer(), 3.0), Takes(stubs, tinted), grey)
    assert run.action == "accept" and torch.equal(run.image[0], run.image[2])
    made = BestOfN(stubs.Restorer([tinted]), stubs.Scorer(), n=1)(grey)
    assert torch.equal(run.image, made.image(0))  # by the same rule
    coloured: Any = run_gated(QualityGate(stubs.Scorer(), 3.0), Takes(stubs, tinted), photo)
    assert not torch.equal(coloured.image[0], coloured.image[2])


def test_a_lasting_defect_is_not_tried_again(photo, stubs) -> None:
    restorer = Takes(stubs, lambda image, _: image[:, :-8])
    run: Any = run_gated(QualityGate(stubs.Scorer(), 4.9), restorer, photo)
    assert (run.action, len(run.attempts)) == ("reject", 1)


def test_a_restorer_is_asked_nothing_beyond_its_protocol(photo, stubs) -> None:
    class ReadOnly(stubs.Restorer):
        @property
        def plan(self):  # pyright: ignore
            return Takes.plan

        def restore(self, image, *, n, seed=0, batch_size=1, observer=None):
            return super().restore(image, n=n, seed=seed)

    run = run_gated(QualityGate(stubs.Scorer(), 5.0), ReadOnly([SAME]), photo)
    assert [attempt.error for attempt in run.attempts] == [None] * 3
    assert [attempt.settings["steps"] for attempt in run.attempts] == [2, 2, 2]  # as they were


def test_ctrl_c_goes_through(photo, stubs) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_gated(QualityGate(stubs.Scorer()), Takes(stubs, KeyboardInterrupt()), photo)


def test_what_a_policy_changes_by_hand() -> None:
    plan = (Settings(2, 1.0, 0.5, False), Settings(4, 0.9, 0.0, True))
    policy = RetryPolicy(more_steps=1.5, max_steps=8)
    assert policy.settings(plan, 0) is not plan[0] and policy.settings(plan, 0) == plan[0]
    assert policy.settings(plan, 1) == Settings(6, 0.9, 0.0, True)  # 4 · 1.5
    assert policy.settings(plan, 2) == Settings(5, 1.0, 0.5, False)  # ⌈2 · 2.25⌉
    assert policy.settings(plan, 3).steps == 8  # ⌈4 · 3.375⌉ = 14, bounded


def test_pipelines_settings_and_bounds() -> None:
    plan = ({"num_inference_steps": 20, "guidance_scale": 4.0, "strength": 0.3},)
    found = RetryPolicy().settings(plan, 2)
    assert found == {"num_inference_steps": 45, "guidance_scale": 6.25, "strength": 0.3}
    assert RetryPolicy(max_steps=10, max_guidance=2).settings(plan, 3) == plan[0]  # never less
    for left in ({}, {"guidance_scale": None}):  # the pipeline's own
        assert RetryPolicy().settings((left,), 2) == left


@pytest.mark.parametrize(
    "settings", [{"attempts": 0}, {"max_steps": 0}, {"more_steps": 0.5}, {"max_guidance": math.inf}]
)
def test_wrong_policies_teach(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        RetryPolicy(**settings)


def test_the_builtin_restorer_tries_its_plan(photo, stubs, pipe) -> None:
    restorer: Any = BuiltinRestorer(pipe)
    run: Any = run_gated(
        QualityGate(stubs.Scorer(), 5.0), restorer, photo, policy=RetryPolicy(2, more_steps=2)
    )
    assert [attempt.settings["steps"] for attempt in run.attempts] == [1, 10]
    first = next(iter(restorer.restore(photo[None], n=1, seed=0)))
    assert torch.equal(run.attempts[0].image, first.image)  # candidate 0 of the seed
    assert not torch.equal(run.attempts[1].image, first.image)
