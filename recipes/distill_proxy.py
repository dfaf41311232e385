"""Distil a slower, better judge into the proxy, jointly with people's ratings and made evidence.

    python -m recipes.distill_proxy --config recipes/configs/distill_proxy/default.yaml \
        teacher=JUDGE photos=PHOTOS biq2021=BIQ2021 restored=SETS start=WEIGHTS out=runs/distilled

``teacher`` is what ``load_scorer`` takes: a proxy's folder, a Zoom-IQA model, a server's address.
It judges crops of the photos, clean and distorted, which lie in ``out/taught``; its labels in
``out/labels.jsonl`` are kept image by image, so a teacher that was cut short goes on
(:mod:`zoomiqa_core.proxy.distill`). The rest is :mod:`recipes.train_proxy`'s; the run resumes from
its folder, the result is ``out/weights``.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import torch
from omegaconf import MISSING
from rich.progress import track
from torch.optim.swa_utils import AveragedModel

from recipes import train_proxy
from recipes.compose import compose
from recipes.train_proxy import (
    average,
    load_start,
    losses,
    parameter_groups,
    schedule,
    validate,
)
from zoomiqa_core.data.benchmarks.sets import read_biq2021
from zoomiqa_core.data.damage.kadid import distort
from zoomiqa_core.data.photos import PhotoPool
from zoomiqa_core.evaluation.correlation import srcc
from zoomiqa_core.evaluation.run import weights_digest
from zoomiqa_core.images.sources import find_images, save_png, to_batch
from zoomiqa_core.proxy.batches import SEEN, Evidence, Photos, made_evidence, rated_evidence
from zoomiqa_core.proxy.distill import (
    Label,
    distillation_losses,
    label_images,
    taught_batch,
)
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.runs.folder import RunFolder, warn_of_slow_bf16
from zoomiqa_core.scorer import load_scorer


@dataclass(frozen=True)
class Teaching:
    """What the teacher is asked, and what its labels weigh."""

    images: int = 2000
    """Crops the teacher judges, of the photos in turn."""
    held_out: int = 10
    """Every n-th photo is not taught: on its crops one sees whether the student follows."""
    side: int = 320
    """Of a crop, pixels, a multiple of 16."""
    clean: float = 0.2
    """Share of crops left as they are; the others carry a seen KADID type at a random level."""
    a_step: int = 8
    """Taught images a step."""
    regions: bool = True
    """Ask about regions as well."""
    typical: float = 0.4
    """How far the teacher errs when it is sure, rating units; spread beyond it costs weight."""
    unknown_std: float = 0.4
    """Spread of a teacher that states none, rating units."""
    weight: float = 0.5
    """Of all that is taught, beside people's 1."""
    spread_weight: float = 0.1
    """Of the teacher's distribution in that."""


@dataclass(frozen=True)
class Config(train_proxy.Config):
    """Settings of one distillation: those of ``train_proxy``, and the teacher's."""

    teacher: str = MISSING
    """Name, folder or address of the teacher."""
    teacher_device: str = "cpu"
    """Where it judges."""
    out: str = "runs/distilled"
    """Run folder."""
    teaching: Teaching = field(default_factory=Teaching)
    """Its lessons."""


def make_images(pool: PhotoPool, teaching: Teaching, folder: Path, seed: int) -> list[Path]:
    """Crops for the teacher, clean and distorted; files that are there are kept."""
    paths = []
    for index in track(range(teaching.images), "images", disable=not sys.stderr.isatty()):
        path = folder / f"{index:05d}.png"
        paths.append(path)
        if path.is_file():
            continue
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        image = pool.crop(index % len(pool), teaching.side, generator=generator)[None]
        if float(torch.rand((), generator=generator)) >= teaching.clean:
            name = SEEN[int(torch.randint(len(SEEN), (), generator=generator))]
            level = int(torch.randint(1, 6, (), generator=generator))
            image = distort(image, name, level, generator=generator)
        save_png(image, path)
    return paths


@torch.no_grad()
def follows(proxy: QualityProxy, held_out: list[tuple[Path, Label]], device: str) -> float:
    """SRCC of the student with its teacher on images held out."""
    found = [float(proxy(to_batch(path).to(device)).rating) for path, _ in held_out]
    return srcc(found, [cast(float, label.rating) for _, label in held_out])


