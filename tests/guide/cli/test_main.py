"""``restoration-guide``: what it prints, what it leaves, and how it ends."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import ExifTags, Image
from typer.testing import CliRunner

from restoration_guide.cli.best_of_n import BestOfNOptions, DemoOptions
from restoration_guide.cli.config import ConfigError, GateRunConfig, RunConfig, resolve_config
from restoration_guide.cli.gate import GateOptions
from restoration_guide.cli.main import DEMO_PHOTO, app
from restoration_guide.report.folder import plain
from restoration_guide.report.write import write_report
from restoration_guide.restorers import load_restorer
from restoration_guide.restorers.base import Settings
from restoration_guide.restorers.builtin.restorer import BuiltinRestorer
from restoration_guide.search.best_of_n import BestOfN
from tests.guide.tiny_pipelines import build
from zoomiqa_core import __version__
from zoomiqa_core.cli.inputs import safe_name
from zoomiqa_core.images.colour import srgb_profile
from zoomiqa_core.images.sources import read_image, save_png, to_pil
from zoomiqa_core.scorer import load_scorer

HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture
def run(tmp_path: Path):
    """Run the program with ``--out`` in a fresh folder."""

    def run(*arguments: object, command: str = "best-of-n"):
        line = [command, *map(str, arguments), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, line)

    return run


def record(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_one_photo(run, photo_file, stubs, tmp_path) -> None:
    stubs.install()
    result = run(photo_file, "--n", 3, "--seed", 5)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "photo.png"
    for words in ("of 3 chosen", " → ", "low pass distance", "judging", "comparison.png"):
        assert words in result.stdout
    assert result.stderr == ""  # no progress where there is no terminal
    assert record(folder)["seed"] == 5 and (folder / "best.png").is_file()


def png_header(width: int, height: int) -> bytes:
    """An RGB PNG without pixels: only who decodes it can find it broken."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", size), (b"IDAT", zlib.compress(b"")))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def bad_inputs(folder: Path) -> list[Path]:
    """One file for each way in which an image can be unusable, and a folder without images."""
    folder.mkdir()
    Image.effect_noise((80, 80), 60).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    files = {
        "empty.png": b"",
        "truncated.jpg": whole[: len(whole) // 2],
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "text.png": b"not an image at all",
        "phone.png": png_header(4000, 3000),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "none").mkdir()
    small = {"dot.png": (1, 1), "line.png": (10_000, 1), "hair.png": (1, 10_000)}
    for name, size in small.items():
        Image.new("RGB", size, "red").save(folder / name)
    names = (*files, "none", "missing.png", *small)
    return [folder / name for name in names]


def test_bad_files_never_stop_the_good_ones(run, photo, pipe, stubs, tmp_path) -> None:
    stubs.install(BuiltinRestorer(pipe))
    bad = bad_inputs(tmp_path / "bad")
    good = save_png(photo, tmp_path / HOSTILE)
    result = run(*bad[:3], good, *bad[3:], "--n", 1)
    assert result.exit_code == 0
    errors = result.stderr.splitlines()
    codes = ("no_images", "missing", "empty", "truncated", "unknown_format", "unknown_format")
    codes += ("too_large", "too_small", "too_small", "too_small")
    assert [line.split(":")[1].strip() for line in errors] == list(codes)
    for line, path in zip(errors, [*bad[5:7], *bad[:5], *bad[7:]], strict=True):
        assert str(path) in line
    out = tmp_path / "out"
    (folder,) = [path.name for path in out.iterdir() if path.is_dir()]
    assert folder == safe_name(HOSTILE) and not set("<>") & set(folder)
    assert "9 images: 1 kept, 8 unreadable; " in result.stdout
    # what does not exist leaves neither a row nor an error file
    left = " ".join(path.name for path in out.iterdir())
    assert "missing.png" not in left and "missing.png" not in (out / "index.json").read_text()
    page = (out / folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page


def test_only_bad_files_end_with_two(run, pipe, stubs, tmp_path) -> None:
    stubs.install(BuiltinRestorer(pipe))
    result = run(*bad_inputs(tmp_path / "bad"))
    assert result.exit_code == 2
    assert "no input gave a valid result" in result.stderr
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]


def test_no_valid_judgement_ends_with_two(run, photo_file, stubs) -> None:
    stubs.install(scorer=stubs.Scorer(fails_on=lambda _: True))
    result = run(photo_file, "--n", 2)
    assert result.exit_code == 2 and "input kept" in result.stdout


def test_a_crashing_restorer_ends_with_one_and_keeps_its_work(
    run, photo_file, stubs, tmp_path
) -> None:
    stubs.install(stubs.Restorer([stubs.smooth, RuntimeError("out of memory")]))
    result = run(photo_file)
    assert result.exit_code == 1
    assert "stopped early: RuntimeError: out of memory" in result.stderr
    assert record(tmp_path / "out" / "photo.png")["choice"] == 0


def test_ctrl_c_writes_what_was_finished(run, photo_file, stubs, tmp_path) -> None:
    stubs.install(stubs.Restorer([stubs.smooth, KeyboardInterrupt()]))
    result = run(photo_file)
    assert result.exit_code == 130
    assert "of 1 chosen" in result.stdout
    assert record(tmp_path / "out" / "photo.png")["error"] == "KeyboardInterrupt"


def test_ctrl_c_stays_one_when_its_report_cannot_be_written(
    run, photo_file, stubs, tmp_path
) -> None:
    def block_and_interrupt(*_):
        shutil.rmtree(tmp_path / "out" / "photo.png")  # with the first candidate
        (tmp_path / "out" / "photo.png").write_text("in the way", encoding="utf-8")
        raise KeyboardInterrupt

    stubs.install(stubs.Restorer([stubs.smooth, block_and_interrupt]))
    result = run(photo_file)
    assert result.exit_code == 130
    assert "ReportExistsError" in result.stderr and "is a file" in result.stderr
    assert "chosen" not in result.stdout


def test_folders_and_globs(run, photo, stubs, tmp_path) -> None:
    stubs.install()
    for name in ("a/one.png", "a/two.png", "b/one.png"):
        save_png(photo, tmp_path / "in" / name)
    both = run(tmp_path / "in" / "a", tmp_path / "in" / "b" / "*.png", "--n", 1)
    assert both.exit_code == 1 and "would both be written to" in both.stderr
    assert str(tmp_path / "in" / "b" / "one.png") in both.stderr
    out = tmp_path / "out"
    assert run(tmp_path / "in" / "*", "--n", 1).exit_code == 0
    folders = {path.parent.relative_to(out).as_posix() for path in out.rglob("report.json")}
    assert folders == {"a/one.png", "a/two.png", "b/one.png"}
    rows = json.loads((out / "index.json").read_text(encoding="utf-8"))["images"]
    assert {row["folder"] for row in rows} == folders
    page = (out / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{folder}/report.html"' in page for folder in folders)


def test_another_run_is_not_overwritten(run, photo_file, stubs, tmp_path) -> None:
    scorer = stubs.Scorer()
    stubs.install(scorer=scorer)
    assert run(photo_file, "--n", 1).exit_code == 0
    judged = scorer.judged
    refused = run(photo_file, "--n", 2)
    assert refused.exit_code == 1 and "--overwrite" in refused.stderr
    assert scorer.judged == judged  # refused before the search
    assert record(tmp_path / "out" / "photo.png")["config"]["n"] == 1
    assert run(photo_file, "--n", 2, "--overwrite").exit_code == 0
    assert record(tmp_path / "out" / "photo.png")["config"]["n"] == 2


def test_resume_skips_what_is_done_and_only_that(run, photo_file, stubs, tmp_path) -> None:
    scorer = stubs.Scorer()
    stubs.install(scorer=scorer)
    assert run(photo_file, "--n", 1).exit_code == 0
    judged = scorer.judged
    again = run(photo_file, "--n", 1, "--resume")
    assert again.exit_code == 0 and "already done" in again.stdout
    assert scorer.judged == judged
    (tmp_path / "out" / "photo.png" / "report.json").unlink()  # as if killed before the end
    assert run(photo_file, "--n", 1, "--resume").exit_code == 0
    assert scorer.judged > judged


def test_resume_repeats_what_another_version_did(
    run, photo_file, stubs, tmp_path, monkeypatch
) -> None:
    scorer = stubs.Scorer()
    stubs.install(scorer=scorer)
    assert run(photo_file, "--n", 1).exit_code == 0
    judged = scorer.judged
    monkeypatch.setattr("restoration_guide.report.folder.__version__", "999.0")
    again = run(photo_file, "--n", 1, "--resume")  # the report of the same run is renewed
    assert again.exit_code == 0 and "already done" not in again.stdout
    assert scorer.judged > judged


def test_options_win_over_the_file(run, photo_file, stubs, tmp_path) -> None:
    stubs.install()
    file = tmp_path / "settings.yaml"
    file.write_text("n: 2\nmin_gain: 0.25\nfidelity:\n  min_degraded_psnr: 20\n", encoding="utf-8")
    assert run(photo_file, "--config", file, "--n", 1).exit_code == 0
    folder = tmp_path / "out" / "photo.png"
    config = record(folder)["config"]
    assert (config["n"], config["min_gain"]) == (1, 0.25)
    assert config["fidelity"]["min_degraded_psnr"] == 20.0
    assert config["fidelity"]["max_low_pass_distance"] == 0.04
    # A report's own config.yaml repeats the run.
    saved = folder / "config.yaml"
    assert resolve_config(RunConfig, saved, {}) == resolve_config(RunConfig, file, {"n": 1})
    assert set(yaml.safe_load(saved.read_text(encoding="utf-8"))) == set(
        RunConfig.__dataclass_fields__
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("m: 2", r"settings.yaml: unknown setting 'm'; did you mean 'n'|known are"),
        ("n: many", r"settings.yaml: n: Value 'many'"),
        ("fidelity: {psnr: 1}", r"unknown setting 'fidelity.psnr'"),
        ("n: 0", "n counts candidates, ≥ 1; got n=0"),
        ("[1, 2]", "expected a mapping"),
        ("n: [", "settings.yaml"),
        ("seed: -1", "seed must not be negative"),
        ("prompt: a sharp photo", "the builtin restorer takes no prompt"),
    ],
)
def test_bad_settings_teach(tmp_path, text, words) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        resolve_config(RunConfig, file, {})


@pytest.mark.parametrize(
    "arguments", [["--n", "0"], ["--n", "few"], ["--config", "none.yaml"], ["--unknown"]]
)
def test_wrong_usage_ends_with_one(run, photo_file, stubs, arguments) -> None:
    stubs.install()
    result = run(photo_file, *arguments)
    assert result.exit_code == 1 and result.stderr


def test_unloadable_restorer_ends_with_one(run, photo_file, tmp_path) -> None:
    result = run(photo_file, "--restorer", tmp_path / "nowhere")
    assert result.exit_code == 1 and "nowhere" in result.stderr


def test_demo_uses_the_bundled_photo(run, stubs, tmp_path) -> None:
    stubs.install()
    for n in (1, 2):  # a second demo replaces the first
        result = run("--n", n, command="demo")
        assert result.exit_code == 0, result.output
        assert record(tmp_path / "out")["image"]["name"] == "photo.jpg"
    assert record(tmp_path / "out")["config"]["n"] == 2


def test_the_bundled_photo_is_small_and_attributed() -> None:
    assert DEMO_PHOTO.stat().st_size <= 100_000
    assert 320 <= max(read_image(DEMO_PHOTO).pixels.shape) <= 384
    attribution = (DEMO_PHOTO.parent / "README.md").read_text(encoding="utf-8")
    assert "CID22" in attribution and "CC BY-SA 4.0" in attribution


def test_help_lists_best_of_n_first_and_imports_no_torch() -> None:
    code = "import sys; from restoration_guide.cli.main import app; "
    code += "app(['--help'], standalone_mode=0); assert not {'torch', 'numpy'} & set(sys.modules)"
    root = str(Path(__file__).parents[3])
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert ended.returncode == 0, ended.stderr
    commands = ended.stdout[ended.stdout.index("Commands") :]
    assert commands.index("best-of-n") < commands.index(" gate ") < commands.index("prompts")
    assert CliRunner().invoke(app, ["--version"]).stdout == f"{__version__}\n"


@pytest.mark.parametrize(
    ("options", "settings"),
    [(BestOfNOptions, RunConfig), (DemoOptions, RunConfig), (GateOptions, GateRunConfig)],
)
def test_the_defaults_in_the_help_are_those_of_the_settings(options, settings) -> None:
    assert {each.name for each in fields(options)} <= {each.name for each in fields(settings)}
    for each in fields(options):
        given = settings(**{each.name: each.default})
        assert getattr(given, each.name) == getattr(settings(), each.name), each.name


def test_help_shows_defaults(run) -> None:
    text = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["best-of-n", "--help"]).stdout
    for default in ("8", "restoration", "builtin", "0.6", "cpu", "3", "runs/best-of-n"):
        assert f"[default: {default}]" in text


