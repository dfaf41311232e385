"""The small judge from random weights: all stages in one command."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes import train_tiny_judge
from tests.recipes.gr_iqa_sets import write_miniature_biq2021
from zoomiqa_core import load_scorer

pytest.importorskip("trl")
CONFIGS = Path(train_tiny_judge.__file__).parent / "configs"


def test_all_stages_leave_a_judge_that_loads(tmp_path):
    data = write_miniature_biq2021(tmp_path / "data")
    words = [f"photos={data}/images", f"biq2021={data}", f"out={tmp_path / 'run'}"]
    words = ["--config", str(CONFIGS / "train_tiny_judge" / "smoke.yaml"), *words]
    train_tiny_judge.main(words)
    for stage in ("sft", "correction", "grpo"):
        judge = load_scorer(tmp_path / "run" / f"{stage}-0" / "judge")
        said = judge.assess(data / "images" / "ss01 (0).png")
        assert not said.valid  # it was hardly trained, so it says nothing a parser could read
        assert said.error
    maps = list((tmp_path / "run" / "maps").iterdir())
    assert 0 < len(maps) <= len((tmp_path / "run/gr_iqa/records.jsonl").read_text().splitlines())
