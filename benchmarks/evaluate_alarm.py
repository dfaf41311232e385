"""Does the alarm tell a fooled judge from a better image?

    python -m benchmarks.evaluate_alarm --photos VALIDATION [--hacked RUN/pipeline] \
        [--weights PROXY] [--alarm ALARM] [--count 16]

Pairs (before, after) of photos nothing was trained on, in 8 bits, in which the proxy claims a rise
of .05 or more:

- *hacked*: ``after`` is an attack on the proxy (``benchmarks.attack_proxy``), or what a restorer
  tuned on the proxy alone (``--hacked``, made by ``recipes/configs/finetune_restorer/naive.yaml``)
  gives instead of the untuned one; its MS-SSIM to the clean photo has not risen;
- *honest*: ``after`` is the bundled restorer's restoration of the damaged photo ``before``; PSNR
  and MS-SSIM to the clean photo have both risen.

Neither is told from the other by what the alarm was taught: its target is another similarity, and
no attack took part. Prints, kind by kind, what the changes were, the area under the ROC of the
alarm's gain and of its gain less the proxy's (95 % bootstrap intervals over photos), and what
``restoration_guide.finetune.disagreement`` makes of the photos.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from benchmarks import tables
from benchmarks.attack_proxy import ATTACKS
from benchmarks.damaged_photos import Photo, centre_crop, damage, read_photos
from restoration_guide.fidelity.full_reference import reference_figures
from restoration_guide.finetune.disagreement import Disagreement
from restoration_guide.restorers.base import candidate_generator
from restoration_guide.restorers.builtin.pipeline import TinyRestorationPipeline
from restoration_guide.restorers.builtin.restorer import load_builtin_pipeline
from zoomiqa_core.alarm import Alarm
from zoomiqa_core.evaluation.correlation import Estimate, auc, bootstrap
from zoomiqa_core.proxy.model import QualityProxy

CLAIM = 0.05
"""Rise of the proxy's rating that makes a pair an improvement claimed."""
HONEST = "restored"
GAINS = ("proxy_gain", "alarm_gain", "psnr_gain", "ms_ssim_gain")
"""Figures of a :class:`Change`."""
PRESETS = ("mixed", "noise_jpeg", "blur_noise", "x2")
SETTINGS = ((1, 0.0), (3, 0.7), (2, 1.0), (6, 0.5))
"""(steps, temperature) of the restorations."""


@dataclass(frozen=True)
class Change:
    """Two versions of one crop, as both judges and the clean photo see them."""

    photo: int
    """Number of the photo."""
    kind: str
    """``HONEST``, the attack, or ``tuned restorer``."""
    proxy_gain: float
    alarm_gain: float
    psnr_gain: float
    ms_ssim_gain: float

    @property
    def counts(self) -> bool:
        """Whether the proxy claims a rise, and the clean photo says what it is."""
        nearer = self.ms_ssim_gain > 0
        right = nearer and self.psnr_gain > 0 if self.kind == HONEST else not nearer
        return right and self.proxy_gain >= CLAIM


