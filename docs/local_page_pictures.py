"""Take the pictures of the local page that the site shows: every view at 1400 and 400 px, in light and dark.

Usage: `python docs/local_page_pictures.py RUNS RUN IMAGES COMPARED…`, with a folder of runs, the name of one that
encodes and samples, a folder of a few images, and the names of runs that are compared; needs Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

SITE = Path(__file__).parent / "site"
SCHEMES = {1400: "light", 400: "dark"}


def take(browser: Any, address: str, run: str, images: Path, compared: list[str], width: int) -> None:
    """Take the pictures of one width."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=SCHEMES[width])
    page = context.new_page()

    def save(view: str) -> None:
        page.wait_for_timeout(1500)
        page.screenshot(path=SITE / f"local-page-{view}-{width}.jpg", type="jpeg", quality=80)

    page.goto(address)
    page.locator("tbody .name").first.wait_for()
    save("list")
    page.get_by_role("button", name="Start a run").click()
    page.locator("#preset option").first.wait_for(state="attached")
    page.get_by_label("Images").fill("photos/")
    save("start")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("link", name=run, exact=True).click()
    page.locator(".curves canvas").first.wait_for()
    save("run")
    page.get_by_role("link", name="Explore", exact=True).click()
    page.locator(".now[data-decoded]").wait_for(timeout=300_000)
    page.locator(".map[data-images]").wait_for()
    drag_to_the_nearest(page)
    save("explore")
    page.goto(f"{address.partition('?')[0]}#/run/{run}/use")
    page.get_by_role("button", name="Choose images").wait_for()
    page.locator("input[type=file][multiple]").first.set_input_files(sorted(images.iterdir()))
    page.locator(".result img").first.wait_for(timeout=300_000)
    save("use")
    page.goto(f"{address.partition('?')[0]}#/compare/{'|'.join(compared)}")
    page.locator(".mosaic").last.wait_for(timeout=300_000)
    save("compare")
    context.close()


def drag_to_the_nearest(page: Any) -> None:
    """Drag a point some way through the map, and point at another one."""
    box = page.get_by_role("application").bounding_box()
    steps = [(0.3 + 0.004 * k, 0.62 - 0.003 * k) for k in range(60)]
    for k, (x, y) in enumerate(steps):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if k == 0:
            page.mouse.down()
            page.wait_for_timeout(800)
        page.wait_for_timeout(40)
    page.mouse.up()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.75 * box["height"])


def main(root: str, run: str, images: str, *compared: str) -> None:
    words = [sys.executable, "-m", "ectype.cli", "ui", root, "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        address = next(line for line in server.stdout if line.startswith("http")).strip()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width in SCHEMES:
            take(browser, address, run, Path(images), list(compared), width)
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
