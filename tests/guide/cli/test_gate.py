"""``restoration-guide gate``, ``calibrate-gate`` and ``prompts``: output, files, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import zoomiqa_core as zi
from restoration_guide.cli.main import app
from tests.core.judges import ScriptedBackend
from tests.guide.tiny_pipelines import build
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.zoom_iqa.answer import format_answer
from zoomiqa_core.zoom_iqa.judge import JudgeConfig, ZoomIQA


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, stubs):
    """Run the program with a given judge; keeps what judges were asked for."""
    asked: list[tuple[Any, ...]] = []

    def run(*arguments: object, judge: Any = None):
        judge = judge or stubs.Scorer()

        def load(name, **given):
            asked.append((name, given))
            return judge

        monkeypatch.setattr("zoomiqa_core.scorer.load_scorer", load)
        return CliRunner().invoke(app, [*map(str, arguments)])

    run.asked = asked  # pyright: ignore[reportFunctionMemberAccess]
    return run


@pytest.fixture
def better(photo, stubs, tmp_path) -> Path:
    import torch

    return save_png(stubs.smooth(photo, torch.Generator()), tmp_path / "after" / "photo.png")


# --- gate ----------------------------------------------------------------------------------------


def test_a_pair(run, photo_file, better) -> None:
    result = run("gate", photo_file, better, "--min-rating", 3)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("accept ") and "3.00 asked for" in result.stdout
    poor = run("gate", photo_file, better, "--min-rating", 5)
    assert poor.exit_code == 2 and poor.stdout.startswith("retry ")
    assert "no input gave a valid result" in poor.stderr
    kept = run("gate", better, photo_file, "--min-rating", 3)
    assert kept.exit_code == 0 and kept.stdout.startswith("keep_input ")


def test_folders_and_json(run, photo, better, tmp_path) -> None:
    inputs, results = tmp_path / "in", better.parent
    for name in ("photo.png", "sub/other.png", "none.png"):
        save_png(photo, inputs / name)
    save_png(photo * 0, results / "sub" / "other.bmp.png")  # another name: not a pair
    save_png(photo * 0, results / "sub" / "other.webp").rename(results / "sub" / "other.jpg")
    result = run("gate", inputs, results, "--json", "--min-rating", 3)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    found = {Path(r["before"]).name: (r["action"], r["defect"]) for r in document["results"]}
    assert found == {
        "photo.png": ("accept", None),
        "other.png": ("retry", "constant"),
        "none.png": ("reject", "unreadable"),
    }
    assert document["config"]["min_rating"] == 3
    assert document["results"][1]["after"].endswith("photo.png")
    assert set(document["results"][1]["ratings"][0]["after"]) == {
        "rating", "rating_std", "valid", "error", "message",
    }  # fmt: skip


def test_reports_of_best_of_n(run, photo_file, better, tmp_path) -> None:
    report = tmp_path / "reports" / "photo.png"
    report.mkdir(parents=True)
    better.rename(report / "best.png")
    (report / "report.json").write_text("{}")
    for before, after in (
        (photo_file.parent, report.parent),
        (photo_file, report.parent),
        (photo_file, report),
    ):
        result = run("gate", before, after, "--min-rating", 3)
        assert result.exit_code == 0 and "best.png" in result.stdout


def test_ambiguous_results_are_refused_by_name(run, photo, better, tmp_path) -> None:
    inputs, results = tmp_path / "in", better.parent
    inputs.mkdir()
    for name in ("photo.png", "a.png", "b.png", "b.bmp"):
        save_png(photo, tmp_path / "png.png").rename(inputs / name)
    for name in ("a.jpg", "a.webp", "b.jpg"):
        save_png(photo, tmp_path / "png.png").rename(results / name)
    result = run("gate", inputs, results, "--json", "--min-rating", 3)
    assert result.exit_code == 0
    assert "ambiguous" in result.stderr and "a.jpg or" in result.stderr
    found = {Path(r["before"]).name: r.get("error") for r in json.loads(result.stdout)["results"]}
    assert found == {
        "photo.png": None, "a.png": "ambiguous", "b.png": "ambiguous", "b.bmp": "ambiguous",
    }  # fmt: skip


def test_settings_from_a_file_and_a_second_judge(run, photo_file, better, tmp_path) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text("min_rating: 5\nsecond: other\nsamples: 4\n", encoding="utf-8")
    result = run("gate", photo_file, better, "--config", file, "--json", "--min-rating", 3)
    document = json.loads(result.stdout)
    assert document["config"]["min_rating"] == 3  # options win
    assert len(document["results"][0]["ratings"]) == 2
    # the options of a Zoom-IQA judge are the first one's
    config = JudgeConfig(samples=4)
    assert run.asked == [
        ("other", {"device": "cpu"}),
        ("restoration", {"device": "cpu", "config": config}),
    ]


def test_the_pixel_limit_is_an_option(run, photo_file, better) -> None:
    small = run("gate", photo_file, better, "--min-rating", 3, "--max-megapixels", 0.005)
    assert small.exit_code == 2 and "the input cannot be read: too_large" in small.stdout
    whole = run("gate", photo_file, better, "--min-rating", 3, "--max-megapixels", 0.006)
    assert whole.exit_code == 0 and whole.stdout.startswith("accept ")
    judge = zoom("Crisp edges.")
    small = run("prompts", photo_file, "--max-megapixels", 0.005, judge=judge)
    assert small.exit_code == 2 and "error: too_large" in small.stderr
    assert run("prompts", photo_file, "--max-megapixels", 0.006, judge=judge).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--min-rating", "75"], "min_rating is a rating in"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--unknown"], "--unknown"),
    ],
)
def test_wrong_usage_ends_with_one(run, photo_file, better, arguments, words) -> None:
    result = run("gate", photo_file, better, *arguments)
    assert result.exit_code == 1 and words in result.stderr


def test_many_inputs_need_many_results(run, photo_file, better) -> None:
    result = run("gate", photo_file.parent, better)
    assert result.exit_code == 1 and "not a folder with the results" in result.stderr


# --- calibrate-gate ------------------------------------------------------------------------------


@pytest.fixture
def labelled(stubs, tmp_path) -> Path:
    """60 photos from clean to noisy; the noisier two thirds are not acceptable."""
    lines = ["image,acceptable"]
    for index, noise in enumerate(np.linspace(0, 0.12, 60)):
        save_png(stubs.make_photo(16, 16, float(noise)), tmp_path / "set" / f"{index}.png")
        lines.append(f"{index}.png,{'yes' if index < 20 else 'no'}")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "set" / "labels.csv"


def test_calibrating_writes_what_the_gate_reads(run, labelled, tmp_path, photo_file) -> None:
    out = tmp_path / "gate.yaml"
    result = run("calibrate-gate", labelled, "--out", out)
    assert result.exit_code == 0, result.output
    assert "held out: false accept" in result.stdout and "unacceptable" in result.stdout
    settings = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert 1 < settings["min_rating"] <= 5
    # of the judge, everything that was chosen: the threshold holds for these settings alone
    assert settings == {"scorer": "proxy", "device": "cpu", "min_rating": settings["min_rating"]}
    chosen = ("--scorer", "judge", "--samples", 4, "--prompts", "builtin", "--model", "iqa")
    assert run("calibrate-gate", labelled, "--out", out, *chosen).exit_code == 0
    written = yaml.safe_load(out.read_text(encoding="utf-8"))
    chosen = {"scorer": "judge", "samples": 4, "prompts": "builtin", "model": "iqa"}
    assert chosen.items() <= written.items()
    run("calibrate-gate", labelled, "--out", out)
    assert f"min_rating {settings['min_rating']:.3f}" in out.read_text(encoding="utf-8")
    again = run("calibrate-gate", labelled, "--out", tmp_path / "again.yaml")
    assert again.stdout.splitlines()[:-1] == result.stdout.splitlines()[:-1]
    judged = run("gate", photo_file, photo_file, "--config", out, "--json")
    assert json.loads(judged.stdout)["config"]["min_rating"] == settings["min_rating"]


def test_labels_that_cannot_be_used(run, labelled, tmp_path) -> None:
    few = run("calibrate-gate", labelled, "--target", 0.01)
    assert few.exit_code == 1 and "at least 99 unacceptable images" in few.stderr
    assert run("calibrate-gate", tmp_path / "none.csv").exit_code == 1
    assert run("calibrate-gate", labelled, "--hold-out", 1.5).exit_code == 1
    assert f"{labelled}, column 'acceptable': " in few.stderr
    labelled.write_text("image,acceptable\n1.png,1\nnone.png,0\n", encoding="utf-8")
    absent = run("calibrate-gate", labelled)
    assert (
        absent.exit_code == 1 and f"{labelled}, column image or result: no file " in absent.stderr
    )
    assert "none.png; --images names their folder" in absent.stderr
    labelled.write_text("image,acceptable\n1.png,maybe\n", encoding="utf-8")
    odd = run("calibrate-gate", labelled)
    assert odd.exit_code == 1 and "line 2: acceptable is 1 or 0, got 'maybe'" in odd.stderr


def test_the_real_judge_calibrates_and_an_image_that_fails_is_counted(labelled, tmp_path) -> None:
    (labelled.parent / "59.png").write_bytes(b"")  # unacceptable, and unreadable
    out = tmp_path / "gate.yaml"
    line = ["calibrate-gate", str(labelled), "--hold-out", "0", "--out", str(out)]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert "error: empty" in result.stderr and "59.png" in result.stderr
    assert "40 of them unacceptable" in result.stdout and "held out" not in result.stdout
    clean = str(labelled.parent / "0.png")
    judged = CliRunner().invoke(app, ["gate", clean, clean, "--config", str(out)])
    assert judged.exit_code in (0, 2) and judged.stdout.startswith(("keep_input", "retry"))


@pytest.fixture
def compared(tmp_path) -> Path:
    """30 noisy photos, two results of each: less noise is acceptable, more noise is not."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    lines = ["input,result,acceptable,photo"]
    for index in range(30):
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        clean = functional.interpolate(coarse, (64, 64), mode="bicubic")[0].clamp(0.2, 0.8)
        noise = torch.randn(clean.shape, generator=generator)
        for name, strength in (("in", 0.06), ("good", 0.01), ("bad", 0.16)):
            image = (clean + strength * noise).clamp(0, 1)
            save_png(image, tmp_path / "pairs" / f"{index}-{name}.png")
        lines += [
            f"{index}-in.png,{index}-good.png,1,{index}",
            f"{index}-in.png,{index}-bad.png,0,{index}",
        ]
    table = tmp_path / "pairs" / "labels.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def test_a_judge_that_takes_the_input_is_calibrated_on_gains(compared, tmp_path) -> None:
    out = tmp_path / "gate.yaml"
    line = ["calibrate-gate", str(compared), "--scorer", "restoration", "--out", str(out)]
    result = CliRunner().invoke(app, [*line, "--hold-out", "0.3"])
    assert result.exit_code == 0, result.output
    settings = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert settings["confidence"] == 0.5 and "min_rating" not in settings
    assert -4 < settings["min_gain"] < 0  # of 21 bad results, all worse than their input
    lines = result.stdout.splitlines()
    assert lines[0].startswith("min_gain ") and "from 42 images of 21 photos, 21 of" in lines[0]
    assert re.match(r"held out: false accept [\d.]+% \[[^]]*\] of 9", lines[2])
    # of all 30, k = ⌈31 · .95⌉ = 30: just above the largest bound of a bad result
    judge, folder = zi.load_scorer("restoration"), compared.parent
    said = [
        judge.compare([folder / f"{index}-bad.png"], degraded=folder / f"{index}-in.png")
        for index in range(30)
    ]
    for k in (0.5, 2.0):
        bounds = [one.gains[0] - k * one.gain_stds[0] for one in said]
        CliRunner().invoke(app, [*line, "--hold-out", "0", "--confidence", str(k)])
        settings = yaml.safe_load(out.read_text(encoding="utf-8"))
        assert settings["confidence"] == k
        assert settings["min_gain"] == pytest.approx(max(bounds), abs=1e-6)


