"""Rows of rounds and sequences of one round: by hand, there and back, and what is refused."""

from __future__ import annotations

import pytest
import torch

from zoomiqa_core.training.zoom_rollouts import Span, find_rounds, fold, unfold

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


def test_a_row_without_a_reply_is_refused():
    seen = SEEN.clone()
    seen[1, 2:] = 0
    with pytest.raises(ValueError, match="row 1 has no reply"):
        find_rounds(seen, OWN, 2)
    seen = SEEN.clone()
    seen[0, 5] = 0
    with pytest.raises(ValueError, match="row 0 has no reply, or padding between"):
        find_rounds(seen, OWN, 2)
