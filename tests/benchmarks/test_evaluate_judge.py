"""The table of bars: verdicts by hand, parts kept and renewed, a tiny run of the real parts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import evaluate_judge as command
from benchmarks import judge_measures
from benchmarks.evaluate_judge import BARS, PARTS, Bar, at_least, at_most
from zoomiqa_core.evaluation.correlation import Estimate
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.proxy.model import BUNDLED_WEIGHTS, QualityProxy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that name a BIQ2021 of six test photos, and two clean photos."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["image_name,mos,set"]
    generator = torch.Generator().manual_seed(0)
    for index in range(6):
        photo = torch.rand(3, 8, 8, generator=generator)[None]
        photo = torch.nn.functional.interpolate(photo, size=260, mode="bicubic")[0].clamp(0, 1)
        save_png(photo, folder / "images" / f"ss01 ({index}).png")
        rows.append(f"ss01 ({index}).png,{index / 6},test")
        if index < 2:
            save_png(photo, folder / "clean" / f"{index}.png")
    (folder / "mos.csv").write_text("\n".join(rows), encoding="utf-8")
    return ["--biq2021", str(folder), "--photos", f"{folder}/clean", "--count", "2", "--size", "64"]


@pytest.mark.parametrize(
    ("bar", "value", "verdict"),
    [
        (at_least(0.74, 0.8), 0.74, "reached"),
        (at_least(0.74, 0.8), 0.81, "excellent"),
        (at_least(0.74, 0.8), 0.7, "missed by 0.040"),
        (at_most(1.2, 0.6), 1.5, "missed by 0.300"),
        (at_most(1.2, 0.6), 0.6, "excellent"),
        (at_most(16, None), 3, "reached"),
        (Bar((0.87, 0.93), (0.89, 0.91)), 0.88, "reached"),
        (Bar((0.87, 0.93), (0.89, 0.91)), 0.94, "missed by 0.010"),
        (at_least(0.74, 0.8), math.nan, "not measured"),
    ],
)
def test_verdicts_by_hand(bar: Bar, value: float, verdict: str) -> None:
    assert bar.verdict(value) == verdict


def test_every_excellent_bar_lies_within_what_must_be() -> None:
    for name, bar in BARS.items():
        low, high = bar.excellent or bar.must
        assert bar.must[0] <= low <= high <= bar.must[1], name


def test_the_table_shows_bars_first_and_the_rest_below() -> None:
    table = command.markdown(
        {"a": {"more": 1.0, "BIQ2021 SRCC": Estimate(0.85, 0.8, 0.9)}, "b": {"x": math.nan}}
    )
    lines = table.splitlines()
    assert "| BIQ2021 SRCC | 0.850 [0.800, 0.900] | ≥ 0.84 | ≥ 0.87 | reached |" in lines
    assert "| BIQ2021 PLCC | nan | ≥ 0.86 | ≥ 0.89 | not measured |" in lines
    assert lines[-2:] == ["| more | 1.000 |  |  |  |", "| x | nan |  |  |  |"]


def test_parts_are_kept_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def part(name: str):
        def measured(setup: command.Setup) -> command.Table:
            calls.append(name)
            if name == "b" and calls.count("b") == 1:
                raise KeyboardInterrupt
            return {name: Estimate(1.0, 0.0, math.nan)}

        return measured

    monkeypatch.setattr(command, "PARTS", {name: part(name) for name in "abc"})
    setup = command.Setup("biq", "photos", "w", "0", 2, 64, 0)
    with pytest.raises(KeyboardInterrupt):
        command.measure(setup, tmp_path)
    tables = command.measure(setup, tmp_path)
    assert calls == ["a", "b", "b", "c"]
    assert str(tables["a"]["a"]) == "1.000 [0.000, nan]"
    command.measure(setup, tmp_path, renew=["c"])
    assert calls[4:] == ["c"]
    command.measure(command.Setup("biq", "photos", "w", "1", 2, 64, 0), tmp_path)
    assert calls[5:] == ["a", "b", "c"]  # other weights


def test_a_tiny_run_of_the_quick_parts(data, tmp_path, monkeypatch, capsys) -> None:
    quick = ("people", "local_damage", "out_of_distribution", "text", "size")
    monkeypatch.setattr(command, "PARTS", {name: PARTS[name] for name in quick})
    command.main([*data, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    folder = tmp_path / command.digest(BUNDLED_WEIGHTS)
    table = json.loads((folder / "table.json").read_text(encoding="utf-8"))["table"]
    assert "\n".join(table) in printed
    record = json.loads((folder / "people.json").read_text(encoding="utf-8"))
    assert record["setup"]["digest"] == command.digest(BUNDLED_WEIGHTS)
    named = {n for f in quick for n in json.loads((folder / f"{f}.json").read_text())["table"]}
    expected = {name for name in BARS if name.startswith(("BIQ2021", "local", "std", "added"))}
    assert expected and expected <= named
    size = (BUNDLED_WEIGHTS / "model.safetensors").stat().st_size / 1e6
    assert f"| shipped size of the judges, MB | {size:.3f}" in printed or size < 16


def test_two_judges_stand_side_by_side_in_the_wanted_parts(data, tmp_path, capsys) -> None:
    other = tmp_path / "no_map" / "weights"
    torch.manual_seed(0)
    QualityProxy().save_pretrained(other)
    weights = ["--weights", str(BUNDLED_WEIGHTS), str(other)]
    command.main([*data, *weights, "--parts", "local_damage", "--out", str(tmp_path / "out")])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[0] == f"| measure | {BUNDLED_WEIGHTS.name} | no_map |"
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| local damage: pointing",
        "| local damage: IoU",
    ]
    assert rows[2].split(" | ")[1] != rows[2].split(" | ")[2]
    assert "nan" not in "".join(rows)


def test_judges_of_one_name_are_refused(data, tmp_path, capsys) -> None:
    weights = ["--weights", str(tmp_path / "a" / "judge"), str(tmp_path / "b" / "judge")]
    with pytest.raises(SystemExit):
        command.main([*data, *weights])
    assert "told apart by their folders' names, judge" in capsys.readouterr().err


@pytest.mark.slow
def test_every_bar_is_measured_by_a_part(data, tmp_path) -> None:
    command.main([*data, "--out", str(tmp_path)])
    folder = tmp_path / command.digest(BUNDLED_WEIGHTS)
    named = {n for f in PARTS for n in json.loads((folder / f"{f}.json").read_text())["table"]}
    assert set(BARS) <= named


# --- the standard deviation ----------------------------------------------------------------------


def test_intervals_of_a_calibrated_judge() -> None:
    random = np.random.default_rng(0)
    std = random.uniform(0.2, 1.0, 2000)
    table = judge_measures.interval_table(random.normal(size=2000) * std, std, seed=0)
    values = {name: float(np.ravel(value)[0]) for name, value in table.items()}
    for level in (50, 80, 90, 95):
        assert values[f"coverage of the {level} % interval"] == pytest.approx(level / 100, abs=0.03)
    assert values["calibration error of intervals"] < 0.02
    assert values["SRCC of std with |error|"] > 0.2


def test_unfamiliar_images_are_the_same_again_and_differ(data) -> None:
    photos = sorted(Path(data[3]).iterdir())
    first, again = (judge_measures.unfamiliar(photos, 0) for _ in range(2))
    for kind, images in first.items():
        assert len(images) == 2 and not torch.equal(images[0], images[1]), kind
        assert all(torch.equal(a, b) for a, b in zip(images, again[kind], strict=True)), kind
        assert all(image.min() >= 0 and image.max() <= 1 for image in images), kind
    assert all(image.std((2, 3)).max() < 1e-6 for image in first["flat fields"])
    assert all((image < 0.2).float().mean() > 0.02 for image in first["text pages"])


def test_the_std_of_kinds_by_a_judge_that_doubts_everything_alike(data) -> None:
    proxy = QualityProxy.from_pretrained()
    last: Any = proxy.error_head[2]
    torch.nn.init.zeros_(last.weight)
    photos = sorted(Path(data[3]).iterdir())
    with torch.no_grad():
        table = judge_measures.out_of_distribution_table(proxy, photos, 0)
    assert table["std on noise"] == pytest.approx(table["std on photos"], abs=1e-5)
