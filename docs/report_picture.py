"""Take the pictures of a report and of a comparison that the README and the site show (needs Chromium).

Usage: `python docs/report_picture.py runs/vae-001/report.html comparison/comparison.html`
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import sync_playwright

SITE = Path(__file__).parent / "site"
SCHEMES = {1400: "light", 400: "dark"}
HEIGHTS_PX = {1400: 1120, 400: 1000}
MARKS = (
    ".banner .sentence",
    ".banner .next",
    ".large",
    ".large:nth-of-type(2)",
    ".tile",
    ".headline",
    ".findings h2",
)
"""What the numbers in the picture of a report stand next to, by CSS selectors."""
RADIUS_PX = 19


def take(browser: Any, page: Path, out: str, width: int, marks: tuple[str, ...] = ()) -> None:
    """Take the picture of the top of a page, with numbered marks next to some of its parts."""
    view = {"width": width, "height": HEIGHTS_PX[width]}
    context = browser.new_context(viewport=view, color_scheme=SCHEMES[width])
    tab = context.new_page()
    tab.goto(page.resolve().as_uri())
    tab.wait_for_timeout(500)
    boxes = [tab.locator(mark).first.bounding_box() for mark in marks]
    file = SITE / f"{out}-{width}.png"
    tab.screenshot(path=file)
    context.close()
    with Image.open(file) as taken:
        picture = taken.convert("RGB")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(24)
    for number, box in enumerate(boxes, 1):
        if box is not None:
            place = (max(RADIUS_PX + 2, box["x"] - RADIUS_PX - 4), box["y"] + RADIUS_PX)
            pen.circle(place, RADIUS_PX, fill="#c2410c")
            pen.text(place, str(number), fill="white", font=font, anchor="mm")
    picture.quantize(256).save(file, optimize=True)


def main() -> None:
    """Write docs/site/report-*.png and docs/site/comparison-*.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.html of a run")
    parser.add_argument("comparison", type=Path, help="comparison.html")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width in SCHEMES:
            take(browser, options.report, "report", width, MARKS if width > 1000 else ())
            take(browser, options.comparison, "comparison", width)
        browser.close()


if __name__ == "__main__":
    main()
