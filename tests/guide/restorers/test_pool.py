"""Several restorers as one: turns, settings, failures, determinism."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from restoration_guide import BestOfN, PruneConfig, QualityGate, RestorerPool, run_gated
from restoration_guide.restorers import MemberError, load_restorer
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer
from zoomiqa_core.images.errors import ImageLimits, TooLargeError


def image() -> Tensor:
    return torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(1))


def noisy(image: Tensor, seed: int, scale: float = 0.01) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + scale * noise).clamp(0, 1)


def broken(image: Tensor) -> Tensor:
    raise RuntimeError("no weights")


@pytest.fixture
def members(pipe: Any) -> list[Any]:
    return [
        BuiltinRestorer(pipe),
        load_restorer(noisy, plan=[{}, {"scale": 0.1}, {"scale": 0.2}]),
        load_restorer(lambda image: image * 0.9, name="darker"),
    ]


def test_members_take_turns_with_their_own_plans(members: list[Any]) -> None:
    pool = load_restorer(members)
    assert isinstance(pool, RestorerPool) and pool.name == "builtin + noisy + darker"
    made = list(pool.restore(image(), n=8, seed=4))
    assert [candidate.index for candidate in made] == list(range(8))
    names = [candidate.settings_dict["restorer"] for candidate in made]
    assert names == ["builtin", "noisy", "darker"] * 2 + ["builtin", "noisy"]
    assert [made[i].settings_dict.get("scale") for i in (1, 4, 7)] == [None, 0.1, 0.2]
    for place, member in enumerate(members):
        alone = list(member.restore(image(), n=len(made[place::3]), seed=4))
        for mine, own in zip(made[place::3], alone, strict=True):
            assert torch.equal(mine.image, own.image) and mine.seed == own.seed
    assert len(pool.plan) == 3 * 12  # 12, 3 and 1 entries: they repeat together after 12
    for candidate in made:
        assert pool.plan[candidate.index] == candidate.settings_dict


def test_the_same_image_whatever_n(members: list[Any]) -> None:
    pool = RestorerPool(*members)
    whole = {c.index: c.image for c in pool.restore(image(), n=8, seed=2)}
    for n, batch_size in ((1, 1), (2, 3), (5, 8)):
        part = list(pool.restore(image(), n=n, seed=2, batch_size=batch_size))
        assert sorted(candidate.index for candidate in part) == list(range(n))
        assert all(torch.equal(c.image, whole[c.index]) for c in part)


def test_a_member_that_fails_costs_its_candidates_only(members: list[Any], stubs: Any) -> None:
    pool = RestorerPool(load_restorer(broken), *members[1:])
    made = []
    with pytest.raises(MemberError, match="broken failed: RuntimeError: no weights"):
        for candidate in pool.restore(image(), n=6):
            made.append(candidate)
    assert [candidate.index for candidate in made] == [1, 2, 4, 5]
    assert all("broken failed: RuntimeError: no weights" in c.notes for c in made)
    result = BestOfN(pool, stubs.Scorer(), n=6)(image()[0])
    assert len(result.candidates) == 4 and "broken failed" in (result.error or "")
    assert result.rows[1].settings["restorer"] == "noisy"


def test_a_size_that_one_member_refuses(members: list[Any]) -> None:
    members[1].limits = ImageLimits(max_pixels=100)
    pool = RestorerPool(*members)
    assert pool.limits.max_pixels == ImageLimits().max_pixels and pool.limits.min_side == 1
    with pytest.raises(
        MemberError, match=r"noisy failed: TooLargeError: the image: 32×24"
    ) as found:
        list(pool.restore(image(), n=3))
    assert isinstance(found.value.__cause__, TooLargeError)


def test_previews_carry_the_pools_numbers(pipe: Any, stubs: Any) -> None:
    other = BuiltinRestorer(pipe, plan=[{"steps": 4, "strength": 1.0, "temperature": 1.0,
                                         "churn": True}], name="other")  # fmt: skip
    pool = RestorerPool(BuiltinRestorer(pipe), other)
    seen: set[int] = set()

    def observer(previews: Any) -> list[int]:
        seen.update(preview.index for preview in previews)
        return [preview.index for preview in previews if preview.index != 3]

    whole = {c.index: c.image for c in pool.restore(image(), n=6, seed=1)}
    made = list(pool.restore(image(), n=6, seed=1, observer=observer))
    assert seen == {1, 2, 3, 4, 5}  # candidate 0 has a single step
    assert sorted(candidate.index for candidate in made) == [0, 1, 2, 4, 5]
    assert all(torch.equal(c.image, whole[c.index]) for c in made)
    search = BestOfN(pool, stubs.Scorer(), n=6, prune=PruneConfig(at=(0.5,), keep=(0.3,)))
    assert len(search(image()[0]).rows) == 7


def test_a_pool_without_previews_says_whose_they_are(pipe: Any, stubs: Any) -> None:
    class Silent(stubs.Restorer):
        name = "silent"
        unobservable = "it never shows any"

    pool = RestorerPool(BuiltinRestorer(pipe), Silent())
    with pytest.raises(ValueError, match="silent shows none: its restore\\(\\) takes no observer"):
        BestOfN(pool, stubs.Scorer(), deadline_s=1)


def test_every_attempt_of_a_gate_is_another_members(members: list[Any], stubs: Any) -> None:
    pool = RestorerPool(*members)
    gate = QualityGate(stubs.Scorer(), min_rating=5)
    run = run_gated(gate, pool, image()[0])
    assert [each.settings["restorer"] for each in run.attempts] == ["builtin", "noisy", "darker"]
    assert len(pool.members) == 3 and len(members[0].plan) == 12  # as they were
    other = RestorerPool(*members)
    other.plan = other.plan[3:6]
    (first, *_) = other.restore(image(), n=1, seed=0)
    (own, *_) = BuiltinRestorer(members[0].pipe, plan=members[0].plan[1:2]).restore(image(), n=1)
    assert torch.equal(first.image, own.image) and len(other.plan) == 3
    with pytest.raises(ValueError, match="take turns: its plan must, too"):
        other.plan = (pool.plan[0], pool.plan[3], pool.plan[1])


def test_what_is_no_pool(members: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"members of different names, got \['noisy', 'noisy'\]"):
        load_restorer([noisy, noisy])
    with pytest.raises(ValueError, match=r"members of different names, got \[\]"):
        load_restorer([])
    with pytest.raises(TypeError, match="Expected restorers, got str"):
        RestorerPool("builtin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes no plan, device: load each by itself"):
        load_restorer(members, plan=[{}], device="cpu")


def test_a_function_with_a_seed() -> None:
    drawn: list[int] = []

    def random(image: Tensor, strength: float = 1.0, *, seed: int) -> Tensor:
        drawn.append(seed)
        return noisy(image, seed, scale=0.1 * strength)

    for function in (random, noisy):
        restorer = load_restorer(function)
        whole = list(restorer.restore(image(), n=3, seed=5))
        (again, *_) = restorer.restore(image(), n=1, seed=5)
        assert torch.equal(again.image, whole[0].image)
        assert not torch.equal(whole[0].image, whole[1].image)
    assert len(set(drawn[:3])) == 3 and all(0 <= seed < 2**31 for seed in drawn)
    (fixed,) = load_restorer(noisy, plan=[{"seed": 7}]).restore(image(), n=1)
    assert torch.equal(fixed.image, noisy(image(), 7)[0])
    both = load_restorer(lambda image, generator, seed=0: image * 0 + seed / 2**31)
    (made,) = both.restore(image(), n=1)
    assert 0 < float(made.image[0, 0, 0]) < 1
