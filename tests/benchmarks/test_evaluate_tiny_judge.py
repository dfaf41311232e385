"""The table of trained small judges: its columns by hand, its intervals and its groups."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import evaluate_tiny_judge as command
from benchmarks.tiny_judge_answers import Asked
from tests.core.judges import FINAL, picture
from zoomiqa_core.evaluation.correlation import Estimate
from zoomiqa_core.images.sources import to_batch
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm, teach_replies
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.sampling import Sampling


def first(figure) -> float:
    return float(np.ravel(figure)[0])


def answer(kind: str, target: float, rating: float, **known) -> command.Case:
    plain = {"valid": True, "first": rating, "expected": -rating, "zoomed": False, "bbox": None}
    plain |= {"subset": "ss01", "truth": [], "swapped": -rating, "swapped_target": -target}
    return plain | {"kind": kind, "target": target, "rating": rating} | known


def answers() -> list[command.Case]:
    pairs = [(1.5, 2.0), (3.0, 2.9), (3.5, 3.6), (4.9, 4.0)]
    rated = [answer("rated", t, r, subset=s) for s in ("ss01", "ss03") for t, r in pairs]
    unseen = [answer("unseen", t, 5 - t) for t in (1.0, 2.0, 3.0)]
    clean = [answer("clean", 4.5, 4.5, zoomed=n == 0) for n in range(4)]
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0), (0.0, 0.5, 0.5, 1.0)]
    local = [
        answer("local", 4.2, 4.0, zoomed=True, first=3.0, bbox=box, truth=[box]) for box in boxes
    ]
    return [*rated, *unseen, *clean, *local, answer("rated", 3.0, math.nan, valid=False)]


def test_columns_by_hand():
    table = command.measure(answers(), seed=0)
    assert table["valid answers"] == pytest.approx(18 / 19)
    assert first(table["after words: BIQ2021 SRCC"]) == pytest.approx(1)
    assert first(table["after words: mean of ss01, ss03 SRCC"]) == pytest.approx(1)
    assert first(table["words cost, mean of subsets"]) == pytest.approx(-2)  # from −1 to 1
    assert first(table["after words: unseen types SRCC"]) == pytest.approx(-1)
    assert first(table["swapped words: SRCC with its own image's people"]) == pytest.approx(-1)
    assert first(table["swapped words: SRCC with the words' image"]) == pytest.approx(1)
    assert first(table["local damage: round 2 less error by"]) == pytest.approx(1.2 - 0.2)
    assert first(table["zoom box: IoU with the damage"]) == pytest.approx(1)
    # the third box overlaps neither the first nor the second
    assert first(table["zoom box: the same of boxes of other images"]) == pytest.approx(0)
    assert table["zoom rate: difference"] == pytest.approx(1.0 - 0.25)


def test_intervals_contain_their_value():
    table = command.measure(answers(), seed=0)
    value, low, high = np.ravel(table["after words: BIQ2021 SRCC"])
    assert low <= value <= high


def test_the_spread_of_chains_is_compared_with_their_error():
    """Means 2, 3 and 4 of pictures rated 2: the wider they spread, the larger the error."""
    cases = answers()
    for n, case in enumerate(cases[:3]):
        case |= {"target": 2.0, "ratings": [2.0, 2.0 + 2 * n]}
    assert first(command.measure(cases, seed=0)["std of K chains against error, SRCC"]) == 1.0


def test_seeds_share_a_column():
    judges: dict[str, dict[str, Estimate | float]] = {
        "sft-0": {"SRCC": 0.2},
        "sft-1": {"SRCC": 0.4},
        "grpo-0": {"SRCC": Estimate(0.5, 0.3, 0.7)},
    }
    assert command.show(judges).splitlines() == [
        "| measure | sft (2) | grpo (1) |",
        "| --- | ---: | ---: |",
        "| SRCC | 0.300 ± 0.141 | 0.500 [0.300, 0.700] |",
    ]


def test_a_rating_is_read_after_the_words_and_another_after_swapped_ones():
    """A random model, which answers with a whole reply: every reading is a rating."""
    model, processor = build_tiny_vlm()
    vlm = LocalVLM(model, processor, sampling=Sampling(max_new_tokens=2))
    asked = Asked(vlm, BUILTIN, seed=0)
    text = "<think>\nGood.\n</think>\n" + FINAL[FINAL.index("<answer>") :]
    said = processor.tokenizer.decode(list(asked.upto_rating(text)))
    assert text.startswith(said) and said.endswith('"rating": ')
    assert asked.upto_rating("nothing") == asked.prefix.ids
    teach_replies(model, processor, {FINAL: 9.0}, end=9.0)
    images = [to_batch(picture(64, 64, shade=40 * n))[0] for n in range(3)]
    known = [{"kind": "rated", "target": 2.0 + n, "subset": "ss01"} for n in range(3)]
    found = asked.answers(list(zip(known, images, strict=True)), chains=2, name="tiny")
    assert [a["target"] for a in found] == [2.0, 3.0, 4.0]
    assert [a["swapped_target"] for a in found] == [4.0, 2.0, 3.0]
    assert all(1 <= a[key] <= 5 for a in found for key in ("rating", "expected", "swapped"))
    assert len(found[0]["ratings"]) == 2 and "ratings" not in found[1]
