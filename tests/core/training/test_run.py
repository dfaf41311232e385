"""A run's folder: configuration guarded, log appended, checkpoint whole or absent."""

from __future__ import annotations

import json

import pytest
import torch

from zoomiqa_core.training.run import RunFolder, versions


def test_log_and_checkpoint_round_trip(tmp_path):
    run = RunFolder(tmp_path / "run", "a: 1\n")
    assert run.load() is None
    run.log({"step": 1})
    run.log({"step": 2})
    run.save({"step": 2, "weights": {"w": torch.ones(2)}})
    assert [json.loads(line)["step"] for line in (run.path / "log.jsonl").open()] == [1, 2]
    state = RunFolder(tmp_path / "run", "a: 1\n").load()
    assert (
        state is not None
        and state["step"] == 2
        and torch.equal(state["weights"]["w"], torch.ones(2))
    )


def test_another_configuration_is_refused(tmp_path):
    RunFolder(tmp_path, "a: 1\n")
    with pytest.raises(ValueError, match="another configuration"):
        RunFolder(tmp_path, "a: 2\n")


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path):
    run = RunFolder(tmp_path, "")
    run.save({"step": 1})
    with pytest.raises(Exception, match="pickle"):
        run.save({"step": lambda: None})
    state = run.load()
    assert state is not None and state["step"] == 1


def test_versions_name_what_shapes_a_result():
    assert {"python", "torch", "timm", "diffusers"} <= versions().keys()
