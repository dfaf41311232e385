"""Sampling: by hand, against a teacher-forced pass, and independent of the batch."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.core.judges import picture
from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.local import expected
from zoomiqa_core.zoom_iqa.local.decoding import draw, sample_replies
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.local.prefix import extend, read_prompts, select_rows
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.protocol import messages
from zoomiqa_core.zoom_iqa.sampling import Sampling

SHORT = Sampling(max_new_tokens=12)
QUESTION = messages(BUILTIN, "How good?")


def prompts(vlm: LocalVLM, *sizes: tuple[int, int]) -> list:
    return [vlm.encoder.encode(Request(QUESTION, (picture(*size),), 0), {}) for size in sizes]


def replies(vlm, prompted, rows, seeds, sampling=SHORT, **settings):
    prefix = read_prompts(vlm.family, prompted)
    select_rows(prefix, rows)
    settings.setdefault("end_ids", vlm.end_ids)
    return sample_replies(prefix, seeds, sampling, **settings)


@pytest.fixture(scope="module")
def vlm(tiny) -> LocalVLM:
    return LocalVLM(*tiny)


def test_draw_inverts_the_distribution_function():
    # probabilities .5, 0, .3, .2: cumulative .5, .5, .8, 1
    logits = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().repeat(6, 1)
    uniform = torch.tensor([0.0, 0.4999, 0.5001, 0.79, 0.81, 1 - 1e-12], dtype=torch.float64)
    assert draw(logits, uniform).tolist() == [0, 0, 2, 2, 3, 3]


def test_draw_follows_the_probabilities():
    logits = torch.tensor([[1.0, 2.0, -math.inf, 0.0]])
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = draw(logits.expand(20_000, -1), uniform).bincount(minlength=4) / 20_000
    torch.testing.assert_close(share, logits[0].softmax(0), atol=0.01, rtol=0)
    assert share[2] == 0


def test_a_row_replies_the_same_alone_and_in_any_batch(vlm):
    sizes = [(96, 64), (140, 56), (56, 112)]
    prompted = prompts(vlm, *sizes)
    rows, seeds = [0, 0, 1, 2, 2, 2], [10, 11, 12, 13, 14, 15]
    batch = replies(vlm, prompted, rows, seeds)
    for row, seed, reply in zip(rows, seeds, batch, strict=True):
        (alone,) = replies(vlm, [prompted[row]], [0], [seed])
        assert alone.ids == reply.ids
        assert alone.log_probs == pytest.approx(reply.log_probs, abs=1e-4)
    assert len({tuple(reply.ids) for reply in batch}) == 6


def test_log_probs_are_those_of_a_teacher_forced_pass(vlm):
    prompted = prompts(vlm, (96, 64), (140, 56))
    for row, seed in ((0, 1), (1, 2), (1, 3)):
        (reply,) = replies(vlm, prompted, [row], [seed])
        prompt = prompted[row]
        ids = torch.cat([prompt.ids, torch.tensor(reply.ids)])
        forced = read_prompts_logits(vlm, prompt._replace(ids=ids))
        first = len(prompt.ids) - 1
        expected = forced[first : first + len(reply.ids)].log_softmax(-1)
        expected = expected.gather(-1, torch.tensor(reply.ids)[:, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(reply.log_probs[: len(reply.ids)]), expected, atol=1e-4, rtol=0
        )


def read_prompts_logits(vlm, prompt) -> torch.Tensor:
    """(L, V) logits by the model's own forward, with pixels, as a training runs it."""
    inputs = vlm.processor.image_processor(
        [picture(*reversed_size(prompt))], return_tensors="pt", **vlm.family.image_options
    )
    ids = prompt.ids[None]
    image_tokens = (ids == vlm.model.config.image_token_id).long()
    with torch.no_grad():
        return vlm.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=image_tokens,
            **inputs,
        ).logits[0]


def reversed_size(prompt) -> tuple[int, int]:
    """The test pictures by the grid the processor makes of them."""
    (_, rows, columns), *_ = prompt.images[0].inputs.tensors["image_grid_thw"].tolist()
    return {(4, 6): (96, 64), (4, 10): (140, 56)}[rows, columns]


def test_the_models_own_forward_keeps_no_state_for_us(vlm):
    prompted = prompts(vlm, (96, 64))
    before = replies(vlm, prompted, [0], [5])
    read_prompts_logits(vlm, prompts(vlm, (140, 56))[0])  # leaves rope_deltas on the model
    assert replies(vlm, prompted, [0], [5]) == before


