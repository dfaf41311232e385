"""What the page's buttons do."""

import copy
import json
import zipfile
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pytest
import torch
from PIL import Image

from restoration_guide import BestOfN, QualityGate, load_restorer
from restoration_guide.app.config import AppConfig
from restoration_guide.app.handlers import DEMO_PHOTO, Handlers
from restoration_guide.app.session import Session
from restoration_guide.app.words import ACTIONS, PageError, verdict_in_words
from restoration_guide.gate.verdict import Action
from tests.guide.cli.test_main import png_header
from zoomiqa_core.images.sources import read_image
from zoomiqa_core.scorer import load_scorer


@pytest.fixture
def crop(tmp_path: Path) -> Path:
    """A part of the demo photo: enough for real models, and quick."""
    path = tmp_path / "crop.png"
    Image.open(DEMO_PHOTO).crop((128, 128, 256, 224)).save(path)
    return path


def test_the_page_and_python_find_the_same(session, crop) -> None:
    handlers = Handlers(AppConfig())
    sent = list(handlers.restore(session, str(crop), ["builtin"], "restoration", 2, 7))
    judge = load_scorer("restoration")
    expected = BestOfN(load_restorer("builtin"), judge, n=2)(crop, seed=7)
    found = session.searched()
    for row, wanted in zip(found.rows, expected.rows, strict=True):
        assert repr(replace(row, seconds=None)) == repr(replace(wanted, seconds=None))
        assert torch.equal(found.image(row.index), expected.image(row.index))
    assert (found.choice, found.reason) == (expected.choice, expected.reason)
    (said,) = [values["verdict"] for values in sent if values.get("verdict")]
    assert said == verdict_in_words(QualityGate(judge)(expected))
    picture = read_image(next(v["picture"] for v in sent if v.get("picture"))).pixels
    assert float((picture - expected.best).abs().max()) <= 0.5 / 255 + 1e-6


def test_candidates_appear_one_by_one_with_their_ratings(restored, session) -> None:
    galleries = [values["gallery"] for values in restored if "gallery" in values]
    assert [len(gallery) for gallery in galleries] == [0, 1, 2, 3, 4]  # at last with the input
    captions = [caption for _, caption in galleries[-1]]
    rows = session.searched().rows
    assert captions[0] == f"input: {rows[0].rating:.2f}"
    for row, caption in zip(rows[1:], captions[1:], strict=True):
        assert f"{row.rating:.2f} ({row.gain:+.2f} ± {row.gain_std:.2f})" in caption
        assert ("★" in caption) == (row.index == session.searched().choice)
    assert restored[1]["progress"].startswith("1 of 3 candidates")
    # a later step without it would empty the button
    assert Path(restored[-1]["picture"]).name == "photo_restored.png"


def test_two_visitors_do_not_meet(handlers, photo_file) -> None:
    search = BestOfN(handlers.models.restorer(["scripted"]), handlers.models.scorer("noise"), n=3)
    visitors = [Session(), Session()]
    streams = [
        handlers.restore(visitor, str(photo_file), ["scripted"], "noise", 3, seed)
        for seed, visitor in enumerate(visitors)
    ]
    for _ in zip_longest(*streams):  # their steps alternate
        pass
    for seed, visitor in enumerate(visitors):
        alone = search(photo_file, seed=seed)
        for index in range(3):
            assert torch.equal(visitor.searched().image(index), alone.image(index))
    first, second = (visitor.searched().image(0) for visitor in visitors)
    assert not torch.equal(first, second)
    assert visitors[0].save_picture().parent != visitors[1].save_picture().parent


def test_each_visitor_gets_a_new_session(restored, session) -> None:
    other = copy.deepcopy(session)  # what gradio does
    assert other.selection is None and other.stop is not session.stop


def test_a_repeated_search_gives_the_same(handlers, session, restored, photo_file) -> None:
    other = Session()
    again = list(handlers.restore(other, str(photo_file), ["scripted"], "noise", 3, 5))
    assert torch.equal(session.searched().best, other.searched().best)
    assert again[-1]["map_after"].tobytes() == restored[-1]["map_after"].tobytes()


