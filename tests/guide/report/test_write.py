"""The report folder: what is in it, what it says, and what it never does."""

import html.parser
import importlib.metadata
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from restoration_guide.fidelity.full_reference import ReferenceFigures, reference_figures
from restoration_guide.report.folder import OWN_FILES, UNFINISHED, ReportExistsError
from restoration_guide.report.picture import drawn_size
from restoration_guide.report.reference import rank_of_choice
from restoration_guide.report.write import compare, write_report
from restoration_guide.search.best_of_n import BestOfN
from restoration_guide.search.selection import Index
from zoomiqa_core.images.sources import read_image, save_png, to_pil
from zoomiqa_core.runs.files import to_json

HOSTILE = "<img src=x onerror=alert(1)>.png"


class Page(html.parser.HTMLParser):
    """Collects tags with their attributes, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def selection(photo, stubs):
    def nan(image, _):
        return image * math.nan

    return BestOfN(stubs.Restorer([stubs.smooth, nan]), stubs.Scorer(), n=4)(photo, seed=3)


def read(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_the_folder_is_complete(selection, photo, tmp_path) -> None:
    folder = write_report(selection, tmp_path / "new" / "report")
    assert {path.name for path in folder.iterdir()} == OWN_FILES - {UNFINISHED}
    assert sorted(path.name for path in (folder / "candidates").iterdir()) == ["00.png", "02.png"]
    best = np.asarray(Image.open(folder / "best.png"))
    assert (best == np.asarray(to_pil(selection.best))).all()


def test_the_record_says_everything(selection, tmp_path) -> None:
    record = read(write_report(selection, tmp_path / "r", settings={"threads": 1}))
    assert record["choice"] == selection.choice and record["seed"] == 3
    assert record["skipped"] == {"not_finite": 2}
    assert [row["index"] for row in record["rows"]] == ["input", 0, 1, 2, 3]
    assert record["rows"][2]["rating"] is None  # NaN
    for name, term in record["fidelity_terms"].items():
        assert term["unit"] and term["direction"]
        assert record["rows"][1][name] == selection.table[1][name]
    assert record["config"]["threads"] == 1 and record["config"]["n"] == 4
    assert record["timing"]["candidate_seconds"] == dict.fromkeys("0123", 0.25)
    assert "seconds" not in json.dumps({k: v for k, v in record.items() if k != "timing"})
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    saved = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text(encoding="utf-8"))
    assert to_json(saved) == to_json(record["config"])


def test_kept_input_is_byte_for_byte_the_input(photo, stubs, tmp_path) -> None:
    kept = BestOfN(stubs.Restorer(), stubs.Scorer(std=9.0), n=1, min_gain=4.0)(photo)
    folder = write_report(kept, tmp_path / "r")
    saved = save_png(photo, tmp_path / "photo.png")
    assert (folder / "best.png").read_bytes() == saved.read_bytes()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "input kept" in page and "Before and after" not in page


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    selection, tmp_path, monkeypatch
) -> None:
    folder = write_report(selection, tmp_path / "r")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("restoration_guide.report.write.render_page", full)
    with pytest.raises(OSError, match="no space"):
        write_report(replace(selection, seed=9), folder, overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_numpy_scalars_are_plain_numbers(photo, stubs, tmp_path) -> None:
    search = BestOfN(stubs.Restorer(), stubs.Scorer(), n=2, min_gain=np.float64(0.1))
    chosen = search(photo, seed=np.int64(3))  # pyright: ignore
    folder = write_report(chosen, tmp_path / "r", settings={"plan": np.linspace(0, 1, 3)})
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["min_gain"] == 0.1 and config["seed"] == 3 and config["plan"] == [0, 0.5, 1]
    assert read(folder)["config"] == config


# --- the page ------------------------------------------------------------------------------------


def test_the_page_requests_nothing(selection, tmp_path) -> None:
    source = (write_report(selection, tmp_path / "r") / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?i)https?://|@import|//cdn|url\(", source)
    page = Page(source)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith(
                "data:image/"
            ) or name not in attributes
    policies = [a["content"] for tag, a in page.tags if "http-equiv" in a]
    assert policies and policies[0] is not None and "default-src 'none'" in policies[0]


def test_names_are_escaped(stubs, photo, tmp_path) -> None:
    path = save_png(photo, tmp_path / HOSTILE)
    selection = BestOfN(
        stubs.Restorer([stubs.smooth, ValueError("<script>alert(2)</script>")]), stubs.Scorer()
    )(path)
    folder = write_report(selection, tmp_path / "r")
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert HOSTILE in page.text and "<script>alert(2)</script>" in page.text
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # our own
    assert read(folder)["image"]["name"] == HOSTILE


def test_the_page_has_a_row_for_every_candidate(selection, tmp_path) -> None:
    source = (write_report(selection, tmp_path / "r") / "report.html").read_text(encoding="utf-8")
    assert source.count("<tr") == 1 + len(selection.rows)
    assert source.count('<tr class="chosen">') == 1
    assert "not finite: " in source


def test_rows_of_other_kinds_and_other_figures(selection, tmp_path, monkeypatch) -> None:
    """A candidate ended early has no image, a composed one no number, and terms may be added."""
    best = selection.candidates[0]
    rows = [
        *selection.rows[:2],
        replace(selection.rows[2], status="pruned", detail="after 2 of 5 steps"),
        replace(selection.rows[1], index="composed"),
    ]
    candidates = (best, replace(best, index="composed"))
    mixed = replace(selection, rows=tuple(rows), candidates=candidates, choice="composed")
    table = [{**row, "nfe": 5, "second_error": "it <gave> up"} for row in mixed.table]
    monkeypatch.setattr(type(mixed), "table", table)
    folder = write_report(mixed, tmp_path / "r")
    assert sorted(path.name for path in (folder / "candidates").iterdir()) == [
        "00.png",
        "composed.png",
    ]
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    heads = sum(tag == "th" for tag, _ in page.tags)
    assert sum(tag == "td" for tag, _ in page.tags) == heads * len(rows)
    assert "composed of 2 chosen" in page.text and "NFE" in page.text
    assert "pruned: after 2 of 5 steps; second error: it <gave> up" in page.text
    alternatives = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert alternatives[-3:] == ["input", "candidate 0", "composed"]  # one for each image there is
    assert read(folder)["files"]["candidates"]["composed"] == "candidates/composed.png"


def test_a_judge_that_cannot_draw_does_not_cost_the_report(selection, tmp_path) -> None:
    class Blind(type(selection.scorer)):
        def quality_map(self, image):
            raise RuntimeError("out of memory")

    folder = write_report(replace(selection, scorer=Blind()), tmp_path / "r")
    assert read(folder)["choice"] == selection.choice
    assert Image.open(folder / "comparison.png").width >= 620


def test_settings_that_json_does_not_know_are_kept_in_words(selection, tmp_path) -> None:
    rows = [replace(row, settings={"generator": torch.Generator}) for row in selection.rows]
    folder = write_report(replace(selection, rows=tuple(rows)), tmp_path / "r")
    assert "Generator" in read(folder)["rows"][1]["settings"]["generator"]


# --- folders that hold something -----------------------------------------------------------------


def test_the_same_run_renews_its_report(selection, tmp_path) -> None:
    folder = write_report(selection, tmp_path / "r")
    notes = folder / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    (folder / "best.png").unlink()
    write_report(selection, folder)
    assert (folder / "best.png").is_file() and notes.read_text(encoding="utf-8") == "mine"


def test_another_run_is_refused_unless_asked(selection, photo, stubs, tmp_path) -> None:
    folder = write_report(selection, tmp_path / "r")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = BestOfN(stubs.Restorer(), stubs.Scorer(), n=2)(photo, seed=4)
    with pytest.raises(ReportExistsError, match="another run"):
        write_report(other, folder)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_report(other, folder, overwrite=True)
    assert read(folder)["seed"] == 4
    assert sorted(path.name for path in (folder / "candidates").iterdir()) == ["00.png", "01.png"]


def test_foreign_folders_and_files_are_refused(selection, tmp_path) -> None:
    (tmp_path / "holiday").mkdir()
    picture = tmp_path / "holiday" / "best.png"
    picture.write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(ReportExistsError, match="no report"):
            write_report(selection, tmp_path / "holiday", overwrite=overwrite)
    assert picture.read_bytes() == b"mine"
    with pytest.raises(ReportExistsError, match="is a file"):
        write_report(selection, picture)


def test_an_unfinished_report_beside_foreign_files_is_overwritten_when_asked(
    selection, tmp_path
) -> None:
    folder = write_report(selection, tmp_path / "r")
    (folder / "report.json").unlink()  # killed half-way
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ReportExistsError, match=r"\(notes.txt\).*--overwrite"):
        write_report(selection, folder)
    write_report(selection, folder, overwrite=True)
    assert read(folder)["choice"] == selection.choice
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("text", ["model: theirs\n", "[", "restorer"])
def test_another_programs_config_is_no_unfinished_report(selection, tmp_path, text) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text, encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(ReportExistsError, match="no report"):
            write_report(selection, tmp_path, overwrite=overwrite)
    assert config.read_text(encoding="utf-8") == text


def test_an_unfinished_report_is_completed(selection, tmp_path) -> None:
    folder = write_report(selection, tmp_path / "r")
    (folder / "report.json").unlink()  # written last: without it the run was cut short
    write_report(selection, folder)
    assert read(folder)["choice"] == selection.choice


# --- the picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (12, 400), (400, 12), (33, 700)])
def test_any_shape_gives_a_readable_picture(stubs, tmp_path, size) -> None:
    photo = stubs.make_photo(*size)
    selection = BestOfN(stubs.Restorer(), stubs.Scorer(), n=1)(photo)
    picture = Image.open(write_report(selection, tmp_path / "r") / "comparison.png")
    assert picture.width >= 620 and max(picture.size) < 4000


def test_a_judge_without_maps_still_gives_a_picture(selection, tmp_path) -> None:
    blind = replace(selection, scorer=None)
    with pytest.raises(ValueError, match="no judge"):
        blind.region_rating("input", (0, 0, 1, 1))
    folder = write_report(blind, tmp_path / "r")
    assert Image.open(folder / "comparison.png").width >= 620


def test_a_kept_input_is_drawn_once(photo, stubs) -> None:
    chosen = BestOfN(stubs.Restorer(), stubs.Scorer(), n=1)(photo)
    kept = BestOfN(stubs.Restorer(), stubs.Scorer(), n=1, min_gain=4.0)(photo)
    assert (chosen.choice, kept.choice) == (0, "input")
    once, twice = compare(kept), compare(chosen)
    # 64 × 80 px are shown at 256 × 320: the second row, its caption and a gap are gone.
    assert once.width == twice.width and once.height <= twice.height - 256


def test_drawn_sizes() -> None:
    assert drawn_size(400, 320) == (400, 320)  # as it is
    assert drawn_size(100, 50) == (400, 200)  # whole times
    assert drawn_size(1280, 640) == (640, 320)  # reduced
    assert drawn_size(10_000, 1) == (640, 8)  # at least visible


# --- with the clean image ------------------------------------------------------------------------


def test_reference_adds_figures_and_rank(stubs, tmp_path) -> None:
    clean, noisy = stubs.make_photo(176, 176, 0.0), stubs.make_photo(176, 176)
    selection = BestOfN(stubs.Restorer(), stubs.Scorer(), n=2)(noisy)
    record = read(write_report(selection, tmp_path / "r", reference=clean))
    source, first = record["rows"][0], record["rows"][1]
    mse = float((noisy - clean).square().mean())
    assert source["psnr"] == pytest.approx(-10 * math.log10(mse), abs=1e-4)
    assert first["psnr"] > source["psnr"] and first["ms_ssim"] > source["ms_ssim"]
    assert record["rank_of_choice"]["of"] == 3 and record["rank_of_choice"]["psnr"] in (1, 2)
    assert "MS SSIM" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


def test_reference_figures_of_identity_and_of_small_images() -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    figures = reference_figures(image, image)
    assert figures.psnr == 100.0 and figures.ms_ssim is None
    with pytest.raises(ValueError, match="same pixel grid"):
        reference_figures(image, image[:, 1:])


def test_rank_counts_usable_rows_only(selection, photo) -> None:
    figures: dict[Index, ReferenceFigures] = {
        row.index: reference_figures(selection.image(row.index), photo)
        for row in selection.rows
        if row.index == "input" or row.fidelity is not None
    }
    # The input is the reference here: it comes first, the choice second or third of three.
    rank = rank_of_choice(selection, figures)
    assert rank["of"] == 3 and rank["psnr"] in (2, 3) and rank["ms_ssim"] is None


def test_saved_candidates_can_be_read_back(selection, tmp_path) -> None:
    folder = write_report(selection, tmp_path / "r")
    pixels = read_image(folder / "candidates" / "00.png").pixels
    assert (pixels - selection.image(0)).abs().max() <= 0.5 / 255 + 1e-6