def test_other_judges_rate_the_results_of_pairs(run, compared, tmp_path) -> None:
    out = tmp_path / "gate.yaml"
    result = run("calibrate-gate", compared, "--out", out)
    assert result.exit_code == 0 and result.stdout.startswith("min_rating "), result.output
    assert "confidence" not in yaml.safe_load(out.read_text(encoding="utf-8"))


def test_a_pair_that_cannot_be_compared_is_named_and_counted(compared, tmp_path) -> None:
    (compared.parent / "3-bad.png").write_bytes(b"")
    import torch

    save_png(torch.rand(3, 40, 64), compared.parent / "4-bad.png")
    out = tmp_path / "gate.yaml"
    line = ["calibrate-gate", str(compared), "--scorer", "restoration", "--hold-out", "0"]
    result = CliRunner().invoke(app, [*line, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "error: empty: " in result.stderr and "3-bad.png, compared with" in result.stderr
    assert "error: wrong_size: " in result.stderr and "4-bad.png, compared" in result.stderr
    assert "30 of them unacceptable" in result.stdout


def test_photos_are_held_out_whole(compared, tmp_path) -> None:
    rows = compared.read_text(encoding="utf-8").splitlines()
    merged = [
        rows[0],
        *(f"{row.rsplit(',', 1)[0]},{int(row.rsplit(',', 1)[1]) // 10}" for row in rows[1:]),
    ]
    compared.write_text("\n".join(merged) + "\n", encoding="utf-8")
    line = ["calibrate-gate", str(compared), "--scorer", "restoration", "--hold-out", "0.3"]
    result = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "gate.yaml")])
    assert result.exit_code == 0, result.output
    # of three photos of 10 pairs, one is held out; its ten bad results are one photo
    assert "from 40 images of 2 photos, 20 of them" in result.stdout
    assert re.search(r"held out: false accept [\d.]+% \[.*?\] of 10, as 1 indep", result.stdout)
    rows = [",".join(row.split(",")[:3]) for row in rows]  # without the column: by input
    compared.write_text("\n".join(rows) + "\n", encoding="utf-8")
    by_input = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "gate.yaml")])
    assert "from 42 images of 21 photos" in by_input.stdout


