"""Memory and time of differentiable sampling against the length of the chain.

    python -m benchmarks.measure_rollouts --seed 0

The bundled restorer with a LoRA of rank 8 on one random 64 x 64 image. *Kept* is what autograd
keeps for the backward pass, counted tensor by tensor; *time* is a whole roll-out with its backward
pass as a multiple of one training step of flow matching on the same image, taken in turn.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks import tables
from benchmarks.timing import interleaved_seconds, ratios, threads
from restoration_guide.finetune.lora import INNER_LAYERS, TunedNetwork
from restoration_guide.finetune.rollout import BuiltinChain, RolloutConfig, roll_out
from restoration_guide.restorers.builtin import residual_flow as rf
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from restoration_guide.restorers.builtin.restorer import load_builtin_pipeline
from zoomiqa_core.training.policy import LoraSettings

LENGTHS = (4, 10, 25, 50)


def settings(steps: int) -> dict[str, RolloutConfig]:
    """The methods' ways to cut the gradient."""
    return {
        "DRaFT-1": RolloutConfig(steps),
        "DRaFT-2": RolloutConfig(steps, last=2),
        "DRaFT-2, checkpointed": RolloutConfig(steps, last=2, checkpointing=True),
        "whole chain": RolloutConfig(steps, last=0),
        "whole chain, checkpointed": RolloutConfig(steps, last=0, checkpointing=True),
    }


def sample(pipe: TinyRestorationPipeline, image: Tensor, config: RolloutConfig) -> Tensor:
    """A roll-out with fixed noise."""
    chain = BuiltinChain(pipe, image, config.steps, config.temperature)
    return roll_out(chain, config, torch.Generator().manual_seed(0)).images


def kept_bytes(pipe: TinyRestorationPipeline, image: Tensor, config: RolloutConfig) -> int:
    """Bytes of the different tensors a roll-out keeps for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in pipe.unet.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        images = sample(pipe, image, config)
    return sum(kept.values()) if images.requires_grad else 0


def train_once(pipe: TinyRestorationPipeline, image: Tensor) -> None:
    """A training step of flow matching, without the optimiser."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(image.shape, generator=generator)
    t = torch.full((1,), 0.5)
    losses = rf.flow_loss(
        lambda x, timestep: pipe.unet(x, timestep).sample, image, 0.9 * image, t, noise, pipe.flow
    )
    losses.sum().backward()


def learn_once(pipe: TinyRestorationPipeline, image: Tensor, config: RolloutConfig) -> None:
    """A roll-out and its backward pass."""
    sample(pipe, image, config).sum().backward()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = tables.arguments(__doc__, out="runs/measure_rollouts.json", side=64, rounds=3)
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    given = parser.parse_args(arguments)
    pipe = load_builtin_pipeline()
    TunedNetwork(pipe.unet, LoraSettings(8, 16, INNER_LAYERS), seed=given.seed)
    generator = torch.Generator().manual_seed(given.seed)
    image = torch.rand(1, 3, given.side, given.side, generator=generator)
    rows: list[list[object]] = []
    with threads(1):
        for steps in given.lengths:
            configs = settings(steps)
            runs = {name: partial(learn_once, pipe, image, c) for name, c in configs.items()}
            runs["training"] = partial(train_once, pipe, image)
            seconds = interleaved_seconds(runs, rounds=given.rounds)
            times = ratios(seconds, seconds["training"])
            kept = {name: kept_bytes(pipe, image, c) / 2**20 for name, c in configs.items()}
            rows += [[name, steps, kept[name], times[name]] for name in configs]
    tables.finish(given, tables.table(["method", "steps", "kept, MiB", "time"], rows, digits=1))


if __name__ == "__main__":
    main()
