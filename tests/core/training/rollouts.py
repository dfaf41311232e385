"""Replies as the prompts ask for them, for tests of the training."""

from zoomiqa_core.answer import format_answer

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
