"""A page without a server: requests go straight to the application, as a browser would send them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from ectype.runs.json_files import JsonLinesFile, write_json_file
from ectype.runs.run_dir import RunDir
from ectype.training.run import train
from ectype.ui.app import Page
from ectype.ui.folder import RunsFolder
from ectype.ui.trainings import Trainings
from tests.conformance.small import small
from tests.ui.server import Served, serving

PORT = 8421
TOKEN = "a-token-of-the-tests"
FAST = {"train.images": 1600, "monitor.every": 800, "run.pictures": 2, "run.log_every": 1000, "monitor.images": 100}
HOST = f"127.0.0.1:{PORT}"
ORIGIN = f"http://{HOST}"


class Browser:
    """Sends requests to a page, with its cookie unless told otherwise."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.cookie = f"{page.app.cookie}={page.app.secret}"

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"host": HOST, "cookie": self.cookie, **options.pop("headers", {})}
        if method == "POST":
            headers = {"origin": ORIGIN, "content-type": "application/json", **headers}
        headers = {key: value for key, value in headers.items() if value is not None}

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.page.app)  # pyright: ignore[reportArgumentType]
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.send("GET", path, **options)

    def post(self, path: str, content: Any = None, **options: Any) -> httpx.Response:
        return self.send("POST", path, content=json.dumps({} if content is None else content), **options)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the runs of the list by name."""
        answer = self.get("/api/runs")
        assert answer.status_code == 200, answer.text
        return {row["name"]: row for row in answer.json()["runs"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    place.mkdir()
    return place


@pytest.fixture
def page(root: Path) -> Iterator[Page]:
    made = Page(root, token=TOKEN, port=PORT, trainings=Trainings(RunsFolder(root), ["/bin/false"]))
    yield made
    made.trainings.close()
    made.models.close()


@pytest.fixture
def browser(page: Page) -> Browser:
    return Browser(page)


def write_run(
    path: Path, *, images: int = 1000, seen: int = 500, checks: int = 2, summary: dict[str, Any] | None = None
) -> RunDir:
    """Write the files of a run that was trained for a while."""
    run = RunDir(path)
    run.samples.mkdir(parents=True, exist_ok=True)
    recipe = f"about: {{name: vae}}\ndata: {{source: digits}}\ntrain: {{images: {images}, minutes: null}}\n"
    run.recipe_file.write_text(recipe)
    write_json_file(run.environment_file, {"ectype": "0"})
    lines = JsonLinesFile(run.metrics_file)
    for i in range(1, checks + 1):
        at = {"seen": seen * i // checks, "step": i}
        lines.write({"kind": "train", **at, "total": 10.0 / i, "images/s": 100.0})
        lines.write({"kind": "check", **at, "sse": 5.0 / i, "best": True, "seconds": 0.1})
        write_picture(run.samples / f"samples-{i:08d}.png", seed=i)
    lines.close()
    if summary is not None:
        write_json_file(run.summary_file, summary)
    return run


def write_picture(file: Path, seed: int = 0, side: int = 64) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), np.uint8)
    Image.fromarray(pixels).save(file)


Write = Callable[..., RunDir]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of runs: a trained model of each kind that the page treats differently."""
    root = tmp_path_factory.mktemp("served") / "runs"
    for preset in ("vae", "cgan-mlp", "unet-denoise"):
        train(small(preset, **FAST), out=root / preset)
    return root


@pytest.fixture(scope="module")
def served(runs: Path) -> Iterator[Served]:
    """Return a server of these runs."""
    with serving(runs) as found:
        yield found
