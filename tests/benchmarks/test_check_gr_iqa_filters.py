"""The planted check of the filters of rationales: with a model, the source that does not look."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import check_gr_iqa_filters as check
from tests.core.judges import picture
from zoomiqa_core.data.gr_iqa.filters import Continuation, RelianceConfig
from zoomiqa_core.training.policy import save_judge
from zoomiqa_core.training.tiny_vlm import build_tiny_vlm
from zoomiqa_core.zoom_iqa.judge import ZoomIQA
from zoomiqa_core.zoom_iqa.local.model import LocalVLM
from zoomiqa_core.zoom_iqa.prompts import BUILTIN


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for shade in (40, 120, 200):
        picture(check.SIDE, check.SIDE, shade=shade).save(folder / f"{shade}.png")
    return folder


def test_only_the_source_that_does_not_look_is_dropped(photos, monkeypatch):
    def continuation(*_, **__):
        def go_on(prefix, image):
            if image is None:
                return Continuation(2.0, "final", None, 0.5)
            return Continuation(4.0, "crop", (0.0, 0.0, 0.5, 0.5), 0.1)

        return go_on

    monkeypatch.setattr(check, "vlm_continuation", continuation)
    known = list(check.cases(str(photos), 6, torch.Generator().manual_seed(0)))
    judge = ZoomIQA(LocalVLM(*build_tiny_vlm()))
    found = check.model_reliance(known, judge, RelianceConfig(), seed=0)
    assert found == check.Tally(true=3, true_dropped=0, planted=3, planted_dropped=3)


def test_a_model_that_says_nothing_usable_drops_nothing(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "vlm_continuation", lambda *_, **__: lambda prefix, image: None)
    judge = str(save_judge(*build_tiny_vlm(), BUILTIN, tmp_path / "judge"))
    out = tmp_path / "filters.json"
    check.main(["--photos", str(photos), "--count", "6", "--model", judge, "--out", str(out)])
    assert f"VRF ({judge})" in capsys.readouterr().out
    row = json.loads(out.read_text())["rows"][f"VRF ({judge})"]
    assert (row["true"], row["planted"], row["recall"]) == (3, 3, 0)
