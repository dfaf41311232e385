"""The model in training: what is frozen, how it is loaded, and gathering sharded weights."""

from types import SimpleNamespace

import pytest
import torch

from tests.torchrun import launch
from zoomiqa_core import load_scorer
from zoomiqa_core.training.policy import freeze_vision, load_policy
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm


class Named(torch.nn.Module):
    """Stands for a model of another family: one linear layer per name."""

    def __init__(self, model_type: str, *names: str) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type=model_type)
        for name in names:
            module = self
            for part in name.split("."):
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.weight = torch.nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("kind", "vision", "projector"),
    [
        ("qwen3_vl", "model.visual.blocks", "model.visual.merger"),
        ("fast_vlm", "model.vision_tower.layers", "model.multi_modal_projector"),
    ],
)
def test_vision_towers_of_several_families_are_frozen_without_their_projectors(
    kind, vision, projector
):
    model = Named(kind, vision, projector, "model.language_model.layers")
    freeze_vision(model)
    learning = {n.removesuffix(".weight") for n, p in model.named_parameters() if p.requires_grad}
    assert learning == {projector, "model.language_model.layers"}


def test_a_model_without_a_known_vision_tower_is_refused():
    with pytest.raises(ValueError, match=r"no vision tower found in Named.* got model\.eyes"):
        freeze_vision(Named("fast_vlm", "model.eyes.layers"))


def test_the_attention_is_the_one_asked_for(tmp_path):
    model, processor = build_tiny_vlm()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    eager, _ = load_policy(tmp_path, attn_implementation="eager")
    assert eager.config._attn_implementation == "eager"
    assert load_policy(tmp_path)[0].config._attn_implementation == "sdpa"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_a_judge_sharded_over_two_processes_is_saved_whole(rank, tmp_path):
    """FSDP2; the whole model and an adapter: the saved judge computes what was trained."""
    model, processor = build_tiny_vlm()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    words = [str(tmp_path / "model"), str(tmp_path), str(rank)]
    launch(2, "core/training/shard_script.py", *words)
    trained = torch.load(tmp_path / "logits.pt", weights_only=True)["logits"]
    judge = load_scorer(str(tmp_path / "judge")).backend.model  # pyright: ignore[reportAttributeAccessIssue]
    ids = torch.arange(20)[None]
    with torch.no_grad():
        saved = judge(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        untrained = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(saved, trained, atol=1e-5, rtol=0)
    assert float((saved - untrained).abs().max()) > 1e-3
