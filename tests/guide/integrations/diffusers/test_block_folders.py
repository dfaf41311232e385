"""The folders of the blocks, as diffusers loads and writes them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ModularPipelineBlocks

from restoration_guide import QualityGate
from restoration_guide.integrations import diffusers as folders

PACKAGE = folders.__name__
FOLDERS = {"QualityGateBlock": folders.QUALITY_GATE, "PickBestBlock": folders.PICK_BEST}


def load(folder: str) -> Any:
    return ModularPipelineBlocks.from_pretrained(folder, trust_remote_code=True)


@pytest.mark.parametrize(("name", "folder"), FOLDERS.items())
def test_the_config_is_what_diffusers_writes(name: str, folder: str, tmp_path: Path) -> None:
    block = getattr(import_module(f"{PACKAGE}.{Path(folder).name}.block"), name)()
    block.save_pretrained(tmp_path)
    written, shipped = (
        json.loads((Path(each) / "modular_config.json").read_text(encoding="utf-8"))
        for each in (tmp_path, folder)
    )
    assert written | {"_diffusers_version": "0.42.1"} == shipped


@pytest.mark.parametrize(("name", "folder"), FOLDERS.items())
def test_the_code_runs_only_with_the_users_consent(name: str, folder: str, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        ModularPipelineBlocks.from_pretrained(folder)
    block = load(folder)
    assert type(block).__name__ == name
    assert type(block).__module__ == "diffusers_modules.local.block"  # the file, not the package


def test_both_folders_in_one_pipeline(photo, stubs) -> None:
    pick, gate = load(folders.PICK_BEST), load(folders.QUALITY_GATE)
    pick_pipe, gate_pipe = pick.init_pipeline(), gate.init_pipeline()
    pick_pipe.update_components(judge=stubs.Scorer())
    gate_pipe.update_components(quality_gate=QualityGate(stubs.Scorer(), 3.0))
    good = stubs.smooth(photo, torch.Generator())
    images = [photo * 0, good]
    found = pick_pipe(image=photo, images=images, output=["best", "selection"])
    assert found["selection"].choice == 1 and found["best"].size == (80, 64)
    verdicts = gate_pipe(image=photo, images=images, output="verdicts")
    assert [verdict.action for verdict in verdicts] == ["retry", "accept"]
