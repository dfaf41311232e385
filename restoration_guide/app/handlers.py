"""What the page's buttons do, without the page: plain values in, plain values out.

Each handler returns values by the name of the component that shows them; a name that is absent
leaves its component as it is.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from restoration_guide.app.models import Models
from restoration_guide.app.pictures import judge_regions, paired_maps, thumbnail
from restoration_guide.app.session import Session
from restoration_guide.app.steps import search_in_steps
from restoration_guide.app.words import (
    PageError,
    assessment_in_words,
    caption,
    error_in_words,
    outcome,
    progress_in_words,
    shown_in_words,
    verdict_in_words,
)
from restoration_guide.gate.gate import QualityGate
from restoration_guide.restorers.pool import MemberError
from restoration_guide.search.best_of_n import BestOfN, RestorationError
from zoomiqa_core.images.errors import ImageError
from zoomiqa_core.images.sources import read_image, to_pil

if TYPE_CHECKING:
    from PIL import Image

    from restoration_guide.app.config import AppConfig
    from restoration_guide.restorers.base import Candidate
    from restoration_guide.search.selection import Index, Row, Selection
    from zoomiqa_core.images.decoded import DecodedImage

DEMO_PHOTO = Path(__file__).resolve().parents[1] / "demo" / "photo.jpg"

Values = dict[str, Any]


class Handlers:
    """The page's actions on the models it offers.

    >>> from restoration_guide.app.config import AppConfig
    >>> handlers = Handlers(AppConfig(scorers=("proxy",)))
    >>> handlers.judge(str(DEMO_PHOTO), "proxy")["rating"]
    '**3... ± 0...** of 5 (fair to good), by proxy'
    """

    def __init__(self, config: AppConfig) -> None:
        self.config = config
        self.models = Models(config)

    def preview(self, photo: str | None) -> Values:
        """A small copy of a dropped photo, and its size.

        Raises:
            PageError: it cannot be used.
        """
        if photo is None:
            return {"preview": None, "size": ""}
        decoded = self._read(photo)
        height, width = decoded.pixels.shape[-2:]
        notes = "".join(f" · {note}" for note in decoded.notes)
        return {
            "preview": thumbnail(decoded.pixels),
            "size": f"{width} × {height} pixels{notes}",
        }

    def restore(
        self,
        session: Session,
        photo: str | None,
        restorers: Sequence[str],
        scorer: str,
        n: float,
        seed: float | None,
    ) -> Iterator[Values]:
        """Search; yields the gallery as candidates are judged, then what :meth:`show` does.

        Raises:
            PageError: a choice or the photo cannot be used, or the restorer failed.
        """
        n, seed = self._whole(n, "N", 1, self.config.max_n), self._whole(seed, "Seed", 0, 2**31 - 1)
        if photo is None:
            raise PageError("Drop a photo first.")
        decoded = self._read(photo)
        search = BestOfN(self.models.restorer(restorers), self.models.scorer(scorer), n)
        session.stop = threading.Event()
        session.selection = None
        start = time.perf_counter()
        yield {
            **dict.fromkeys(("slider", "picture", "map_before", "map_after")),
            **{"shown": "", "verdict": "", "gallery": []},
            "progress": "Waiting for the first candidate …",
        }
        shown: list[tuple[Image.Image, str]] = []
        finished = 0
        try:
            for step in search_in_steps(search, photo, seed, session.stop, self.models.in_use):
                if isinstance(step, tuple):
                    finished += 1
                    shown += _gallery_entry(*step)
                    done = progress_in_words(finished, n, time.perf_counter() - start)
                    yield {"progress": done, "gallery": list(shown)}
                else:
                    session.selection = step
        except (ImageError, MemberError, RestorationError, ValueError) as error:
            raise PageError(self._described(error, photo)) from error
        selection = session.searched()
        yield {"progress": outcome(selection), "gallery": _gallery(session, decoded.pixels)}
        yield from self.show(session, selection.choice)

    def pick(self, session: Session, place: int) -> Iterator[Values]:
        """Show another image of the gallery, by its place.

        Raises:
            PageError: no search, or no such image.
        """
        indices = session.gallery()
        if not 0 <= place < len(indices):
            raise PageError("That candidate is gone: restore the photo again.")
        yield from self.show(session, indices[place])

    def show(self, session: Session, index: Index) -> Iterator[Values]:
        """Compare the photo with one image: slider and verdict first, then maps and picture."""
        selection = session.searched()
        session.shown = index
        scorer = self.models.scorer(selection.config["scorer"])
        with self.models.in_use:
            verdict = QualityGate(scorer)(session.chosen())
        yield {
            "slider": (to_pil(selection.image("input")), to_pil(selection.image(index))),
            "shown": shown_in_words(selection, index),
            "verdict": verdict_in_words(verdict),
        }
        with self.models.in_use:
            before, after = paired_maps(selection, index)
        # The file comes last: a DownloadButton loses it when a later step leaves the button alone.
        yield {"map_before": before, "map_after": after, "picture": str(session.save_picture())}

    def stop(self, session: Session) -> None:
        """End the running search after the candidate in progress."""
        session.stop.set()

    def report(self, session: Session) -> Values:
        """The report of what is shown, as a zip file."""
        return {"report": str(session.save_report())}

    def judge(self, photo: str | None, scorer: str) -> Values:
        """Rating, map and worst regions of one photo.

        Raises:
            PageError: the photo cannot be used or judged.
        """
        if photo is None:
            raise PageError("Drop a photo first.")
        decoded = self._read(photo)
        judge = self.models.scorer(scorer)
        with self.models.in_use:
            assessment = judge.assess(decoded.pixels)
            judged = judge_regions(judge, decoded.pixels) if assessment.valid else None
        if not assessment.valid:
            why = assessment.message or assessment.error or "no rating"
            raise PageError(f"{scorer} could not judge {Path(photo).name}: {why}")
        height, width = decoded.pixels.shape[-2:]
        regions = [] if judged is None else judged.regions
        return {
            "rating": assessment_in_words(assessment, scorer),
            "map": None if judged is None else judged.quality_map,
            "regions": (
                to_pil(decoded.pixels),
                [
                    (_pixel_box(region.bbox, width, height), f"{place}: {region.rating:.2f}")
                    for place, region in enumerate(regions, 1)
                    if region.valid
                ],
            ),
        }

    def _read(self, photo: str) -> DecodedImage:
        try:
            return read_image(photo, limits=self.config.limits)
        except ImageError as error:
            raise PageError(self._described(error, photo)) from error

    def _described(self, error: Exception, photo: str) -> str:
        if isinstance(error, ImageError):
            return error_in_words(error, photo, self.config.limits)
        return f"The restoration failed: {error}"

    def _whole(self, value: float | None, name: str, low: int, high: int) -> int:
        if value is None or not math.isfinite(value) or not low <= value <= high:
            raise PageError(f"{name} is a whole number from {low} to {high}.")
        return int(value)


def _gallery_entry(candidate: Candidate, row: Row) -> list[tuple[Image.Image, str]]:
    """Thumbnail and caption; nothing for a candidate without usable pixels."""
    if row.fidelity is None:
        return []
    return [(thumbnail(candidate.image.detach().float().cpu().clamp(0, 1)), caption(row))]


def _gallery(session: Session, pixels: Any) -> list[tuple[Image.Image, str]]:
    """The input and every candidate that can be shown."""
    selection: Selection = session.searched()
    entries = [(thumbnail(pixels), f"input: {selection.row('input').rating:.2f}")]
    for index in session.gallery()[1:]:
        row = selection.row(index)
        entries.append((thumbnail(selection.image(index)), caption(row, selection.choice)))
    return entries


def _pixel_box(bbox: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = bbox
    return round(x0 * width), round(y0 * height), round(x1 * width), round(y1 * height)
