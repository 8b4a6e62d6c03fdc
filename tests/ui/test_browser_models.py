"""Exploring, using and comparing models in Chromium: pictures equal Python's, and every view is accessible."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ectype
from ectype.core.images import as_pixels
from ectype.inference.explore import Explorer
from tests.ui.server import Served
from tests.ui.test_browser import CHROMIUM, check_accessible, chromium, open_page

__all__ = ["chromium"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.trains,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright (pip install playwright)"),
]
PIXELS = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return { width: canvas.width, height: canvas.height, data: [...data] };
}"""


def pixels(canvas: Any) -> np.ndarray:
    """Return the red channel of a canvas, which is that of a gray image."""
    found = canvas.evaluate(PIXELS)
    return np.array(found["data"], np.int16).reshape(found["height"], found["width"], 4)[..., 0]


def settled(tab: Any) -> np.ndarray:
    """Return the present picture when no other one is being decoded."""
    canvas = tab.locator(".now")
    before = None
    while True:
        count = canvas.get_attribute("data-decoded")
        if count is not None and count == before:
            return pixels(canvas)
        before = count
        tab.wait_for_timeout(400)


def open_view(chromium: Any, served: Served, problems: list[str], view: str, **options: Any) -> Any:
    tab = open_page(chromium, served, problems, **options)
    tab.goto(f"{served.origin}/#{view}")
    return tab


def expected(runs: Path, code: torch.Tensor) -> np.ndarray:
    shape = ectype.load(runs / "vae").code_shape
    image = ectype.decode(runs / "vae", code.reshape(-1, *shape))
    assert isinstance(image, ectype.ImageBatch)
    return as_pixels(image.plain())[0, ..., 0].astype(np.int16)


def test_the_map_and_the_sliders_change_the_picture_as_python_does(chromium: Any, served: Served, runs: Path) -> None:
    problems: list[str] = []
    tab = open_view(chromium, served, problems, "/run/vae/explore")
    tab.locator(".now[data-decoded]").wait_for()
    first = settled(tab)
    reference = Explorer(runs / "vae")
    points = reference.points()
    code = reference.codes([0])[0]
    assert np.abs(first - expected(runs, code)).max() <= 2

    slider = tab.locator(".direction input").first
    slider.fill("2")
    moved = settled(tab)
    along = float(points.coordinates[0, 0])
    target = code + (2 * points.space.deviations[0] - along) * points.space.directions[0]
    assert np.abs(moved - expected(runs, target)).max() <= 2
    assert np.abs(moved - first).max() > 20

    tab.get_by_role("button", name="Back", exact=True).click()
    assert np.abs(settled(tab) - first).max() <= 2

    surface = tab.get_by_role("application")
    box = surface.bounding_box()
    start = int(tab.locator(".now").get_attribute("data-decoded"))
    seen = set()
    tab.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.4)
    tab.mouse.down()
    for step in range(40):
        tab.mouse.move(box["x"] + box["width"] * (0.3 + step / 100), box["y"] + box["height"] * (0.4 + step / 200))
        tab.wait_for_timeout(50)
        seen.add(pixels(tab.locator(".now")).tobytes())
    tab.mouse.up()
    settled(tab)
    assert int(tab.locator(".now").get_attribute("data-decoded")) > start + 5
    assert len(seen) > 5  # pictures along the way
    assert tab.locator(".trail canvas").count() >= 2
    before = settled(tab)
    surface.focus()
    for _ in range(4):
        tab.keyboard.press("Shift+ArrowLeft")
    assert np.abs(settled(tab) - before).max() > 5
    tab.get_by_role("button", name="Show all points").click()
    tab.mouse.move(0, 0)
    box = surface.bounding_box()
    tip = tab.locator(".map-tip")
    for x in np.linspace(0.2, 0.8, 30):  # somewhere there is a point
        tab.mouse.move(box["x"] + box["width"] * float(x), box["y"] + box["height"] * 0.5)
        tab.wait_for_timeout(100)
        if tip.get_attribute("data-point"):
            break
    point = int(tip.get_attribute("data-point"))
    shown, names = reference.pictures([point])
    assert np.abs(pixels(tip.locator("canvas")) - as_pixels(shown)[0, ..., 0].astype(np.int16)).max() <= 2
    assert names[0] in tip.inner_text()
    assert problems == []