def test_zero_temperature_and_top_k_of_one_take_the_likeliest(vlm):
    prompted = prompts(vlm, (96, 64))
    greedy = replies(vlm, prompted, [0], [1], Sampling(temperature=0, max_new_tokens=6))
    assert greedy == replies(vlm, prompted, [0], [2], Sampling(top_k=1, max_new_tokens=6))
    prefix = read_prompts(vlm.family, prompted)
    for token in greedy[0].ids:
        assert token == int(prefix.logits.argmax())
        extend(prefix, torch.tensor([[token]]))


def test_a_repetition_penalty_divides_what_was_said_whatever_the_padding(vlm):
    sampling = Sampling(temperature=0, repetition_penalty=1e6, max_new_tokens=8)
    prompted = prompts(vlm, (96, 64), (140, 56))
    batch = replies(vlm, prompted, [0, 1], [1, 2], sampling)
    for row, reply in enumerate(batch):
        assert replies(vlm, [prompted[row]], [0], [1], sampling)[0].ids == reply.ids
        assert not set(reply.ids) & set(prompted[row].ids.tolist())  # said in the prompt
        assert len(set(reply.ids)) == len(reply.ids)


def test_banned_tokens_never_occur_and_end_tokens_end(vlm):
    prompted = prompts(vlm, (96, 64))
    (free,) = replies(vlm, prompted, [0], [1])
    (banned,) = replies(vlm, prompted, [0], [1], banned_ids=free.ids[:1])
    assert free.ids[0] not in banned.ids
    (ended,) = replies(vlm, prompted, [0], [1], end_ids=frozenset({free.ids[3]}))
    assert ended.ids == free.ids[: free.ids.index(free.ids[3])] and ended.ended
    assert len(ended.log_probs) == len(ended.ids) + 1
    assert not free.ended and len(free.ids) == SHORT.max_new_tokens == len(free.log_probs)


def test_rows_that_end_early_leave_the_others_as_they_were(vlm):
    prompted, rows, seeds = prompts(vlm, (96, 64)), [0] * 6, list(range(6))
    full = replies(vlm, prompted, rows, seeds)
    ends = frozenset(reply.ids[2] for reply in full[:4])
    cut = replies(vlm, prompted, rows, seeds, end_ids=ends)
    for short, long in zip(cut, full, strict=True):
        assert short.ids == long.ids[: len(short.ids)]
    assert sum(reply.ended for reply in cut) >= 4


def test_a_row_that_stops_being_finite_fails_alone(vlm):
    prompted = prompts(vlm, (96, 64))
    good = replies(vlm, prompted, [0], [1])
    prefix = read_prompts(vlm.family, prompted)
    select_rows(prefix, [0, 0])
    prefix.logits[1] = math.nan
    left, right = sample_replies(prefix, [1, 2], SHORT, end_ids=vlm.end_ids)
    assert left.ids == good[0].ids and left.finite
    assert right.ids == [] and not right.finite


@pytest.mark.parametrize(
    "settings", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}]
)
def test_sampling_out_of_range_is_refused(settings):
    with pytest.raises(ValueError, match="temperature ≥ 0, 0 < top_p ≤ 1"):
        Sampling(**settings)
    bad: list[dict[str, Any]] = [{"max_new_tokens": 0}, {"repetition_penalty": 0.0}]
    for settings in bad:
        with pytest.raises(ValueError, match="max_new_tokens ≥ 1 and repetition_penalty > 0"):
            Sampling(**settings)


class OnMps(torch.Tensor):
    """A tensor that refuses fp64 as one on MPS does."""

    device = torch.device("mps")  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name == "double":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        if name == "cpu":
            return args[0].as_subclass(torch.Tensor)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_tokens_are_drawn_where_there_is_no_fp64():
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert draw(logits.as_subclass(OnMps), uniform).tolist() == draw(logits, uniform).tolist()


def test_an_expected_rating_is_read_where_there_is_no_fp64(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(1, 12, generator=generator), torch.randn(5, 2, 12)
    prefix = expected.RatingPrefix((), tuple(range(10)), 11)
    monkeypatch.setattr(expected, "select_rows", lambda *_: None)

    def rate(kind):
        monkeypatch.setattr(expected, "extend", lambda *_: second.as_subclass(kind))
        state: Any = SimpleNamespace(logits=first.as_subclass(kind))
        return expected.expected_rating(state, prefix, min_digit_mass=0)

    assert rate(OnMps) == rate(torch.Tensor)


def test_taking_every_row_as_it_is_copies_no_cache(vlm):
    prefix = read_prompts(vlm.family, prompts(vlm, (96, 64), (140, 56)))
    keys = prefix.cache.layers[0].keys.data_ptr()
    select_rows(prefix, [0, 1])
    assert prefix.cache.layers[0].keys.data_ptr() == keys
    select_rows(prefix, [1, 0])
    assert prefix.cache.layers[0].keys.data_ptr() != keys