def test_nothing_is_loaded_for_inputs_or_outputs_that_cannot_be(run, tmp_path, photo_file) -> None:
    nothing = run(tmp_path / "no.png", "--restorer", "nowhere")
    assert nothing.exit_code == 2 and "error: missing: " in nothing.stderr
    assert not (tmp_path / "out").exists()  # no error file, no index
    (tmp_path / "void").mkdir()
    empty = run(tmp_path / "void", "--restorer", "nowhere")
    assert empty.exit_code == 2 and f"no images found in {tmp_path / 'void'}" in empty.stderr
    line = ["best-of-n", str(photo_file), "--restorer", "nowhere", "--out", str(photo_file / "x")]
    blocked = CliRunner().invoke(app, line)
    assert blocked.exit_code == 1 and "error: cannot write: " in blocked.stderr
    assert "nowhere" not in blocked.stderr


def test_resume_ignores_settings_that_change_no_pixels(run, photo_file, stubs) -> None:
    stubs.install()
    assert run(photo_file, "--n", 1).exit_code == 0
    again = run(photo_file, "--n", 1, "--resume", "--threads", 1, "--batch-size", 4)
    assert again.exit_code == 0 and "already done" in again.stdout


def test_a_failed_attempt_does_not_hide_a_whole_report(run, photo_file, stubs, tmp_path) -> None:
    stubs.install()
    assert run(photo_file, "--n", 1).exit_code == 0
    refused = run(photo_file, "--n", 2)
    assert refused.exit_code == 1
    rows = json.loads((tmp_path / "out" / "index.json").read_text(encoding="utf-8"))["images"]
    assert [(row["status"], row["last_attempt"]) for row in rows] == [("restored", "failed")]
    assert run(photo_file, "--n", 1, "--resume").exit_code == 0  # the failure is taken back


