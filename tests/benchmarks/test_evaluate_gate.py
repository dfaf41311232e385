"""The gate's evaluation: random divisions by hand, and a whole run on a tiny dataset."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import evaluate_gate
from zoomiqa_core.images.sources import save_png


def test_divisions_by_hand() -> None:
    # acceptable images are rated 5, unacceptable ones 2: none of these can pass
    ratings, good = np.repeat([5.0, 2.0], [10, 40]), np.repeat([True, False], [10, 40])
    found = evaluate_gate.divisions(ratings, good, 35, 0.05, count=20, seed=0)
    assert found == {"mean": 0, "low": 0, "high": 0, "kept": 0}  # 0 lies 5 points off, not 2


def test_divisions_average_to_the_target() -> None:
    ratings = np.random.default_rng(0).uniform(1, 5, 600)
    found = evaluate_gate.divisions(
        np.append(ratings, [5.0]),
        np.append(np.zeros(600, bool), [True]),
        301,
        0.1,
        count=200,
        seed=1,
    )
    assert 0.085 < found["mean"] < 0.115 and found["low"] < 0.1 < found["high"]


@pytest.fixture
def biq2021(tmp_path):
    """16 images in each split, the first half unacceptable."""
    lines = ["image_name,mos,set"]
    generator = torch.Generator().manual_seed(0)
    for split in ("validation", "test"):
        for index in range(16):
            name = f"ss0{1 + index % 2} {split} {index}.png"
            image = torch.rand(3, 16, 16, generator=generator)
            save_png(image, tmp_path / "images" / name)
            lines.append(f"{name},{0.3 if index < 8 else 0.9},{split}")
    (tmp_path / "mos.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_a_whole_run_and_its_second_without_judging(biq2021, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "out"
    line = ["evaluate_gate", "--biq2021", str(biq2021), "--out", str(out), "--divisions", "3"]
    line += ["--target", "0.5"]
    monkeypatch.setattr(sys, "argv", line)
    evaluate_gate.main()
    printed = capsys.readouterr().out
    for words in ("from 16 images, 8 unacceptable", "| all |", "| ss02 |", "3 random divisions"):
        assert words in printed
    record = json.loads((out / "validation-3.5.json").read_text(encoding="utf-8"))
    assert record["calibration"]["unacceptable"] == 8 and record["arguments"]["acceptable"] == 3.5
    assert record["rates"]["all"][0][3] == 8  # unacceptable images of the test split
    monkeypatch.setattr("zoomiqa_core.proxy.scorer.ProxyScorer.assess", None)  # judging would raise
    evaluate_gate.main()
    figures = printed[printed.index("acceptable") :]
    assert capsys.readouterr().out.endswith(figures)