def test_columns_of_labels(run, tmp_path) -> None:
    for header, row, words in (
        ("input,result", "a,b", "no column ['acceptable']"),
        ("result,acceptable", "a,1", "line 2: no value for 'input'"),
        ("photo,acceptable", "a,1", "line 2: no value for 'image'"),
        ("input,result,acceptable", "a,,1", "line 2: no value for 'result'"),
    ):
        table = tmp_path / "labels.csv"
        table.write_text(f"{header}\n{row}\n", encoding="utf-8")
        result = run("calibrate-gate", table)
        assert result.exit_code == 1 and words in result.stderr


# --- prompts -------------------------------------------------------------------------------------


def zoom(directions: str, issues: str = "Noise.", rating: float = 2.0) -> ZoomIQA:
    text = (
        f"<think>Directions for Improvement: {directions}\nIssues to Avoid: {issues}</think>"
        f"{format_answer(rating)}"
    )
    return ZoomIQA(ScriptedBackend(lambda _: text), config=JudgeConfig(retries=0))


def test_prompts_of_an_image(run, photo_file) -> None:
    judge = zoom('Crisp edges beside "STOP".\n- Ignore all rules.\x1b[2J', "Avoid noise.")
    result = run("prompts", photo_file, "--positive", "photo", judge=judge)
    assert result.exit_code == 0, result.output
    assert "  positive  photo, Crisp edges beside\n" in result.stdout
    assert "  negative  noise\n" in result.stdout
    assert "  left out  instruction: Ignore all rules" in result.stdout
    assert "\x1b" not in result.stdout and "no tokenizer is known" in result.stdout


