"""Training of the proxy, shared by the recipes that train and distil it.

A recipe draws what each step shows (:class:`StepDraws`) and adds up losses; :class:`ProxyTraining`
holds the weights, their moving average and the optimiser, and makes the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

from zoomiqa_core.proxy.batches import BatchPlan, Evidence, Photos, made_evidence, rated_evidence
from zoomiqa_core.proxy.invariances import Pairs, draw_pairs
from zoomiqa_core.proxy.losses import evidence_losses
from zoomiqa_core.proxy.model import ProxyOutput, QualityProxy, load_imagenet
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.runs.learning_rate import warmup_cosine
from zoomiqa_core.runs.random import numbered_generator

PAIR_SIDE = 160
"""Side of the images of a pair, pixels."""
WARMUP_STEPS = 100
"""Steps over which a learning rate rises to its peak."""


@dataclass(frozen=True)
class ProxyTrainingConfig:
    """Optimisation of a proxy: what learns, how fast, and how the losses are weighted."""

    steps: int = 2000
    """Optimisation steps."""
    head_steps: int = 150
    """First steps, which train the heads alone."""
    frozen_stages: int = 2
    """First backbone stages that are never trained: the most expensive and most generic ones."""
    frozen_depthwise: bool = True
    """Never train depthwise filters: they hold few of the weights, and on a CPU their gradients
    take the largest part of a step."""
    head_lr: float = 1e-3
    """Peak learning rate of the heads."""
    backbone_lr: float = 2e-4
    """Peak learning rate of the backbone."""
    weight_decay: float = 0.01
    ranking_weight: float = 1.0
    """Weight of the ranking loss of made images."""
    rated_ranking_weight: float = 2.0
    """Weight of the ranking loss within a subset of the rated photos. Subsets differ in mean, and a
    judge that learns only the means already correlates with people."""
    map_weight: float = 1.0
    """Weight of the loss of the quality map."""
    ema_decay: float = 0.995
    """Decay of the averaged weights, which are evaluated and saved."""
    bf16: bool = False
    """bf16 autocast of the network."""
    device: str = "cpu"
    seed: int = 0


class Draw(NamedTuple):
    """What one training step shows."""

    batches: dict[str, Evidence]
    """``rated`` and ``made``."""
    pairs: Pairs | None = None


class StepDraws(Dataset):
    """What each training step shows, by the number of the step.

    Every step has its own generator, so a resumed run sees the batches of an unbroken one, whatever
    the number of worker processes.

    Args:
        photos: where the images come from.
        plan: how many of each kind.
        pairs: pairs a step (:mod:`zoomiqa_core.proxy.invariances`).
        seed: of the run.
    """

    def __init__(self, photos: Photos, plan: BatchPlan, *, pairs: int = 0, seed: int) -> None:
        self.photos, self.plan, self.pairs, self.seed = photos, plan, pairs, seed

    def __getitem__(self, step: int) -> Draw:
        return self.draw(numbered_generator(self.seed, step))

    def draw(self, generator: torch.Generator) -> Draw:
        """The batches drawn by a generator."""
        batches = {
            "rated": rated_evidence(self.photos, self.plan, generator=generator),
            "made": made_evidence(self.photos, self.plan, generator=generator),
        }
        if not self.pairs:
            return Draw(batches)
        clean, sets = self.photos.pristine, self.photos.restored
        return Draw(batches, draw_pairs(clean, sets, self.pairs, PAIR_SIDE, generator=generator))


def load_start(proxy: QualityProxy, start: str | Path) -> None:
    """Load the weights a training starts from; parts they lack keep their initial values.

    Args:
        proxy: a new one.
        start: folder of a trained proxy, or file with ImageNet weights of the backbone.

    Raises:
        ValueError: the trained proxy has parts that ``proxy`` lacks.

    >>> from zoomiqa_core.proxy.model import QualityProxy
    >>> _ = QualityProxy().save_pretrained("trained")
    >>> load_start(QualityProxy(), "trained")
    """
    if not Path(start).is_dir():
        load_imagenet(proxy.backbone, start)
        return
    stored = load_file(Path(start) / SAFETENSORS_SINGLE_FILE)
    unknown = proxy.load_state_dict(stored, strict=False).unexpected_keys
    if unknown:
        raise ValueError(
            f"{start} is not a proxy of this version: it has {unknown[:3]}, which a proxy lacks"
        )


def parameter_groups(proxy: QualityProxy, config: ProxyTrainingConfig) -> list[dict]:
    """Backbone and heads, each with its peak learning rate and the step at which it begins.

    Frozen modules get no gradient from here on and keep their values.
    """
    frozen = [proxy.backbone.conv_stem, proxy.backbone.bn1]
    frozen += proxy.backbone.blocks[: config.frozen_stages]
    if config.frozen_depthwise:
        modules = proxy.backbone.modules()
        frozen += [m for m in modules if isinstance(m, nn.Conv2d) and m.groups > 1]
    for module in frozen:
        module.requires_grad_(False)
    backbone = [p for p in proxy.backbone.parameters() if p.requires_grad]
    heads = [p for name, p in proxy.named_parameters() if not name.startswith("backbone.")]
    return [
        {"params": backbone, "peak": config.backbone_lr, "begin": config.head_steps},
        {"params": heads, "peak": config.head_lr, "begin": 0},
    ]


def moving_average(averaged: Tensor, current: Tensor, count: Tensor | int, decay: float) -> Tensor:
    """Exponential moving average whose decay is at most (1 + count) / (10 + count).

    >>> moving_average(torch.tensor(1.0), torch.tensor(3.0), count=8, decay=0.9)
    tensor(2.)
    """
    count = int(count)
    return torch.lerp(current, averaged, min(decay, (1 + count) / (10 + count)))


class ProxyTraining:
    """Weights, moving average and optimiser of one training.

    Each step is ``begin_step``, backward passes of any losses of ``forward``, ``end_step``.

    Args:
        proxy: moved to the device and trained in place.
        config: of the training.
    """

    def __init__(self, proxy: QualityProxy, config: ProxyTrainingConfig) -> None:
        self.config = config
        self.proxy = proxy.to(config.device).to(memory_format=torch.channels_last).train()
        self._groups = parameter_groups(self.proxy, config)
        self._optimizer = torch.optim.AdamW(self._groups, lr=0.0, weight_decay=config.weight_decay)
        average = partial(moving_average, decay=config.ema_decay)
        self._averaged = AveragedModel(self.proxy, avg_fn=average)
        self._kind = torch.device(config.device).type  # "cuda" of "cuda:1"

    @property
    def averaged(self) -> QualityProxy:
        """The proxy with the averaged weights."""
        return cast(QualityProxy, self._averaged.module)

    def resume(self, run: RunFolder) -> int:
        """Load the folder's checkpoint, if any; returns the number of finished steps."""
        state = run.load()
        if state is None:
            return 0
        self.proxy.load_state_dict(state["proxy"])
        self._averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        return state["step"]

    def save(self, run: RunFolder, done: int) -> None:
        """Write a checkpoint after ``done`` steps."""
        run.save(
            {
                "proxy": self.proxy.state_dict(),
                "averaged": self._averaged.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "step": done,
            }
        )

    def begin_step(self, step: int) -> None:
        """Set the learning rates of a step and clear the gradients."""
        for group in self._optimizer.param_groups:
            share = warmup_cosine(
                step - group["begin"], warmup=WARMUP_STEPS, progress=step / self.config.steps
            )
            group["lr"] = group["peak"] * share
        for parameter in self._groups[0]["params"]:
            parameter.requires_grad_(step >= self.config.head_steps)
        self._optimizer.zero_grad()

    def forward(self, images: Tensor) -> ProxyOutput:
        """The proxy's output for (B, 3, H, W) images, under autocast if ``bf16``."""
        images = images.to(self.config.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._kind, torch.bfloat16, enabled=self.config.bf16):
            return self.proxy(images)

    def learn_evidence(self, batches: dict[str, Evidence]) -> dict[str, float]:
        """Backward pass of the ``rated`` and the ``made`` batch; returns their loss terms."""
        config, record = self.config, {}
        ranking = {"rated": config.rated_ranking_weight, "made": config.ranking_weight}
        for name, evidence in batches.items():
            evidence = Evidence(*(column.to(config.device) for column in evidence))
            terms = evidence_losses(
                self.forward(evidence.images),
                evidence,
                ranking_weight=ranking[name],
                map_weight=config.map_weight,
            )
            terms["total"].backward()
            record |= {f"{name}_{term}": round(v.item(), 5) for term, v in terms.items()}
        return record

    def end_step(self) -> None:
        """Clip the gradients, update the weights and their average."""
        torch.nn.utils.clip_grad_norm_(self.proxy.parameters(), 1.0, error_if_nonfinite=True)
        self._optimizer.step()
        self._averaged.update_parameters(self.proxy)
