"""The rating of a reply as a mean over the digits that could have been written in it."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.core.judges import picture
from zoomiqa_core.zoom_iqa.answer import format_answer
from zoomiqa_core.zoom_iqa.chain import Chain
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.local.expected import rating_prefix, rating_token, written_rating
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.local.prefix import extend, fork, read_prompts, select_rows
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.rating_digits import digits_to_assessment, rating_place

REPLY = "<think>\nSharp, 4.5 of 5.</think>\n" + format_answer(3.56)


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        (REPLY, "3.56"),
        ('<answer>{"rating": "2.10"}</answer>', "2.10"),
        ('<answer>{"rating": 1.0}</answer> no: <answer>{"rating": 4.75}</answer>', "4.75"),
        ('<answer>{"rating": 3}</answer>', None),
        ('<answer>{"rating": 7.50}</answer>', None),
        ("I cannot say.", None),
    ],
)
def test_the_rating_of_the_last_answer_is_found(text, rating):
    place = rating_place(text)
    assert (place if place is None else text[place : place + 4]) == rating


def test_the_token_of_the_integer_part_is_found(tiny):
    tokenizer = tiny[1].tokenizer
    ids = tokenizer(REPLY, add_special_tokens=False)["input_ids"]
    digits = rating_prefix(tokenizer)
    place = rating_token(tokenizer, ids, digits)
    assert place is not None
    assert tokenizer.decode(ids[place : place + 4]) == "3.56"
    assert tokenizer.decode(ids[:place]).endswith('"rating": ')
    assert rating_token(tokenizer, ids[:place], digits) is None


def sharp(tiny):
    """Far from uniform: the last layer's bias prefers some digits."""
    model, processor = copy.deepcopy(tiny)
    head = torch.nn.Linear(*reversed(model.lm_head.weight.shape))
    head.weight = model.lm_head.weight
    torch.nn.init.zeros_(head.bias)
    for digit in "12345":
        head.bias.data[processor.tokenizer.convert_tokens_to_ids(digit)] = 9 + 0.3 * int(digit)
    model.lm_head = head
    return LocalVLM(model, processor)


def test_it_is_the_mean_of_separate_passes(tiny):
    """Against whole prompts with the reply's beginning, read anew; in a padded batch."""
    backend = sharp(tiny)
    tokenizer = backend.processor.tokenizer
    digits = rating_prefix(tokenizer)
    ids = tokenizer(REPLY, add_special_tokens=False)["input_ids"]
    place = rating_token(tokenizer, ids, digits)
    assert place is not None
    chains = [Chain(picture(*size), BUILTIN, "How good?") for size in ((96, 64), (140, 56))]
    requests = [chain.request for chain in chains]
    prompts = [backend.encoder.encode(request, {}) for request in requests if request]
    state = read_prompts(backend.family, prompts)
    start = state.ids.shape[1]
    extend(state, torch.tensor([ids, ids]))
    before = state.ids.clone()
    for row, request in enumerate(requests):
        found = written_rating(state, row, start, ids, place, digits)
        assert request is not None
        anew = [
            read_prompts(
                backend.family,
                [backend.encoder.encode(request, {}, [*ids[:place], *more])],
            ).logits.softmax(-1)[0, list(digits.digits)]
            for more in ((), *((digits.digits[d], digits.point) for d in range(1, 6)))
        ]
        expected = digits_to_assessment(anew[0][1:6].double(), torch.stack(anew[1:]).double())
        assert expected.valid and found == pytest.approx(expected.rating, abs=1e-4)
    assert torch.equal(state.ids, before)
    assert written_rating(state, 0, start, ids, place, digits, 0.9999) is None


def test_a_fork_continues_like_its_row(tiny):
    backend = LocalVLM(*tiny)
    request = Chain(picture(), BUILTIN, "How good?").request
    assert request is not None
    prompt = backend.encoder.encode(request, {})
    state = read_prompts(backend.family, [prompt])
    extend(state, torch.tensor([[300, 301, 302]]))
    copies = fork(state, 0, len(prompt.ids) + 1, 2)
    seen = extend(copies, torch.tensor([[301, 302], [301, 305]]))
    torch.testing.assert_close(seen[0, 1], state.logits[0], atol=1e-5, rtol=0)
    select_rows(copies, [1])  # of its own cache
    assert state.cache.get_seq_length() == len(prompt.ids) + 3


class Always(LocalVLM):
    """Writes one reply, whatever it is asked."""

    def _sample(self, prefix, requests):
        ids = self.processor.tokenizer(REPLY, add_special_tokens=False)["input_ids"]
        start = prefix.ids.shape[1]
        extend(prefix, torch.tensor([ids] * len(requests)))
        return [self._reply(prefix, row, start, ids) for row in range(len(requests))]

    def _reply(self, prefix, row, start, ids):
        from zoomiqa_core.zoom_iqa.local.model import Reply

        return Reply(REPLY, tuple(ids), (), True, self._read_rating(prefix, row, start, ids))


def test_the_judge_rates_with_it_and_keeps_what_was_written(tiny):
    backend = sharp(tiny)
    judge = ZoomIQA(Always(backend.model, backend.processor))
    said = judge.assess(picture())
    assert said.chains is not None
    (only,) = said.chains.rounds
    assert (only.sampled, only.written) == (3.56, 3.56) and said.rating == only.rating != 3.56
    (region,) = judge.score_regions(picture(), [(0, 0, 0.5, 0.5)])
    assert 1 <= region.rating <= 5
    judge = ZoomIQA(Always(*tiny))  # no digit is likely
    assert judge.assess(picture()).rating == 3.56


def test_one_chain_is_greedy_unless_a_generator_is_passed(answering):
    backend = LocalVLM(*answering)
    seen, generate = [], backend.generate
    backend._generate = lambda requests, known: (  # pyright: ignore[reportAttributeAccessIssue]
        seen.extend(request.greedy for request in requests) or generate(requests)
    )
    judge = ZoomIQA(backend, config=JudgeConfig(retries=0, max_rounds=1))
    backend.sampling = type(backend.sampling)(max_new_tokens=3)
    generate = LocalVLM(*answering, sampling=backend.sampling).generate
    first = judge.assess(picture())
    assert seen == [True]
    assert judge.assess(picture(), samples=1).chains == first.chains
    judge.assess(picture(), generator=torch.Generator().manual_seed(3))
    judge.assess(picture(), samples=2)
    assert seen == [True, True, False, False, False]
