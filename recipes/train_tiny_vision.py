"""Make a small Zoom-IQA from random weights, and teach its vision tower what the proxy sees.

    python -m recipes.train_tiny_vision --config recipes/configs/train_tiny_vision/default.yaml \
        data=GR_IQA out=runs/tiny_vision

``data`` is a folder of GR-IQA records; their words train the tokenizer, their pictures and labels
the vision tower (`zoomiqa_core.training.vision_warm_up`). The run resumes from its folder; the
result is ``out/model``, which judges nothing yet: ``recipes.train_sft`` teaches it to talk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipes.compose import compose
from zoomiqa_core.data.gr_iqa import IMAGES, read_records
from zoomiqa_core.data.rationale import GRIQARecord, reply_text
from zoomiqa_core.files import atomic_path
from zoomiqa_core.images import read_image
from zoomiqa_core.metrics import srcc
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.training.run import RunFolder
from zoomiqa_core.training.tiny_vlm import TinySize, build_tiny_vlm
from zoomiqa_core.training.vision_warm_up import (
    CropBatch,
    WarmUp,
    teacher_grid,
    view,
    whiten_patches,
)

TOKEN = 28
"""Side of a visual token, pixels."""


@dataclass(frozen=True)
class Config:
    """Settings of one training."""

    data: str = MISSING
    """Folder of GR-IQA records."""
    out: str = "runs/tiny_vision"
    """Run folder."""
    size: TinySize = field(default_factory=TinySize)
    """Of the model."""
    steps: int = 2000
    """Optimiser steps."""
    pictures: int = 8
    """Pictures a step, of which views are cut."""
    views: int = 4
    """Views of a picture."""
    part: int = 112
    """Side of a view of a part of the picture, pixels."""
    whole: int = 336
    """Side of a view of the whole picture, pixels."""
    whole_share: float = 0.25
    """Share of steps that show whole pictures, and learn their labels too; as many views as cost
    the same."""
    scale: tuple[float, float] = (0.6, 1.3)
    """Range of the enlargement of parts; whole pictures are shown reduced, zooms enlarged."""
    learning_rate: float = 7e-4
    """Peak rate of AdamW; 5 % of the steps warm up, the rest falls as a cosine."""
    held_out: int = 200
    """Last records, kept from training and rated at every checkpoint."""
    bf16: bool = False
    """bf16 autocast."""
    seed: int = 0
    save_every: int = 200
    """Steps between checkpoints."""


class Pictures:
    """Pictures of records and, of each, what the teacher sees, stored once.

    Args:
        data: folder of records.
        cache: folder of the teacher's grids.
    """

    def __init__(self, data: str, cache: Path) -> None:
        self.data, self.cache = Path(data), cache
        self.proxy = QualityProxy.from_pretrained()

    def image(self, record: GRIQARecord) -> Tensor:
        """(3, H, W) in [0, 1]."""
        return read_image(self.data / IMAGES / record.image).pixels

    def grid(self, record: GRIQARecord) -> Tensor:
        """The teacher's grid, made when it is missing."""
        name = hashlib.sha256(record.image.encode()).hexdigest()[:24]
        path = self.cache / f"{name}.safetensors"
        if not path.is_file():
            with atomic_path(path) as partial:
                grid = teacher_grid(self.proxy, self.image(record))
                save_file({"grid": grid.contiguous()}, partial)
        return load_file(path)["grid"]


