"""Make a small Zoom-IQA model with random weights, and distil the proxy into its vision tower.

    python -m recipes.train_tiny_vision --config recipes/configs/train_tiny_vision/default.yaml \
        data=GR_IQA out=runs/tiny_vision

``data`` is a folder of GR-IQA records; their text trains the tokenizer, their pictures and labels
the vision tower (`zoomiqa_core.training.vision_warm_up`). The run resumes from its folder; the
result is ``out/model``, not yet a judge: ``recipes.train_sft`` trains its language model.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from rich.progress import track
from torch import Tensor

from recipes.compose import compose
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord, reply_text
from zoomiqa_core.data.gr_iqa.records import IMAGES, read_records
from zoomiqa_core.evaluation.correlation import srcc
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.runs.folder import RunFolder, warn_of_slow_bf16
from zoomiqa_core.runs.learning_rate import warmup_cosine
from zoomiqa_core.training.picture_stacks import PictureStack, cut, random_cut, read_stacks
from zoomiqa_core.training.tiny_vlm import TinySize, build_tiny_vlm
from zoomiqa_core.training.vision_chunks import join_chunks
from zoomiqa_core.training.vision_warm_up import (
    CropBatch,
    WarmUp,
    whiten_patches,
)
from zoomiqa_core.zoom_iqa.local.model import LocalVLM

TOKEN = 28
"""Side of a visual token, pixels."""
MAX_FAILED = 20
"""Training stops after this many steps in a row without a finite gradient; each is skipped."""


@dataclass(frozen=True)
class Config:
    """Settings of one training."""

    data: str = MISSING
    """Folder of GR-IQA records."""
    out: str = "runs/tiny_vision"
    """Run folder."""
    start: str = ""
    """Folder of a model whose vision tower is trained further; empty makes one of ``size``."""
    size: TinySize = field(default_factory=TinySize)
    """Size of a new model."""
    steps: int = 2000
    """Optimiser steps."""
    seconds: float | None = None
    """Time limit, at which the learning rate reaches 0; None: no limit."""
    views: int = 32
    """Views of parts a step."""
    cuts: int = 4
    """Groups of a step's views; views of a group are cut together, from pictures of one size and
    with one enlargement."""
    part: int = 112
    """Side of a view of a part of the picture, pixels."""
    whole: int = 308
    """Side of a view of the whole picture, pixels. Made pictures of this side are seen pixel by
    pixel; a view resized from 320 to 336 pixels hides noise and compression."""
    whole_share: float = 0.25
    """Share of steps that show whole pictures and train on their labels as well, with as many views
    as take the same time."""
    scale: tuple[float, float] = (0.6, 1.3)
    """Range of the enlargement of parts: a judge sees whole pictures reduced and crops enlarged."""
    learning_rate: float = 7e-4
    """Peak rate of AdamW; it rises over 5 % of the steps and falls as a cosine over the rest."""
    held_out: int = 200
    """Last records, kept from training and rated at every checkpoint."""
    bf16: bool = False
    """bf16 autocast."""
    device: str = "cpu"
    """Device of the training; all pictures are kept in its memory."""
    seed: int = 0
    save_every: int = 200
    """Steps between checkpoints."""


def draw(
    stacks: Sequence[PictureStack],
    allowed: Sequence[Tensor],
    labels: Tensor,
    config: Config,
    generator: torch.Generator,
) -> CropBatch:
    """One batch of views, all of whole pictures or all of parts.

    Args:
        stacks: all pictures.
        allowed: for each stack, the pictures that may be drawn.
        labels: (N,) of all pictures.
        config: of the training.
        generator: of the draws.
    """
    whole = float(torch.rand((), generator=generator)) < config.whole_share
    side = config.whole if whole else config.part
    views = config.views
    if whole:
        views = max(1, round(views * (config.part / config.whole) ** 2))
    sizes = torch.tensor([float(len(some)) for some in allowed])
    drawn = torch.multinomial(sizes, min(config.cuts, views), True, generator=generator).tolist()
    shares = [len(range(n, views, len(drawn))) for n in range(len(drawn))]
    cuts = [
        random_cut(
            stacks[n],
            allowed[n],
            share,
            side=side,
            token=TOKEN,
            scale=None if whole else config.scale,
            generator=generator,
        )
        for n, share in zip(drawn, shares, strict=True)
    ]
    places = [place for _, _, some in cuts for place in some]
    ratings = labels[places] if whole else torch.full((len(places),), math.nan)
    seen, targets = torch.cat([cut[0] for cut in cuts]), torch.cat([cut[1] for cut in cuts])
    return CropBatch(seen, targets, ratings.to(seen.device))


@torch.no_grad()
def held_out_srcc(
    model: WarmUp,
    stacks: Sequence[PictureStack],
    chosen: Sequence[Tensor],
    records: Sequence[GRIQARecord],
    side: int,
) -> dict[str, float]:
    """SRCC of the pooled rating with the labels, for rated and for damaged photos."""
    ratings: dict[str, list[float]] = {"rated": [], "damaged": []}
    labels: dict[str, list[float]] = {"rated": [], "damaged": []}
    for stack, members in zip(stacks, chosen, strict=True):
        height, width = stack.images.shape[-2:]
        length = min(height, width)
        for some in members.split(16) if len(members) else ():
            left = torch.full_like(some, (width - length) // 2)
            top = torch.full_like(some, (height - length) // 2)
            views, _ = cut(stack, some, left, top, length, side, TOKEN)
            for n, rating in zip(some.tolist(), model.rating(model(views)).tolist(), strict=True):
                record = records[stack.places[n]]
                source = record.image.partition("/")[0]
                if source in ratings:
                    ratings[source].append(rating)
                    labels[source].append(record.mos)
    return {
        f"srcc/{source}": float(srcc(found, labels[source]))
        for source, found in ratings.items()
        if len(found) > 2
    }


def select(stack: PictureStack, places: set[int], inside: bool) -> Tensor:
    """Pictures of a stack whose index in the list is, or is not, in ``places``."""
    chosen = [n for n, place in enumerate(stack.places) if (place in places) == inside]
    return torch.tensor(chosen, dtype=torch.long)


def statistics(stacks: Sequence[PictureStack], allowed: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the teacher's channels over some pictures."""
    step = -(-sum(map(len, allowed)) // 500)
    some = [s.grids[m[::step]].float() for s, m in zip(stacks, allowed, strict=True) if len(m)]
    cells = torch.cat([grids.transpose(0, 1).flatten(1) for grids in some], 1)
    return cells.mean(1), cells.std(1).clamp_min(1e-3)


def main(
    arguments: list[str] | None = None, *, clock: Callable[[], float] = time.monotonic
) -> None:
    """Build, train, save; ``clock`` gives the seconds of the time limit."""
    config, resolved = compose(Config, arguments)
    run = RunFolder(config.out, resolved)
    warn_of_slow_bf16(config.bf16, config.device)
    records = read_records(config.data)
    if config.start:
        loaded = LocalVLM.from_pretrained(config.start, dtype="float32")
        vlm, processor = loaded.model, loaded.processor
    else:
        corpus = [reply_text(r, i + 1) for record in records for i, r in enumerate(record.rounds)]
        vlm, processor = build_tiny_vlm(config.size, corpus=corpus, seed=config.seed)
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(config.seed))
    held = set(order[: config.held_out].tolist())
    device = torch.device(config.device)
    paths = [Path(config.data) / IMAGES / record.image for record in records]
    proxy = QualityProxy.from_pretrained().to(device).eval()
    stacks = read_stacks(paths, proxy, run.path / "teacher", device)
    shown, kept = ([select(stack, held, out) for stack in stacks] for out in (False, True))
    labels = torch.tensor([record.mos for record in records])
    quiet = not sys.stderr.isatty()
    vision: Any = vlm.model.visual
    join_chunks(vision)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)  # of the head
        model = WarmUp(vision, processor.image_processor, *statistics(stacks, shown)).to(device)
    vision.patch_embed.requires_grad_(False)  # whitened, see `whiten_patches`
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, config.learning_rate, weight_decay=0.02)
    generator = torch.Generator().manual_seed(config.seed)
    done = failed = 0
    if not config.start:
        few = dataclasses.replace(config, whole_share=0.0, views=800, cuts=16)
        sample = draw(stacks, shown, labels, few, torch.Generator().manual_seed(config.seed)).views
        whiten_patches(vision, model.patches(sample)["pixel_values"])
    if (saved := run.load()) is not None:
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        generator.set_state(saved["generator"])
        done = saved["step"]

    begun = clock()
    warmup = max(1, config.steps // 20)
    for step in track(range(done, config.steps), "training", disable=quiet):
        batch = draw(stacks, shown, labels, config, generator)
        share = 0.0
        if config.seconds is not None:
            share = min(1.0, (clock() - begun) / config.seconds)
        place = max(step, done + share * (config.steps - done))
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(
                place, warmup=warmup, progress=(place - warmup) / max(1, config.steps - warmup)
            )
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss, terms = model.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(trained, 1.0))
        if math.isfinite(norm):
            optimiser.step()
            failed = 0
        elif (failed := failed + 1) == MAX_FAILED:
            raise FloatingPointError(
                f"{failed} steps in a row had no finite gradient, up to step {step + 1}: the rate "
                f"{config.learning_rate:g} may be too high"
            )
        if failed or (step + 1) % 20 == 0:
            run.log({"step": step + 1, "loss": loss.item(), "gradient": norm, **terms})
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps or share >= 1:
            found = held_out_srcc(model, stacks, kept, records, config.whole)
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
        if share >= 1:
            break
    vlm.cpu().save_pretrained(run.path / "model")
    processor.save_pretrained(run.path / "model")
    print(f"model: {run.path / 'model'}")


if __name__ == "__main__":
    main()
