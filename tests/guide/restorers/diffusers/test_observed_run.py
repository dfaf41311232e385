"""The bundled restorer under an observer: previews, what is ended, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from restoration_guide.restorers import Candidate, Settings, candidate_generator
from restoration_guide.restorers.base import Preview
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer, TinyRestorationPipeline
from restoration_guide.restorers.builtin.sampler import Chain, Sampler

PLAN = (
    Settings(1, 1.0, 0.0, False),
    Settings(4, 0.8, 0.5, True),
    Settings(2, 0.5, 1.0, False),
    Settings(4, 1.0, 0.7, False),
)


def image(height: int = 18, width: int = 21) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


class Watcher:
    """Keeps every preview; `ends[step]` names the candidates that end after so many evaluations."""

    def __init__(self, ends: dict[int, set[int]] | None = None) -> None:
        self.ends = ends or {}
        self.calls: list[list[Preview]] = []

    def __call__(self, previews: Sequence[Preview]) -> set[int]:
        self.calls.append(list(previews))
        return {p.index for p in previews if p.index not in self.ends.get(p.step, set())}


def by_index(candidates: list[Candidate]) -> dict[int, Tensor]:
    return {candidate.index: candidate.image for candidate in candidates}


@pytest.fixture
def counted(pipe: TinyRestorationPipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch size of every network evaluation."""
    sizes: list[int] = []
    predict = pipe.predict_residual

    def count(latents: Tensor, degraded: Tensor, t: Tensor) -> Tensor:
        sizes.append(len(latents))
        return predict(latents, degraded, t)

    monkeypatch.setattr(pipe, "predict_residual", count)
    return sizes


def test_candidates_are_what_the_pipeline_makes_of_their_settings(
    pipe: TinyRestorationPipeline,
) -> None:
    for candidate in BuiltinRestorer(pipe, plan=PLAN).restore(image(), n=8, seed=3):
        s: Any = candidate.settings
        (alone,) = pipe(
            image(),
            s.steps,
            strength=s.strength,
            temperature=s.temperature,
            stochastic=s.churn,
            generator=candidate_generator(3, candidate.index),
            output_type="pt",
            return_dict=False,
        )
        assert torch.equal(candidate.image, alone[0])


def test_watching_changes_no_byte_whatever_n_and_batch_size(pipe: TinyRestorationPipeline) -> None:
    restorer = BuiltinRestorer(pipe, plan=PLAN)
    plain = by_index(list(restorer.restore(image(), n=8, seed=4)))
    for n, batch_size in ((8, 1), (8, 3), (5, 8), (2, 1)):
        watched = restorer.restore(image(), n=n, seed=4, batch_size=batch_size, observer=Watcher())
        made = by_index(list(watched))
        assert sorted(made) == list(range(n))
        assert all(torch.equal(made[index], plain[index]) for index in made)


def test_those_that_go_on_are_unchanged_and_the_ended_never_come(
    pipe: TinyRestorationPipeline,
) -> None:
    restorer = BuiltinRestorer(pipe, plan=PLAN)
    plain = by_index(list(restorer.restore(image(), n=8, seed=4)))
    observer = Watcher({1: {1, 6}, 3: {3}})
    made = list(restorer.restore(image(), n=8, seed=4, observer=observer))
    assert [c.index for c in made] == [0, 4, 2, 5, 7]  # the fewest steps first
    assert all(torch.equal(c.image, plain[c.index]) for c in made)
    shown = [[(p.index, p.step, p.steps) for p in call] for call in observer.calls]
    assert shown == [
        [(1, 1, 4), (2, 1, 2), (3, 1, 4), (5, 1, 4), (6, 1, 2), (7, 1, 4)],
        [(3, 2, 4), (5, 2, 4), (7, 2, 4)],
        [(3, 3, 4), (5, 3, 4), (7, 3, 4)],
    ]