def draw(
    pictures: Pictures, records: Sequence[GRIQARecord], config: Config, generator: torch.Generator
) -> CropBatch:
    """One batch of views: all of whole pictures, or all of parts."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    def uniform() -> float:
        return float(torch.rand((), generator=generator))

    whole = uniform() < config.whole_share
    count, repeat = config.pictures, config.views
    if whole:
        count, repeat = max(1, round(count * repeat * (config.part / config.whole) ** 2)), 1
    side = config.whole if whole else config.part
    views, targets, ratings = [], [], []
    for _ in range(count):
        record = records[below(len(records))]
        image, grid = pictures.image(record), pictures.grid(record)
        shortest = min(image.shape[-2:])
        for _ in range(repeat):
            low, high = (math.log(bound) for bound in config.scale)
            length = min(shortest, side / math.exp(low + (high - low) * uniform()))
            length = float(shortest) if whole else length
            spare_y, spare_x = (extent - length for extent in image.shape[-2:])
            box = (uniform() * spare_x, uniform() * spare_y, length)
            seen, target = view(image, grid, box, side, TOKEN)
            if below(2):
                seen, target = seen.flip(-1), target.flip(-1)
            views.append(seen)
            targets.append(target)
            ratings.append(record.mos if whole else math.nan)
    return CropBatch(torch.stack(views), torch.stack(targets), torch.tensor(ratings))


@torch.no_grad()
def held_out_srcc(
    model: WarmUp, pictures: Pictures, records: Sequence[GRIQARecord], side: int
) -> dict[str, float]:
    """SRCC of the pooled rating with the labels: of rated photos and of damaged ones."""
    found = {}
    for source in ("rated", "damaged"):
        chosen = [record for record in records if record.image.startswith(f"{source}/")]
        ratings = []
        for record in chosen:
            image, grid = pictures.image(record), pictures.grid(record)
            whole = (0.0, 0.0, float(min(image.shape[-2:])))
            seen, _ = view(image, grid, whole, side, TOKEN)
            ratings.append(float(model.rating(model(seen[None]))[0]))
        if len(chosen) > 2:
            found[f"srcc/{source}"] = float(srcc(ratings, [record.mos for record in chosen]))
    return found


def statistics(pictures: Pictures, records: Sequence[GRIQARecord]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the teacher's channels over some pictures."""
    step = -(-len(records) // 500)
    cells = torch.cat([pictures.grid(record).flatten(1).float() for record in records[::step]], 1)
    return cells.mean(1), cells.std(1).clamp_min(1e-3)


def parts(
    pictures: Pictures, records: Sequence[GRIQARecord], config: Config, count: int = 200
) -> Tensor:
    """Views of parts of ``count`` pictures, four each."""
    few = dataclasses.replace(config, whole_share=0.0, pictures=min(count, len(records)), views=4)
    return draw(pictures, records, few, torch.Generator().manual_seed(config.seed)).views


def rate(step: int, config: Config) -> float:
    """Learning rate as a share of its peak."""
    warm = max(1, config.steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))


def main(arguments: list[str] | None = None) -> None:
    """Build, train, save."""
    config, resolved = compose(Config, arguments)
    run = RunFolder(config.out, resolved)
    records = read_records(config.data)
    corpus = [reply_text(r, i + 1) for record in records for i, r in enumerate(record.rounds)]
    vlm, processor = build_tiny_vlm(config.size, corpus=corpus, seed=config.seed)
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(config.seed))
    shuffled = [records[i] for i in order.tolist()]
    training, held_out = shuffled[config.held_out :], shuffled[: config.held_out]

    pictures = Pictures(config.data, run.path / "teacher")
    quiet = not sys.stderr.isatty()
    for record in track(records, "the teacher looks", disable=quiet):
        pictures.grid(record)
    vision: Any = vlm.model.visual
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)  # of the head
        model = WarmUp(vision, processor.image_processor, *statistics(pictures, training))
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=0.02)
    generator = torch.Generator().manual_seed(config.seed)
    done = 0
    whiten_patches(vision, model.patches(parts(pictures, training, config))["pixel_values"])
    if (saved := run.load()) is not None:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        generator.set_state(saved["generator"])
        done = saved["step"]

    for step in track(range(done, config.steps), "training", disable=quiet):
        batch = draw(pictures, training, config, generator)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate(step, config)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            loss, terms = model.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if (step + 1) % 20 == 0:
            run.log({"step": step + 1, "loss": loss.item(), **terms})
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            found = held_out_srcc(model, pictures, held_out, config.whole)
            run.log({"step": step + 1, **found})
            run.save(
                {
                    "model": model.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "generator": generator.get_state(),
                    "step": step + 1,
                }
            )
            print(json.dumps({"step": step + 1, **found}), flush=True)
    vlm.save_pretrained(run.path / "model")
    processor.save_pretrained(run.path / "model")
    print(f"model: {run.path / 'model'}")


if __name__ == "__main__":
    main()
