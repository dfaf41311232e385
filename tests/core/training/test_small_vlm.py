"""The small model on the proxy's backbone: its maps, and training on maps instead of pixels."""

from __future__ import annotations

import pytest
import torch

from tests.core.judges import picture
from tests.core.training.rollouts import conversation, records
from zoomiqa_core.proxy.model import QualityProxy
from zoomiqa_core.training.sft import Example, map_collator, sft_dataset, sft_trainer
from zoomiqa_core.training.small_vlm import SmallSize, build_small_vlm
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm
from zoomiqa_core.training.vision_maps import MapCache, accept_maps, block_map
from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.crop import crop_box, crop_image
from zoomiqa_core.zoom_iqa.local.families.registry import family_of
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import BUILTIN

SIZE = SmallSize(hidden=32, layers=1, heads=2, vocabulary=700, side=64)


@pytest.fixture
def small():
    return build_small_vlm(SIZE)


def test_its_tower_is_the_proxys(small):
    model, processor = small
    proxy = QualityProxy.from_pretrained()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels = processor.image_processor(image[0], do_rescale=False, return_tensors="pt")
    theirs = proxy.backbone((image - proxy.mean) / proxy.std)[-1]
    torch.testing.assert_close(block_map(model, pixels["pixel_values"]), theirs, rtol=0, atol=2e-2)
    family = family_of(model, processor)
    assert family.max_pixels == 64 * 64 and family.prepare(picture()).text == "<image>" * 4


def test_maps_are_kept_and_pictures_read_once(small, tmp_path):
    model, processor = small
    image, read = picture(200, 160), []

    def reading():
        read.append(1)
        return image

    crop = crop_box((0.1, 0.1, 0.7, 0.7), 200, 160)
    cache = MapCache(tmp_path, model, processor)
    assert cache.size("a", reading) == (200, 160)
    whole, part = cache.maps("a", reading, [None, crop])
    prepare = family_of(model, processor).prepare
    expected = block_map(model, prepare(crop_image(image, crop)).tensors["pixel_values"])[0]
    torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-3)
    again = MapCache(tmp_path, model, processor)
    kept = again.maps("a", lambda: pytest.fail("it is known"), [crop, None])
    assert torch.equal(kept[0], part) and torch.equal(kept[1], whole)
    assert len(read) == 2 and len(list(tmp_path.iterdir())) == 1


def test_other_towers_are_refused():
    model, _ = build_tiny_vlm()
    with pytest.raises(ValueError, match="map_cache=false"):
        accept_maps(model)


def test_a_batch_of_maps_trains_the_head_but_not_the_blocks(small, tmp_path):
    trl = pytest.importorskip("trl")
    model, processor = small
    accept_maps(model)
    cache = MapCache(tmp_path / "maps", model, processor)

    def example(sample):
        record, number = sample
        chat, images = conversation(record, BUILTIN, number)
        maps = [cache.maps(f"{id(i)}", lambda i=i: i, [None])[0] for i in images]
        return Example(chat, maps)

    samples = [(r, n) for r in records(4) for n in range(1, len(r.rounds) + 1)]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    args = trl.SFTConfig(
        str(tmp_path / "run"),
        per_device_train_batch_size=4,
        max_steps=2,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        learning_rate=1e-3,
        gradient_checkpointing=False,
    )
    trainer = sft_trainer(
        model, args, sft_dataset(samples, example), processor, collate=map_collator(processor)
    )
    rows = [trainer.train_dataset[n] for n in range(len(samples))]
    batch = trainer.data_collator(rows)
    for (record, number), labels in zip(samples, batch["labels"], strict=True):
        said = processor.tokenizer.decode(labels[labels != -100])
        assert said == record.rounds[number - 1] + "<|im_end|>"
    vlm = LocalVLM(model, processor)  # the prompt is the one the judge gets
    first = conversation(samples[0][0], BUILTIN, 1)
    request = Request(first[0][:-1], tuple(first[1]), seed=0)
    tokens = vlm.encoder.tokens(request, [vlm.family.prepare(first[1][0])])
    assert batch["input_ids"][0, : len(tokens)].tolist() == tokens
    trainer.train()
    changed = {n for n, w in trainer.model.state_dict().items() if not torch.equal(w, before[n])}
    assert any(".conv_head." in name for name in changed)
    assert any(".q_proj." in name for name in changed)
    assert not any(part in n for n in changed for part in (".blocks.", ".conv_stem", "running_"))
