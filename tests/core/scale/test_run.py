"""Runs on a local Ray with two CPUs: the results of a plain run, whatever happens to a worker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import zoomiqa_core as zi
from zoomiqa_core.assessment import Assessment
from zoomiqa_core.images.sources import save_png
from zoomiqa_core.scale.ray_data import JudgeBatch
from zoomiqa_core.scale.results import ResultFolder
from zoomiqa_core.scale.run import Pool, RunError, ray_started, run_on_ray
from zoomiqa_core.scale.sources import find_units

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray")


@pytest.fixture(scope="module", autouse=True)
def own_address() -> Iterator[None]:
    """Ray's processes talk to each other over this machine's address, which tests may not reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="module")
def local_ray(own_address: None) -> Iterator[None]:
    """One Ray for the tests of this file: starting takes longer than most of them."""
    with ray_started(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small images, two of them bad."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(40):
        pixels = generator.integers(0, 256, (48 + index % 3, 64, 3), np.uint8)
        save_png(pixels, folder / f"{index:02d}.png")
    data = (folder / "05.png").read_bytes()
    (folder / "05.png").write_bytes(data[: len(data) // 2])
    (folder / "06.png").write_bytes(b"")
    return folder


def by_name(folder: Path) -> dict[str, dict]:
    tables = [pq.read_table(folder / kind) for kind in ("results", "invalid")]
    rows = [row for table in tables if table.num_rows for row in table.to_pylist()]
    named = {row["name"]: row for row in rows}
    assert len(named) == len(rows), "no row is written twice"
    return named


def run(
    source: Path, out: Path, make: Callable[[], JudgeBatch] = JudgeBatch, **pool
) -> ResultFolder:
    units, absent = find_units([str(source)])
    assert not absent
    folder = ResultFolder(str(out), {}, seconds=0.5)
    run_on_ray(units, make, JudgeBatch.fields, folder, Pool(**{"actors": 2, "batch": 4, **pool}))
    return folder


def test_results_are_those_of_the_plain_command(local_ray, photos: Path, tmp_path: Path) -> None:
    folder = run(photos, tmp_path / "out")
    assert folder.counts() == {"valid": 38, "truncated": 1, "empty": 1}
    expected = zi.load_scorer("proxy").assess(sorted(photos.iterdir()))
    rows = by_name(tmp_path / "out")
    for path, said in zip(sorted(photos.iterdir()), expected, strict=True):
        plain = said.to_dict()
        row = rows[str(path)]
        for key in ("rating", "rating_std", "score", "valid", "error", "message", "gain"):
            assert row[key] == plain[key], (path.name, key)
    before = sorted((tmp_path / "out").rglob("*.parquet"))
    run(photos, tmp_path / "out")
    assert sorted((tmp_path / "out").rglob("*.parquet")) == before, "nothing is judged again"
    (photos / "new.png").write_bytes((photos / "00.png").read_bytes())
    assert run(photos, tmp_path / "out").counts()["valid"] == 39
    (photos / "new.png").unlink()


def test_a_parquet_file_and_a_tar_give_the_ratings_of_the_folder(
    local_ray, photos: Path, tmp_path: Path
) -> None:
    import tarfile

    (tmp_path / "in").mkdir()
    paths = sorted(photos.iterdir())
    table = pa.table({"image": [path.read_bytes() for path in paths]})
    pq.write_table(table, tmp_path / "in" / "all.parquet", row_group_size=8)
    with tarfile.open(tmp_path / "in" / "all.tar", "w") as archive:
        for path in paths:
            archive.add(path, path.name)
    assert run(tmp_path / "in", tmp_path / "out").counts() == {
        "valid": 76,
        "truncated": 2,
        "empty": 2,
    }
    rows = by_name(tmp_path / "out")
    plain = zi.load_scorer("proxy").assess(paths)
    for index, (path, said) in enumerate(zip(paths, plain, strict=True)):
        for name in (f"all.parquet#{index}", f"all.tar/{path.name}"):
            row = rows[f"{tmp_path}/in/{name}"]
            assert (row["rating"], row["error"]) == (said.to_dict()["rating"], said.error)


def slow_judge(pids: Path) -> JudgeBatch:
    """Takes .2 s a batch, and notes in which processes it judges."""

    class Slow:
        name = "slow"

        def assess(self, images):
            (pids / str(os.getpid())).touch()
            time.sleep(0.2)
            return [Assessment(1 + len(Path(image).name) / 10, 0.1) for image in images]

    return JudgeBatch(Slow())  # pyright: ignore


def test_a_killed_worker_costs_nothing(local_ray, photos: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    killed: list[int] = []

    def kill() -> None:
        while not (found := sorted(pids.iterdir())):
            time.sleep(0.05)
        time.sleep(0.3)  # in the middle of a batch
        killed.append(int(found[0].name))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    folder = run(photos, tmp_path / "out", partial(slow_judge, pids), batch=2)
    killer.join()
    assert folder.counts() == {"valid": 40}
    assert set(by_name(tmp_path / "out")) == {str(path) for path in photos.iterdir()}
    alive = {int(path.name) for path in pids.iterdir()}
    assert killed[0] in alive and len(alive) >= 3, "another process took its place"


def broken_judge() -> JudgeBatch:
    raise FileNotFoundError("no judge in this folder")


def test_a_judge_that_cannot_be_made_ends_the_run(local_ray, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no judge in this folder"):
        run(photos, tmp_path / "out", broken_judge)
    assert run(photos, tmp_path / "out").counts()["valid"] == 38


def test_the_command_starts_a_quiet_ray_and_ends_with_its_code(
    photos: Path, tmp_path: Path
) -> None:
    before = {path.name for path in Path("/tmp").glob("ray*")}
    command = [sys.executable, "-m", "zoomiqa_core.cli.main", "score", str(photos), "none.png"]
    command += ["--engine", "ray", "--actors", "2", "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == (
        f"41 rows: 38 valid, 3 invalid (1 empty, 1 missing, 1 truncated); in {tmp_path}/out\n"
    )
    known = ("none.png", "core_worker.cc")  # Ray's compiled part writes one line of its own
    lines = ended.stderr.splitlines()
    assert [line for line in lines if not any(word in line for word in known)] == []
    assert {path.name for path in Path("/tmp").glob("ray*")} <= before
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert settings["scorer"] == "proxy" and "actors" not in settings
