"""Seconds from dropping a photo on the web page to the first candidate and to the end.

    python -m benchmarks.app_in_browser --screenshot page.png

Serves the page with its defaults, drops the bundled demo photo in Chromium, and restores it with
eight candidates. Needs the extra `app`, playwright and an installed Chromium.
"""

import argparse
import shutil
import time
from pathlib import Path

from restoration_guide import launch_app
from restoration_guide.app.handlers import DEMO_PHOTO


def main(n: int, screenshot: Path | None) -> None:
    """Measure once and print."""
    from playwright.sync_api import sync_playwright

    served = launch_app(block=False)
    with sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(600_000)
        page.goto(served.local_url)
        page.wait_for_selector("#restore")
        page.locator("input[type=number][aria-label*='Candidates']").fill(str(n))
        start = time.perf_counter()
        page.locator("#photo input[type=file]").set_input_files(str(DEMO_PHOTO))
        page.wait_for_selector("#preview img")
        page.locator("#restore").click()
        for what, selector in (
            ("first candidate", "#gallery img"),
            ("choice and verdict", "#slider img"),
            ("quality maps", "#map-after img"),
        ):
            page.wait_for_selector(selector)
            print(f"{what:20s} {time.perf_counter() - start:6.1f} s", flush=True)
        if screenshot is not None:
            page.wait_for_timeout(1500)
            page.screenshot(path=screenshot, full_page=True)
        chromium.close()
    served.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=8, help="candidates")
    parser.add_argument("--screenshot", type=Path, help="where to save a picture of the page")
    main(**vars(parser.parse_args()))
