"""Take the picture of a report with numbered marks for the README and the site (needs Chromium).

Usage: `python docs/report_picture.py runs/picture/report.html`
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw, ImageFont

WIDTH_PX, HEIGHT_PX = 1200, 1640
MARKS_Y_PX = (185, 390, 448, 690, 920, 1120, 1490)
"""Heights of the marks: reconstructions, samples, main sentence, figures, verdict, facts, findings."""
MARK_X_PX, RADIUS_PX = 44, 21


def screenshot(page: Path) -> Image.Image:
    """Return the top of an HTML page as Chromium draws it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium found: install it first.")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "page.png"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=20000"]
        size = f"--window-size={WIDTH_PX},{HEIGHT_PX}"
        command = [browser, *options, size, f"--screenshot={file}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        return Image.open(file).convert("RGB")


def main() -> None:
    """Write docs/site/report.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="report.html of a run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "site" / "report.png")
    options = parser.parse_args()
    picture = screenshot(options.page)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(26)
    for number, y in enumerate(MARKS_Y_PX, 1):
        pen.circle((MARK_X_PX, y), RADIUS_PX, fill="#c2410c")
        pen.text((MARK_X_PX, y), str(number), fill="white", font=font, anchor="mm")
    picture.quantize(256).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
