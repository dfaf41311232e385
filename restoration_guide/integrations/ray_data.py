"""Restoring and gating in anybody's ``map_batches``, see :mod:`zoomiqa_core.scale.ray_data`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from restoration_guide.gate.gate import QualityGate
from restoration_guide.search.best_of_n import BestOfN, RestorationError
from restoration_guide.search.judging import gain_of
from restoration_guide.search.selection import Selection
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.encoding import encode
from zoomiqa_core.images.errors import ImageError, ImageLimits
from zoomiqa_core.images.sources import DEFAULT_LIMITS, ImageSource
from zoomiqa_core.runs.files import to_json
from zoomiqa_core.scale.ray_data import ImageBatch, Record, failure


class RestoreBatch(ImageBatch):
    r"""Restore the images of a batch with best of N; the chosen picture is added as a PNG.

    Columns: ``name``, ``valid``, ``error``, ``message``; ``choice`` (a candidate's number or
    ``"input"``) and ``reason``; ``rating_before``, ``rating``, ``gain``, ``gain_std``;
    ``picture``, the bytes of a PNG file; ``candidates``, the rows of the search as JSON text. A
    search that stopped early, or whose input or candidates could not be judged, has
    ``valid=False``.

    >>> import numpy as np, zoomiqa_core as zi
    >>> from restoration_guide import load_restorer
    >>> def search():  # made where the batches are restored
    ...     return BestOfN(load_restorer("builtin"), zi.load_scorer("proxy"), n=1)
    >>> photo = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), np.uint8)
    >>> restored = RestoreBatch(search)({"image": photo})
    >>> restored["valid"].tolist(), restored["picture"][0][:4]
    ([True], b'\x89PNG')

    Args:
        search: the search, or a function that makes it.
        image: the column of images.
        name: the column of names.
        seed: of the candidates.
        bits: per channel of the picture, 8 or 16.
    """

    fields: ClassVar[Mapping[str, type]] = {
        "name": str,
        "valid": bool,
        "error": str,
        "message": str,
        "choice": str,
        "reason": str,
        "rating_before": float,
        "rating": float,
        "gain": float,
        "gain_std": float,
        "candidates": str,
        "picture": bytes,
    }

    def __init__(
        self,
        search: BestOfN | Callable[[], BestOfN],
        *,
        image: str = "image",
        name: str = "name",
        seed: int = 0,
        bits: int = 8,
    ) -> None:
        super().__init__([image], name)
        self.search = search if isinstance(search, BestOfN) else search()
        self.seed = seed
        self.bits = bits

    def judge(self, images: Sequence[Sequence[ImageSource]], names: Sequence[str]) -> list[Record]:
        """Restore one image a row."""
        return [self._restore(row[0], name) for row, name in zip(images, names, strict=True)]

    def _restore(self, image: ImageSource, name: str) -> Record:
        try:
            selection = self.search(image, self.seed)
        except ImageError as error:
            return failure(name, error.code, str(error))
        except RestorationError as error:
            return failure(name, "restoration_failed", str(error))
        before, chosen = (selection.assessments.get(key) for key in ("input", selection.choice))
        gain, gain_std = _gain(before, chosen)
        error = _error_of(selection)
        decoded = selection.decoded
        kept = {} if decoded is None else {"alpha": decoded.alpha, "exif": decoded.exif}
        return {
            "name": name,
            "valid": error is None,
            "error": error,
            "message": selection.error or "",
            "choice": str(selection.choice),
            "reason": selection.reason,
            "rating_before": None if before is None else before.to_dict()["rating"],
            "rating": None if chosen is None else chosen.to_dict()["rating"],
            "gain": gain,
            "gain_std": gain_std,
            "candidates": to_json(selection.table, indent=None).rstrip(),
            "picture": encode(selection.best, "PNG", bits=self.bits, **kept),
        }


class GateBatch(ImageBatch):
    """Decide for each row whether the restored image may replace its input.

    Columns: ``name``, ``valid``, ``error``, ``message``; ``action`` (accept, retry, keep_input,
    reject) and ``defect``; and, as JSON text, ``reasons``, ``ratings`` and ``fidelity``. A pair
    whose input cannot be read or judged has ``valid=False``.

    >>> import numpy as np, zoomiqa_core as zi
    >>> photo = np.random.default_rng(0).integers(0, 256, (1, 48, 48, 3), np.uint8)
    >>> gate = GateBatch(lambda: QualityGate(zi.load_scorer("proxy")))
    >>> verdicts = gate({"before": photo, "after": np.zeros_like(photo)})
    >>> verdicts["action"].tolist(), verdicts["defect"].tolist()
    (['retry'], ['constant'])

    Args:
        gate: the gate, or a function that makes it.
        before: the column of inputs.
        after: the column of restored images.
        name: the column of names.
        sizes: of images that are read.
    """

    fields: ClassVar[Mapping[str, type]] = {
        "name": str,
        "valid": bool,
        "error": str,
        "message": str,
        "action": str,
        "defect": str,
        **dict.fromkeys(("reasons", "ratings", "fidelity"), str),
    }

    def __init__(
        self,
        gate: QualityGate | Callable[[], QualityGate],
        *,
        before: str = "before",
        after: str = "after",
        name: str = "name",
        sizes: ImageLimits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__([before, after], name)
        self.gate = gate if isinstance(gate, QualityGate) else gate()
        self.sizes = sizes

    def judge(self, images: Sequence[Sequence[ImageSource]], names: Sequence[str]) -> list[Record]:
        """Judge one pair a row."""
        return [self._decide(row, name) for row, name in zip(images, names, strict=True)]

    def _decide(self, pair: Sequence[ImageSource], name: str) -> Record:
        before, after = pair
        verdict = self.gate(before, after, sizes=self.sizes)
        first = verdict.ratings[0].before if verdict.ratings else None
        error = "input_unreadable" if first is None else first.error
        every = verdict.to_dict()
        return {
            "name": name,
            "valid": error is None,
            "error": error,
            "message": "; ".join(verdict.reasons) if error else "",
            "action": verdict.action,
            "defect": verdict.defect,
            **{
                key: to_json(every[key], indent=None).rstrip()
                for key in ("reasons", "ratings", "fidelity")
            },
        }


def _gain(
    before: Assessment | None, chosen: Assessment | None
) -> tuple[float | None, float | None]:
    """Gain of the choice and its deviation; None for both without two judgements."""
    if before is None or chosen is None or not (before.valid and chosen.valid):
        return None, None
    return gain_of(before, chosen)


def _error_of(selection: Selection) -> str | None:
    """Why a search does not count: it stopped early, or there was nothing to compare."""
    if selection.error is not None:
        return "stopped"
    ok = [row.index for row in selection.rows if row.status == "ok"]
    return None if "input" in ok and len(ok) > 1 else "unjudged"
