"""The builder: an unbroken run and a resumed one, the cache, the budget, what is reported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from recipes import build_gr_iqa as recipe
from tests.core.judges import ScriptedBackend
from tests.recipes.gr_iqa_sets import write_miniature_biq2021
from zoomiqa_core.data.gr_iqa.filters import Continuation
from zoomiqa_core.data.gr_iqa.records import (
    GRIQARound,
    conversation,
    read_picture,
    read_records,
    reply_text,
)
from zoomiqa_core.data.teacher import build
from zoomiqa_core.data.teacher.build import RecordBuilder
from zoomiqa_core.data.teacher.model import ModelTeacher
from zoomiqa_core.zoom_iqa.chain import Request
from zoomiqa_core.zoom_iqa.prompts import BUILTIN

SMOKE = Path(recipe.__file__).parent / "configs" / "build_gr_iqa" / "smoke.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Photos and ratings, as words of the command line."""
    folder = write_miniature_biq2021(tmp_path_factory.mktemp("data"))
    return [f"photos={folder}/images", f"biq2021={folder}"]


def run(data: list[str], out: Path, *more: str) -> dict[str, Any]:
    recipe.main(["--config", str(SMOKE), *data, f"out={out}", *more])
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run(data, out)
    return out


def test_a_build_leaves_records_report_and_sheet(whole: Path) -> None:
    records = read_records(whole)
    report = json.loads((whole / "report.json").read_text(encoding="utf-8"))
    assert report["pictures"] == 12 and report["kept"] == len(records) >= 9
    assert report["dropped"] == sum(report["dropped_of_reason"].values()) == 12 - len(records)
    assert sum(report["mos_bins"].values()) == sum(report["rounds"].values()) == len(records)
    assert {record.image.split("/")[0] for record in records} == {"damaged", "rated"}
    assert any(record.regions and record.region_truth for record in records)
    for record in records:
        image = read_picture(whole, record)
        for number in range(1, len(record.rounds) + 1):
            chat, images = conversation(record, BUILTIN, number, image)
            assert len(images) == number and chat[-1]["role"] == "assistant"
        assert record.rounds[-1].rating == pytest.approx(record.mos, abs=0.0051)
        json.dumps(record.provenance)
    with Image.open(whole / "sheet.png") as sheet:
        assert sheet.width >= 300
    page = (whole / "README.md").read_text(encoding="utf-8")
    assert f"| kept | {len(records)} |" in page
    assert (whole / "config.yaml").is_file() and (whole / "versions.json").is_file()


def test_a_resumed_build_equals_an_unbroken_one(
    data: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    scene = RecordBuilder._scene

    def counted(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made == 6:
            raise KeyboardInterrupt
        return scene(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RecordBuilder, "_scene", counted)
        run(data, tmp_path)
    assert not (tmp_path / "records.jsonl").exists()
    monkeypatch.setattr(RecordBuilder, "_scene", counted)
    run(data, tmp_path)
    assert made == 6 + 7  # five came from the cache
    lines = (tmp_path / "records.jsonl").read_bytes()
    assert lines == (whole / "records.jsonl").read_bytes()
    run(data, tmp_path, "sheet=2")  # what shapes no record leaves the cache valid
    assert made == 13
    run(data, tmp_path, "seed=1")
    assert made == 25


class Teacher(ScriptedBackend):
    """Says the rating it is told, or what ``wrong`` makes of it."""

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong
        super().__init__(self._reply)

    def _reply(self, request: Request) -> str:
        said = re.search(r"rated this image (\S+)", request.messages[0]["content"][0]["text"])
        rating = float(said[1]) if said else 1.0
        look = GRIQARound(f"Fair{self.wrong}.", "Crisp.", "", "So.", rating, "final")
        return reply_text(look)


def taught(
    data: list[str], out: Path, backend: Teacher, monkeypatch: pytest.MonkeyPatch, *more: str
) -> dict[str, Any]:
    monkeypatch.setattr(recipe, "model_teacher", lambda _: ModelTeacher(backend, BUILTIN))
    return run(data, out, "teacher=scripted", "damaged=0", *more)


def test_a_budget_ends_the_run_and_more_of_it_goes_on(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Teacher()
    first = taught(data, tmp_path, backend, monkeypatch, "max_calls=5", "rewrites=0")
    assert (first["kept"], first["unreached"], first["calls"]) == (2, 2, 2)  # a lesson may take 4
    more = taught(data, tmp_path, backend, monkeypatch, "max_calls=50", "rewrites=0")
    assert (more["kept"], more["unreached"], more["calls"]) == (4, 0, 4)
    assert len(backend.seen) == 4
    assert [record.provenance["teacher"] for record in read_records(tmp_path)] == ["scripted"] * 4


def test_what_contradicts_the_hints_is_written_again_and_dropped(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = taught(
        data, tmp_path, Teacher(" and dark as night with heavy colour loss"), monkeypatch
    )
    assert report["kept"] == 0 and report["dropped_of_reason"] == {"contradicts_hints": 4}
    assert report["calls"] == 12  # twice written again
    assert "limit" in report["examples"]["contradicts_hints"][0]


def test_what_does_not_rely_on_its_image_is_dropped(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(*_: Any, **__: Any) -> Any:
        return lambda prefix, image: Continuation(3.0, "final", None, 0.5)

    monkeypatch.setattr(recipe.LocalVLM, "from_pretrained", lambda path: object())
    monkeypatch.setattr(build, "vlm_continuation", blind)
    report = run(data, tmp_path, "reliance_model=folder", "damaged=0", "rewrites=0")
    dropped = report["dropped_of_reason"]  # a record is dropped for the first reason found
    assert sum(dropped.values()) == 4 and dropped["not_reliant"] >= 3


def test_processes_make_the_same_records(data: list[str], whole: Path, tmp_path: Path) -> None:
    run(data, tmp_path, "workers=2")
    for name in ("records.jsonl", "report.json"):
        assert (tmp_path / name).read_text() == (whole / name).read_text()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("global_share=0.9", "sum to 1"),
        ("style=terse", "style"),
        ("teacher=proxy", "does not write"),
    ],
)
def test_wrong_settings_are_named(data: list[str], tmp_path: Path, word: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        run(data, tmp_path, word)


def test_missing_folders_are_named() -> None:
    with pytest.raises(ValueError, match="give photos=FOLDER or damaged=0"):
        list(recipe.choose_pictures(recipe.Config(biq2021="b")))
