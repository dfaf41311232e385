r"""Build grounded rationales (GR-IQA records) from clean and rated photos, and filter them.

    python -m recipes.build_gr_iqa --config recipes/configs/build_gr_iqa/default.yaml \
        photos=PHOTOS biq2021=BIQ2021 out=runs/gr_iqa

Pictures are clean photos damaged in a known way, and photos people rated (the training split).
The teacher is ``synthetic`` (no model), or what ``load_scorer`` takes: a folder, a hub id or the
address of an OpenAI-compatible server with its settings::

    teacher=http://127.0.0.1:8000/v1 teacher_settings.model=zoom-iqa teacher_prompts=builtin \
        max_calls=2000 max_cost=5 cost_per_1k_tokens=0.002

An uncertain first round is rated as ``blind`` rates a thumbnail, so that only the crop can tell
how far the rating has to move. Every rationale is checked against measured hints (HACF) and, with
``reliance_model``, continued with and without its image (VRF); one that fails is written again,
then dropped. The run folder holds the records (``records.jsonl``, ``images/``), ``report.json``, a
dataset card (``README.md``) and ``sheet.png``; how well words alone predict the ratings is printed.
The outcome of each picture is cached (:mod:`zoomiqa_core.data.teacher.build`), so an interrupted
run, or one whose budget is spent, goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from recipes.compose import compose
from zoomiqa_core.data.benchmarks.sets import read_biq2021
from zoomiqa_core.data.gr_iqa.records import read_picture, record_from_row, write_records
from zoomiqa_core.data.gr_iqa.report import Outcome, build_report, dataset_card
from zoomiqa_core.data.gr_iqa.sheet import contact_sheet
from zoomiqa_core.data.teacher.build import (
    BudgetSpentError,
    RecordBuilder,
    RecordConfig,
    fill_cache,
)
from zoomiqa_core.data.teacher.damage_facts import DamageKind
from zoomiqa_core.data.teacher.model import Budget, ModelTeacher
from zoomiqa_core.data.teacher.pictures import Picture, damaged_pictures, rated_pictures
from zoomiqa_core.images.sources import find_images, save_png
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.runs.folder import versions
from zoomiqa_core.scorer import load_scorer
from zoomiqa_core.zoom_iqa.judge import ZoomIQA
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import load_prompts

SCALE, SHIFT = 0.89, 0.14
"""From the proxy's ratings of thumbnails to people's of the whole photos, by least squares on 250
training photos of BIQ2021 (R² .29)."""


@dataclass(frozen=True)
class Config(RecordConfig):
    """Settings of one build."""

    photos: str = ""
    """Folder of clean photographs, sides of at least ``side``."""
    biq2021: str = ""
    """BIQ2021 folder."""
    damaged: int = 1000
    """Pictures made from clean photos; each photo is used in turn, with another damage and crop."""
    rated: int = 1000
    """Photos people rated, spread evenly over the ratings while there are enough."""
    wordless: int = 0
    """Further rated photos whose records have no rounds: their ratings are learnt without words."""
    max_calls: int | None = None
    """Most calls of a model teacher, including earlier runs of the folder."""
    max_cost: float | None = None
    """Highest cost of the calls, in the currency of ``cost_per_1k_tokens``."""
    cost_per_1k_tokens: float = 0.0
    """Price of 1,000 tokens that a model teacher writes; it should cover the prompt as well."""
    workers: int = 0
    """Processes that make records, for the synthetic teacher without VRF; 0 makes them here."""
    sheet: int = 12
    """Records on the contact sheet."""
    out: str = "runs/gr_iqa"
    """Run folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers and (self.teacher != "synthetic" or self.reliance_model):
            raise ValueError("workers share no model and no budget: use workers=0 with a model")


@dataclass
class Glance:
    """Rates thumbnails by a judge, on the scale of people's ratings.

    Each process loads the judge when it rates the first one.
    """

    name: str
    judge: Any = field(default=None, repr=False)

    def __call__(self, thumbnail: Tensor) -> float:
        """The rating."""
        self.judge = self.judge or load_scorer(self.name)
        rating = self.judge.assess(thumbnail).rating
        return SCALE * rating + SHIFT if self.name == "proxy" else rating


def choose_pictures(config: Config) -> Iterator[Picture]:
    """All pictures of a build, in order."""
    if (config.damaged and not config.photos) or (config.rated and not config.biq2021):
        raise ValueError("give photos=FOLDER or damaged=0, and biq2021=FOLDER or rated=0")
    generator = torch.Generator().manual_seed(config.seed)
    if config.damaged:
        shares: dict[DamageKind, float] = {
            "clean": config.clean_share,
            "global": config.global_share,
            "local": config.local_share,
        }
        photos = find_images([config.photos])
        yield from damaged_pictures(photos, config.damaged, shares, generator=generator)
    if config.rated:
        images = read_biq2021(config.biq2021, "training")
        yield from rated_pictures(images, config.rated, config.wordless, generator=generator)


def model_teacher(config: Config) -> ModelTeacher | None:
    """The judge that writes; None for the synthetic teacher."""
    if config.teacher == "synthetic":
        return None
    prompts = load_prompts(config.teacher_prompts)
    settings = {} if config.teacher == "proxy" else {"prompts": prompts}
    judge = load_scorer(config.teacher, **settings, **config.teacher_settings)
    if not isinstance(judge, ZoomIQA):
        raise ValueError(
            f"teacher={config.teacher} does not write: give a vision-language judge or synthetic"
        )
    return ModelTeacher(judge.backend, prompts, config.tell_rating, config.tolerance)


def main(arguments: list[str] | None = None) -> None:
    """Write, filter, report."""
    config, resolved = compose(Config, arguments)
    out = Path(config.out)
    write_text_atomic(out / "config.yaml", resolved)
    write_text_atomic(out / "versions.json", to_json(versions()))
    pictures = list(choose_pictures(config))
    vlm = LocalVLM.from_pretrained(config.reliance_model) if config.reliance_model else None
    budget = Budget(config.max_calls, config.max_cost, config.cost_per_1k_tokens)
    glance = Glance(config.blind)
    if config.workers:
        fill_cache(config, out, glance, pictures, workers=config.workers)
    teacher = model_teacher(config)
    builder = RecordBuilder(config, out, glance, teacher=teacher, vlm=vlm, budget=budget)
    outcomes: list[Outcome] = []
    with Progress(disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("records", total=len(pictures))
        for picture in pictures:
            try:
                outcomes.append(builder.outcome(picture))
            except BudgetSpentError:
                break
            progress.advance(bar)

    records = [record_from_row(o.record) for o in outcomes if o.record is not None]
    write_records(out, records)
    unreached = len(pictures) - len(outcomes)
    report = build_report(outcomes, unreached=unreached, cost=budget.cost)
    write_text_atomic(out / "report.json", to_json(report, sort_keys=False))
    write_text_atomic(out / "README.md", dataset_card(report))
    if records and config.sheet:
        shown = records[:: -(-len(records) // config.sheet)]
        sheet = contact_sheet(shown, [read_picture(out, record) for record in shown])
        save_png(sheet, out / "sheet.png")
    for name, share in report["predictability"].items():
        print(f"R² of {name.replace('_', ' ')}: {share:.2f}")
    print(f"{len(records)} of {len(pictures)} records: {out / 'records.jsonl'}")


if __name__ == "__main__":
    main()
