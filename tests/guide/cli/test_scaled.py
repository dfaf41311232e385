"""`best-of-n` and `gate` on a local Ray give what they give without it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zoomiqa_core.images.sources import save_png

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray")


def guide(*arguments: object) -> str:
    command = [sys.executable, "-m", "restoration_guide.cli.main", *map(str, arguments)]
    # Ray's processes talk to each other over this machine's address, which tests may not reach
    free = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(command, cwd=ROOT, env=free, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 2), ended.stderr
    return ended.stdout


def rows(folder: Path) -> dict[str, dict]:
    return {row["name"]: row for row in pq.read_table(folder / "results").to_pylist()}


def test_pictures_and_verdicts_are_those_of_the_plain_commands(tmp_path: Path) -> None:
    source = tmp_path / "in"
    generator = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        save_png(generator.integers(0, 256, (48, 64, 3), np.uint8), source / name)
    (source / "broken.png").write_bytes(b"no image")
    search = ["best-of-n", source, "-n", "2", "--seed", "3", "--out"]
    scaled = ["--engine", "ray", "--actors", "2"]
    printed = guide(*search, tmp_path / "ray", *scaled)
    assert printed.startswith("3 rows: 2 valid, 1 invalid (1 unknown_format)")
    guide(*search, tmp_path / "plain")
    restored = rows(tmp_path / "ray")
    for name in ("a.png", "b.png"):
        picture = restored[str(source / name)]["picture"]
        assert picture == (tmp_path / "plain" / name / "best.png").read_bytes()
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes(picture)

    (source / "broken.png").unlink()
    plain = json.loads(guide("gate", source, tmp_path / "out", "--json"))["results"]
    guide("gate", source, tmp_path / "out", "--out", tmp_path / "verdicts", *scaled)
    named = rows(tmp_path / "verdicts")
    assert len(plain) == len(named) == 2
    for verdict in plain:
        row = named[verdict["before"]]
        assert row["action"] == verdict["action"]
        assert json.loads(row["reasons"]) == verdict["reasons"]
        assert json.loads(row["ratings"]) == verdict["ratings"]

    names = sorted(named)
    pairs = {
        "before": [Path(name).read_bytes() for name in names],
        "after": [restored[name]["picture"] for name in names],
        "id": names,
    }
    table = tmp_path / "pairs.parquet"
    pq.write_table(pa.table(pairs), table)
    columns = ["--column", "before", "--column", "after", "--key", "id"]
    guide("gate", table, table, "--out", tmp_path / "again", *columns, *scaled)
    assert rows(tmp_path / "again") == named