def test_previews_are_the_predicted_clean_image_at_the_candidates_strength(
    pipe: TinyRestorationPipeline,
) -> None:
    seen: list[Tensor] = []

    def watch(_: object, i: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tensors["predicted_residual"])
        return {}

    pipe(
        image(),
        4,
        temperature=0.5,
        stochastic=True,
        generator=candidate_generator(4, 1),
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=["predicted_residual"],
    )
    observer = Watcher()
    list(BuiltinRestorer(pipe, plan=PLAN).restore(image(), n=2, seed=4, observer=observer))
    for call, residual in zip(observer.calls, seen[:-1], strict=True):
        # x0 = y + S · strength · r̂ in [-1, 1]; half of it in [0, 1], on the unpadded grid
        moved = pipe.flow.residual_scale * 0.8 * residual[0, :, :18, :21] / 2
        expected = (image()[0] + moved).clamp(0, 1)
        assert call[0].index == 1 and call[0].image.dtype == torch.float32
        torch.testing.assert_close(call[0].image, expected, atol=1e-6, rtol=0)
    first, last = observer.calls[0][0].image, observer.calls[-1][0].image
    assert not torch.equal(first, last)


@pytest.mark.parametrize("ends", [None, {1: {1, 2, 6}}, {1: {1}, 2: {3, 5}, 3: {7}}])
def test_evaluations_are_counted_truly(
    pipe: TinyRestorationPipeline, counted: list[int], ends: dict[int, set[int]] | None
) -> None:
    observer = Watcher(ends)
    made = list(BuiltinRestorer(pipe, plan=PLAN).restore(image(), n=8, observer=observer))
    last = {p.index: p.nfe for call in observer.calls for p in call}
    spent = {**last, **{candidate.index: candidate.nfe for candidate in made}}
    assert counted == [1] * len(counted)  # on the CPU each goes alone
    assert sum(spent.values()) == len(counted)  # type: ignore[arg-type]
    if ends is None:  # 1 shared, then 3 + 1 + 3 of each four
        assert [spent[i] for i in range(8)] == [1, 3, 1, 3, 0, 3, 1, 3] and len(counted) == 15


def test_evaluations_are_counted_without_an_observer_too(
    pipe: TinyRestorationPipeline, counted: list[int]
) -> None:
    made = list(BuiltinRestorer(pipe, plan=PLAN[1:]).restore(image(), n=3))
    assert [candidate.nfe for candidate in made] == [4, 1, 3] and len(counted) == 8


def test_an_observer_may_end_all(pipe: TinyRestorationPipeline, counted: list[int]) -> None:
    restorer = BuiltinRestorer(pipe, plan=PLAN)
    made = list(restorer.restore(image(), n=8, observer=lambda previews: ()))
    assert [c.index for c in made] == [0, 4] and counted == [1]


def test_batches_shrink_where_candidates_go_together(
    pipe: TinyRestorationPipeline, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BuiltinRestorer, "group_limit", lambda self, batch_size: batch_size)
    restorer = BuiltinRestorer(pipe, plan=(Settings(3, 1.0, 0.5, False),))
    plain = by_index(list(restorer.restore(image(), n=4)))
    counted.clear()
    observer = Watcher({1: {1}, 2: {0}})
    made = restorer.restore(image(), n=4, batch_size=4, observer=observer)
    for candidate in made:
        difference = (candidate.image - plain[candidate.index]).abs().max()
        assert candidate.index in (2, 3) and float(difference) < 5e-6
    assert counted == [1, 3, 2]


def test_unknown_candidates_and_unbegun_chains_are_named(pipe: TinyRestorationPipeline) -> None:
    restorer = BuiltinRestorer(pipe, plan=PLAN)
    with pytest.raises(ValueError, match=r"goes on with candidates \[9\], but was shown \[1\]"):
        list(restorer.restore(image(), n=2, observer=lambda previews: [1, 9]))
    chain = Chain(0, PLAN[1], candidate_generator(0, 0))
    with pytest.raises(ValueError, match="made no step yet"):
        Sampler(pipe, image()).image(chain)
