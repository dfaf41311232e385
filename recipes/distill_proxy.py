"""Distil a slower, better judge into the proxy, jointly with people's ratings and made evidence.

    python -m recipes.distill_proxy --config recipes/configs/distill_proxy/default.yaml \
        teacher=JUDGE photos=PHOTOS biq2021=BIQ2021 restored=SETS start=WEIGHTS out=runs/distilled

``teacher`` is what ``load_scorer`` takes: a proxy's folder, a Zoom-IQA model, a server's address.
It judges crops of the photos, clean and distorted, which lie in ``out/taught``. Its labels are
written to ``out/labels.jsonl`` image by image, so an interrupted run goes on where it stopped
(:mod:`zoomiqa_core.proxy.distill`). Data and optimisation are those of :mod:`recipes.train_proxy`,
without its pairs and attacks. The run resumes from its folder; the result is ``out/weights``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

import torch
from omegaconf import MISSING
from rich.progress import track

from recipes.compose import compose
from recipes.train_proxy import ProxyRunConfig, read_data, start_proxy, train, validate
from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.evaluation.correlation import srcc
from zoomiqa_core.evaluation.run import weights_digest
from zoomiqa_core.images.sources import save_png, to_batch
from zoomiqa_core.proxy.batches import SEEN, Photos
from zoomiqa_core.proxy.distill import (
    Label,
    TaughtBatch,
    distillation_losses,
    label_images,
    taught_batch,
)
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.proxy.training import Draw, ProxyTraining, StepDraws
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.runs.folder import RunFolder, warn_of_slow_bf16
from zoomiqa_core.runs.random import numbered_generator
from zoomiqa_core.scorer import load_scorer

Labelled = tuple[Path, Label]


@dataclass(frozen=True)
class Teaching:
    """Images and weights of the teacher's labels."""

    images: int = 2000
    """Crops the teacher judges, of the photos in turn."""
    held_out: int = 10
    """One photo in this many is not taught; agreement with the teacher is measured on its crops."""
    side: int = 320
    """Of a crop, pixels, a multiple of 16."""
    clean: float = 0.2
    """Share of undamaged crops; the others carry a KADID type of the training set at a random
    level."""
    a_step: int = 8
    """Taught images a step."""
    regions: bool = True
    """Learn ratings of regions as well."""
    typical: float = 0.4
    """Error of a confident teacher, rating units; labels with a larger spread weigh less."""
    unknown_std: float = 0.4
    """Spread of a teacher that states none, rating units."""
    weight: float = 0.5
    """Weight of all that is taught; people's ratings weigh 1."""
    spread_weight: float = 0.1
    """Weight of the teacher's spread within that."""


@dataclass(frozen=True)
class Config(ProxyRunConfig):
    """Settings of one distillation."""

    teacher: str = MISSING
    """Name, folder or address of the teacher."""
    teacher_device: str = "cpu"
    """Device of the teacher."""
    out: str = "runs/distilled"
    """Run folder."""
    teaching: Teaching = field(default_factory=Teaching)
    """What the teacher is asked, and how much it weighs."""


class TaughtDraw(NamedTuple):
    """What one step shows: people's and made evidence, and images the teacher judged."""

    draw: Draw
    taught: TaughtBatch


class TaughtDraws(StepDraws):
    """:class:`StepDraws` with images the teacher judged."""

    def __init__(self, photos: Photos, labelled: list[Labelled], config: Config) -> None:
        super().__init__(photos, config.batch, seed=config.seed)
        self.labelled, self.teaching = labelled, config.teaching

    def __getitem__(self, step: int) -> TaughtDraw:  # type: ignore[override]
        generator = numbered_generator(self.seed, step)
        draw = self.draw(generator)
        order = torch.randperm(len(self.labelled), generator=generator)
        chosen = [self.labelled[i] for i in order[: self.teaching.a_step].tolist()]
        paths, labels = zip(*chosen, strict=True)
        return TaughtDraw(draw, taught_batch(paths, labels, self.teaching.unknown_std))


