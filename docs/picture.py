"""Make the picture of the README: images of a folder, their reconstructions, the oddest images, and samples.

    python docs/picture.py FOLDER [--minutes 10] [--run runs/picture] [--gan runs/gan-001]

One run of `ectype train vae FOLDER --minutes 10`, with the default seed, and samples of a GAN if its run is given.
Nothing is selected: the images are the first test images, the samples are the first draws of seed 0, and the odd images
are the highest errors of `ectype score` in the whole folder. A run that exists already is used as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import ectype

COLUMNS = 9
SCALE = 2
"""Each pixel of an image is repeated, so that 64 px images stay sharp on displays of high density."""
GAP_PX, LABEL_WIDTH_PX, FONT_PX = 6, 236, 26


def as_row(images: ectype.ImageBatch) -> list[Image.Image]:
    """Return images as RGB pictures."""
    return [Image.fromarray(each.squeeze()).convert("RGB") for each in images.to_uint8()]


def on_white(file: Path, side: int) -> Image.Image:
    """Read an image file, put it on white, and resize it."""
    image = Image.open(file).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB").resize((side, side), Image.Resampling.BOX)


def draw(rows: dict[str, list[Image.Image]], side: int) -> Image.Image:
    """Arrange labeled rows of pictures on white."""
    cell = side * SCALE + GAP_PX
    sheet = Image.new("RGB", (LABEL_WIDTH_PX + COLUMNS * cell, len(rows) * cell), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for y, (label, pictures) in enumerate(rows.items()):
        middle = y * cell + (cell - GAP_PX) // 2
        pen.text((GAP_PX, middle), label, fill="black", font=font, anchor="lm", spacing=6)
        for x, picture in enumerate(pictures[:COLUMNS]):
            large = picture.resize((side * SCALE, side * SCALE), Image.Resampling.NEAREST)
            sheet.paste(large, (LABEL_WIDTH_PX + x * cell, y * cell))
    return sheet


def main() -> None:
    """Train if there is no run yet, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images")
    parser.add_argument("--minutes", type=float, default=10.0, help="training time (10)")
    parser.add_argument("--run", type=Path, default=Path("runs/picture"), help="directory of the run (runs/picture)")
    parser.add_argument("--gan", type=Path, help="directory of a GAN's run whose samples are shown as well")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "site" / "picture.png")
    options = parser.parse_args()
    if (options.run / "model").is_dir():
        run = ectype.open_run(options.run)
    else:
        run = ectype.train("vae", options.folder, minutes=options.minutes, out=options.run)
    images = run.images("test", COLUMNS)
    reconstructions = run.reconstruct(images)
    assert isinstance(reconstructions, ectype.ImageBatch)
    side = images.shape[-1]
    oddest = run.score(options.folder)["image"][:COLUMNS]
    rows = {
        "held-out\nimages": as_row(images),
        "their\nreconstructions": as_row(reconstructions),
        "the oddest of\nthe folder": [on_white(options.folder / file, side) for file in oddest],
        "samples of\nthe VAE": as_row(run.sample(COLUMNS)),
    }
    if options.gan is not None:
        rows["samples of\na GAN"] = as_row(ectype.open_run(options.gan).sample(COLUMNS))
    draw(rows, side).save(options.out, optimize=True)
    print(f"{options.out}: {run!r}")


if __name__ == "__main__":
    main()
