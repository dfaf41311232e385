"""The page in a real Chromium: upload, run, slider, pick, download, bad files, two visitors."""

import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from restoration_guide import BestOfN
from restoration_guide.app.config import AppConfig
from restoration_guide.app.launch import launch_app
from tests.guide.app.test_handlers import huge, text
from tests.guide.conftest import NoiseScorer, ScriptedRestorer, make_photo, smooth
from zoomiqa_core.images.sources import read_image, save_png

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


def half(image, generator):
    return (image + smooth(image, generator)) / 2


CONFIG = AppConfig(restorers=[ScriptedRestorer([smooth, half])], scorers=[NoiseScorer()], max_n=6)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("gradio")
    page = launch_app(CONFIG, block=False)
    yield page.local_url
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visitor:
    """One visitor's tab, and every address it asked for."""

    def __init__(self, browser: Any, address: str) -> None:
        self.page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        self.page.set_default_timeout(180_000)  # of a busy machine
        self.asked: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("#restore")

    def drop(self, photo: Path, where: str = "photo") -> None:
        """Upload a file; replaces the one that is there."""
        upload = self.page.locator(f"#{where} input[type=file]")
        if not upload.count():
            self.page.locator(f"#{where} button[aria-label='Clear']").click()
        upload.set_input_files(str(photo))

    def start(self, photo: Path, n: int, seed: int) -> None:
        self.drop(photo)
        self.page.wait_for_selector("#preview img")
        self.page.locator("input[type=number][aria-label*='Candidates']").fill(str(n))
        self.page.locator("#seed input").fill(str(seed))
        self.page.locator("#restore").click()

    def finish(self) -> None:
        self.page.wait_for_selector("#map-after img")
        self.page.wait_for_selector("#picture:not([disabled])")

    def download(self, button: str, path: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.locator(f"#{button}").click()
        download.value.save_as(path)
        return path

    def said(self, message: str) -> None:
        """Wait for a message."""
        self.page.get_by_text(message).first.wait_for()


@pytest.fixture
def visitor(browser, address) -> Iterator[Visitor]:
    opened = Visitor(browser, address)
    yield opened
    opened.page.context.close()


@pytest.fixture
def photo_file(tmp_path: Path) -> Path:
    return save_png(make_photo(192, 256), tmp_path / "garden.png")


def same_picture(path: Path, pixels: torch.Tensor) -> bool:
    return float((read_image(path).pixels - pixels).abs().max()) <= 0.5 / 255 + 1e-6


def test_a_photo_is_restored_compared_and_saved(visitor, photo_file, tmp_path) -> None:
    page = visitor.page
    visitor.start(photo_file, n=4, seed=3)
    visitor.finish()
    found = BestOfN(CONFIG.restorers[0], CONFIG.scorers[0], n=4)(photo_file, seed=3)
    items = page.locator("#gallery button.thumbnail-item")
    assert items.count() == 5  # the input and four candidates
    assert f"Candidate {found.choice}" in page.locator("#shown").inner_text()
    assert "Gate:" in page.locator("#verdict").inner_text()
    assert same_picture(visitor.download("picture", tmp_path / "best.png"), found.best)

    slider = page.locator("#slider")
    slider.scroll_into_view_if_needed()
    before = slider.screenshot()
    box = slider.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 60, middle[1], steps=5)
    page.mouse.up()
    assert slider.screenshot() != before

    other = 1 if found.choice != 1 else 2
    items.nth(other + 1).click()
    page.get_by_text(f"Candidate {other}:").wait_for()
    page.wait_for_timeout(1000)
    assert same_picture(visitor.download("picture", tmp_path / "other.png"), found.image(other))

    page.locator("#save").click()
    page.wait_for_selector("#report")
    with zipfile.ZipFile(visitor.download("report", tmp_path / "report.zip")) as archive:
        names = archive.namelist()
        assert "garden_report/report.html" in names
        assert "chosen by hand" in archive.read("garden_report/report.json").decode()
    assert {url.split("/")[2] for url in visitor.asked if url.startswith("http")} == {
        page.url.split("/")[2]
    }


def test_bad_files_are_named_and_the_page_goes_on(visitor, photo_file, tmp_path) -> None:
    visitor.drop(text(tmp_path / "list.txt"))
    visitor.said("list.txt is no photo")
    visitor.drop(huge(tmp_path / "scan.png"))
    visitor.said("scan.png: 10000×10000 pixels")
    big = tmp_path / "big.png"
    big.write_bytes(bytes(33 * 1024**2))
    visitor.drop(big)
    visitor.said("exceed")
    visitor.start(photo_file, n=1, seed=0)
    visitor.finish()


def test_two_visitors_at_once_get_their_own(browser, address, photo_file, tmp_path) -> None:
    visitors = [Visitor(browser, address), Visitor(browser, address)]
    for seed, each in enumerate(visitors):
        each.start(photo_file, n=3, seed=seed)
    for seed, each in enumerate(visitors):
        each.finish()
        alone = BestOfN(CONFIG.restorers[0], CONFIG.scorers[0], n=3)(photo_file, seed=seed)
        got = each.download("picture", tmp_path / f"{seed}.png")
        assert same_picture(got, alone.best)
        each.page.context.close()
    first, second = (read_image(tmp_path / f"{seed}.png").pixels for seed in (0, 1))
    assert not torch.equal(first, second)


def test_one_photo_is_judged(visitor, photo_file) -> None:
    page = visitor.page
    page.get_by_role("tab", name="Judge a photo").click()
    visitor.drop(photo_file, "judge-photo")
    page.get_by_text("garden").first.wait_for()
    page.locator("#judge-start").click()
    page.wait_for_selector("#judge-map img")
    rating = CONFIG.scorers[0].assess(photo_file).rating
    assert f"{rating:.2f}" in page.locator("#rating").inner_text()
    page.wait_for_selector("#judge-regions img")


def test_a_search_can_be_stopped(visitor, photo_file, monkeypatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def waiting(image, generator):
        begun.set()
        go_on.wait(60)
        return smooth(image, generator)

    monkeypatch.setattr(CONFIG.restorers[0], "script", [waiting])
    visitor.start(photo_file, n=6, seed=0)
    assert begun.wait(60)
    visitor.page.locator("#stop").click()
    visitor.page.wait_for_timeout(1500)
    go_on.set()
    visitor.finish()
    assert "stopped early" in visitor.page.locator("#progress").inner_text().lower()