def test_config_of_a_python_run_loads_again(photo_file, stubs, tmp_path, monkeypatch) -> None:
    """Plan, options, tile and prompts of a pipeline restorer reach ``load_restorer``."""
    restorer = stubs.Restorer()
    restorer.name = "someone/a-pipeline"
    restorer.config = {
        "plan": [{"strength": 0.3}],
        "options": {"num_inference_steps": 20},
        "tile": 256,
        "prompt": "sharp",
        "negative_prompt": "",
    }
    selection = BestOfN(restorer, stubs.Scorer(), n=1)(photo_file, seed=3)
    folder = write_report(selection, tmp_path / "python")
    given = {}

    def load(name, **options):
        given.update(options, name=name)
        return restorer

    stubs.install()
    monkeypatch.setattr("restoration_guide.cli.config.load_restorer", load)
    line = ["best-of-n", str(photo_file), "--config", str(folder / "config.yaml")]
    result = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert given == {"name": "someone/a-pipeline", **restorer.config}
    again = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out"), "--resume"])
    assert "already done" in again.stdout
    assert record(tmp_path / "out" / "photo.png")["seed"] == 3


def test_a_pipeline_of_a_python_run_is_repeated_by_its_config(photo, tmp_path) -> None:
    """The real restorer of a saved pipeline: the same settings, the same pixels."""
    build("sd_img2img").save_pretrained(tmp_path / "pipe")
    restorer = load_restorer(
        str(tmp_path / "pipe"),
        plan=[{"strength": 0.9}, {"strength": np.float64(0.6), "eta": 0.5}],
        options={"num_inference_steps": 3, "guidance_scale": 2.0},
        tile=64,
        prompt="a sharp photo",
        negative_prompt="noise",
    )
    picture = save_png(photo, tmp_path / "photo.png")
    made = BestOfN(restorer, load_scorer("proxy"), n=2)(picture, seed=3)
    python = write_report(made, tmp_path / "python")
    written = yaml.safe_load((python / "config.yaml").read_text(encoding="utf-8"))
    assert written["restorer_config"] == {
        "plan": [{"strength": 0.9}, {"strength": 0.6, "eta": 0.5}],
        "options": {"num_inference_steps": 3, "guidance_scale": 2.0},
        "tile": 64,
        "prompt": "a sharp photo",
        "negative_prompt": "noise",
    }
    line = ["best-of-n", str(picture), "--config", str(python / "config.yaml")]
    result = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    again = tmp_path / "out" / "photo.png"
    saved = yaml.safe_load((again / "config.yaml").read_text(encoding="utf-8"))
    assert {key: saved[key] for key in written} == written
    for name in ("00", "01"):
        file = f"candidates/{name}.png"
        assert (again / file).read_bytes() == (python / file).read_bytes()


