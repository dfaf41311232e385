"""The options that a model is loaded with."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from zoomiqa_core import load_scorer
from zoomiqa_core.zoom_iqa.local import loading
from zoomiqa_core.zoom_iqa.local.loading import load_model


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("judge")
    for part in tiny:
        part.save_pretrained(path)
    return path


def test_options_of_transformers_are_passed_on(folder, monkeypatch):
    from transformers import AutoModelForImageTextToText

    seen, load = {}, AutoModelForImageTextToText.from_pretrained

    def spy(path, **options):
        seen.clear()
        seen.update(options)
        options.pop("quantization_config", None)
        return load(path, **{**options, "device_map": "cpu"})

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", spy)
    settings: dict[str, Any] = {"dtype": "bfloat16", "attn_implementation": "eager"}
    scorer: Any = load_scorer(folder, prompts="builtin", device="auto", revision="main", **settings)
    assert seen == {**settings, "device_map": "auto", "revision": "main"}
    assert scorer.backend.model.config._attn_implementation == "eager"
    config = object()
    load_model(folder, quantization=config, device="cpu")
    assert seen["quantization_config"] is config and seen["device_map"] == {"": "cpu"}
    load_model(folder, device_map={"": "cpu"}, device="auto")
    assert seen["device_map"] == {"": "cpu"}


def test_quantization_without_its_library_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'quantization="4bit" needs .*pip install bitsandbytes'):
        load_model(folder, quantization="4bit")
    with pytest.raises(ValueError, match='must be "4bit", "8bit" or a configuration, got \'2bit\''):
        load_model(folder, quantization="2bit")


def test_the_quantization_by_name_is_the_usual_one(folder, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: True)
    seen = {}
    monkeypatch.setattr(
        importlib.import_module("transformers").AutoModelForImageTextToText,
        "from_pretrained",
        lambda path, **options: seen.update(options) or torch.nn.Linear(1, 1),
    )
    load_model(folder, quantization="4bit", device="cpu")
    assert seen["quantization_config"].bnb_4bit_quant_type == "nf4"
    load_model(folder, quantization="8bit", device="cpu")
    assert seen["quantization_config"].load_in_8bit


def test_an_adapter_without_a_processor_takes_its_base_models(tiny, folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    base, _ = load_model(folder)
    adapted: Any = get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path)
    model, processor = load_model(tmp_path)
    assert processor.tokenizer.get_vocab() == tiny[1].tokenizer.get_vocab()
    ids = {"input_ids": torch.arange(20)[None], "attention_mask": torch.ones(1, 20).long()}
    with torch.no_grad():
        torch.testing.assert_close(model(**ids).logits, adapted.eval()(**ids).logits)
        assert not torch.equal(model(**ids).logits, tiny[0](**ids).logits)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither config\.json nor adapter_config\.json"):
        load_model(tmp_path)
