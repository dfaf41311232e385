"""The bundled restorer: candidates, gradients, sizes, saving, shipped weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from restoration_guide.cli.config import RunConfig, resolve_config
from restoration_guide.report.write import write_report
from restoration_guide.restorers import Restorer, Settings, candidate_generator, load_restorer
from restoration_guide.restorers.builtin.restorer import (
    DEFAULT_PLAN,
    BuiltinRestorer,
    TinyRestorationPipeline,
    WeightsError,
)
from restoration_guide.restorers.builtin.sampler import Chain, grouped
from restoration_guide.search.best_of_n import BestOfN
from zoomiqa_core.images.sources import ImageLimits

WEIGHTS_LIMIT = 15_000_000


@pytest.fixture(scope="module")
def shipped() -> BuiltinRestorer:
    return BuiltinRestorer()


def image(height: int = 24, width: int = 32, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipe: TinyRestorationPipeline, degraded: Tensor, steps: int, **options: object) -> Tensor:
    (images,) = pipe(degraded, steps, output_type="pt", return_dict=False, **options)  # type: ignore[arg-type]
    return images


# --- candidates ------------------------------------------------------------------------------


def test_candidates_do_not_depend_on_n_or_batch_size(pipe: TinyRestorationPipeline) -> None:
    restorer = BuiltinRestorer(pipe)
    runs = [
        [c.image for c in restorer.restore(image(), n=n, seed=4, batch_size=b)]
        for n, b in ((9, 1), (9, 4), (3, 2))
    ]
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=False):
            assert torch.equal(a, b)


def test_batched_candidates_agree_with_single_ones(
    pipe: TinyRestorationPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Batching(BuiltinRestorer):
        def group_limit(self, batch_size: int) -> int:
            return batch_size  # as on an accelerator

    plan = tuple(Settings(3, s, t, False) for s, t in ((1.0, 0.5), (0.6, 1.0), (1.2, 0.8)))
    plan += (Settings(3, 1.0, 1.0, True), Settings(4, 0.8, 0.9, True))
    restorer, sizes = Batching(pipe, plan=plan), []
    predict = pipe.predict_residual

    def counted(latents: Tensor, degraded: Tensor, t: Tensor) -> Tensor:
        sizes.append(len(degraded))
        return predict(latents, degraded, t)

    monkeypatch.setattr(pipe, "predict_residual", counted)
    alone = list(restorer.restore(image(), n=8, seed=4, batch_size=1))
    assert set(sizes) == {1}
    sizes.clear()
    batched = list(restorer.restore(image(), n=8, seed=4, batch_size=4))
    # groups of 3, 1, 1, 3: the first step is shared, then 2, 2, 3 and 2 evaluations
    assert sizes == [1, 3, 3, 1, 1, 1, 1, 1, 3, 3]
    for a, b in zip(alone, batched, strict=True):
        assert (a.index, a.settings) == (b.index, b.settings)
        torch.testing.assert_close(b.image, a.image, atol=5e-6, rtol=0)


def test_on_the_cpu_candidates_go_alone(pipe: TinyRestorationPipeline) -> None:
    assert BuiltinRestorer(pipe).group_limit(8) == 1


def test_batched_groups_agree_with_single_candidates(pipe: TinyRestorationPipeline) -> None:
    degraded, first = image(), pipe.first_prediction(image())
    strengths, heats = torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.3])
    both = run(
        pipe,
        degraded.expand(2, -1, -1, -1),
        3,
        strength=strengths,
        temperature=heats,
        generator=generators(1, 2),
        first_prediction=first,
    )
    for i in range(2):
        alone = run(
            pipe,
            degraded,
            3,
            strength=float(strengths[i]),
            temperature=float(heats[i]),
            generator=generators(1 + i),
        )
        torch.testing.assert_close(both[i : i + 1], alone, atol=2e-6, rtol=0)


def test_groups_keep_order_and_never_mix_steps_or_churn() -> None:
    plan = tuple(
        Settings(s, 1.0, 1.0, c) for s, c in ((2, False), (2, False), (2, True), (3, True))
    )
    chains = [Chain(i, plan[i % 4], candidate_generator(0, i)) for i in range(7)]
    groups = [[chain.index for chain in group] for group in grouped(chains, 4)]
    assert groups == [[0, 1], [2], [3], [4, 5], [6]]


def test_plan_cycles_and_seeds_change_noisy_candidates(pipe: TinyRestorationPipeline) -> None:
    restorer = BuiltinRestorer(
        pipe, plan=(Settings(3, 1.0, 1.0, False), Settings(1, 1.0, 0.0, False))
    )
    one = list(restorer.restore(image(), n=4, seed=0))
    two = list(restorer.restore(image(), n=4, seed=1))
    assert [c.settings for c in one] == list(restorer.plan) * 2
    assert [c.index for c in one] == [0, 1, 2, 3] and {c.seed for c in two} == {1}
    assert not torch.equal(one[0].image, one[2].image)  # same settings, other noise
    assert not torch.equal(one[0].image, two[0].image)
    assert torch.equal(one[1].image, two[1].image)  # one step: no noise enters


def test_candidates_of_the_plan_differ(pipe: TinyRestorationPipeline) -> None:
    made = list(BuiltinRestorer(pipe).restore(image(), n=len(DEFAULT_PLAN)))
    for i, a in enumerate(made):
        assert a.image.shape == (3, 24, 32) and a.image.dtype == torch.float32
        assert float(a.image.min()) >= 0.0 and float(a.image.max()) <= 1.0 and a.seconds > 0
        assert all(not torch.equal(a.image, b.image) for b in made[:i])


def test_candidate_generator_streams() -> None:
    def first(seed: int, index: int) -> float:
        return float(torch.rand((), generator=candidate_generator(seed, index)))

    assert first(3, 5) == first(3, 5)
    draws = {first(seed, index) for seed in range(6) for index in range(6)}
    assert len(draws) == 36  # (0, 1) and (1, 0) do not collide
    with pytest.raises(ValueError, match="must not be negative"):
        candidate_generator(-1, 0)


# --- pipeline --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 15), (17, 8), (33, 41)])
def test_any_size_keeps_the_grid(pipe: TinyRestorationPipeline, size: tuple[int, int]) -> None:
    assert run(pipe, image(*size), 2).shape == (1, 3, *size)


def test_strength_is_linear_and_zero_is_the_input(pipe: TinyRestorationPipeline) -> None:
    degraded = 0.4 + 0.2 * image()
    at = {s: run(pipe, degraded, 1, strength=s) for s in (0.0, 0.1, 0.2)}
    torch.testing.assert_close(at[0.0], degraded, atol=1e-6, rtol=0)
    torch.testing.assert_close(at[0.2] - degraded, 2 * (at[0.1] - degraded), atol=1e-6, rtol=0)


def test_temperature_zero_ignores_the_seed(pipe: TinyRestorationPipeline) -> None:
    a = run(pipe, image(), 3, temperature=0.0, generator=generators(0))
    b = run(pipe, image(), 3, temperature=0.0, generator=generators(1))
    assert torch.equal(a, b)


def test_churn_renews_the_noise(pipe: TinyRestorationPipeline) -> None:
    calm = run(pipe, image(), 3, generator=generators(0))
    churned = run(pipe, image(), 3, generator=generators(0), stochastic=True)
    again = run(pipe, image(), 3, generator=generators(0), stochastic=True)
    assert not torch.equal(calm, churned) and torch.equal(churned, again)


def test_churn_draws_no_noise_for_the_last_step(pipe: TinyRestorationPipeline) -> None:
    calm = run(pipe, image(), 2, generator=generators(0))
    assert torch.equal(calm, run(pipe, image(), 2, generator=generators(0), stochastic=True))


def test_shared_first_prediction_changes_nothing(pipe: TinyRestorationPipeline) -> None:
    first = pipe.first_prediction(image())
    a = run(pipe, image(), 3, generator=generators(0))
    b = run(pipe, image(), 3, generator=generators(0), first_prediction=first)
    assert torch.equal(a, b)


def test_callback_sees_and_replaces_latents(pipe: TinyRestorationPipeline) -> None:
    seen: list[tuple[int, float, list[str]]] = []

    def watch(_: object, i: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((i, float(t), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    out = run(
        pipe,
        image(),
        2,
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=["latents", "predicted_residual"],
    )
    names = ["latents", "predicted_residual"]
    assert seen == [(0, 1000.0, names), (1, 500.0, names)]
    torch.testing.assert_close(out, image(), atol=1e-6, rtol=0)  # zero residual: the input


def test_gradient_flows_through_the_undecorated_call(pipe: TinyRestorationPipeline) -> None:
    call = type(pipe).__call__.__wrapped__  # type: ignore[attr-defined]
    out = call(pipe, image(), 2, generator=generators(0), output_type="pt").images
    out.square().sum().backward()
    gradients = [p.grad for p in pipe.unet.parameters()]
    pipe.unet.zero_grad()
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert run(pipe, image(), 1).requires_grad is False


def test_tuple_and_pil_outputs(pipe: TinyRestorationPipeline) -> None:
    (pictures,) = pipe(image(count=2), 1, return_dict=False)
    assert [p.size for p in pictures] == [(32, 24), (32, 24)]


def test_global_random_state_is_untouched(pipe: TinyRestorationPipeline) -> None:
    before = torch.get_rng_state()
    list(BuiltinRestorer(pipe).restore(image(), n=3))
    assert torch.equal(before, torch.get_rng_state())


def test_save_load_identity(pipe: TinyRestorationPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    loaded = load_restorer(tmp_path)
    assert isinstance(loaded, BuiltinRestorer) and isinstance(loaded, Restorer)
    assert loaded.pipe.flow == pipe.flow and loaded.name == str(tmp_path)
    ours = run(pipe, image(), 2, generator=generators(0))
    assert torch.equal(ours, run(loaded.pipe, image(), 2, generator=generators(0)))


def test_a_saved_configuration_names_the_folder_again(
    pipe: TinyRestorationPipeline, stubs, tmp_path: Path
) -> None:
    hashes = set()
    for parent in ("a", "b"):  # two restorers of the same basename
        folder = tmp_path / parent / "restorer"
        pipe.save_pretrained(folder)
        search = BestOfN(load_restorer(folder), stubs.Scorer(), n=1)
        report = write_report(search(image()), tmp_path / parent / "report")
        hashes.add(json.loads((report / "report.json").read_text("utf-8"))["config_sha256"])
        named = resolve_config(RunConfig, report / "config.yaml", {}).restorer
        assert named == str(folder) and load_restorer(named).name == named
    assert len(hashes) == 2


def test_limits_keep_the_padding_below_the_side(pipe: TinyRestorationPipeline) -> None:
    restorer = BuiltinRestorer(pipe)
    assert restorer.limits.max_pixels == 4_000_000
    for side in range(restorer.limits.min_side, 18):  # reflection needs padding < side
        (made,) = restorer.restore(image(side, restorer.limits.min_side), n=1)
        assert made.image.shape[1:] == (side, restorer.limits.min_side)
    other = BuiltinRestorer(pipe, limits=ImageLimits(max_pixels=100))
    assert other.limits.max_pixels == 100


# --- rejections ------------------------------------------------------------------------------


def test_rejections_teach_the_fix(pipe: TinyRestorationPipeline, tmp_path: Path) -> None:
    restorer = BuiltinRestorer(pipe)
    with pytest.raises(WeightsError, match="expected a diffusers pipeline folder"):
        load_restorer(tmp_path)
    with pytest.raises(TypeError, match="Cannot restore with int"):
        load_restorer(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 8 px"):
        restorer.restore(image(7, 20), n=1)
    with pytest.raises(ValueError, match="Expected one image"):
        restorer.restore(image(count=2), n=1)
    with pytest.raises(ValueError, match="n and batch_size"):
        restorer.restore(image(), n=0)
    with pytest.raises(TypeError, match="to_batch"):
        pipe("photo.png")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_inference_steps"):
        pipe(image(), 0)
    with pytest.raises(ValueError, match='must be "pt" or "pil"'):
        pipe(image(), 1, output_type="np")
    with pytest.raises(ValueError, match="noise_pred"):
        pipe(image(), 1, callback_on_step_end_tensor_inputs=["noise_pred"])
    with pytest.raises(ValueError, match="strength must be one number or 1"):
        pipe(image(), 1, strength=torch.ones(3))
    with pytest.raises(ValueError, match="plan needs"):
        BuiltinRestorer(pipe, plan=())
    good = Settings(steps=1, strength=1.0, temperature=1.0, churn=False)
    for name, value in (("steps", 0), ("strength", 3.0), ("temperature", -1.0)):
        with pytest.raises(ValueError, match=name):
            replace(good, **{name: value})


# --- shipped weights -------------------------------------------------------------------------


def test_shipped_weights_are_small_and_safe(shipped: BuiltinRestorer) -> None:
    from importlib.resources import files

    folder = Path(str(files("restoration_guide") / "weights" / "builtin"))
    sizes = {p.name: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert sum(sizes.values()) <= WEIGHTS_LIMIT
    assert not [name for name in sizes if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    assert isinstance(shipped.pipe, DiffusionPipeline)
    assert "README.md" in sizes


def test_shipped_weights_denoise(shipped: BuiltinRestorer) -> None:
    y, x = torch.linspace(0, 1, 64)[:, None], torch.linspace(0, 1, 64)[None, :]
    clean = (0.5 + 0.3 * torch.sin(8 * x + 3 * y)).expand(1, 3, 64, 64)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    degraded = (clean + 15 / 255 * noise).clamp(0, 1)

    def error(candidate: Tensor) -> float:
        return float((candidate - clean).square().mean())

    made = list(shipped.restore(degraded, n=len(shipped.plan), seed=0))
    assert all(error(c.image) < error(degraded[0]) for c in made)
    assert error(made[0].image) < 0.3 * error(degraded[0])


def test_a_plan_keeps_its_equal_entries(pipe: TinyRestorationPipeline) -> None:
    plan = (Settings(1, 1.0, 0.5, False), Settings(4, 1.0, 0.5, False)) * 2
    assert BuiltinRestorer(pipe, plan=plan).plan == plan
    assert len(BuiltinRestorer(pipe, plan=plan, options={"strength": 0.5}).plan) == 2