def test_samples_paths_and_more_like_this(chromium: Any, served: Served, runs: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    tab = open_view(chromium, served, problems, "/run/vae/explore")
    tab.locator(".now[data-decoded]").wait_for()
    tab.get_by_label("Seed").fill("7")
    tab.get_by_label("Seed").press("Enter")
    tab.wait_for_timeout(1500)
    wanted = as_pixels(ectype.sample(runs / "vae", 12, seed=7).plain())
    tile = tab.get_by_role("button", name="Sample 4")
    assert np.abs(pixels(tile.locator("canvas")) - wanted[3, ..., 0].astype(np.int16)).max() <= 2
    tile.click()
    assert np.abs(settled(tab) - wanted[3, ..., 0].astype(np.int16)).max() <= 2
    files = []
    for k in range(2):
        files.append(tmp_path / f"end{k}.png")
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8)).save(files[-1])
        tab.locator(".end input[type=file]").nth(k).set_input_files(files[-1])
        tab.locator(".end").nth(k).locator(".end-picture canvas").nth(1).wait_for()
    strip = tab.locator(".strip canvas")
    strip.nth(8).wait_for()
    with Image.open(files[1]) as opened:
        image = torch.from_numpy(np.asarray(opened).copy())[None, None].float() / 255
    last = as_pixels(ectype.load(runs / "vae").reconstruct(image))[0, ..., 0].astype(np.int16)
    assert np.abs(pixels(strip.nth(8)) - last).max() <= 2
    path = tab.get_by_role("slider", name="Place on the path")
    path.fill("1")
    assert np.abs(settled(tab) - last).max() <= 2
    tab.get_by_role("button", name="Show more like").click()
    tab.get_by_role("button", name="Variation 10").wait_for()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Save PNG").click()
    with Image.open(saved.value.path()) as opened:
        assert opened.size == (16, 16)
    tab.get_by_label("Truncation").fill("0.5")
    tab.wait_for_timeout(1000)
    check_accessible(tab)
    assert problems == []


@pytest.mark.parametrize("width, scheme", [(400, "light"), (400, "dark"), (1400, "light"), (1400, "dark")])
@pytest.mark.parametrize(
    "view", ["/run/cgan-mlp/explore", "/run/vae/explore", "/run/vae/use", "/compare/vae|unet-denoise|cgan-mlp"]
)
def test_every_view_is_accessible_and_fits(chromium: Any, served: Served, view: str, width: int, scheme: str) -> None:
    problems: list[str] = []
    options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    tab = open_view(chromium, served, problems, view, **options)
    ready = ".now[data-decoded]" if "explore" in view else ".mosaic" if "compare" in view else ".drop.large"
    tab.locator(ready).first.wait_for()
    tab.wait_for_timeout(1000)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    check_accessible(tab)
    assert problems == []


def test_a_class_is_chosen_and_a_model_without_codes_says_so(chromium: Any, served: Served, runs: Path) -> None:
    problems: list[str] = []
    tab = open_view(chromium, served, problems, "/run/cgan-mlp/explore")
    tab.locator(".now[data-decoded]").wait_for()
    before = settled(tab)
    tab.locator(".named .tile").nth(9).wait_for()
    tab.locator(".named .tile").nth(5).click()
    reference = Explorer(runs / "cgan-mlp")
    code = reference.sample(1, seed=0, label=0)[0]
    assert np.abs(before - as_pixels(reference.decode(code, [0]))[0, ..., 0]).max() <= 2
    assert np.abs(settled(tab) - as_pixels(reference.decode(code, [5]))[0, ..., 0]).max() <= 2
    assert (settled(tab) != before).any()
    tab.get_by_label("Class of the samples").select_option("3")
    tab.get_by_role("button", name="Sample 1, 3").wait_for()
    tab.goto(f"{served.origin}/#/run/unet-denoise/explore")
    tab.get_by_text("has no codes to explore").wait_for()
    tab.goto(f"{served.origin}/#/run/cgan-mlp/use")
    tab.get_by_text("takes no images").wait_for()
    assert problems == []