def main(arguments: list[str] | None = None) -> None:
    """Ask the teacher, train, validate, save."""
    config, resolved = compose(Config, arguments)
    if config.threads:
        torch.set_num_threads(config.threads)
    run, teaching, plan = RunFolder(config.out, resolved), config.teaching, config.batch
    warn_of_slow_bf16(config.bf16, config.device)

    clean = find_images([config.photos])
    paths = make_images(
        PhotoPool(clean, min_side=teaching.side), teaching, run.path / "taught", config.seed
    )
    teacher = load_scorer(config.teacher, device=config.teacher_device)
    labels = label_images(
        teacher,
        paths,
        run.path / "labels.jsonl",
        weights=weights_digest(teacher) or "",
        regions=teaching.regions,
        progress=lambda images: track(images, "teacher", disable=not sys.stderr.isatty()),
    )
    pairs, held_out = [], []
    for index, (path, label) in enumerate(zip(paths, labels, strict=True)):
        if label.error is None:
            apart = index % len(clean) % teaching.held_out == 0
            (held_out if apart else pairs).append((path, label))
    failures = [label.error for label in labels if label.error]
    counts = {name: failures.count(name) for name in sorted(set(failures))}
    valid = len(pairs) + len(held_out)
    print(f"teacher: {valid} labels, {len(failures)} failures {counts or ''}")
    if len(pairs) < teaching.a_step or len(held_out) < 2:
        raise ValueError(
            f"{valid} valid labels, {len(held_out)} held out: give at least {teaching.a_step} to "
            "teach and 2 to hold out (teaching.images, teaching.held_out)"
        )

    training = {image.path: image for image in read_biq2021(config.biq2021, "training")}
    validation = read_biq2021(config.biq2021, "validation")
    validation = validation[:: max(1, len(validation) // config.validate_on)]
    rated = PhotoPool(training, min_side=plan.rated_crop, skip_small=True)
    photos = Photos(
        rated=rated,
        ratings=torch.tensor([training[path].rating for path in rated.paths]),
        subsets=[training[path].subset for path in rated.paths],
        pristine=PhotoPool(clean, min_side=plan.crop),
        restored=PhotoPool(find_images([config.restored]), min_side=plan.crop),
    )

    torch.manual_seed(config.seed)  # parts of the student that its start lacks
    proxy = QualityProxy()
    load_start(proxy, config.start)
    if not proxy.standardised:
        first = torch.Generator().manual_seed(config.seed)
        proxy.standardise(rated_evidence(photos, plan, generator=first).images for _ in range(20))
    proxy = proxy.to(config.device).to(memory_format=torch.channels_last).train()
    groups = parameter_groups(proxy, config)
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)
    averaged = AveragedModel(proxy, avg_fn=partial(average, decay=config.ema))
    student = cast(QualityProxy, averaged.module)
    kind, start = torch.device(config.device).type, 0
    if state := run.load():
        proxy.load_state_dict(state["proxy"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    else:
        followed = follows(student, held_out, config.device)
        run.log({"step": 0, "srcc_with_teacher": followed})

    weights = {"rated": config.rated_ranking_weight, "made": config.ranking_weight}
    for step in range(start, config.steps):
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(step, group["begin"], config)
        for parameter in groups[0]["params"]:
            parameter.requires_grad_(step >= config.head_steps)
        # a generator per step: a resumed run sees the batches of an unbroken one
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        batches = {
            "rated": rated_evidence(photos, plan, generator=generator),
            "made": made_evidence(photos, plan, generator=generator),
        }
        chosen = torch.randperm(len(pairs), generator=generator)[: teaching.a_step].tolist()
        taught = taught_batch(
            [pairs[i][0] for i in chosen], [pairs[i][1] for i in chosen], teaching.unknown_std
        )

        record: dict[str, float] = {"step": step + 1}
        optimizer.zero_grad()
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout
        for name, evidence in batches.items():
            evidence = Evidence(*(column.to(config.device) for column in evidence))
            images = evidence.images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
                out = proxy(images)
            terms = losses(out, evidence, config, weights[name])
            terms["total"].backward()
            record |= {f"{name}_{k}": round(v.item(), 5) for k, v in terms.items()}
        taught = type(taught)(*(column.to(config.device) for column in taught))
        with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
            out = proxy(taught.images.contiguous(memory_format=torch.channels_last))
        terms = distillation_losses(out, taught, teaching.typical)
        scale = {"spread": teaching.spread_weight, "regions": config.map_weight}
        total = torch.stack([scale.get(name, 1.0) * term for name, term in terms.items()]).sum()
        (teaching.weight * total).backward()
        record |= {f"taught_{k}": round(v.item(), 5) for k, v in terms.items()}
        torch.nn.utils.clip_grad_norm_(proxy.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        averaged.update_parameters(proxy)

        done = step + 1
        record["seconds"] = round(time.perf_counter() - began, 3)
        if done % config.validate_every == 0 or done == config.steps:
            followed = follows(student, held_out, config.device)
            record |= {
                **validate(student, validation, config.device),
                "srcc_with_teacher": followed,
            }
        run.log(record)
        if done % config.save_every == 0 or done == config.steps:
            run.save(
                {
                    "proxy": proxy.state_dict(),
                    "averaged": averaged.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": done,
                }
            )
    student.half().save_pretrained(run.path / "weights")  # loaded into fp32 modules
    told = {"teacher": config.teacher, "labels": valid, "failures": counts}
    write_text_atomic(run.path / "weights" / "teacher.json", to_json(told))
    print(f"weights: {run.path / 'weights'}")


if __name__ == "__main__":
    main()
