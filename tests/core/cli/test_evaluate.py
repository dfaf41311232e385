"""`zoomiqa eval` and `zoomiqa env` as a user meets them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from zoomiqa_core import __version__
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.cli import main as cli
from zoomiqa_core.cli import options as command_line
from zoomiqa_core.cli.environment import environment_text, optional_parts
from zoomiqa_core.images.sources import ImageError, read_image, save_png
from zoomiqa_core.scorer import load_scorer


class MeanScorer:
    """Rates an image 1 + 4 · mean."""

    name = "mean"

    def assess(self, images):
        return [self._one(image) for image in images]

    def _one(self, path):
        try:
            return Assessment(1 + 4 * float(read_image(path).pixels.mean()), 0.25)
        except ImageError as error:
            return Assessment.failed(error.code, str(error), str(path))


@pytest.fixture
def zoomiqa(tmp_path, monkeypatch):
    """Run the program beside BIQ/: 8 greys rated by their grey, one absent, one broken; of test."""
    monkeypatch.chdir(tmp_path)
    rows = ["image_name,mos,set", "ss01 (8).png,0.5,test", "ss01 (9).png,0.5,test"]
    for n in range(8):
        save_png(torch.full((3, 8, 8), n / 8), f"BIQ/images/ss02 ({n}).png")
        rows.append(f"ss02 ({n}).png,{n / 8},{'training' if n == 0 else 'test'}")
    (tmp_path / "BIQ" / "images" / "ss01 (9).png").write_bytes(b"<svg/>")
    (tmp_path / "BIQ" / "mos.csv").write_text("\n".join(rows), encoding="utf-8")
    monkeypatch.setattr("zoomiqa_core.scorer.load_scorer", lambda name, *, device: MeanScorer())

    def run(*arguments):
        return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])

    return run


def test_a_dataset_is_judged_and_summarised(zoomiqa, tmp_path):
    result = zoomiqa("eval", "BIQ2021", "--data", "BIQ", "--split", "test", "--batch", 4)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "eval" / "biq2021-test-proxy"
    names = {path.name for path in folder.iterdir()}
    assert {"summary.json", "scatter.png", "config.yaml", "judgements-000-000.jsonl"} <= names
    lines = result.stdout.splitlines()
    heading = "BIQ2021 test · proxy · 9 images · invalid: 1 missing, 1 unknown_format"
    assert lines[0].strip() == heading
    assert lines[-2:] == [
        "runs/eval/biq2021-test-proxy/summary.json",
        "runs/eval/biq2021-test-proxy/scatter.png",
    ]
    summary = json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)
    assert (summary["images"], summary["valid"], summary["labels"]) == (9, 7, "MOS, 0–1")
    assert summary["agreement"]["raw"]["srcc"]["value"] == 1
    assert result.stderr == ""


def test_a_second_call_resumes_and_another_configuration_is_refused(zoomiqa, tmp_path):
    arguments = ["eval", "biq2021", "--data", "BIQ", "--out", "run"]
    assert zoomiqa(*arguments).exit_code == 0
    (tmp_path / "BIQ" / "images" / "ss02 (7).png").unlink()
    assert "1 missing, 1 unknown_format" in zoomiqa(*arguments).stdout  # not looked at again
    for more in (["--scorer", "other"], ["--limit", "3"], ["--split", "test"]):
        result = zoomiqa(*arguments, *more)
        assert result.exit_code == command_line.ERROR
        assert "error: run holds a run of another configuration" in result.stderr


def test_the_pixel_limit_is_an_option_and_part_of_the_run(zoomiqa, monkeypatch):
    proxy = load_scorer("proxy")
    monkeypatch.setattr("zoomiqa_core.scorer.load_scorer", lambda name, *, device: proxy)
    arguments = ["eval", "biq2021", "--data", "BIQ", "--out", "run", "--max-megapixels"]
    assert "8 too_large" in zoomiqa(*arguments, 0.000063).stdout  # each has 64 pixels
    again = zoomiqa(*arguments, 0.000064)
    assert again.exit_code == command_line.ERROR and "another configuration" in again.stderr
    arguments[5] = "other"
    assert "too_large" not in zoomiqa(*arguments, 0.000064).stdout


def test_a_limit_draws_images(zoomiqa):
    result = zoomiqa("eval", "biq2021", "--data", "BIQ", "--limit", 4, "--seed", 1)
    assert result.exit_code == 0 and "· 4 images ·" in result.stdout


def test_annotations_of_the_official_package(zoomiqa, tmp_path):
    rows = [{"image": f"images/ss02 ({n}).png", "gt_score": 1 + n / 2} for n in range(6)]
    (tmp_path / "test_biq.json").write_text(json.dumps(rows))
    result = zoomiqa("eval", "test_biq.json", "--data", "BIQ")
    assert result.exit_code == 0 and "test_biq all · proxy · 6 images" in result.stdout


def test_nothing_valid_exits_with_2(zoomiqa, tmp_path):
    for path in (tmp_path / "BIQ" / "images").iterdir():
        path.unlink()
    result = zoomiqa("eval", "biq2021", "--data", "BIQ")
    assert result.exit_code == command_line.NOTHING_VALID
    assert "invalid: 10 missing" in result.stdout and "no input gave a valid" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "biq2021"], "Missing option"),
        (["eval", "flive", "--data", "BIQ"], "error: unknown dataset 'flive'"),
        (["eval", "biq2021", "--data", "none"], "error: none is not a folder"),
        (["eval", "spaq", "--data", "BIQ"], "scores.xlsx not found"),
        (["eval", "biq2021", "--data", "BIQ", "--split", "dev"], "no image of split 'dev'"),
        (["eval", "biq2021", "--data", "BIQ", "--batch", "0"], "Invalid value"),
        (["eval", "biq2021", "--data", "BIQ", "--out", "BIQ/mos.csv"], "error: cannot write: "),
    ],
)
def test_errors_exit_with_1(zoomiqa, arguments, message):
    result = zoomiqa(*arguments)
    assert result.exit_code == command_line.ERROR
    assert message in result.output


def test_env_says_what_is_installed(zoomiqa):
    document = json.loads(zoomiqa("env", "--json").stdout)
    assert document["zoomiqa"] == __version__
    assert document["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "cpu" in document["devices"] and {"eval", "app"} <= set(document["optional"])
    text = zoomiqa("env").stdout
    assert f"zoomiqa          {__version__}\n" in text and "  python " in text


def test_optional_parts_by_hand():
    requirements = [
        "torch>=2.8.0",
        "no-such-package>=1; extra == 'app'",
        "pytest>=8.3.0; extra == 'test'",
        "zoomiqa-restoration-guide[test]; extra == 'dev'",
    ]
    parts = optional_parts(requirements)
    assert parts == {"app": {"no-such-package": None}, "test": {"pytest": pytest.__version__}}
    assert environment_text({"optional": parts}).splitlines()[2] == (
        "    no-such-package  not installed"
    )


@pytest.mark.slow
def test_two_processes_share_the_images(zoomiqa, tmp_path):
    # on CPUs `accelerate launch` starts several processes through MPI only
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["-m", "zoomiqa_core.cli.main"]
    command = [*launch, "eval", "biq2021", "--data", "BIQ", "--out", "run"]
    root = str(Path(cli.__file__).parents[2])
    path = os.pathsep.join([root, os.environ["PYTHONPATH"]])
    ended = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("BIQ2021 all · proxy · 10 images") == 1
    assert len(list((tmp_path / "run").glob("judgements-000-*.jsonl"))) == 2