def test_several_restorers_take_turns(handlers, session, photo_file) -> None:
    list(handlers.restore(session, str(photo_file), ["scripted", "other"], "noise", 4, 0))
    rows = session.searched().rows[1:]
    assert [row.settings["restorer"] for row in rows] == ["scripted", "other"] * 2


def test_another_candidate_can_be_picked(handlers, session, restored) -> None:
    chosen = session.searched().choice
    other = next(index for index in (0, 1, 2) if index != chosen)
    view, maps = handlers.pick(session, other + 1)  # the input is at place 0
    assert f"Candidate {other}" in view["shown"] and session.shown == other
    picture = read_image(maps["picture"]).pixels
    assert float((picture - session.searched().image(other)).abs().max()) <= 0.5 / 255 + 1e-6
    assert view["slider"][0].tobytes() != view["slider"][1].tobytes()
    assert maps["map_before"].size == maps["map_after"].size
    assert session.searched().choice == chosen  # the search's own choice stands


def test_the_report_is_of_what_is_shown(handlers, session, restored, tmp_path) -> None:
    chosen = session.searched().choice
    other = next(index for index in (0, 1, 2) if index != chosen)
    for shown in (chosen, other):
        list(handlers.show(session, shown))
        with zipfile.ZipFile(handlers.report(session)["report"]) as archive:
            assert archive.testzip() is None
            archive.extractall(tmp_path / str(shown))
        record = json.loads(next((tmp_path / str(shown)).rglob("report.json")).read_text("utf-8"))
        assert record["choice"] == shown and record["image"]["name"] == "photo.png"
        assert ("chosen by hand" in record["reason"]) == (shown == other)
        assert len(list((tmp_path / str(shown)).rglob("candidates/*.png"))) == 3


def test_every_action_of_the_gate_has_words() -> None:
    assert set(ACTIONS) == set(Action.__args__)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_stopped_search_chooses_among_what_is_finished(handlers, session, photo_file) -> None:
    stream = handlers.restore(session, str(photo_file), ["scripted"], "noise", 6, 0)
    next(stream)
    handlers.stop(session)  # a new search: the button is free again
    list(stream)
    assert 1 <= len(session.searched().candidates) < 6
    assert "stopped early" in session.searched().reason


def test_the_search_of_who_leaves_ends(handlers, session, photo_file) -> None:
    stream = handlers.restore(session, str(photo_file), ["scripted"], "noise", 6, 0)
    for _ in range(2):
        next(stream)
    stream.close()
    assert session.stop.is_set()
    with handlers.models.in_use:  # the models are free again
        pass


def huge(path: Path) -> Path:
    path.write_bytes(png_header(10_000, 10_000))
    return path


def text(path: Path) -> Path:
    path.write_text("milk, eggs, bread")
    return path


def tiny(path: Path) -> Path:
    Image.new("RGB", (9, 9), "red").save(path, "PNG")
    return path


BAD_FILES = {
    "scan.png": (huge, "scan.png: 10000×10000 pixels. This page takes photos .* 4 megapixels"),
    "list.txt": (text, "list.txt is no photo .* Drop a PNG, JPEG, WebP or TIFF file."),
    "list.jpg": (text, "list.jpg is no photo"),
    "icon.png": (tiny, "icon.png: 9×9 pixels. .* of 16 pixels a side to 4 megapixels"),
    "gone.png": (lambda path: path, "no longer on the server"),
}


@pytest.mark.parametrize("name", list(BAD_FILES))
def test_bad_files_are_refused_in_words(handlers, session, tmp_path, name) -> None:
    make, message = BAD_FILES[name]
    photo = str(make(tmp_path / name))
    for handler in (
        lambda: handlers.preview(photo),
        lambda: next(handlers.restore(session, photo, ["scripted"], "noise", 2, 0)),
        lambda: handlers.judge(photo, "noise"),
    ):
        with pytest.raises(PageError, match=message) as caught:
            handler()
        assert str(tmp_path) not in str(caught.value)  # the server's folders are not shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photo": None}, "Drop a photo first"),
        ({"restorers": []}, "Choose at least one restorer"),
        ({"restorers": ["../weights.pth"]}, "not offered here"),
        ({"scorer": "http://127.0.0.1/v1"}, "not offered here"),
        ({"n": 7}, "N is a whole number from 1 to 6"),
        ({"n": 0}, "N is a whole number"),
        ({"seed": None}, "Seed is a whole number"),
        ({"seed": -1}, "Seed is a whole number"),
        ({"seed": float("nan")}, "Seed is a whole number"),
    ],
)
def test_choices_are_checked_on_the_server(handlers, session, photo_file, change, message) -> None:
    asked = {"photo": str(photo_file), "restorers": ["scripted"], "scorer": "noise"}
    asked |= {"n": 2, "seed": 0, **change}
    with pytest.raises(PageError, match=message):
        next(handlers.restore(session, **asked))


