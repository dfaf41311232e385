"""A small judge from random weights: its vision alone, killed and resumed, and all stages."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from recipes import train_tiny_judge, train_tiny_vision
from tests.recipes.gr_iqa_sets import write_miniature_biq2021, write_set
from zoomiqa_core import load_scorer
from zoomiqa_core.runs.folder import RunFolder

pytest.importorskip("trl")
CONFIGS = Path(train_tiny_judge.__file__).parent / "configs"
VISION = ["--config", str(CONFIGS / "train_tiny_vision" / "smoke.yaml")]


def weights(out: Path):
    return load_file(out / "model" / "model.safetensors")


def test_a_killed_vision_training_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    data = f"data={write_set(tmp_path / 'set')}"
    train_tiny_vision.main([*VISION, data, f"out={tmp_path / 'whole'}"])
    save = RunFolder.save

    def stop(self, state):
        save(self, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train_tiny_vision.main([*VISION, data, f"out={tmp_path / 'broken'}"])
    train_tiny_vision.main([*VISION, data, f"out={tmp_path / 'broken'}"])
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all((whole[name] == broken[name]).all() for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "log.jsonl").open()]
    assert steps == [1, 2]


def test_all_stages_leave_a_judge_that_loads(tmp_path):
    data = write_miniature_biq2021(tmp_path / "data")
    words = [f"photos={data}/images", f"biq2021={data}", f"out={tmp_path / 'run'}"]
    train_tiny_judge.main(["--config", str(CONFIGS / "train_tiny_judge" / "smoke.yaml"), *words])
    judge = load_scorer(tmp_path / "run" / "grpo-0" / "judge")
    said = judge.assess(data / "images" / "ss01 (0).png")
    assert not said.valid  # it was hardly trained, so it says nothing a parser could read
    assert said.error


def test_a_time_limit_ends_the_vision_training(tmp_path):
    words = [f"data={write_set(tmp_path / 'set')}", f"out={tmp_path / 'run'}", "save_every=10000"]
    clock = partial(next, itertools.count())  # one second a step
    train_tiny_vision.main([*VISION, *words, "steps=10000", "seconds=3"], clock=clock)
    last = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()][-1]
    assert last["step"] == 3
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
