"""A run's folder: configuration guarded, log appended, checkpoint whole or absent."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from zoomiqa_core.runs import folder as module
from zoomiqa_core.runs.folder import RunFolder, versions, warn_of_slow_bf16


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


@pytest.mark.parametrize("capable", [False, True])
def test_bf16_is_warned_of_only_where_a_processor_lacks_it(monkeypatch, capable):
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: capable)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warn_of_slow_bf16(False, "cpu")
        warn_of_slow_bf16(True, "cuda")
        assert not seen
        warn_of_slow_bf16(True, "cpu")
    assert len(seen) == (not capable)
    assert capable or "switch it off" in str(seen[0].message)
