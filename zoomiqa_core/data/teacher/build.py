"""Building of GR-IQA records: a teacher writes, two filters check, and outcomes are cached.

The cache lies beside the records. An outcome is found under the hash of the picture's bytes and of
the settings that shape a record, so an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from zoomiqa_core.data.gr_iqa.claims import HintChecker
from zoomiqa_core.data.gr_iqa.filters import RelianceConfig, check_consistency, measure_reliance
from zoomiqa_core.data.gr_iqa.rationale import GRIQARecord
from zoomiqa_core.data.gr_iqa.records import row_of_record
from zoomiqa_core.data.gr_iqa.report import Outcome
from zoomiqa_core.data.teacher.damage_facts import InvisibleDamageError
from zoomiqa_core.data.teacher.model import Budget, Lesson, ModelTeacher, vlm_continuation
from zoomiqa_core.data.teacher.pictures import (
    BlindJudge,
    Picture,
    Scene,
    damaged_scene,
    rated_scene,
    wordless_record,
)
from zoomiqa_core.data.teacher.synthetic import write_rounds
from zoomiqa_core.images.sources import to_pil
from zoomiqa_core.runs.files import to_json, write_text_atomic
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import load_prompts


@dataclass(frozen=True)
class RecordConfig:
    """All settings that shape a record; a change of any of them makes cached outcomes invalid."""

    side: int = 320
    """Side of the crops of clean photos, pixels."""
    clean_share: float = 0.1
    global_share: float = 0.35
    local_share: float = 0.35
    """Shares of undamaged, globally and locally damaged pictures; the rest is damaged both ways."""
    regions: bool = True
    """Also write replies about single regions, where their ratings are known."""
    style: Literal["short", "long"] = "short"
    """Length of the synthetic teacher's sentences."""
    teacher: str = "synthetic"
    """``synthetic``, or a judge: folder, hub id or address."""
    teacher_prompts: str = "builtin"
    """Prompts of a model teacher: a name or a YAML file."""
    teacher_settings: dict[str, Any] = field(default_factory=dict)
    """More settings of ``load_scorer``."""
    blind: str = "proxy"
    """Judge whose rating of a thumbnail is that of an uncertain first round."""
    tell_rating: bool = True
    """Tell a model teacher the rating."""
    tolerance: float = 0.5
    """How far a model teacher's last rating may be from people's."""
    max_refuted_share: float = 0.25
    """Share of refuted sentences from which a rationale is written again."""
    rewrites: int = 2
    """How often a rationale that failed is written again."""
    reliance_model: str = ""
    """Folder or hub id of a local model that continues rationales; empty leaves VRF out."""
    reliance: RelianceConfig = field(default_factory=RelianceConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        shares = self.clean_share, self.global_share, self.local_share
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ValueError(f"expected shares ≥ 0 that sum to 1 at most, got {shares}")


class BudgetSpentError(RuntimeError):
    """The budget allows no further call."""


class _Reliance(NamedTuple):
    """Visual reliance of a record: measured values, or why the record is refused."""

    values: dict[str, float] | None = None
    refused: list[str] | None = None


class RecordBuilder:
    """Makes the record of one picture after the other.

    Args:
        config: of the records.
        folder: of the records; gets ``images/``, ``cache/`` and ``spent.json``.
        blind: rates thumbnails, as ``config.blind`` names it.
        teacher: writes the rationales; None for the synthetic one.
        vlm: continues rationales, for VRF; None leaves VRF out.
        budget: of the teacher; what earlier runs spent is added.

    >>> from zoomiqa_core.images.sources import save_png
    >>> noise = torch.rand(1, 3, 24, 24)
    >>> image = torch.nn.functional.interpolate(noise, (96, 96), mode="bicubic").clamp(0, 1)
    >>> picture = Picture("damaged", 0, save_png(image, "photo.png"), kind="global")
    >>> builder = RecordBuilder(RecordConfig(side=96), Path("records"), lambda thumbnail: 3.0)
    >>> outcome = builder.outcome(picture)
    >>> outcome.record["mos"], outcome.record["image"]
    (4.14, 'damaged/000000-....png')
    """

    def __init__(
        self,
        config: RecordConfig,
        folder: Path,
        blind: BlindJudge,
        *,
        teacher: ModelTeacher | None = None,
        vlm: LocalVLM | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.config, self.folder, self.blind = config, folder, blind
        self.teacher, self.vlm = teacher, vlm
        self.budget = budget or Budget()
        self._spent = folder / "spent.json"
        if self._spent.is_file():
            self.budget.spend(**json.loads(self._spent.read_text(encoding="utf-8")))
        self._checker = HintChecker()
        settings = dataclasses.asdict(config)
        self._settings = {one.name: settings[one.name] for one in dataclasses.fields(RecordConfig)}

    def outcome(self, picture: Picture) -> Outcome:
        """Record of a picture, or why there is none: from the cache, or made now.

        Raises:
            BudgetSpentError: it needs a call that the budget does not allow.
        """
        identity = [picture.source, picture.index, picture.rating, picture.kind, self._settings]
        content = picture.path.read_bytes() + json.dumps(identity, sort_keys=True).encode()
        key = hashlib.sha256(content).hexdigest()
        cached = self.folder / "cache" / f"{key}.json"
        if cached.is_file():
            return Outcome(**json.loads(cached.read_text(encoding="utf-8")))
        if picture.source == "wordless":
            row = row_of_record(wordless_record(picture, self.folder, key[:8]))
            write_text_atomic(cached, json.dumps({"source": "wordless", "record": row}))
            return Outcome("wordless", row)
        generator = torch.Generator().manual_seed(int(key[:15], 16))
        try:
            scene = self._scene(picture, key[:8], generator)
        except InvisibleDamageError as error:
            made, transient = (
                Outcome(picture.source, None, [["invisible_damage", str(error)]]),
                False,
            )
        else:
            made, transient = self._teach(picture, scene, generator)
        if not transient:
            write_text_atomic(cached, json.dumps(dataclasses.asdict(made), ensure_ascii=False))
        return made

    def _scene(self, picture: Picture, tag: str, generator: torch.Generator) -> Scene:
        if picture.source == "rated":
            scene = rated_scene(picture, self.folder, tag, self.blind)
        else:
            scene = damaged_scene(
                picture,
                self.folder,
                tag,
                side=self.config.side,
                regions=self.config.regions,
                blind=self.blind,
                generator=generator,
            )
        blind = round(scene.facts.blind, 2)
        provenance = {"teacher": self.config.teacher, "blind": blind, **scene.record.provenance}
        return scene._replace(record=dataclasses.replace(scene.record, provenance=provenance))

    def _teach(
        self, picture: Picture, scene: Scene, generator: torch.Generator
    ) -> tuple[Outcome, bool]:
        """The outcome, and whether it may differ next time (a server that was busy)."""
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
                self._checker,
                max_refuted_share=self.config.max_refuted_share,
            )
            refuted = [[verdict.sentence, verdict.reason] for verdict in checked.refuted]
            if checked.record is None:
                reasons.append(["contradicts_hints", " — ".join(refuted[0])])
                continue
            reliance = self._reliance(checked.record, scene)
            if reliance.refused:
                reasons.append(reliance.refused)
                continue
            row = row_of_record(checked.record)
            kept = Outcome(picture.source, row, reasons, refuted, reliance.values, calls, tokens)
            return kept, False
        return Outcome(picture.source, None, reasons, [], None, calls, tokens), False

    def _lesson(self, scene: Scene, generator: torch.Generator) -> Lesson:
        seed = int(torch.randint(2**31, (), generator=generator))
        if self.teacher is None:
            wording = torch.Generator().manual_seed(seed)
            rounds = write_rounds(scene.facts, generator=wording, style=self.config.style)
            return Lesson(rounds, "", "", 0, 0)
        if not self.budget.allows(self.teacher.most_calls):
            raise BudgetSpentError
        record = scene.record
        lesson = self.teacher.write(to_pil(scene.image), record.mos, record.question, seed)
        self.budget.spend(lesson.calls, lesson.tokens)
        spent = {"calls": self.budget.calls, "tokens": self.budget.tokens}
        write_text_atomic(self._spent, to_json(spent))
        return lesson

    def _reliance(self, record: GRIQARecord, scene: Scene) -> _Reliance:
        if self.vlm is None:
            return _Reliance()
        image = to_pil(scene.image)
        prompts = load_prompts(self.config.teacher_prompts)
        continuation = vlm_continuation(
            self.vlm, prompts, record.question, image.size, seed=self.config.seed
        )
        measured = measure_reliance(record, image, continuation, self.config.reliance)
        if measured is None:
            no_reply = ["no_continuation", "the model continued with nothing usable"]
            return _Reliance(refused=no_reply)
        if measured.score < self.config.reliance.threshold:
            return _Reliance(refused=["not_reliant", f"reliance {measured.score:.3f}"])
        return _Reliance(measured._asdict())


def fill_cache(
    config: RecordConfig,
    folder: Path,
    blind: BlindJudge,
    pictures: Sequence[Picture],
    *,
    workers: int,
) -> None:
    """Make the outcomes of all pictures in several processes, with the synthetic teacher.

    Args:
        config: of the records.
        folder: of the records.
        blind: can be pickled.
        pictures: in any order.
        workers: number of processes.
    """
    spawn = multiprocessing.get_context("spawn")
    parts = [pictures[n::workers] for n in range(workers)]
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        for _ in pool.map(
            _fill_part, [config] * workers, [folder] * workers, [blind] * workers, parts
        ):
            pass


def _fill_part(
    config: RecordConfig, folder: Path, blind: BlindJudge, pictures: Sequence[Picture]
) -> None:
    torch.set_num_threads(1)
    builder = RecordBuilder(config, folder, blind)
    for picture in pictures:
        builder.outcome(picture)
