"""Differentiable sampling: the same images as the pipeline, true gradients, flat memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from restoration_guide.finetune.rollout import BuiltinChain, RolloutConfig, roll_out


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(pipe, degraded, config: RolloutConfig, seed: int = 0):
    chain = BuiltinChain(pipe, degraded, config.steps, config.temperature)
    return roll_out(chain, config, generator(seed))


def gradient(tuned, value) -> torch.Tensor:
    grads = torch.autograd.grad(value, tuned.parameters, allow_unused=True)
    pairs = zip(grads, tuned.parameters, strict=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs]
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_images_are_those_of_the_pipeline(own_pipe, tuned, degraded, steps):
    images = sample(own_pipe, degraded[..., :13, :22], RolloutConfig(steps=steps)).images
    (expected,) = own_pipe(
        degraded[..., :13, :22],
        steps,
        temperature=0.5,
        generator=generator(),
        output_type="pt",
        return_dict=False,
    )
    torch.testing.assert_close(images.detach(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        RolloutConfig(steps=2, last=0),
        RolloutConfig(steps=2, last=0, checkpointing=True),
        RolloutConfig(steps=2, early_stop=2, last=0),
    ],
    ids=["whole chain", "checkpointed", "stopped early"],
)
def test_gradient_equals_finite_differences(own_pipe, tuned, degraded, config):
    own_pipe.unet.double()
    weight = torch.rand(2, 3, 16, 24, generator=generator(5), dtype=torch.float64)

    def value() -> torch.Tensor:
        return (sample(own_pipe, degraded.double(), config).images * weight).mean()

    found = gradient(tuned, value())
    assert bool(found.isfinite().all())
    for seed in range(3):
        direction = torch.randn(len(found), generator=generator(seed), dtype=torch.float64)
        parts = direction.split([p.numel() for p in tuned.parameters])
        ends = []
        for shift in (1e-5, -2e-5):  # to +h, then to -h
            with torch.no_grad():
                for parameter, part in zip(tuned.parameters, parts, strict=True):
                    parameter.add_(shift * part.view_as(parameter))
            ends.append(value().detach())
        with torch.no_grad():
            for parameter, part in zip(tuned.parameters, parts, strict=True):
                parameter.add_(1e-5 * part.view_as(parameter))
        difference = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close(found @ direction, difference, rtol=1e-5, atol=1e-9)


def test_truncation_is_the_gradient_of_the_last_evaluation_alone(own_pipe, tuned, degraded):
    config = RolloutConfig(steps=3, last=1)
    rollout = sample(own_pipe, degraded, config)
    chain = BuiltinChain(own_pipe, degraded, 3, 0.5)
    again = chain.decode(chain.predict(rollout.latents, rollout.index))
    assert rollout.index == 2
    expected = gradient(tuned, again.mean())
    torch.testing.assert_close(gradient(tuned, rollout.images.mean()), expected)
    whole = gradient(tuned, sample(own_pipe, degraded, replace(config, last=0)).images.mean())
    assert float((whole - expected).norm() / whole.norm()) > 1e-3


def test_every_adapter_gets_a_gradient(own_pipe, tuned, degraded):
    found = gradient(tuned, sample(own_pipe, degraded, RolloutConfig(steps=2)).images.mean())
    assert bool(found.isfinite().all())
    for part in found.split([p.numel() for p in tuned.parameters]):
        assert float(part.abs().max()) > 0


def test_renoised_ends_are_several_and_average_to_one_gradient(own_pipe, tuned, degraded):
    rollout = sample(own_pipe, degraded, RolloutConfig(steps=2, renoised=2))
    assert rollout.images.shape == (4, 3, 16, 24) and rollout.latents.shape[0] == 4
    assert not torch.equal(rollout.images[:2], rollout.images[2:])
    assert float(gradient(tuned, rollout.images.mean()).norm()) > 0


def test_random_choices_follow_the_generator(own_pipe, tuned, degraded):
    config = RolloutConfig(steps=4, early_stop=4)
    stops = [sample(own_pipe, degraded, config, seed).index for seed in range(12)]
    assert set(stops) == {0, 1, 2, 3}
    assert stops[:3] == [sample(own_pipe, degraded, config, seed).index for seed in range(3)]


def saved_bytes(own_pipe, degraded, config: RolloutConfig) -> int:
    """Bytes of different tensors that the graph of a roll-out keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = sample(own_pipe, degraded, config)
    assert held.images.requires_grad
    return sum(kept.values())


def test_memory_does_not_grow_with_the_length_of_the_chain(own_pipe, tuned, degraded):
    short, long = (RolloutConfig(steps=steps, last=2) for steps in (4, 12))
    own = saved_bytes(own_pipe, degraded, short)
    assert saved_bytes(own_pipe, degraded, long) == pytest.approx(own, rel=0.01)
    assert saved_bytes(own_pipe, degraded, replace(long, last=0)) > 3 * own
    # outside of the evaluations themselves almost nothing is kept
    assert saved_bytes(own_pipe, degraded, replace(long, checkpointing=True)) < 0.2 * own


def test_sampling_without_gradients_is_refused(own_pipe, tuned, degraded):
    with torch.no_grad(), pytest.raises(RuntimeError, match="gradients are switched off"):
        sample(own_pipe, degraded, RolloutConfig())
    own_pipe.unet.requires_grad_(False)
    with pytest.raises(RuntimeError, match="no parameter of the network requires a gradient"):
        sample(own_pipe, degraded, RolloutConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 2, "last": 3}, "evaluations with gradient"),
        ({"early_stop": 9}, "early_stop counts steps"),
        ({"renoised": 2, "last": 2}, "needs last=1"),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RolloutConfig(**settings)
