"""Roll-outs that zoom, inside TRL: contexts, log-probabilities, gradients, and what must fail."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import pytest
import torch

from tests.core.judges import BROKEN, CROP, FINAL, GOOD
from tests.core.training.rollouts import picture_of, records
from zoomiqa_core.training.kl_coverage import KLCoverageConfig, Variant
from zoomiqa_core.training.resampling import ProgressiveSampler
from zoomiqa_core.training.rewards import RewardConfig
from zoomiqa_core.training.rows import rollout_dataset
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm, teach_replies
from zoomiqa_core.zoom_iqa.chain import Chain
from zoomiqa_core.zoom_iqa.local import model as vlm
from zoomiqa_core.zoom_iqa.local import prefix as prefixes
from zoomiqa_core.zoom_iqa.local.prompt_encoding import EncodedImages
from zoomiqa_core.zoom_iqa.prompts import BUILTIN

trl = pytest.importorskip("trl")

VISION = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


@pytest.fixture(scope="module")
def taught():
    """A random model whose replies are tokens; ends, zooms and fails about equally often."""
    model, processor = build_tiny_vlm()
    teach_replies(model, processor, {FINAL: 8.0, CROP: 8.9, GOOD: 8.0, BROKEN: 7.0}, end=8.5)
    return model, processor


def trainer_of(
    pair,
    folder,
    *,
    model=None,
    peft_config=None,
    kl: Variant = "off",
    generation="judge",
    **settings: Any,
):
    from zoomiqa_core.training.grpo import ZoomGRPOTrainer

    values: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "generation_batch_size": 16,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 5,
        "max_steps": 2,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "beta": 0.0,
        "learning_rate": 1e-3,
    }
    args = trl.GRPOConfig(str(folder), **{**values, **settings})
    made = ZoomGRPOTrainer(
        model or copy.deepcopy(pair[0]),
        args,
        rollout_dataset(records(8), picture_of),
        pair[1],
        rewards=RewardConfig(grounding=0.5),
        kl_coverage=KLCoverageConfig(kl, top=0.1, min_entropy=0.05),
        peft_config=peft_config,
        generation=generation,
    )
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def rolled_out(trainer):
    rows = next(iter(trainer.get_train_dataloader()))
    return trainer._generate_and_score_completions(rows)


def scored(trainer, batch, method=None, **pixels):
    """Log-probabilities of a batch as the training computes them."""
    trainer._model_mask = batch["tool_mask"] * batch["completion_mask"]
    trainer._scored_rollouts = batch["rollout"].tolist()
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    return (method or trainer._get_per_token_logps_and_entropies)(
        trainer.model,
        ids,
        mask,
        batch["completion_ids"].shape[1],
        **pixels,
    )[0]


def watched(trainer, monkeypatch):
    """Log-probabilities at generation, as they are drawn: a list of rows a call."""
    seen: list[list[Any]] = []
    answer, generate = vlm.LocalVLM.generate, trainer.model.generate

    def judge(self, requests):
        replies = answer(self, requests)
        seen.append([torch.tensor(reply.log_probs) for reply in replies])
        return replies

    def transformers(**kwargs):
        out = generate(**kwargs, return_dict_in_generate=True, output_logits=True)
        log_probs = torch.stack(out.logits, 1).float().log_softmax(-1)
        ids = out.sequences[:, -log_probs.shape[1] :]
        seen.append(list(log_probs.gather(-1, ids[..., None])[..., 0]))
        return out.sequences

    monkeypatch.setattr(vlm.LocalVLM, "generate", judge)
    monkeypatch.setattr(trainer.model, "generate", transformers)
    return seen


def at_generation(seen, batch):
    """The watched log-probabilities in the rows' places."""
    own = batch["tool_mask"] * batch["completion_mask"]
    out = torch.zeros(own.shape)
    spans = [runs(row) for row in own.tolist()]
    for number, call in enumerate(seen):
        waiting = [n for n, row in enumerate(spans) if len(row) > number]
        assert len(waiting) == len(call)
        for values, n in zip(call, waiting, strict=True):
            start, end = spans[n][number]
            out[n, start:end] = values[: end - start]
    return out