def test_a_plan_of_the_builtin_restorer_is_repeated_by_its_config(photo_file, tmp_path) -> None:
    plan = (Settings(steps=2, strength=0.4, temperature=0.5, churn=False),)
    made = BestOfN(load_restorer("builtin", plan=plan), load_scorer("proxy"), n=1)(photo_file)
    python = write_report(made, tmp_path / "python")
    line = ["best-of-n", str(photo_file), "--config", str(python / "config.yaml")]
    assert CliRunner().invoke(app, [*line, "--out", str(tmp_path / "out")]).exit_code == 0
    again = tmp_path / "out" / "photo.png"
    assert record(again)["rows"][1]["settings"] == record(python)["rows"][1]["settings"]
    file = "candidates/00.png"
    assert (again / file).read_bytes() == (python / file).read_bytes()


def test_what_a_file_cannot_hold_is_refused_by_name(tmp_path) -> None:
    embeddings = plain({"options": {"prompt_embeds": torch.zeros(1, 2, 3)}})
    other = plain({"options": {"prompt_embeds": torch.ones(1, 2, 3)}})
    assert embeddings != other  # runs with other embeddings are other runs
    assert plain(object()) == plain(object())  # no address in memory
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"restorer": "x", "restorer_config": embeddings}), "utf-8")
    with pytest.raises(ConfigError, match=r"restorer_config.options.prompt_embeds is .*float32"):
        resolve_config(RunConfig, file, {})


