"""Rows of rounds and sequences of one round: by hand, there and back, and what is refused."""

from __future__ import annotations

import pytest
import torch

from zoomiqa_core.training.zoom_rollouts import Span, find_rounds, fold, images_per_round, unfold

# Row 0: prompt 1 2 | reply 3 4, prompt 5 6 7, reply 8. Row 1, its prompt padded: 9 | 10, padding.
IDS = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [0, 9, 10, 0, 0, 0, 0, 0]])
SEEN = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0, 0, 0]])
OWN = torch.tensor([[1, 1, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]])
SPANS = [Span(0, (0, 2), (2, 4)), Span(0, (4, 7), (7, 8)), Span(1, (1, 2), (2, 3))]


def test_rounds_are_found_by_hand():
    assert find_rounds(SEEN, OWN, 2) == SPANS


def test_rows_become_one_sequence_a_round():
    made = unfold(IDS, SEEN, OWN, 2, pad_id=0)
    assert made.input_ids.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 0], [0, 0, 9, 10, 0]]
    assert made.attention_mask.tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 0, 1, 1, 0]]
    assert made.length == 2 and made.spans == SPANS


def test_values_go_back_to_their_tokens_with_their_gradients():
    made = unfold(IDS, SEEN, OWN, 2, pad_id=0)
    values = made.input_ids[:, -2:].double().requires_grad_()
    rows = fold(values, made, rows=2, prompt_length=2, width=6)
    assert rows.tolist() == (IDS[:, 2:] * OWN).tolist()
    rows.sum().backward()
    assert values.grad.tolist() == [[1, 1], [1, 0], [1, 0]]  # padding has none


def test_images_are_dealt_to_their_rounds():
    grids = torch.tensor([[1, 2, 2], [1, 2, 4], [1, 2, 2]])  # 1, 2 and 1 tokens
    ids = torch.tensor([[5, 77, 1, 1, 77, 77, 77, 1]])
    spans = [Span(0, (0, 2), (2, 4)), Span(0, (4, 7), (7, 8))]
    assert images_per_round(spans, ids, grids, image_id=77, merge=2) == [1, 2]
    with pytest.raises(ValueError, match="row 0 do not match"):
        images_per_round(spans, ids.masked_fill(ids == 77, 5), grids[:2] + 1, 5, 2)
    with pytest.raises(ValueError, match="image tokens of 3 images, got those of 1"):
        images_per_round(spans[:1], ids, grids, 77, 2)


def test_a_row_without_a_reply_is_refused():
    seen = SEEN.clone()
    seen[1, 2:] = 0
    with pytest.raises(ValueError, match="row 1 has no reply"):
        find_rounds(seen, OWN, 2)
    seen = SEEN.clone()
    seen[0, 5] = 0
    with pytest.raises(ValueError, match="row 0 has no reply, or padding between"):
        find_rounds(seen, OWN, 2)