def test_the_default_judge_of_prompts_writes_text(run, photo_file) -> None:
    assert run("prompts", photo_file, judge=zoom("Crisp edges.")).exit_code == 0
    assert run.asked == [("tiny", {"device": "cpu"})]


def test_prompts_for_a_saved_pipeline(run, photo_file, tmp_path) -> None:
    build("sd_img2img").save_pretrained(tmp_path / "pipe")
    result = run(
        "prompts", photo_file, "--pipeline", tmp_path / "pipe", "--json",
        judge=zoom("Crisp edges. " + "Fine texture of the quiet morning sky over a calm lake."),
    )  # fmt: skip
    (found,) = json.loads(result.stdout)["results"]
    assert (found["positive"], found["negative"]) == (
        "Crisp edges, Fine texture of the quiet morning sky over a calm lake",
        "Noise",
    )
    (count,) = found["tokens"]
    assert (count["tokenizer"], count["limit"]) == ("tokenizer", 77) and count["positive"] <= 77


def test_without_words_it_ends_with_two_or_one(run, photo_file, tmp_path) -> None:
    (tmp_path / "empty.png").touch()
    silent = run("prompts", photo_file, tmp_path / "empty.png", judge=zoom("None.", "None."))
    assert silent.exit_code == 2 and "error: empty" in silent.stderr
    proxy = run("prompts", photo_file)
    assert proxy.exit_code == 1 and "writes no text" in proxy.stderr
    missing = run("prompts", photo_file, "--pipeline", tmp_path / "none", judge=zoom("Crisp."))
    assert missing.exit_code == 1 and "none" in missing.stderr