@pytest.mark.parametrize(("suffix", "fmt"), [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP")])
def test_out_may_name_the_picture_of_one_image(photo, stubs, tmp_path, suffix, fmt) -> None:
    stubs.install()
    picture = to_pil(photo).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "A. Dürer".encode()
    picture.save(tmp_path / "in.png", exif=exif)
    out = tmp_path / "new" / f"restored{suffix}"
    line = ["best-of-n", str(tmp_path / "in.png"), "-n", "2", "--out", str(out)]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert f"picture   {out}" in result.stdout and "report" not in result.stdout
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    with Image.open(out) as restored:
        assert restored.format == fmt and restored.info["icc_profile"] == srgb_profile()
        artist = restored.getexif()[ExifTags.Base.Artist]
        assert artist.encode("latin-1").decode() == "A. Dürer"
        if fmt == "JPEG":
            assert restored.mode == "RGB"
        else:
            alpha = np.asarray(restored.getchannel("A"))
            assert np.array_equal(alpha, np.asarray(picture.getchannel("A")))


def test_a_picture_that_cannot_be_written_is_named_before_models_load(photo_file, tmp_path) -> None:
    def stopped(*arguments: object) -> str:
        line = ["best-of-n", *map(str, arguments), "--restorer", "nowhere"]
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 1 and "nowhere" not in result.stderr
        return result.stderr

    before = photo_file.read_bytes()
    assert "exists; give another name\n" in stopped(photo_file, "--out", photo_file, "--overwrite")
    other = save_png(read_image(photo_file).pixels, tmp_path / "other.png")
    assert "or --overwrite" in stopped(photo_file, "--out", other)
    assert "not for 2" in stopped(photo_file, other, "--out", tmp_path / "x.jpg")
    jpeg = stopped(photo_file, "--out", tmp_path / "x.jpg", "--bits", 16)
    assert "16 bits per channel need a .png" in jpeg
    assert photo_file.read_bytes() == before


def test_16_bits_on_request(run, photo_file, stubs, tmp_path) -> None:
    stubs.install()
    assert run(photo_file, "--n", 1, "--bits", 16).exit_code == 0
    file = tmp_path / "out" / "photo.png" / "best.png"
    assert file.read_bytes()[24] == 16  # IHDR's bit depth
    assert run(photo_file, "--n", 1, "--bits", 12).exit_code == 1


def test_the_pixel_limit_is_an_option(run, photo_file, stubs) -> None:
    stubs.install()
    small = run(photo_file, "--n", 1, "--max-megapixels", 0.001)
    assert small.exit_code == 2 and "too_large" in small.stderr
    assert run(photo_file, "--n", 1, "--max-megapixels", 1).exit_code == 0
