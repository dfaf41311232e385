r"""Build grounded rationales (GR-IQA records) from clean and rated photos, and filter them.

    python -m recipes.build_gr_iqa --config recipes/configs/build_gr_iqa/default.yaml \
        photos=PHOTOS biq2021=BIQ2021 out=runs/gr_iqa

Pictures are clean photos damaged in a known way, and photos people rated (the training split).
The teacher is ``synthetic`` (no model), or what ``load_scorer`` takes: a folder, a hub id or the
address of an OpenAI-compatible server with its settings::

    teacher=http://127.0.0.1:8000/v1 teacher_settings.model=zoom-iqa teacher_prompts=builtin \
        max_calls=2000 max_cost=5 cost_per_1k_tokens=0.002

Every rationale is held against measured hints (HACF) and, with ``reliance_model``, continued with
and without its image (VRF); one that fails is written again, then dropped. The run folder holds the
records (``records.jsonl``, ``images/``), ``report.json``, ``report.md`` and ``sheet.png``. Each
picture's outcome is cached under the hash of its bytes and of the settings that shape it: a killed
run, or one whose budget ran out, goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import Progress
from torch import Tensor

from recipes.compose import compose
from zoomiqa_core.data.benchmarks.sets import RatedImage, read_biq2021
from zoomiqa_core.data.gr_iqa.claims import HintChecker
from zoomiqa_core.data.gr_iqa.filters import RelianceConfig, check_consistency, measure_reliance
from zoomiqa_core.data.gr_iqa.records import (
    GRIQARecord,
    GRIQARegion,
    read_picture,
    record_from_row,
    row_of_record,
    write_records,
)
from zoomiqa_core.data.gr_iqa.report import Outcome, build_report, report_markdown
from zoomiqa_core.data.gr_iqa.sheet import contact_sheet
from zoomiqa_core.data.teacher.damage_facts import DamageKind, InvisibleDamageError, damage_photo
from zoomiqa_core.data.teacher.facts import Facts
from zoomiqa_core.data.teacher.model import Budget, Lesson, ModelTeacher, vlm_continuation
from zoomiqa_core.data.teacher.photo_facts import photo_facts
from zoomiqa_core.data.teacher.synthetic import write_region, write_rounds
from zoomiqa_core.images.sources import find_images, read_image, save_png, to_pil
from zoomiqa_core.runs.files import to_json, write_bytes_atomic, write_text_atomic
from zoomiqa_core.runs.folder import versions
from zoomiqa_core.scorer import load_scorer
from zoomiqa_core.zoom_iqa.judge import ZoomIQA
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import load_prompts


@dataclass(frozen=True)
class Config:
    """Settings of one build."""

    photos: str = ""
    """Folder of clean photographs, sides of at least ``side``."""
    biq2021: str = ""
    """BIQ2021 folder."""
    damaged: int = 1000
    """Pictures made from clean photos; each photo is used in turn, with another damage and crop."""
    rated: int = 1000
    """Photos people rated, spread evenly over the ratings as far as there are enough."""
    side: int = 320
    """Side of the crops of clean photos, pixels."""
    clean_share: float = 0.1
    global_share: float = 0.35
    local_share: float = 0.35
    """Shares of undamaged, globally and locally damaged pictures; the rest is damaged both ways."""
    regions: bool = True
    """Also write what is asked of single regions, where the truth is known."""
    style: str = "short"
    """``short`` or ``long`` sentences of the synthetic teacher."""
    teacher: str = "synthetic"
    """``synthetic``, or a judge: folder, hub id or address."""
    teacher_prompts: str = "builtin"
    """The texts a model teacher is asked with: a name or a YAML file."""
    teacher_settings: dict[str, Any] = field(default_factory=dict)
    """More settings of ``load_scorer``."""
    tell_rating: bool = True
    """Hand the rating to a model teacher."""
    tolerance: float = 0.5
    """How far a model teacher's last rating may be from people's."""
    max_refuted_share: float = 0.25
    """Share of refuted sentences from which a rationale is written again."""
    rewrites: int = 2
    """How often a rationale that failed is written again."""
    reliance_model: str = ""
    """Folder or hub id of a local model that continues rationales; empty leaves VRF out."""
    reliance: RelianceConfig = field(default_factory=RelianceConfig)
    max_calls: int | None = None
    """Calls of a model teacher at most, those of earlier runs of the folder included."""
    max_cost: float | None = None
    cost_per_1k_tokens: float = 0.0
    workers: int = 0
    """Processes that make records, for the synthetic teacher without VRF; 0 makes them here."""
    seed: int = 0
    sheet: int = 12
    """Records on the contact sheet."""
    out: str = "runs/gr_iqa"
    """Run folder."""

    def __post_init__(self) -> None:
        shares = self.clean_share, self.global_share, self.local_share
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ValueError(f"expected shares ≥ 0 that sum to 1 at most, got {shares}")
        if self.style not in ("short", "long"):
            raise ValueError(f"style is short or long, got {self.style!r}")
        if self.workers and (self.teacher != "synthetic" or self.reliance_model):
            raise ValueError("workers share no model and no budget: use workers=0 with a model")


WITHOUT_EFFECT = {"photos", "biq2021", "damaged", "rated", "sheet", "out", "workers"} | {
    "max_calls",
    "max_cost",
    "cost_per_1k_tokens",
}
"""Fields that shape no single record, so that changing them leaves the cache valid."""


class Picture(NamedTuple):
    """One picture to write about, still in its file."""

    source: str
    index: int
    path: Path
    rating: float = math.nan
    kind: DamageKind = "clean"


class Scene(NamedTuple):
    """A picture as it is stored, and what is known of it."""

    image: Tensor
    facts: Facts
    record: GRIQARecord
    """Without rounds."""
    regions: tuple[GRIQARegion, ...] = ()


def pictures(config: Config) -> Iterator[Picture]:
    """All pictures of a build, in order."""
    if (config.damaged and not config.photos) or (config.rated and not config.biq2021):
        raise ValueError("give photos=FOLDER or damaged=0, and biq2021=FOLDER or rated=0")
    photos = find_images([config.photos]) if config.damaged else []
    generator = torch.Generator().manual_seed(config.seed)
    order = torch.randperm(len(photos), generator=generator).tolist()
    for index in range(config.damaged):
        place = (index * 0.618034 + 0.5) % 1  # spreads the kinds over every stretch of the order
        kind: DamageKind = "both"
        for name in ("local", "global", "clean"):
            share = getattr(config, f"{name}_share")
            kind = name if place < share else kind
            place = math.inf if place < share else place - share
        yield Picture("damaged", index, photos[order[index % len(order)]], kind=kind)
    if config.rated:
        training = read_biq2021(config.biq2021, "training")
        for index, image in enumerate(spread(training, config.rated, generator)):
            yield Picture("rated", index, image.path, image.rating)


def spread(images: list[RatedImage], count: int, generator: torch.Generator) -> list[RatedImage]:
    """``count`` images, drawn in turn from bins of half a rating until those are empty."""
    bins: dict[int, list[RatedImage]] = {}
    for place in torch.randperm(len(images), generator=generator).tolist():
        bins.setdefault(min(int(2 * images[place].rating), 9), []).append(images[place])
    chosen: list[RatedImage] = []
    while len(chosen) < min(count, len(images)):
        for key in sorted(bins):
            if bins[key] and len(chosen) < count:
                chosen.append(bins[key].pop())
    return chosen


def stage(picture: Picture, key: str, config: Config, generator: torch.Generator) -> Scene:
    """Make the picture, store it, and say what is known of it."""
    question = load_prompts("builtin").question(picture.index)
    provenance: dict[str, Any] = {"teacher": config.teacher, "file": picture.path.name}
    images = Path(config.out) / "images"
    if picture.source == "rated":
        name = f"rated/{picture.path.stem}-{key[:8]}{picture.path.suffix.lower()}"
        write_bytes_atomic(images / name, picture.path.read_bytes())
        image = read_image(images / name).pixels
        facts, provenance = photo_facts(image, picture.rating), provenance | {"label": "human"}
        record = GRIQARecord(name, question, (), picture.rating, name, provenance=provenance)
        return Scene(image, facts, record)
    name = f"damaged/{picture.index:06d}-{key[:8]}.png"
    photo = read_image(picture.path).pixels
    side = min(config.side, *photo.shape[-2:])
    top, left = (
        int(torch.randint(length - side + 1, (), generator=generator))
        for length in photo.shape[-2:]
    )
    crop = photo[:, top : top + side, left : left + side]
    made = damage_photo(crop, picture.kind, generator=generator)
    save_png(made.image, images / name)
    regions = ()
    if config.regions:
        regions = tuple(write_region(*region, generator=generator) for region in made.regions)
    provenance |= made.provenance
    record = GRIQARecord(
        name, question, (), round(made.facts.rating, 4), name, made.region_truth, (), provenance
    )
    return Scene(made.image, made.facts, record, regions)


class BudgetSpentError(RuntimeError):
    """No further call may be made."""


class Build:
    """Teacher, filters and budget of one build, and the cache of its outcomes.

    Args:
        config: of the build; models are loaded.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.cache = Path(config.out) / "cache"
        self.ledger = Path(config.out) / "spent.json"
        self.settings = {
            name: value
            for name, value in dataclasses.asdict(config).items()
            if name not in WITHOUT_EFFECT
        }
        self.budget = Budget(config.max_calls, config.max_cost, config.cost_per_1k_tokens)
        if self.ledger.is_file():
            self.budget.spend(**json.loads(self.ledger.read_text(encoding="utf-8")))
        self.checker = HintChecker()
        self.teacher = _model_teacher(config) if config.teacher != "synthetic" else None
        self.vlm = None
        if config.reliance_model:
            self.vlm = LocalVLM.from_pretrained(config.reliance_model)

    def outcome(self, picture: Picture) -> Outcome:
        """What becomes of a picture: from the cache, or made now.

        Raises:
            BudgetSpentError: it would need a call that the budget does not allow.
        """
        identity = [picture.source, picture.index, picture.rating, picture.kind, self.settings]
        content = picture.path.read_bytes() + json.dumps(identity, sort_keys=True).encode()
        key = hashlib.sha256(content).hexdigest()
        cached = self.cache / f"{key}.json"
        if cached.is_file():
            return Outcome(**json.loads(cached.read_text(encoding="utf-8")))
        generator = torch.Generator().manual_seed(int(key[:15], 16))
        try:
            scene = stage(picture, key, self.config, generator)
        except InvisibleDamageError as error:
            made, passing = Outcome(picture.source, None, [["invisible_damage", str(error)]]), False
        else:
            made, passing = self._teach(picture, scene, generator)
        if not passing:
            write_text_atomic(cached, json.dumps(dataclasses.asdict(made), ensure_ascii=False))
        return made

    def _teach(
        self, picture: Picture, scene: Scene, generator: torch.Generator
    ) -> tuple[Outcome, bool]:
        """The outcome, and whether it may be another one next time (a server that was busy)."""
        reasons: list[list[str]] = []
        calls = tokens = 0
        for _ in range(self.config.rewrites + 1):
            lesson = self._lesson(scene, generator)
            calls, tokens = calls + lesson.calls, tokens + lesson.tokens
            if lesson.reason:
                reasons.append([lesson.reason, lesson.detail])
                if lesson.passing:
                    return Outcome(picture.source, None, reasons, [], None, calls, tokens), True
                continue
            record = dataclasses.replace(scene.record, rounds=lesson.rounds, regions=scene.regions)
            checked = check_consistency(
                record,
                scene.image,
                self.checker,
                max_refuted_share=self.config.max_refuted_share,
            )
            refuted = [[verdict.sentence, verdict.reason] for verdict in checked.refuted]
            if checked.record is None:
                reasons.append(["contradicts_hints", " — ".join(refuted[0])])
                continue
            reliance, why = self._reliance(checked.record, scene)
            if why:
                reasons.append(why)
                continue
            row = row_of_record(checked.record)
            return Outcome(picture.source, row, reasons, refuted, reliance, calls, tokens), False
        return Outcome(picture.source, None, reasons, [], None, calls, tokens), False

    def _lesson(self, scene: Scene, generator: torch.Generator) -> Lesson:
        seed = int(torch.randint(2**31, (), generator=generator))
        if self.teacher is None:
            own = torch.Generator().manual_seed(seed)
            style = "long" if self.config.style == "long" else "short"
            return Lesson(write_rounds(scene.facts, generator=own, style=style), "", "", 0, 0)
        if not self.budget.allows(self.teacher.most_calls):
            raise BudgetSpentError
        record = scene.record
        lesson = self.teacher.write(to_pil(scene.image), record.mos, record.question, seed)
        self.budget.spend(lesson.calls, lesson.tokens)
        spent = {"calls": self.budget.calls, "tokens": self.budget.tokens}
        write_text_atomic(self.ledger, to_json(spent))
        return lesson

    def _reliance(
        self, record: GRIQARecord, scene: Scene
    ) -> tuple[dict[str, float] | None, list[str] | None]:
        """Visual reliance, and why the record is refused for it, if it is."""
        if self.vlm is None:
            return None, None
        image = to_pil(scene.image)
        prompts = load_prompts(self.config.teacher_prompts)
        source = vlm_continuation(
            self.vlm, prompts, record.question, image.size, seed=self.config.seed
        )
        found = measure_reliance(record, image, source, self.config.reliance)
        if found is None:
            return None, ["no_continuation", "the model continued with nothing usable"]
        if found.score < self.config.reliance.threshold:
            return None, ["not_reliant", f"reliance {found.score:.3f}"]
        return found._asdict(), None


