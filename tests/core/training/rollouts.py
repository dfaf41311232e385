"""Replies as the prompts ask for them, for tests of the training."""

from dataclasses import dataclass

from PIL import Image

from tests.core.judges import picture
from zoomiqa_core.zoom_iqa.answer import format_answer
from zoomiqa_core.zoom_iqa.chain import Chain

FIRST_THOUGHT = """<think>
Image Quality Summary: Sharp, a little dark.
Directions for Improvement: The sky glows.
Issues to Avoid: Noise in the corner.
Decision & Rationale: Good.
</think>
"""
NEXT_THOUGHT = """<think>
Crop Inspection Summary: The noise is mild.
Directions for Improvement: Clean grain.
Issues to Avoid: None.
Final Decision & Rationale: The rating stays.
</think>
"""


def reply(rating: float, bbox=None, *, later: bool = False) -> str:
    return (NEXT_THOUGHT if later else FIRST_THOUGHT) + format_answer(rating, bbox)


BOX = (0.1, 0.2, 0.6, 0.8)


@dataclass(frozen=True)
class Record:
    """Stands for a GR-IQA record."""

    image: Image.Image
    image_id: str
    mos: float
    question: str = "How good?"
    label_source: str = "people"
    region_truth: tuple[tuple[float, float, float, float], ...] = ()
    rounds: tuple[str, ...] = ()


def picture_of(record):
    return record.image


def conversation(record, prompts, round_number):
    """Messages up to and with the reply of a round, and their images."""
    chain = Chain(record.image, prompts, record.question)
    for text in record.rounds[: round_number - 1]:
        chain.read(text)
    said = {"type": "text", "text": record.rounds[round_number - 1]}
    request = chain.request
    return [*request.messages, {"role": "assistant", "content": [said]}], list(request.images)


def records(count: int = 8) -> list[Record]:
    """Pictures of several sizes with ratings, every other one with two rounds."""
    sizes = [(96, 64), (64, 128), (70, 70), (140, 56)]
    made = []
    for n in range(count):
        mos = 1 + 4 * n / max(1, count - 1)
        two = (reply(3.0, BOX), reply(mos, later=True))
        image = picture(*sizes[n % 4], shade=20 * n)
        rounds = two if n % 2 else (reply(mos),)
        made.append(
            Record(image, f"i{n}", mos, region_truth=(BOX,) if n % 2 else (), rounds=rounds)
        )
    return made
