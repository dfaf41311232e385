"""The expected rating: by hand, and read from a model."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.core.judges import picture
from zoomiqa_core.zoom_iqa.judge import ZoomIQA
from zoomiqa_core.zoom_iqa.local import expected
from zoomiqa_core.zoom_iqa.local.expected import expected_rating, rating_prefix
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.rating_digits import BEGINNING, rating_moments


def test_moments_by_hand():
    # 3.2 + .045 with probability .5, 4.1 + .045 with .5: mean 3.695, half the distance .45
    whole = torch.tensor([0.0, 0, 0.5, 0.5, 0], dtype=torch.float64)
    decimal = torch.zeros(5, 10, dtype=torch.float64)
    decimal[2, 2] = decimal[3, 1] = 1
    mean, std = rating_moments(whole, decimal)
    assert mean == pytest.approx(3.695) and std == pytest.approx(0.45)


def test_nothing_is_rated_above_five():
    whole, decimal = torch.eye(5)[4].double(), torch.full((5, 10), 0.1, dtype=torch.float64)
    assert rating_moments(whole, decimal) == (5.0, 0.0)


def test_the_prefix_ends_where_the_rating_stands(tiny):
    tokenizer = tiny[1].tokenizer
    prefix = rating_prefix(tokenizer)
    assert tokenizer.decode(prefix.ids) == BEGINNING
    assert BEGINNING.endswith('"rating": ')
    assert [tokenizer.decode(digit) for digit in prefix.digits] == list("0123456789")
    assert tokenizer.decode(prefix.point) == "."


def test_a_tokenizer_that_joins_digits_is_refused():
    class Joining:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": [ord(c) for c in text[:-3]] + [hash(text[-3:]) % 1000]}

    with pytest.raises(ValueError, match="every digit as a token of its own"):
        rating_prefix(Joining())


def test_the_distribution_is_the_models_own(tiny):
    """Against the model's probabilities after each whole text, one by one."""
    model, processor = tiny
    vlm = LocalVLM(model, processor, min_digit_mass=0.0)
    (said,) = ZoomIQA(vlm).assess([picture()], mode="expected")

    def next_probabilities(text: str) -> torch.Tensor:
        from zoomiqa_core.zoom_iqa.prompts import BUILTIN
        from zoomiqa_core.zoom_iqa.protocol import messages

        chat = processor.apply_chat_template(
            messages(BUILTIN, BUILTIN.question(0)), tokenize=False, add_generation_prompt=True
        )
        inputs = processor(text=[chat + text], images=[picture()], return_tensors="pt")
        with torch.no_grad():
            return model(**inputs).logits[0, -1].double().softmax(-1)

    prefix = rating_prefix(processor.tokenizer)
    first = next_probabilities(BEGINNING)[list(prefix.digits)]
    mass = first[1:6].sum()
    whole = first[1:6] / mass
    rows = [next_probabilities(f"{BEGINNING}{d}.")[list(prefix.digits)] for d in range(1, 6)]
    decimal = torch.stack([row / row.sum() for row in rows])
    mean, std = rating_moments(whole, decimal)
    assert said.chains.digit_mass == pytest.approx(float(mass), rel=1e-4)
    assert said.chains.distribution == pytest.approx(whole.tolist(), rel=1e-4)
    assert (said.rating, said.rating_std) == pytest.approx((mean, std), rel=1e-4)
    assert sum(said.chains.distribution) == pytest.approx(1)


def test_images_of_a_batch_are_read_as_alone(tiny):
    judge = ZoomIQA(LocalVLM(*tiny, min_digit_mass=0.0, batch_size=3))
    images = [picture(96, 64), picture(56, 140), picture(64, 64), picture(200, 100)]
    together = judge.assess(images, mode="expected")
    for image, said in zip(images, together, strict=True):
        alone = judge.assess(image, mode="expected")
        assert said.rating == pytest.approx(alone.rating, abs=1e-4)


def test_a_model_that_is_not_about_to_rate_fails(tiny):
    said = ZoomIQA(LocalVLM(*tiny)).assess(picture(), mode="expected")
    assert (said.valid, said.error) == (False, "no_rating") and math.isnan(said.rating)
    assert "less than 0.5" in said.message


def test_probabilities_that_are_not_numbers_are_a_failure(monkeypatch):
    state: Any = SimpleNamespace(logits=torch.full((1, 12), math.nan))
    monkeypatch.setattr(expected, "select_rows", lambda *_: None)
    monkeypatch.setattr(expected, "extend", lambda *_: torch.zeros(5, 2, 12))
    prefix = expected.RatingPrefix((), tuple(range(10)), 11)
    (said,) = expected_rating(state, prefix)
    assert said.error == "not_finite"