def make_images(pool: PhotoPool, teaching: Teaching, folder: Path, seed: int) -> list[Path]:
    """Write crops for the teacher, clean and distorted; finished files are kept."""
    paths = []
    for index in track(range(teaching.images), "images", disable=not sys.stderr.isatty()):
        path = folder / f"{index:05d}.png"
        paths.append(path)
        if path.is_file():
            continue
        generator = numbered_generator(seed, index)
        image = pool.crop(index % len(pool), teaching.side, generator=generator)[None]
        if float(torch.rand((), generator=generator)) >= teaching.clean:
            name = SEEN[int(torch.randint(len(SEEN), (), generator=generator))]
            level = int(torch.randint(1, 6, (), generator=generator))
            image = distort(image, name, level, generator=generator)
        save_png(image, path)
    return paths


@torch.no_grad()
def srcc_with_teacher(proxy: QualityProxy, held_out: list[Labelled], device: str) -> float:
    """SRCC of the student with its teacher on images held out."""
    ratings = [float(proxy(to_batch(path).to(device)).rating) for path, _ in held_out]
    return srcc(ratings, [cast(float, label.rating) for _, label in held_out])


def ask_teacher(
    config: Config, clean: PhotoPool, folder: Path
) -> tuple[list[Labelled], list[Labelled], dict[str, int]]:
    """Taught and held-out images with their labels, and the number of each failure.

    Raises:
        ValueError: too few labels are valid.
    """
    teaching = config.teaching
    paths = make_images(clean, teaching, folder / "taught", config.seed)
    teacher = load_scorer(config.teacher, device=config.teacher_device)
    labels = label_images(
        teacher,
        paths,
        folder / "labels.jsonl",
        weights=weights_digest(teacher) or "",
        regions=teaching.regions,
        progress=lambda images: track(images, "teacher", disable=not sys.stderr.isatty()),
    )
    taught: list[Labelled] = []
    held_out: list[Labelled] = []
    for index, (path, label) in enumerate(zip(paths, labels, strict=True)):
        if label.error is None:
            apart = index % len(clean) % teaching.held_out == 0
            (held_out if apart else taught).append((path, label))
    errors = [label.error for label in labels if label.error]
    failures = {name: errors.count(name) for name in sorted(set(errors))}
    valid = len(taught) + len(held_out)
    print(f"teacher: {valid} labels, {len(errors)} failures {failures or ''}")
    if len(taught) < teaching.a_step or len(held_out) < 2:
        raise ValueError(
            f"{valid} valid labels, {len(held_out)} held out: give at least {teaching.a_step} to "
            "teach and 2 to hold out (teaching.images, teaching.held_out)"
        )
    return taught, held_out, failures


def learn(training: ProxyTraining, shown: TaughtDraw, config: Config) -> dict[str, float]:
    """Backward passes of one step; returns the loss terms."""
    record = training.learn_evidence(shown.draw.batches)
    teaching = config.teaching
    taught = TaughtBatch(*(column.to(config.device) for column in shown.taught))
    terms = distillation_losses(training.forward(taught.images), taught, teaching.typical)
    scale = {"spread": teaching.spread_weight, "regions": config.map_weight}
    total = torch.stack([scale.get(name, 1.0) * term for name, term in terms.items()]).sum()
    (teaching.weight * total).backward()
    return record | {f"taught_{name}": round(v.item(), 5) for name, v in terms.items()}


def main(arguments: list[str] | None = None) -> None:
    """Ask the teacher, train, validate, save."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run = RunFolder(config.out, resolved)
    warn_of_slow_bf16(config.bf16, config.device)
    photos, validation = read_data(config)
    clean = PhotoPool(photos.pristine.paths, min_side=config.teaching.side)
    labelled, held_out, failures = ask_teacher(config, clean, run.path)

    training = ProxyTraining(start_proxy(config, photos), config)

    def agreement() -> dict[str, float]:
        student = training.averaged
        return {"srcc_with_teacher": srcc_with_teacher(student, held_out, config.device)}

    start = training.resume(run)
    if not start:
        run.log({"step": 0, **agreement()})
    train(
        run,
        training,
        config,
        TaughtDraws(photos, labelled, config),
        start=start,
        learn=lambda _, shown: learn(training, shown, config),
        check=lambda: validate(training.averaged, validation, config.device) | agreement(),
    )
    record = {"teacher": config.teacher, "labels": len(labelled) + len(held_out)}
    record |= {"failures": failures}
    write_text_atomic(run.path / "weights" / "teacher.json", to_json(record))


if __name__ == "__main__":
    main()
