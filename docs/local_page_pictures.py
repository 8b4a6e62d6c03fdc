"""Take the pictures of the local page that the site shows: every view at 1400 and 400 px, in light and dark.

Usage: `python docs/local_page_pictures.py RUNS RUN`, with a folder of runs and the name of one; needs Chromium.
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


def take(browser: Any, address: str, run: str, width: int) -> None:
    """Take the pictures of one width."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=SCHEMES[width])
    page = context.new_page()

    def save(view: str) -> None:
        page.wait_for_timeout(1500)
        page.screenshot(path=SITE / f"local-page-{view}-{width}.jpg", type="jpeg", quality=85)

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
    context.close()


def main(root: str, run: str) -> None:
    words = [sys.executable, "-m", "ectype.cli", "ui", root, "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        address = next(line for line in server.stdout if line.startswith("http")).strip()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width in SCHEMES:
            take(browser, address, run, width)
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
