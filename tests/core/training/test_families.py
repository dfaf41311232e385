"""Every family of models, small and random, of the real classes: judged, trained, reinforced."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.core.families import FAMILIES, OTHERS, build
from tests.core.judges import BROKEN, CROP, FINAL, GOOD, picture
from tests.core.training.rollouts import conversation, picture_of, records
from zoomiqa_core.training.kl_coverage import KLCoverageConfig
from zoomiqa_core.training.policy import freeze_vision, hold_batch_norms
from zoomiqa_core.training.sft import sft_dataset, sft_trainer
from zoomiqa_core.training.tiny_vlm import teach_replies
from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA
from zoomiqa_core.zoom_iqa.local import model as vlm
from zoomiqa_core.zoom_iqa.local.prefix import extend, read_prompts
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.protocol import messages
from zoomiqa_core.zoom_iqa.sampling import Sampling

trl = pytest.importorskip("trl")

IMAGES = [picture(96, 64), picture(64, 128, shade=200)]
SHORT = Sampling(max_new_tokens=5, top_p=1, top_k=0)
SETTINGS: dict[str, Any] = {
    "max_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
}


TRAINED_IN_EVERY_RUN = ["fast_vlm"]
"""The others are trained in slow runs of the tests."""
trained = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in TRAINED_IN_EVERY_RUN else pytest.mark.slow)
        for name in FAMILIES
    ],
)


@pytest.fixture(scope="module", params=[*FAMILIES, *OTHERS])
def plain(request):
    """Model and processor; not to be changed."""
    return build(request.param)


@pytest.fixture(scope="module")
def taught(plain):
    return answering(plain)


def answering(plain):
    """The same, answering final, crop, good and broken about equally often."""
    model, processor = copy.deepcopy(plain)
    replies = {FINAL: 8.0, CROP: 9.5, GOOD: 8.0, BROKEN: 7.0}
    teach_replies(model, processor, replies, end=8.5)
    return model, processor


def judge(pair, **config) -> ZoomIQA:
    backend = vlm.LocalVLM(*pair, sampling=SHORT, min_digit_mass=0.0)
    return ZoomIQA(backend, config=JudgeConfig(**config))


@pytest.mark.parametrize("previous", [None, "Dull.</think>"])
def test_tokens_and_logits_are_those_of_processor_and_model(plain, previous):
    """One prompt alone, two padded together, and tokens after them, without a cache."""
    model, processor = plain
    backend = vlm.LocalVLM(model, processor)
    tokens = torch.arange(300, 304)
    prompts, own = [], []
    for question in ("How good?", "Is this picture sharp, clean and well exposed?"):
        chat = messages(BUILTIN, question, previous)
        images = IMAGES[:1] if previous is None else IMAGES
        text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=[images], return_tensors="pt")
        prompts.append(backend.encoder.encode(Request(chat, tuple(images), 0), {}))
        ids = inputs.pop("input_ids")
        assert prompts[-1].ids.tolist() == ids[0].tolist()
        inputs["attention_mask"] = torch.ones(1, ids.shape[1] + len(tokens), dtype=torch.long)
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in inputs:
                zeros = torch.zeros(1, len(tokens), dtype=torch.long)
                inputs[name] = torch.cat([inputs[name], zeros], 1)
        with torch.no_grad():
            logits = model(input_ids=torch.cat([ids, tokens[None]], 1), **inputs).logits
        own.append(logits[0, ids.shape[1] - 1 :])
    together = [(prompts, own)] if backend.family.encodes_once else []
    for batch, expected in [(prompts[:1], own[:1]), (prompts[1:], own[1:]), *together]:
        state = read_prompts(backend.family, batch)
        seen = [state.logits[:, None], extend(state, tokens.expand(len(batch), -1))]
        torch.testing.assert_close(torch.cat(seen, 1), torch.stack(expected), atol=2e-5, rtol=0)


def test_the_model_sees_the_image(plain):
    backend = vlm.LocalVLM(*plain)
    chat = messages(BUILTIN, "How good?", None)
    logits = [
        read_prompts(
            backend.family, [backend.encoder.encode(Request(chat, (image,), 0), {})]
        ).logits
        for image in (picture(96, 64), picture(96, 64, shade=250))
    ]
    assert float((logits[0] - logits[1]).abs().max()) > 1e-3


def test_k_chains_are_k_calls_and_the_image_is_encoded_once(taught, monkeypatch):
    scorer = judge(taught, retries=0)
    family = type(scorer.backend.family)  # pyright: ignore[reportAttributeAccessIssue]
    encode, encoded = family.encode, []
    monkeypatch.setattr(
        family, "encode", lambda self, images: encoded.append(len(images)) or encode(self, images)
    )
    together = scorer.assess(IMAGES[0], samples=6, generator=torch.Generator().manual_seed(1))
    zooms = round((together.chains.zoom_share or 0) * len(together.chains.ratings))
    assert zooms > 0
    assert sum(encoded) <= (1 + family.depends_on_count + 6) * family.encodes_once
    generator = torch.Generator().manual_seed(1)
    apart = [scorer.assess(IMAGES[0], samples=1, generator=generator) for _ in range(6)]
    assert together.chains.ratings == tuple(one.rating for one in apart if one.valid)


def test_expected_rating_regions_and_map(taught):
    scorer = judge(taught, retries=9)
    said = scorer.assess(IMAGES[0], mode="expected")
    assert said.valid and 1 <= said.rating <= 5 and said.rating_std > 0
    regions = scorer.score_regions(IMAGES[0], [(0, 0, 0.5, 0.5), (0.2, 0.4, 0.9, 1)])
    assert all(region.error is None and 1 <= region.rating <= 5 for region in regions)
    assert scorer.quality_map(IMAGES[0], grid=(1, 2)).isfinite().all()


@trained
def test_one_step_of_fine_tuning_trains_all_but_a_frozen_tower(name, tmp_path):
    model, processor = build(name)
    freeze_vision(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    samples = [(record, n + 1) for record in records(2) for n in range(len(record.rounds))]
    rows = sft_dataset(samples, lambda sample: conversation(sample[0], BUILTIN, sample[1]))
    args = trl.SFTConfig(str(tmp_path), per_device_train_batch_size=3, **SETTINGS)
    trainer = sft_trainer(model, args, rows, processor)
    labels = trainer.data_collator([trainer.train_dataset[n] for n in range(3)])["labels"]
    for (record, number), row in zip(samples, labels, strict=True):
        said = processor.tokenizer.decode(row[row != -100])
        assert said.removesuffix("<|im_end|>") == record.rounds[number - 1]
    trainer.train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
    assert 0 < len(moved) < len(before)


@trained
@pytest.mark.parametrize("adapter", [False, True])
def test_one_step_of_reinforcement_trains_the_models_tokens(name, tmp_path, adapter):
    """Gradient on 100 % of the model's tokens and on none of the environment's; equal log-probs."""
    from peft import LoraConfig

    from zoomiqa_core.training.grpo import ZoomGRPOTrainer
    from zoomiqa_core.training.policy import LORA_TARGETS
    from zoomiqa_core.training.rows import rollout_dataset

    lora = LoraConfig(r=2, target_modules=LORA_TARGETS, init_lora_weights=False)
    args = trl.GRPOConfig(
        str(tmp_path),
        per_device_train_batch_size=8,
        generation_batch_size=8,
        num_generations=4,
        max_completion_length=5,
        beta=0.0,
        learning_rate=1e-3,
        **SETTINGS,
    )
    model, processor = answering(build(name))
    rows = rollout_dataset(records(4), picture_of)
    trainer = ZoomGRPOTrainer(
        model,
        args,
        rows,
        processor,
        kl_coverage=KLCoverageConfig("off"),
        peft_config=lora if adapter else None,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    drawn, generate = [], vlm.LocalVLM.generate

    def watched(self, requests):
        replies = generate(self, requests)
        drawn.append([torch.tensor(reply.log_probs) for reply in replies])
        return replies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vlm.LocalVLM, "generate", watched)
        batch = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    own = (batch["tool_mask"] * batch["completion_mask"]).bool()
    between = batch["completion_mask"].bool() & ~own
    assert len(drawn) == 2 and int(own.sum()) > 15 and int(between.sum()) > 100
    seen, method = [], trainer._get_per_token_logps_and_entropies

    def spy(*args, **kwargs):
        out = method(*args, **kwargs)
        out[0].retain_grad()
        seen.append(out[0])
        return out

    trainer._get_per_token_logps_and_entropies = spy
    batch["advantages"] = torch.linspace(-1, 1, len(own)) + 0.01
    trainer._compute_loss(trainer.model, batch).backward()
    assert (seen[0].grad[own] != 0).all() and not seen[0].grad[~own].any()
    learning = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    # LLaVA-OneVision takes the tower's features before its last normalisation.
    unused = {n for n, p in learning.items() if p.grad is None}
    assert all("vision_tower" in n and "post_layernorm" in n for n in unused)
    assert all(p.grad.isfinite().all() for n, p in learning.items() if n not in unused)
    in_training = seen[0].detach()[own]
    assert len(torch.cat(drawn[0])) + len(torch.cat(drawn[1])) == len(in_training)
    for row, first in enumerate(drawn[0]):
        start = int(own[row].int().argmax())
        said = seen[0].detach()[row, start : start + len(first)]
        torch.testing.assert_close(said, first, atol=1e-4, rtol=0)
    zoomed = [row for row in range(len(own)) if between[row].any()]
    for row, later in zip(zoomed, drawn[1], strict=True):
        start = int(between[row].nonzero().max()) + 1
        said = seen[0].detach()[row, start : start + len(later)]
        torch.testing.assert_close(said, later, atol=1e-4, rtol=0)


def test_batch_statistics_are_never_used():
    model, _ = build("fast_vlm")
    hold_batch_norms(model)
    kept = [m for m in model.train().modules() if "BatchNorm" in type(m).__name__]
    assert kept and not any(module.training for module in kept)
    again = copy.deepcopy(model).train()
    assert not any(m.training for m in again.modules() if "BatchNorm" in type(m).__name__)


def test_a_class_without_a_family_is_refused_what_it_cannot_do(tmp_path):
    from zoomiqa_core.training.grpo import ZoomGRPOTrainer
    from zoomiqa_core.training.rows import rollout_dataset

    model, processor = build("llava")
    args = trl.GRPOConfig(
        str(tmp_path), per_device_train_batch_size=4, num_generations=4, **SETTINGS
    )
    with pytest.raises(ValueError, match=r"GRPO needs a family .* llava has none"):
        ZoomGRPOTrainer(model, args, rollout_dataset(records(2), picture_of), processor)
    with pytest.raises(ValueError, match="set the limit in the processor"):
        vlm.LocalVLM(model, processor, max_pixels=1000)
    model.config.is_encoder_decoder = True
    with pytest.raises(ValueError, match="is an encoder-decoder"):
        vlm.LocalVLM(model, processor)