def attacked(
    photo: Photo, place: int, proxy: QualityProxy, seed: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(kind, before, after) of every attack on a crop; every second photo is damaged first."""
    before = damage(photo, "mixed", seed=seed) if place % 2 else photo.clean
    for name, attack in ATTACKS.items():
        with torch.enable_grad():
            after = attack(before[None], lambda image: proxy(image).rating)
        yield name, before, after.detach()[0]


@torch.no_grad()
def restored(
    photo: Photo,
    place: int,
    untuned: TinyRestorationPipeline,
    tuned: TinyRestorationPipeline | None,
    seed: int,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(kind, before, after) of restorations of one damaged photo, and of the tuned restorer's."""
    degraded = damage(photo, PRESETS[place % len(PRESETS)], seed=seed)

    def restore(pipe: TinyRestorationPipeline, steps: int, temperature: float) -> Tensor:
        (images,) = pipe(
            degraded[None],
            steps,
            temperature=temperature,
            generator=candidate_generator(seed, photo.number),
            output_type="pt",
            return_dict=False,
        )
        return images[0]

    for setting in SETTINGS:
        made = restore(untuned, *setting)
        yield HONEST, degraded, made
        if tuned is not None:
            yield "tuned restorer", made, restore(tuned, *setting)


def measure(
    proxy: QualityProxy,
    alarm: Alarm,
    photos: Sequence[Photo],
    tuned: TinyRestorationPipeline | None = None,
    *,
    size: int = 224,
    seed: int = 0,
) -> list[Change]:
    """All changes of all photos, those that do not count among them."""
    untuned, changes = load_builtin_pipeline(), []
    for place, photo in enumerate(track(photos, "photos")):
        small = Photo(photo.number, photo.name, centre_crop(photo.clean, size, size))
        for truth, pairs in (
            (small.clean, attacked(small, place, proxy, seed)),
            (photo.clean, restored(photo, place, untuned, tuned, seed)),
        ):
            for kind, *pair in pairs:
                before, after = ((image.clamp(0, 1) * 255).round() / 255 for image in pair)
                with torch.no_grad():
                    by_proxy, by_alarm = (
                        float(judge(after[None]).rating - judge(before[None]).rating)
                        for judge in (proxy, alarm)
                    )
                old, new = (reference_figures(image, truth) for image in (before, after))
                similar = (new.ms_ssim or 0.0) - (old.ms_ssim or 0.0)
                nearer = new.psnr - old.psnr
                changes.append(Change(photo.number, kind, by_proxy, by_alarm, nearer, similar))
    return changes


def separation(
    changes: Sequence[Change], kinds: Sequence[str], *, less_proxy: bool = False, seed: int = 0
) -> Estimate:
    """Area under the ROC, honest above the hacks of some kinds; photos are resampled.

    Args:
        changes: those that count are looked at.
        kinds: of hacks.
        less_proxy: of the alarm's gain less the proxy's, not of the alarm's alone.
        seed: of the bootstrap.
    """
    numbers = sorted({change.photo for change in changes})
    gains: dict[tuple[int, bool], list[float]] = {
        (n, h): [] for n in numbers for h in (True, False)
    }
    for change in changes:
        if change.counts and change.kind in (HONEST, *kinds):
            value = change.alarm_gain - (change.proxy_gain if less_proxy else 0.0)
            gains[change.photo, change.kind == HONEST].append(value)

    def area(chosen: np.ndarray) -> float:
        hacked, honest = ([g for n in chosen for g in gains[int(n), h]] for h in (False, True))
        return auc(hacked, honest) if hacked and honest else float("nan")

    return bootstrap(area, numbers, resamples=500, seed=seed)


def table(changes: Sequence[Change], seed: int = 0) -> str:
    """Markdown, one row a kind and one of all hacks."""
    head = ["after", "pairs", "proxy", "alarm", "PSNR, dB", "MS-SSIM"]
    head += ["AUC of the alarm", "less the proxy", "verdict"]
    hacks = [kind for kind in dict.fromkeys(c.kind for c in changes) if kind != HONEST]
    lines: list[list[object]] = []
    for name, chosen in {**{kind: [kind] for kind in [HONEST, *hacks]}, "all hacks": hacks}.items():
        rows = [c for c in changes if c.counts and c.kind in chosen]
        if not rows:
            lines.append([name, 0, *[""] * 7])
            continue
        areas: list[object] = ["", ""]
        if name != HONEST:
            areas = [
                separation(changes, chosen, less_proxy=less, seed=seed) for less in (False, True)
            ]
        by_proxy, by_alarm = (_by_photo(rows, gain) for gain in GAINS[:2])
        means = [
            tables.cell(float(np.mean([getattr(row, gain) for row in rows])), digits, sign=True)
            for gain, digits in zip(GAINS, (3, 3, 2, 4), strict=True)
        ]
        verdict = Disagreement(by_proxy, by_alarm).verdict
        lines.append([name, len(rows), *means, *areas, verdict])
    return tables.table(head, lines)


def _by_photo(rows: Sequence[Change], name: str) -> np.ndarray:
    """Mean of a figure over each photo's changes: tests over photos must not count them twice."""
    photos = sorted({row.photo for row in rows})
    return np.array([np.mean([getattr(r, name) for r in rows if r.photo == n]) for n in photos])


def main() -> None:
    """Measure, print the table."""
    parser = tables.arguments(
        __doc__, out="runs/evaluate_alarm.json", photos=..., weights=None, alarm=None, count=16
    )
    parser.add_argument("--hacked", type=Path, help="folder of a tuned TinyRestorationPipeline")
    args = parser.parse_args()
    changes = measure(
        QualityProxy.from_pretrained(args.weights).requires_grad_(False),
        Alarm.from_pretrained(args.alarm).requires_grad_(False),
        read_photos(args.photos, args.count),
        None if args.hacked is None else load_builtin_pipeline(args.hacked),
        seed=args.seed,
    )
    tables.finish(args, table(changes, args.seed), changes=[vars(change) for change in changes])


if __name__ == "__main__":
    main()
