"""The judge's two recipes: a run, a killed and resumed one, several processes, what they leave."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from recipes import train_correction, train_grpo, train_sft
from tests.core.judges import picture
from tests.recipes.gr_iqa_sets import write_set
from tests.recipes.launched_recipe import taught_policy
from tests.torchrun import launch
from zoomiqa_core import load_scorer
from zoomiqa_core.runs.folder import RunFolder
from zoomiqa_core.training import trainer_run
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm
from zoomiqa_core.training.trainer_run import LoopSettings, last_checkpoint
from zoomiqa_core.zoom_iqa.sampling import Sampling

pytest.importorskip("trl")
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "recipes" / "configs"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """A GR-IQA folder and a random model, as words of the command line."""
    folder = tmp_path_factory.mktemp("judge_data")
    model, processor = build_tiny_vlm()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return [f"data={write_set(folder / 'set')}", f"model={folder / 'model'}"]


@pytest.fixture
def taught(monkeypatch):
    """GRPO starts from a model that answers: a random one earns nothing, so learns nothing."""
    monkeypatch.setattr(train_grpo, "load_policy", taught_policy)


def smoke(recipe: Any, *words: str) -> list[str]:
    name = recipe.__name__.rpartition(".")[2]
    return ["--config", str(CONFIGS / name / "smoke.yaml"), *words]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "judge" / "model.safetensors")


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def interrupt_at(step, monkeypatch):
    """As a kill would, between two checkpoints."""
    log = RunFolder.log

    def stop(self, record):
        log(self, record)
        if record["step"] == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "log", stop)


@pytest.mark.parametrize("recipe", [train_sft, train_grpo])
def test_a_killed_run_ends_as_an_unbroken_one(recipe, data, taught, tmp_path, monkeypatch):
    less = ["loop.save_every=3", *(["rollouts=2"] if recipe is train_grpo else [])]
    recipe.main(smoke(recipe, *data, *less, f"out={tmp_path / 'whole'}"))
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)  # before the checkpoint; in GRPO's second epoch
        with pytest.raises(KeyboardInterrupt):
            recipe.main(smoke(recipe, *data, *less, f"out={tmp_path / 'broken'}"))
    kept = tmp_path / "broken" / "checkpoints" / "checkpoint-3"
    assert last_checkpoint(kept.parent) == kept
    recipe.main(smoke(recipe, *data, *less, f"out={tmp_path / 'broken'}"))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    log = lines(tmp_path / "whole")
    assert [line["step"] for line in log] == [1, 2, 3, 4, 4]
    assert [line["step"] for line in lines(tmp_path / "broken")] == [1, 2, 3, 4, 4]
    assert "trl" in json.loads((tmp_path / "whole" / "versions.json").read_text())
    assert (tmp_path / "whole" / "config.yaml").is_file()
    scorer = load_scorer(str(tmp_path / "whole" / "judge"), sampling=Sampling(max_new_tokens=4))
    assert scorer.assess(picture()).error == "missing_answer"
    before = (taught_policy() if recipe is train_grpo else build_tiny_vlm())[0].state_dict()
    after = scorer.backend.model.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
    assert any(not torch.equal(after[n], w) for n, w in before.items() if "_proj" in n)
    if recipe is train_grpo:
        assert Image.open(tmp_path / "whole" / "bin_shares.png").size[0] > 400
        terms = {"rewards/rank/mean", "kl_coverage/selected", "kl_coverage/kl", "entropy/rating"}
        assert terms <= set().union(*log)


def test_another_configuration_wants_another_folder(data, tmp_path):
    words = smoke(train_sft, *data, f"out={tmp_path}", "loop.steps=1")
    train_sft.main(words)
    with pytest.raises(ValueError, match="another configuration"):
        train_sft.main([*words, "loop.seed=7"])


def test_senseless_configurations_are_refused():
    needed: Any = {"data": "d", "model": "m"}
    with pytest.raises(ValueError, match="beta is above 0"):
        train_grpo.Config(**needed, beta=0.0)
    with pytest.raises(ValueError, match="rollouts ≥ 2"):
        train_grpo.Config(**needed, rollouts=1)
    config = train_grpo.Config(**needed, loop=LoopSettings(batch_size=4))
    assert train_grpo.gradient_accumulation(config, 2) == 8
    with pytest.raises(ValueError, match="must be a multiple"):
        train_grpo.gradient_accumulation(config, 3)
    with pytest.raises(ValueError, match="save_every ≥ 1"):
        LoopSettings(save_every=0)


def test_a_correction_trains_the_rating_of_its_own_replies(data, tmp_path, monkeypatch):
    """The replies are taken once; a judge without an answer learns ratings at once alone."""
    monkeypatch.setattr(train_correction, "load_policy", taught_policy)
    words = smoke(train_correction, *data, f"out={tmp_path}", "max_new_tokens=1")
    train_correction.main(words)
    replies = [json.loads(line) for line in (tmp_path / "replies.jsonl").open()]
    assert len(replies) == 4 and any(rounds for _, rounds in replies)
    assert all("<answer>" in text for _, rounds in replies for text in rounds)
    assert (tmp_path / "judge" / "config.json").is_file()
    stamp = (tmp_path / "replies.jsonl").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "checkpoints")  # the stand-in's bias is not among a judge's weights
    train_correction.main(words)
    assert (tmp_path / "replies.jsonl").stat().st_mtime_ns == stamp


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [train_sft, train_grpo])
def test_two_processes_train_one_judge(recipe, data, tmp_path):
    name = recipe.__name__.rpartition(".")[2]
    words = smoke(recipe, *data, f"out={tmp_path}", "loop.steps=2", "loop.batch_size=2")
    launch(2, "recipes/launched_recipe.py", name, *words)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 2]
    scorer = load_scorer(str(tmp_path / "judge"), sampling=Sampling(max_new_tokens=4))
    assert scorer.assess(picture()).error == "missing_answer"


@pytest.mark.slow
def test_a_time_limit_ends_two_processes_at_the_same_step_with_the_same_weights(data, tmp_path):
    """The clocks differ (see launched_recipe.py); the decision is the main process's."""
    words = smoke(train_sft, *data, f"out={tmp_path}", "loop.steps=100", "loop.seconds=4")
    said = launch(2, "recipes/launched_recipe.py", "train_sft", *words)
    ended = [json.loads(line) for line in said.splitlines() if line.startswith('{"process"')]
    assert {line["process"] for line in ended} == {0, 1}
    assert [line["steps"] for line in ended] == [4, 4]
    assert ended[0]["weights"] == ended[1]["weights"]


@pytest.mark.slow
def test_ranks_are_the_same_on_one_process_and_on_two():
    script = "core/training/rank_script.py"
    one, two = (json.loads(launch(n, script).splitlines()[-1]) for n in (1, 2))
    assert one == two and len(one) == 24 and len(set(one)) > 12


@pytest.mark.parametrize("recipe", [train_sft, train_grpo])
def test_a_time_limit_ends_a_training_with_its_rate_run_out(
    recipe, data, taught, tmp_path, monkeypatch
):
    """A clock that advances one second a step ends 50 steps after 4; the rate is a cosine."""
    clock = partial(next, itertools.count())
    monkeypatch.setattr(trainer_run, "time_limit", partial(trainer_run.time_limit, clock=clock))
    words = smoke(recipe, *data, f"out={tmp_path}", "loop.steps=50", "loop.seconds=4")
    recipe.main([*words, "loop.save_every=50"])
    rates = [line["learning_rate"] for line in lines(tmp_path) if "learning_rate" in line]
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(4)])
    assert (tmp_path / "judge" / "model.safetensors").is_file()