def make_in_processes(build: Build, wanted: list[Picture]) -> None:
    """Put the outcomes of all pictures into the cache, from several processes."""
    workers = build.config.workers
    spawn = multiprocessing.get_context("spawn")
    parts = [wanted[n::workers] for n in range(workers)]
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        for _ in pool.map(_make, [build.config] * workers, parts):
            pass


def _make(config: Config, wanted: list[Picture]) -> None:
    torch.set_num_threads(1)
    build = Build(config)
    for picture in wanted:
        build.outcome(picture)


def main(arguments: list[str] | None = None) -> None:
    """Write, filter, report."""
    config, resolved = compose(Config, arguments)
    out = Path(config.out)
    write_text_atomic(out / "config.yaml", resolved)
    write_text_atomic(out / "versions.json", to_json(versions()))
    wanted = list(pictures(config))
    build = Build(config)
    outcomes: list[Outcome] = []
    if config.workers:
        make_in_processes(build, wanted)
    with Progress(disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("records", total=len(wanted))
        for picture in wanted:
            try:
                outcomes.append(build.outcome(picture))
            except BudgetSpentError:
                break
            progress.advance(bar)

    records = [record_from_row(o.record) for o in outcomes if o.record is not None]
    write_records(out, records)
    report = build_report(outcomes, unreached=len(wanted) - len(outcomes), cost=build.budget.cost)
    write_text_atomic(out / "report.json", to_json(report, sort_keys=False))
    write_text_atomic(out / "report.md", report_markdown(report))
    if records and config.sheet:
        shown = records[:: -(-len(records) // config.sheet)]
        drawn = contact_sheet(shown, [read_picture(out, record) for record in shown])
        save_png(drawn, out / "sheet.png")
    print(f"{len(records)} of {len(wanted)} records: {out / 'records.jsonl'}")


def _model_teacher(config: Config) -> ModelTeacher:
    prompts = load_prompts(config.teacher_prompts)
    settings = {} if config.teacher == "proxy" else {"prompts": prompts}
    judge = load_scorer(config.teacher, **settings, **config.teacher_settings)
    if not isinstance(judge, ZoomIQA):
        raise ValueError(
            f"teacher={config.teacher} does not write: give a vision-language judge or synthetic"
        )
    return ModelTeacher(judge.backend, prompts, config.tell_rating, config.tolerance)


if __name__ == "__main__":
    main()
