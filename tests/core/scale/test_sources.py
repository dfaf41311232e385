"""Rows from folders, Parquet files and tars; what cannot be read becomes a row with an error."""

import io
import tarfile
from pathlib import Path

import pytest

from zoomiqa_core.scale.names import is_done, key_digests
from zoomiqa_core.scale.sources import (
    Unit,
    check_columns,
    find_units,
    read_unit,
)

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def rows(unit: Unit, done: list[str] | None = None) -> list[tuple]:
    read = read_unit(unit, None if done is None else key_digests(done))
    return [(row["name"], row["cells"], row["error"]) for row in read]


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_a_folder_gives_what_score_finds_and_its_shards(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.jpg", "notes.txt", "c.parquet", "sub/d.tar", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    units, absent = find_units([str(tmp_path), str(tmp_path / "none")])
    shards = [(unit.kind, unit.path) for unit in units if unit.kind != "files"]
    assert shards == [
        ("parquet", f"{tmp_path}/c.parquet"),
        ("tar", f"{tmp_path}/sub/d.tar"),
    ]
    assert [name for name, *_ in rows(units[-1])] == [f"{tmp_path}/b.png", f"{tmp_path}/sub/a.jpg"]
    assert [each.code for each in absent] == ["missing"]


def test_names_are_as_given_and_paths_absolute(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    (unit,), _ = find_units(["in"])
    assert rows(unit) == [("in/a.png", (f"{tmp_path}/in/a.png",), None)]


def test_the_same_folder_through_a_uri(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.jpg", "c.tar", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    uri = f"file://{tmp_path}"
    units, absent = find_units([uri, f"{uri}/none"])
    assert [unit.path for unit in units if unit.kind == "tar"] == [f"{uri}/c.tar"]
    assert rows(units[-1]) == [
        (f"{uri}/{name}", (f"{uri}/{name}",), None) for name in ("b.png", "sub/a.jpg")
    ]
    assert [each.name for each in absent] == [f"{uri}/none"]


def test_parquet_of_bytes_paths_and_structures(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": [b"one", None, b"three"],
            "path": ["x.png", "/abs/y.png", "s3://bucket/z.png"],
            "pair": [{"bytes": b"s", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None],
            "id": ["k0", "k1", "k2"],
        }
    )
    path = str(tmp_path / "photos.parquet")
    pq.write_table(table, path)
    assert rows(Unit("parquet", path)) == [
        (f"{path}#0", (b"one",), None),
        (f"{path}#1", (None,), None),
        (f"{path}#2", (b"three",), None),
    ]
    assert rows(Unit("parquet", path, ("path",))) == [
        ("x.png", (f"{tmp_path}/x.png",), None),
        ("/abs/y.png", ("/abs/y.png",), None),
        ("s3://bucket/z.png", ("s3://bucket/z.png",), None),
    ]
    structures = rows(Unit("parquet", path, ("pair",), key="id"))
    assert [name for name, *_ in structures] == ["k0", "k1", "k2"]
    assert structures[0][1][0]["bytes"] == b"s"
    assert structures[1][1] == (f"{tmp_path}/b.png",) and structures[2][1] == (None,)


def test_a_damaged_row_group_costs_its_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.parquet"
    images = [bytes([i]) * 2000 for i in range(12)]
    pq.write_table(pa.table({"image": images}), path, row_group_size=4, compression="zstd")
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(bytes(damaged))
    read = rows(Unit("parquet", str(path)))
    errors = [error for _, _, error in read]
    assert errors == [None] * 4 + ["corrupt_row"] * 4 + [None] * 4
    assert [name for name, *_ in read] == [f"{path}#{i}" for i in range(12)]
    assert [cells[0] for _, cells, error in read if error is None] == images[:4] + images[8:]


def test_what_is_no_parquet_file_is_one_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 and no more")
    assert [(name, error) for name, _, error in rows(Unit("parquet", str(path)))] == [
        (str(path), "corrupt_file")
    ]
    check_columns(Unit("parquet", str(path)))


def test_a_missing_column_is_the_callers_mistake(tmp_path: Path) -> None:
    path = str(tmp_path / "photos.parquet")
    pq.write_table(pa.table({"photo": [b""], "id": [1]}), path)
    with pytest.raises(ValueError, match=r"no column 'image'; it has 'photo', 'id'; .*--column"):
        check_columns(Unit("parquet", path))


def test_images_of_a_tar_with_their_names(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    members = {"a.png": b"A", "a.json": b"{}", "sub/b.before.JPG": b"B", "sub/b.cls": b"1"}
    write_tar(path, members)
    assert rows(Unit("tar", str(path))) == [
        (f"{path}/a.png", (b"A",), None),
        (f"{path}/sub/b.before.JPG", (b"B",), None),
    ]


def test_two_members_of_a_sample_are_one_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tar"
    write_tar(
        path,
        {"0.in.png": b"a", "0.json": b"", "0.out.png": b"A", "1.out.png": b"B", "2.in.png": b"c"},
    )
    assert rows(Unit("tar", str(path), ("in.png", "out.png"))) == [
        (f"{path}/0", (b"a", b"A"), None),
        (f"{path}/1", (None, b"B"), None),
        (f"{path}/2", (b"c", None), None),
    ]


def test_a_cut_tar_keeps_what_comes_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    write_tar(path, {f"{i}.png": bytes([i]) * 3000 for i in range(4)})
    path.write_bytes(path.read_bytes()[:9000])
    read = list(read_unit(Unit("tar", str(path))))
    assert [row["error"] for row in read] == [None, None, "corrupt_file"]
    assert "damaged after 1.png" in read[-1]["message"]


def test_rows_that_are_done_are_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    write_tar(path, {f"{i}.png": b"x" for i in range(3)})
    names = [name for name, *_ in rows(Unit("tar", str(path)), [f"{path}/1.png", "other"])]
    assert names == [f"{path}/0.png", f"{path}/2.png"]


def test_digests_find_exactly_what_is_there() -> None:
    done = key_digests([f"{i}.png" for i in range(0, 5000, 2)])
    found = is_done([f"{i}.png" for i in range(5000)], done)
    assert found.tolist() == [i % 2 == 0 for i in range(5000)]
    assert not is_done(["a"], key_digests([])).any()