def test_images_are_dropped_and_results_downloaded(chromium: Any, served: Served, runs: Path, tmp_path: Path) -> None:
    problems: list[str] = []
    tab = open_view(chromium, served, problems, "/run/vae")
    tab.get_by_role("link", name="Use on images").click()
    raw = io.BytesIO()
    values = np.random.default_rng(3).integers(0, 255, (16, 16), np.uint8)
    Image.fromarray(values).save(raw, "PNG")
    transfer = tab.evaluate_handle(
        """(bytes) => { const held = new DataTransfer();
        held.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" })); return held; }""",
        list(raw.getvalue()),
    )
    tab.locator(".drop.large").dispatch_event("drop", {"dataTransfer": transfer})
    tab.get_by_role("img", name="dropped.png: reconstructions").wait_for()
    with tab.expect_download() as saved:
        tab.get_by_role("link", name="Download results.zip").click()
    with zipfile.ZipFile(saved.value.path()) as archive, Image.open(archive.open("results/dropped.png")) as opened:
        found = np.asarray(opened).astype(np.int16)
    image = torch.from_numpy(values.copy())[None, None].float() / 255
    wanted = as_pixels(ectype.load(runs / "vae").reconstruct(image))[0, ..., 0].astype(np.int16)
    assert np.abs(found - wanted).max() <= 2
    tab.get_by_text("Encode", exact=True).click()
    with tab.expect_download() as saved:
        tab.get_by_role("link", name="Download codes.csv").click()
    assert "dropped.png" in Path(saved.value.path()).read_text()
    tab.get_by_text("Find similar ones").click()
    tab.get_by_role("img", name="dropped.png: nearest images").wait_for()
    check_accessible(tab)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    problems.clear()
    tab.locator("input[type=file][multiple]").first.set_input_files([bad])
    tab.get_by_role("alert").filter(has_text="image").wait_for()
    assert [problem for problem in problems if "422" not in problem] == []


def test_two_runs_are_compared_at_the_same_inputs_and_seed(
    chromium: Any, served: Served, runs: Path, tmp_path: Path
) -> None:
    problems: list[str] = []
    tab = open_view(chromium, served, problems, "/")
    for name in ("vae", "cgan-mlp"):
        tab.get_by_label(f"Compare {name}").check()
    tab.get_by_role("link", name="Compare side by side").click()
    tab.locator(".mosaic").nth(1).wait_for()
    reference = Explorer(runs / "vae").examples(None, 8)
    first = tab.locator(".sides tbody tr").nth(1)
    assert np.abs(pixels(first.locator("th canvas")) - as_pixels(reference.inputs)[0, ..., 0]).max() <= 2
    assert np.abs(pixels(first.locator("td canvas").first) - as_pixels(reference.outputs)[0, ..., 0]).max() <= 2
    for column, name in enumerate(("vae", "cgan-mlp")):
        wanted = as_pixels(ectype.sample(runs / name, 16, seed=0).plain())[5, ..., 0].astype(np.int16)
        assert np.abs(pixels(tab.locator(".mosaic").nth(column).locator("canvas").nth(5)) - wanted).max() <= 2
    own = tmp_path / "own.png"
    Image.fromarray(np.full((20, 20), 99, np.uint8)).save(own)
    tab.locator("input[type=file]").set_input_files(own)
    tab.get_by_role("img", name="Input own.png").wait_for()
    assert (pixels(tab.locator(".sides th canvas")) == 99).all()
    assert problems == []