def runs(row):
    starts = [i for i, v in enumerate(row) if v and (i == 0 or not row[i - 1])]
    ends = [i + 1 for i, v in enumerate(row) if v and (i + 1 == len(row) or not row[i + 1])]
    return list(zip(starts, ends, strict=True))


@pytest.fixture(scope="module", params=["judge", "transformers"])
def ragged(request, taught, tmp_path_factory):
    """A trainer, a batch of one- and two-round roll-outs, and its log-probs at generation."""
    torch.manual_seed(0)
    trainer = trainer_of(taught, tmp_path_factory.mktemp("grpo"), generation=request.param)
    with pytest.MonkeyPatch.context() as patch:
        seen = watched(trainer, patch)
        batch = rolled_out(trainer)
    assert trainer.model.training and len(seen) == 2
    rounds = [len(runs(row)) for row in (batch["tool_mask"] * batch["completion_mask"]).tolist()]
    assert set(rounds) == {1, 2}
    return trainer, batch, at_generation(seen, batch)


def test_training_scores_tokens_as_they_were_drawn(ragged):
    trainer, batch, drawn = ragged
    own = batch["tool_mask"] * batch["completion_mask"]
    with torch.no_grad():
        said = scored(trainer, batch)
    assert float(((said - drawn) * own).abs().max()) <= 1e-4
    assert not (said * (1 - own)).any()


def test_scoring_the_row_as_one_conversation_would_not(ragged):
    """The control: TRL's own scoring of these rows, in which round 2 also sees round 1's prompt."""
    trainer, batch, drawn = ragged
    own = batch["tool_mask"] * batch["completion_mask"]
    plain = trl.GRPOTrainer._get_per_token_logps_and_entropies.__get__(trainer)
    rows = [[*chain.from_iterable(rounds)] for rounds in trainer._images._rollouts]
    pixels = trainer._images.family.pixel_arguments(rows)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    types = trainer._images.family.token_types(ids)
    with torch.no_grad():
        said = scored(trainer, batch, plain, **pixels, **types, num_images=[*map(len, rows)])
    gap = ((said - drawn) * own).abs()
    first = torch.tensor([row[0][1] for row in map(runs, own.tolist())])
    later = torch.arange(own.shape[1]) >= first[:, None]
    assert float(gap[~later].max()) <= 1e-4 < float(gap[later].max())


def test_contexts_are_the_judges_token_for_token(ragged):
    """Every prompt of every round, against the judge's own; and its log-probabilities."""
    trainer, batch, drawn = ragged
    backend = vlm.LocalVLM(trainer.model, trainer.processing_class)
    known: EncodedImages = {}
    ids = batch["completion_ids"].tolist()
    asked = 0
    with torch.no_grad():
        for n, chain in enumerate(trainer._chains):
            again = Chain(chain.image, BUILTIN, chain.question, retries=0)
            own = runs((batch["tool_mask"] * batch["completion_mask"])[n].tolist())
            context = batch["prompt_ids"][n][batch["prompt_mask"][n].bool()].tolist()
            for look, (start, end) in zip(chain.rounds, own, strict=True):
                request = again.request
                assert request is not None
                prompt = backend.encoder.encode(request, known)
                assert prompt.ids.tolist() == context
                prefix = prefixes.read_prompts(backend.family, [prompt])
                reply = torch.tensor([ids[n][start:end]])
                first = prefix.logits[:, None]
                logits = torch.cat([first, prefixes.extend(prefix, reply)], 1)[:, :-1]
                said = logits.log_softmax(-1).gather(-1, reply[..., None])[0, :, 0]
                torch.testing.assert_close(said, drawn[n, start:end], atol=1e-4, rtol=0)
                again.read(look.text)
                later = own[own.index((start, end)) + 1 :]
                context = ids[n][end : later[0][0]] if later else []
                asked += 1
    trainer.model.train()
    assert asked > len(ids)