def test_a_restorer_that_fails_is_named(stubs, session, photo_file) -> None:
    broken = stubs.Restorer([ValueError("no weights")])
    handlers = Handlers(AppConfig(restorers=[broken], scorers=[stubs.Scorer()]))
    with pytest.raises(PageError, match=r"scripted failed before .* no weights"):
        list(handlers.restore(session, str(photo_file), ["scripted"], "noise", 2, 0))
    with pytest.raises(PageError, match="Restore a photo first"):
        handlers.report(session)


def test_a_restorer_that_fails_half_way_leaves_what_is_finished(stubs, session, photo_file) -> None:
    half = stubs.Restorer([stubs.smooth, RuntimeError("out of memory")])
    handlers = Handlers(AppConfig(restorers=[half], scorers=[stubs.Scorer()]))
    list(handlers.restore(session, str(photo_file), ["scripted"], "noise", 4, 0))
    assert len(session.searched().candidates) == 1
    assert "out of memory" in session.searched().reason


def test_candidates_that_cannot_be_used_are_left_out_and_counted(
    stubs, session, photo_file
) -> None:
    script = [stubs.smooth, lambda image, _: image[:, :8], lambda image, _: image * torch.nan]
    handlers = Handlers(AppConfig(restorers=[stubs.Restorer(script)], scorers=[stubs.Scorer()]))
    sent = list(handlers.restore(session, str(photo_file), ["scripted"], "noise", 3, 0))
    galleries = [values["gallery"] for values in sent if "gallery" in values]
    assert [len(gallery) for gallery in galleries] == [0, 1, 1, 1, 2]
    said = [values["progress"] for values in sent if "progress" in values][-1]
    assert "Skipped: 1 not finite, 1 wrong size" in said
    with pytest.raises(PageError, match="gone"):
        next(handlers.pick(session, 2))


def test_a_judge_that_fails_is_named(stubs, photo_file) -> None:
    scorer = stubs.Scorer(fails_on=lambda image: True)
    handlers = Handlers(AppConfig(restorers=[stubs.Restorer()], scorers=[scorer]))
    with pytest.raises(PageError, match=r"noise could not judge photo\.png: the script says so"):
        handlers.judge(str(photo_file), "noise")


def test_a_model_that_cannot_be_loaded_is_named(session, photo_file, tmp_path) -> None:
    handlers = Handlers(AppConfig(restorers=[str(tmp_path / "absent.pth")]))
    name = next(iter(handlers.models.restorers))
    with pytest.raises(PageError, match=r"absent\.pth cannot be loaded"):
        next(handlers.restore(session, str(photo_file), [name], "proxy", 1, 0))


@pytest.mark.parametrize("judge", ["proxy", "restoration"])
def test_one_photo_is_judged(crop, judge) -> None:
    answer = Handlers(AppConfig()).judge(str(crop), judge)
    assert answer["rating"].startswith(f"**{load_scorer(judge).assess(crop).rating:.2f}")
    picture, regions = answer["regions"]
    assert picture.size == (128, 96) and regions
    ratings = [float(label.partition(": ")[2]) for _, label in regions]
    assert ratings == sorted(ratings)
    for (x0, y0, x1, y1), _ in regions:
        assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 96
    assert answer["map"].width > 384


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one restorer"):
        AppConfig(restorers=())
    with pytest.raises(ValueError, match="must be positive"):
        AppConfig(max_megapixels=0)
