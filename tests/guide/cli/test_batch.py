"""Folders of images through the command line: shared out, cut short, resumed, with bad images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from restoration_guide.cli import main as cli
from restoration_guide.cli.batch import restore_image, share_of
from restoration_guide.report.folder import RECORD, config_hash, is_done, run_identity
from restoration_guide.report.index import Job
from restoration_guide.search.best_of_n import BestOfN
from zoomiqa_core import __version__
from zoomiqa_core.images.sources import read_image, save_png
from zoomiqa_core.runs.files import to_json
from zoomiqa_core.runs.launch import Process


@pytest.fixture
def folder(stubs, tmp_path) -> Path:
    """Four noisy photos, ``0.png`` to ``3.png``."""
    for index in range(4):
        save_png(stubs.make_photo(64, 72 + 8 * index), tmp_path / "in" / f"{index}.png")
    return tmp_path / "in"


@pytest.fixture
def run(folder, tmp_path):
    def run(*arguments: object):
        line = ["best-of-n", str(folder), "--out", str(tmp_path / "out"), *map(str, arguments)]
        return CliRunner().invoke(cli.app, line)

    return run


def index_of(out: Path) -> dict[str, dict]:
    rows = json.loads((out / "index.json").read_text(encoding="utf-8"))["images"]
    return {row["name"]: row for row in rows}


# --- one image failing alone ---------------------------------------------------------------------


def nan(image, _):
    return image * torch.nan


def black(image, _):
    return torch.zeros_like(image)


def halved(image, _):
    return image[:, ::2, ::2]


@pytest.mark.parametrize(
    ("step", "status", "reason"),
    [
        (nan, "restored", "not_finite"),
        (black, "restored", "constant"),  # what a safety checker returns
        (halved, "restored", "wrong_size"),
        (RuntimeError("out of memory"), "stopped", None),
    ],
)
def test_a_bad_candidate_beside_a_good_one(run, stubs, tmp_path, step, status, reason) -> None:
    stubs.install(stubs.Restorer([stubs.smooth, step]))
    result = run("--n", 2)
    assert result.exit_code == (1 if status == "stopped" else 0), result.output
    assert f"4 images: 4 {status}" in result.stdout
    for row in index_of(tmp_path / "out").values():
        assert (row["status"], row["choice"]) == (status, 0)
        assert row["skipped"] == ({reason: 1} if reason else {})
        assert "out of memory" in row["detail"] or reason


@pytest.mark.parametrize("step", [nan, black, halved])
def test_nothing_but_bad_candidates(run, stubs, tmp_path, step) -> None:
    stubs.install(stubs.Restorer([step]))
    result = run("--n", 2)
    assert result.exit_code == 2 and "4 images: 4 unjudged" in result.stdout
    row = index_of(tmp_path / "out")["0.png"]
    assert row["choice"] == "input" and "all 2 were skipped" in row["detail"]
    assert (tmp_path / "out" / "0.png" / "best.png").is_file()


def test_a_crash_costs_one_image(run, folder, stubs, tmp_path) -> None:
    def crash_on_the_second(image, generator):
        if image.shape[-1] == 80:
            raise ValueError("this size is beyond me")
        return stubs.smooth(image, generator)

    stubs.install(stubs.Restorer([crash_on_the_second]))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "out" / "2.png").mkdir(parents=True)
    (tmp_path / "out" / "2.png" / "best.png").write_bytes(b"mine")
    result = run("--n", 1)
    assert result.exit_code == 1
    assert {name: row["status"] for name, row in index_of(tmp_path / "out").items()} == {
        "0.png": "restored",
        "1.png": "failed",  # nothing was finished
        "2.png": "failed",  # the folder is somebody else's
        "3.png": "restored",
        "broken.png": "unreadable",
    }
    assert "this size is beyond me" in result.stderr and "holds files that are no" in result.stderr
    assert (tmp_path / "out" / "2.png" / "best.png").read_bytes() == b"mine"
    (folder / "broken.png").unlink()
    (tmp_path / "out" / "2.png" / "best.png").unlink()
    stubs.install()
    result = run("--n", 1, "--resume")
    assert result.exit_code == 0 and result.stdout.count("already done") == 2
    assert "4 images: 4 restored" in result.stdout
    assert index_of(tmp_path / "out")["broken.png"]["status"] == "unreadable"  # earlier command's


# --- cut short and resumed -----------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_finished_and_the_index_says_so(run, stubs, tmp_path) -> None:
    done = []

    def interrupted(image, generator):
        if len(done) == 3:  # the second candidate of the second image
            raise KeyboardInterrupt
        done.append(image.shape)
        return stubs.smooth(image, generator)

    stubs.install(stubs.Restorer([interrupted]))
    result = run("--n", 2)
    assert result.exit_code == 130
    rows = index_of(tmp_path / "out")
    assert [row["status"] for row in rows.values()] == ["restored", "stopped", "pending", "pending"]
    assert rows["1.png"]["choice"] == 0 and "KeyboardInterrupt" in rows["1.png"]["detail"]
    assert "4 images: 1 restored, 1 stopped, 2 pending" in result.stdout
    assert (tmp_path / "out" / "1.png" / "candidates" / "00.png").is_file()

    scorer = stubs.Scorer()
    stubs.install(scorer=scorer)
    result = run("--n", 2, "--resume")
    assert result.exit_code == 0 and "4 images: 4 restored" in result.stdout
    assert scorer.judged == 3 * 3  # three images, the input and two candidates each


class Killed(BaseException):
    """As a killed process: nothing handles it."""


def test_a_kill_leaves_the_candidates_that_were_finished(folder, stubs, tmp_path) -> None:
    def search(script):
        return BestOfN(stubs.Restorer(script), stubs.Scorer(), n=4)

    job = Job(folder / "0.png", tmp_path / "report")
    settings = {"restorer": "scripted", "scorer": "noise", "seed": 0, "n": 4, "bits": 8}
    nan_second = [stubs.smooth, nan, stubs.smooth, Killed()]
    with pytest.raises(Killed):
        restore_image(job, search(nan_second), settings)
    left = job.folder / "unfinished"
    assert sorted(path.name for path in left.iterdir()) == ["00.png", "02.png", "config.yaml"]
    (made,) = search([stubs.smooth])(job.path, seed=0).candidates[:1]
    assert torch.equal(read_image(left / "00.png").pixels, (made.image * 255).round() / 255)

    # a run with other settings does not mix with them, and neither keeps them from starting
    with pytest.raises(Killed):
        restore_image(job, search([stubs.smooth, Killed()]), {**settings, "seed": 1}, resume=True)
    assert sorted(path.name for path in left.iterdir()) == ["00.png", "config.yaml"]
    (left / "mine.txt").write_text("not yours", encoding="utf-8")
    assert restore_image(job, search([stubs.smooth]), settings, resume=True) is not None
    assert is_done(job.folder, run_identity(read_image(job.path).pixels, settings)) is False
    assert [path.name for path in left.iterdir()] == ["mine.txt"]
    (left / "mine.txt").unlink()
    left.rmdir()
    report = (job.folder / RECORD).read_bytes()
    with pytest.raises(Killed):  # the old report stands until the new one is whole
        restore_image(
            job, search([stubs.smooth, Killed()]), {**settings, "seed": 2}, overwrite=True
        )
    assert (job.folder / RECORD).read_bytes() == report
    assert sorted(path.name for path in (job.folder / "candidates").iterdir()) == [
        f"0{index}.png" for index in range(4)
    ]
    assert (left / "00.png").is_file()


def test_work_left_is_shared_evenly_whoever_did_the_rest(tmp_path) -> None:
    settings = {"seed": 0}
    jobs = [Job(Path(f"{n}.png"), tmp_path / str(n)) for n in range(8)]
    record = {"config_sha256": config_hash(settings), "error": None}
    record["versions"] = {"zoomiqa-restoration-guide": __version__}
    for job in jobs[::2]:  # as if process 1 of 2 had been killed at once
        job.folder.mkdir()
        (job.folder / RECORD).write_text(to_json(record), encoding="utf-8")
    waited = []
    for count in (1, 2, 3):
        shares = [
            share_of(Process(index, count, lambda: waited.append(1)), jobs, settings)
            for index in range(count)
        ]
        assert sorted(job for share in shares for job in share) == sorted(jobs)
        left = [sum(job in jobs[1::2] for job in share) for share in shares]
        assert max(left) - min(left) <= 1
    assert len(waited) == 6
    other = share_of(Process(0, 2), jobs, {"seed": 1})  # nothing is done with these settings
    assert other == jobs[::2]


def test_options_reach_the_pipeline(run, monkeypatch, stubs) -> None:
    given = {}

    def load(name, **options):
        given.update(options, name=name)
        return stubs.Restorer()

    import restoration_guide.cli.config as module

    stubs.install()
    monkeypatch.setattr(module, "load_restorer", load)
    assert run("--n", 1, "--restorer", "someone/a-pipeline").exit_code == 0
    assert given == {"name": "someone/a-pipeline"}
    words = ("--prompt", "a sharp photo", "--negative-prompt", "noise")
    assert run("--n", 1, "--restorer", "someone/a-pipeline", *words, "--overwrite").exit_code == 0
    assert (given["prompt"], given["negative_prompt"]) == ("a sharp photo", "noise")


def test_a_foreign_index_is_refused_before_the_models_are_loaded(run, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("my home page", encoding="utf-8")
    result = run("--restorer", "nowhere")
    assert result.exit_code == 1 and "no index of a run" in result.stderr
    assert (tmp_path / "out" / "index.html").read_text(encoding="utf-8") == "my home page"


# --- several processes ---------------------------------------------------------------------------


def launch(folder: Path, out: Path, processes: int) -> subprocess.CompletedProcess:
    """The real program with the bundled models, on CPUs."""
    command = [sys.executable]
    if processes > 1:  # on CPUs `accelerate launch` starts several processes through MPI only
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", str(processes)]
    command += ["-m", "restoration_guide.cli.main", "best-of-n", str(folder), "--out", str(out)]
    command += ["-n", "1", "--resume"]
    root = str(Path(cli.__file__).parents[2])
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ["PYTHONPATH"]])},
        check=False,
    )


@pytest.mark.slow
def test_two_processes_share_the_images_and_one_resumes(folder, tmp_path) -> None:
    out = tmp_path / "out"
    (folder / "broken.png").write_bytes(b"not an image")
    ended = launch(folder, out, 2)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("5 images: ") == 1  # the main process speaks for all
    first = index_of(out)
    assert first["broken.png"]["status"] == "unreadable"
    best = {name: (out / name / "best.png").read_bytes() for name in first if name[0] in "0123"}
    assert len(best) == 4

    (out / "1.png" / RECORD).unlink()  # as if it had been killed there
    ended = launch(folder, out, 1)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("already done") == 3
    assert {name: row["rating_after"] for name, row in index_of(out).items()} == {
        name: row["rating_after"] for name, row in first.items()
    }
    for name, content in best.items():
        assert (out / name / "best.png").read_bytes() == content