def token_gradients(trainer, batch):
    """d loss / d log-probability of every token of the rows."""
    seen = []
    method = trainer._get_per_token_logps_and_entropies

    def spy(*args, **kwargs):
        out = method(*args, **kwargs)
        out[0].retain_grad()
        seen.append(out[0])
        return out

    trainer._get_per_token_logps_and_entropies = spy
    try:
        trainer.model.zero_grad()
        trainer._compute_loss(trainer.model, batch).backward()
    finally:
        del trainer._get_per_token_logps_and_entropies
    return seen[-1].grad, seen[-1].detach()


def test_the_gradient_reaches_every_token_of_the_model_and_no_other(ragged):
    trainer, batch, _ = ragged
    own = (batch["tool_mask"] * batch["completion_mask"]).bool()
    batch = {**batch, "advantages": torch.linspace(-1, 1, len(own))}
    gradients, _ = token_gradients(trainer, batch)
    between = batch["completion_mask"].bool() & ~own
    assert int(own.sum()) > 30 and int(between.sum()) > 300
    assert (gradients[own] != 0).all() and not gradients[~own].any()
    norms = {name: float(p.grad.norm()) for name, p in trainer.model.named_parameters()}
    assert all(0 < norm < float("inf") for norm in norms.values())


def test_replies_hold_no_vision_tokens_and_rows_the_whole_prompts(ragged):
    trainer, batch, _ = ragged
    own = (batch["tool_mask"] * batch["completion_mask"]).bool()
    banned = torch.tensor(trainer.processing_class.tokenizer.convert_tokens_to_ids(list(VISION)))
    assert not torch.isin(batch["completion_ids"][own], banned).any()
    shown = (batch["completion_ids"] == trainer.model.config.image_token_id).sum(1)
    rounds = [len(rounds) for rounds in trainer._images._rollouts]
    assert [count > 0 for count in shown.tolist()] == [count == 2 for count in rounds]


def test_rating_tokens_are_marked(ragged):
    trainer, batch, _ = ragged
    texts = trainer.processing_class.tokenizer.convert_ids_to_tokens
    marked = {
        t
        for row, m in zip(batch["completion_ids"], batch["rating_mask"], strict=True)
        for t in texts(row[m.bool()].tolist())
    }
    assert marked and marked <= {FINAL, CROP, GOOD}
    own = batch["tool_mask"] * batch["completion_mask"]
    assert int((batch["rating_mask"] * (1 - own)).sum()) == 0  # the prompts' example is none


