"""A small GR-IQA folder for tests, and a reader of it where the package has none yet."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

from PIL import Image

from tests.core.judges import picture
from zoomiqa_core.answer import format_answer
from zoomiqa_core.chain import Chain

MODULE = "zoomiqa_core.data.gr_iqa"
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


def provide_reader() -> None:
    """Put a reader of these sets in the place of the package's, if the package has none."""
    if MODULE in sys.modules or find_spec(MODULE):
        return
    module = ModuleType(MODULE)
    module.__dict__.update(
        read_records=_read_records,
        read_picture=_read_picture,
        conversation=_conversation,
        region_conversation=None,
    )
    sys.modules[MODULE] = module


def _read_records(folder):
    lines = (Path(folder) / "records.jsonl").read_text().splitlines()
    return [SimpleNamespace(**json.loads(line)) for line in lines]


def _read_picture(folder, record):
    return Image.open(Path(folder) / "images" / record.image).convert("RGB")


def _conversation(record, prompts, number, image):
    replies = [
        f"<think>{look['summary']}</think>\n{format_answer(look['rating'], look['bbox'])}"
        for look in record.rounds
    ]
    chain = Chain(image, prompts, record.question)
    for text in replies[: number - 1]:
        chain.read(text)
    request = chain.request
    said = {"role": "assistant", "content": [{"type": "text", "text": replies[number - 1]}]}
    return [*(request.messages if request else []), said], list(request.images if request else [])
