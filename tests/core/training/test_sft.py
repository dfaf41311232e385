"""Supervised fine-tuning: which tokens are learnt, that it learns, and what it saves."""

from __future__ import annotations

import pytest
import torch

from tests.core.judges import picture
from tests.core.training.rollouts import conversation, records
from zoomiqa_core import load_scorer
from zoomiqa_core.training.policy import (
    LoraSettings,
    load_policy,
    lora_config,
    save_judge,
)
from zoomiqa_core.training.sft import (
    AlikeLengths,
    Example,
    last_turn_only,
    sft_dataset,
    sft_trainer,
)
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm
from zoomiqa_core.zoom_iqa.prompts import BUILTIN
from zoomiqa_core.zoom_iqa.sampling import Sampling

trl = pytest.importorskip("trl")


def samples(count=6):
    return [(r, n) for r in records(count) for n in range(1, len(r.rounds) + 1)]


def dataset(count=6):
    return sft_dataset(
        samples(count), lambda sample: Example(*conversation(sample[0], BUILTIN, sample[1]))
    )


def trainer_of(folder, model, processor, **settings):
    values = {
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "learning_rate": 3e-3,
        "logging_steps": 1,
    }
    peft = settings.pop("peft_config", None)
    args = trl.SFTConfig(str(folder), **{**values, **settings})
    return sft_trainer(model, args, dataset(), processor, peft_config=peft)


def test_the_last_turn_by_hand():
    labels = torch.tensor([[-100, 1, 2, -100, 3, 4, -100], [-100, -100, 5, 6, 7, -100, -100]])
    assert last_turn_only(labels).tolist() == [
        [-100, -100, -100, -100, 3, 4, -100],
        [-100, -100, 5, 6, 7, -100, -100],
    ]
    assert last_turn_only(torch.tensor([[1, -100, 2]])).tolist() == [[-100, -100, 2]]
    assert last_turn_only(torch.tensor([[1, 2]])).tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="row 1 has no assistant's turn"):
        last_turn_only(torch.tensor([[1], [-100]]))


def test_exactly_the_reply_of_each_round_is_learnt(tmp_path):
    """Its end token too, so that the model learns to stop; not the reply quoted in round 2."""
    model, processor = build_tiny_vlm()
    trainer = trainer_of(tmp_path, model, processor)
    rows = [trainer.train_dataset[n] for n in range(len(trainer.train_dataset))]
    labels = trainer.data_collator(rows)["labels"]
    assert len(rows) == 9  # three records of one round, three of two
    for (record, number), row in zip(samples(), labels, strict=True):
        said = processor.tokenizer.decode(row[row != -100])
        assert said == record.rounds[number - 1] + "<|im_end|>"


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    """Also with weights and soft labels, padding and several images: the shares of the loss add."""
    model, processor = build_tiny_vlm()
    trainer = trainer_of(tmp_path, model, processor)
    rows = [trainer.train_dataset[n] for n in range(4)]

    def loss(part):
        batch = trainer.data_collator(part)
        with torch.no_grad():
            return float(trainer.compute_loss(model.eval(), batch, num_items_in_batch=405))

    assert sum(loss([row]) for row in rows) == pytest.approx(loss(rows), rel=1e-5)
    assert loss(rows[:2]) + loss(rows[2:]) == pytest.approx(loss(rows), rel=1e-5)


def test_batches_hold_rows_of_like_length_and_epochs_differ():
    lengths = [1, 3] * 20
    sampler = AlikeLengths(lengths, batch_size=4, seed=0)
    order = list(sampler)
    assert sorted(order) == list(range(40)) and len(sampler) == 40
    assert all(len({lengths[i] for i in order[n : n + 4]}) == 1 for n in range(0, 40, 4))
    assert list(sampler) == order
    sampler.set_epoch(1)
    assert list(sampler) != order and sorted(sampler) == list(range(40))


def test_it_learns_and_the_folder_is_a_judge(tmp_path):
    model, processor = build_tiny_vlm()
    trainer = trainer_of(tmp_path / "run", model, processor)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 3 and losses[-1] < losses[0]
    save_judge(trainer.model, processor, BUILTIN, tmp_path / "judge")
    scorer = load_scorer(str(tmp_path / "judge"), sampling=Sampling(max_new_tokens=4))
    assert scorer.assess(picture()).error == "missing_answer"


def test_an_adapter_is_trained_on_merged_and_saved(tmp_path):
    base, processor = build_tiny_vlm()
    base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    model, processor = load_policy(tmp_path / "base", max_pixels=28 * 28 * 6)
    settings = LoraSettings(rank=4)
    peft = lora_config(settings, model)
    trainer = trainer_of(tmp_path / "run", model, processor, peft_config=peft)
    learning = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 7 * 2 and not any("visual" in name for name in learning)
    trainer.train()
    trainer.model.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")

    again, _ = load_policy(tmp_path / "adapter")
    assert [n for n, p in again.named_parameters() if p.requires_grad] == learning
    assert lora_config(settings, again) is None and lora_config(LoraSettings(rank=0), base) is None

    ids = {"input_ids": torch.arange(20)[None], "attention_mask": torch.ones(1, 20).long()}
    with torch.no_grad():
        adapted = trainer.model.eval()(**ids).logits
        plain = base.eval()(**ids).logits
    save_judge(trainer.model, processor, BUILTIN, tmp_path / "judge")
    scorer = load_scorer(str(tmp_path / "judge"), sampling=Sampling(max_new_tokens=4))
    with torch.no_grad():
        merged = scorer.backend.model(**ids).logits  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=0)
    assert float((merged - plain).abs().max()) > 1e-4
    kept = scorer.backend.processor.image_processor.size  # pyright: ignore[reportAttributeAccessIssue]
    assert kept["longest_edge"] == 28 * 28 * 6


def test_it_learns_in_half_precision_with_checkpointed_activations(tmp_path):
    model, processor = build_tiny_vlm()
    settings = {"bf16": True, "gradient_checkpointing": True, "max_steps": 2}
    trainer = trainer_of(tmp_path, model, processor, **settings)
    trainer.train()
    assert trainer.model.is_gradient_checkpointing
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.model.parameters())
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[1] < losses[0]


def test_senseless_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rank ≥ 0"):
        LoraSettings(rank=-1)
    with pytest.raises(ValueError, match="at least one record"):
        sft_dataset([], lambda sample: ([], []))
    build_tiny_vlm()[0].save_pretrained(tmp_path)
    build_tiny_vlm()[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="at least 3136"):
        load_policy(tmp_path, max_pixels=10)