# --- what fails, and how -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mask_truncated_completions": True}, "shifts all positions"),
        ({"temperature": 0.7}, "temperature must be 1.0"),
        ({"top_p": 0.95}, "top_p must be 1.0"),
        ({"top_k": 50}, "top_k must be 0"),
        ({"repetition_penalty": 1.1}, "repetition_penalty must be 1.0"),
        ({"use_vllm": True}, "cannot ban the vision tokens"),
        ({"loss_type": "grpo"}, "loss_type must be 'dapo'"),
        (
            {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 1},
            "a resumed run would sample different ones",
        ),
    ],
)
def test_settings_that_break_in_silence_are_refused(taught, tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        trainer_of(taught, tmp_path, **settings)


def test_a_roll_out_hidden_from_the_attention_is_an_error(ragged):
    """What mask_truncated_completions does to a batch."""
    trainer, batch, _ = ragged
    hidden = batch["completion_mask"].clone()
    hidden[0] = 0
    with pytest.raises(ValueError, match="row 0 has no reply"):
        scored(trainer, {**batch, "completion_mask": hidden})


def test_a_cut_prompt_is_an_error(ragged):
    trainer, batch, _ = ragged
    ids = batch["completion_ids"].clone()
    row = [len(rounds) for rounds in trainer._images._rollouts].index(2)
    place = (ids[row] == trainer.model.config.image_token_id).nonzero()[0]
    ids[row, place] = trainer.processing_class.tokenizer.pad_token_id
    with pytest.raises(ValueError, match="do not match its images"):
        scored(trainer, {**batch, "completion_ids": ids})


def test_an_image_token_in_a_reply_is_an_error(taught, tmp_path):
    """The control of the ban."""
    model = copy.deepcopy(taught[0])
    with torch.no_grad():
        model.lm_head.bias[model.config.image_token_id] = 9.0
    trainer = trainer_of(taught, tmp_path, model=model, generation="transformers")
    rolled_out(trainer)  # banned: nothing happens
    trainer.generation_config.suppress_tokens = None
    with pytest.raises(ValueError, match="did the model write an image token"):
        scored(trainer, rolled_out(trainer))


def test_a_frozen_adapter_is_refused(taught, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    lora = LoraConfig(r=2, target_modules=["q_proj"])
    get_peft_model(copy.deepcopy(taught[0]), lora).save_pretrained(tmp_path / "adapter")
    frozen = PeftModel.from_pretrained(copy.deepcopy(taught[0]), tmp_path / "adapter")
    with pytest.raises(ValueError, match="is_trainable=True"):
        trainer_of(taught, tmp_path, model=frozen)


# --- KL-Coverage inside the trainer --------------------------------------------------------------


@pytest.fixture
def drifted(taught, tmp_path):
    """A trainer whose policy, an adapter, has left its reference, the frozen model."""
    from peft import LoraConfig

    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    trainer = trainer_of(taught, tmp_path, peft_config=lora, kl="kl_coverage", beta=1e-3)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    return trainer


def test_kl_coverage_moves_the_selected_tokens_alone(drifted):
    batch = rolled_out(drifted)
    selected = batch["coverage_mask"]
    gradients = {}
    variants: list[Variant] = ["off", "kl_cov", "kl_coverage"]
    for variant in variants:
        drifted.kl_coverage = KLCoverageConfig(variant, top=0.1)
        gradients[variant], _ = token_gradients(drifted, batch)
    assert torch.equal(gradients["off"], gradients["kl_cov"])  # on-policy: no pull at all
    moved = gradients["off"] != gradients["kl_coverage"]
    assert selected.any() and torch.equal(moved, selected)
    del batch["ref_per_token_logps"]
    with pytest.raises(ValueError, match="set beta above 0"):
        drifted._compute_loss(drifted.model, batch)


def test_the_plain_kl_term_stays(drifted):
    """With KL-Coverage on tokens that do not matter (coef 0), beta still holds the policy."""
    batch = rolled_out(drifted)
    drifted.kl_coverage = KLCoverageConfig("kl_coverage", coef=0.0)
    gradients = {}
    for drifted.beta in (0.0, 1e-1):
        gradients[drifted.beta], _ = token_gradients(drifted, batch)
    own = (batch["tool_mask"] * batch["completion_mask"]).bool()
    assert ((gradients[0.1] - gradients[0.0])[own] != 0).float().mean() > 0.9


def test_tokens_are_selected_over_the_generation_batch(drifted):
    """Among uncertain tokens of above-average roll-outs; and what they are is logged."""
    batch = rolled_out(drifted)
    selected, own = batch["coverage_mask"], batch["tool_mask"] * batch["completion_mask"]
    assert selected.shape == own.shape and not selected[~own.bool()].any()
    better = batch["advantages"] > (batch["advantages"] * own.sum(1)).sum() / own.sum()
    assert better[selected.any(1)].all()
    assert 0 < int(selected.sum()) <= 0.1 * int(own.sum())
    logged = {name: values[-1] for name, values in drifted._metrics["train"].items()}
    assert logged["kl_coverage/selected"] == pytest.approx(int(selected.sum()) / int(own.sum()))
    assert 0 < logged["kl_coverage/probability"] < 1 and logged["kl_coverage/entropy"] >= 0.05
    assert 0 <= logged["frac_reward_zero_std"] <= 1 and logged["distinct_ratings"] >= 1
    token_gradients(drifted, batch)
    logged = {name: values[-1] for name, values in drifted._metrics["train"].items()}
    assert logged["kl_coverage/kl"] > 0
    assert logged["entropy/rating"] and logged["entropy/rationale"]


# --- later rounds --------------------------------------------------------------------------------


def test_a_process_without_crops_calls_generate_as_often_as_the_others(ragged, monkeypatch):
    """Under FSDP and ZeRO-3 every call is collective: one call fewer would hang all processes."""
    trainer, _, _ = ragged
    calls = []

    def generate(prompt_ids, *_, **__):
        calls.append(len(prompt_ids))
        return [[5]] * len(prompt_ids), None

    monkeypatch.setattr(trainer, "_generate_single_turn", generate)
    for elsewhere in (True, False):
        trainer._chains = [Chain(record.image, BUILTIN, "?", retries=0) for record in records(2)]
        monkeypatch.setattr(trainer, "_anywhere", lambda here, there=elsewhere: here or there)
        done = trainer.processing_class.tokenizer(FINAL).input_ids
        rows = trainer._tool_call_loop([], [], [done, done], [], None, [], {})[2]
        assert rows == [done, done]  # the reply to the stand-in is dropped
    assert calls == ([1] if trainer.generation == "transformers" else [])


def test_log_probabilities_of_every_round_are_kept(ragged, monkeypatch):
    trainer, _, _ = ragged
    tokenize = trainer.processing_class.tokenizer
    final, crop = tokenize(FINAL).input_ids, tokenize(CROP).input_ids
    reply = tokenize(GOOD).input_ids

    def generate(prompt_ids, *_, **__):
        return [reply] * len(prompt_ids), [[-0.7] * len(reply)] * len(prompt_ids)

    monkeypatch.setattr(trainer, "_generate_single_turn", generate)
    trainer._chains = [Chain(record.image, BUILTIN, "?", retries=0) for record in records(2)]
    first = [[-0.5] * len(final), [-0.5] * len(crop)]
    own, _, rows, drawn, *_ = trainer._tool_call_loop([], [], [final, crop], [], first, [], {})
    assert drawn[0] == first[0]
    between = len(rows[1]) - len(crop) - len(reply)
    assert between > 0
    assert drawn[1] == [*first[1], *[0.0] * between, *[-0.7] * len(reply)]
    assert [value != 0 for value in drawn[1]] == [bool(mark) for mark in own[1]]


# --- training ------------------------------------------------------------------------------------


def test_training_moves_the_model_and_logs_what_is_needed(taught, tmp_path):
    trainer = trainer_of(taught, tmp_path, logging_steps=1, kl="kl_cov", num_iterations=2)
    trainer.resampling = True
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(before)
    sampler = trainer.progressive_sampler()
    assert isinstance(sampler, ProgressiveSampler)
    assert (sampler.batch_size, sampler.repeat_count, sampler.total_chunks) == (4, 4, 1)
    logged = set(trainer.state.log_history[0])
    terms = {f"rewards/{name}/mean" for name in ("format", "score", "rank", "grounding")}
    assert terms | {"unparsable", "zoom_share", "distinct_ratings", "entropy/rating"} <= logged


def test_half_precision_and_checkpointed_activations_train_too(taught, tmp_path):
    settings = {"bf16": True, "gradient_checkpointing": True, "max_steps": 1}
    trainer = trainer_of(taught, tmp_path, logging_steps=1, **settings)
    trainer.train()
    assert trainer.state.log_history[0]["grad_norm"] > 0
    assert all(p.isfinite().all() for p in trainer.model.parameters())
