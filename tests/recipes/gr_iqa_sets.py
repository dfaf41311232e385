"""A small GR-IQA folder for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.core.judges import picture
from zoomiqa_core.images.sources import save_png

BOX = [0.1, 0.2, 0.6, 0.8]
SIZES = [(96, 64), (64, 128), (70, 70), (140, 56)]


def write_set(folder: Path, count: int = 8) -> Path:
    """Records in the package's format, every other one with a closer look."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for n in range(count):
        mos = round(1 + 4 * n / (count - 1), 2)
        picture(*SIZES[n % 4], shade=20 * n).save(folder / "images" / f"{n}.png")
        rounds = [_round(mos)] if n % 2 else [_round(3.0, BOX), _round(mos)]
        truth = [] if n % 2 else [BOX]
        rows.append(
            {
                "image": f"{n}.png",
                "question": "How good?",
                "rounds": rounds,
                "mos": mos,
                "image_id": f"i{n}",
                "region_truth": truth,
                "regions": [],
                "provenance": {},
            }
        )
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_miniature_biq2021(folder: Path) -> Path:
    """Six rated textures in BIQ2021's layout; its images serve as clean photos too."""
    rows = ["image_name,mos,set"]
    axis = torch.linspace(0, 1, 140)
    for index in range(6):
        waves = torch.sin(40 * axis * axis * (1 + index / 6)) * torch.cos(30 * axis[:, None])
        image = torch.stack((0.5 + 0.4 * waves, 0.5 + 0.3 * waves.T, 0.45 - 0.3 * waves))
        save_png(image.clamp(0, 1), folder / "images" / f"ss01 ({index}).png")
        rows.append(f"ss01 ({index}).png,{0.1 + index / 7:.3f},training")
    (folder / "mos.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def _round(rating, bbox=None):
    words = dict.fromkeys(("summary", "directions", "issues", "decision"), "It is so.")
    return {**words, "rating": rating, "tool": "crop" if bbox else "final", "bbox": bbox}
