"""A small GR-IQA folder for tests."""

from __future__ import annotations

import json
from pathlib import Path

from tests.core.judges import picture

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


def _round(rating, bbox=None):
    words = dict.fromkeys(("summary", "directions", "issues", "decision"), "It is so.")
    return {**words, "rating": rating, "tool": "crop" if bbox else "final", "bbox": bbox}
