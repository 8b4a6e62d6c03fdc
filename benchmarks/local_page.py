"""The local page: pictures of a second while a point is dragged, how fast a map of many points is drawn, and memory.

    python benchmarks/local_page.py RUNS RUN

with a folder of runs and the name of one. Chromium draws without a GPU and shares the cores with the server and the
model. "By mouse" drags through the map for ten seconds, with a move of the mouse for each frame of the browser, and
counts the pictures that appear; "20 clients" asks for one picture after the other from 20 threads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import sync_playwright

from ectype.ui.frames import pack, unpack

SECONDS = 10.0
CLIENTS = 20
POINTS = 300_000
DRAW = """async (count) => {
  const { CodeMap } = await import("/static/map.js");
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const space = {
    coordinates: Float32Array.from({ length: 2 * count }, normal), deviations: new Float32Array([1, 1]),
    labels: Uint16Array.from({ length: count }, () => Math.floor(10 * Math.random())),
  };
  const frame = document.createElement("div");
  frame.style.cssText = "position: relative; width: 800px; height: 640px";
  document.body.append(frame);
  const map = new CodeMap(frame, space, async () => []);
  const started = performance.now();
  map.setAxes(0, 1);
  const first = performance.now() - started;
  const times = [];
  for (let i = 0; i < 40; i += 1) {
    map.pan(3, 1);
    times.push(map.drawn);
  }
  const asked = performance.now();
  for (let i = 0; i < 1000; i += 1) map.near(800 * Math.random(), 640 * Math.random(), 14);
  return { first, times, found: (performance.now() - asked) / 1000 };
}"""

MOVE = """async (seconds) => {
  const map = document.querySelector(".map canvas + canvas");
  const box = map.getBoundingClientRect();
  const started = performance.now();
  let moves = 0;
  for (;;) {
    const gone = (performance.now() - started) / 1000;
    if (gone > seconds) return [moves, gone];
    const [x, y] = [0.5 + 0.25 * Math.cos(gone * Math.PI / 2), 0.5 + 0.25 * Math.sin(gone * 2)];
    map.dispatchEvent(new PointerEvent("pointermove", { pointerId: 1, pointerType: "mouse", clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
    moves += 1;
    await new Promise((done) => requestAnimationFrame(done));
  }
}"""  # noqa: E501
"""What a browser tells the page while the mouse is dragged: a move for each frame."""


def memory(process: int) -> float:
    """Return the memory of a process in MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def drag(tab: Any, address: str, run: str) -> None:
    """Drag through the map of a run."""
    tab.goto(f"{address.partition('?')[0]}#/run/{run}/explore")
    picture = tab.locator(".now[data-decoded]")
    picture.wait_for(timeout=300_000)
    tab.wait_for_timeout(5000)
    box = tab.get_by_role("application").bounding_box()
    tab.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
    tab.mouse.down()
    tab.wait_for_timeout(500)
    before = int(picture.get_attribute("data-decoded"))
    moves, gone = tab.evaluate(MOVE, SECONDS)
    count = int(picture.get_attribute("data-decoded")) - before
    tab.mouse.up()
    width, height = (picture.get_attribute(side) for side in ("width", "height"))
    print(f"by mouse, {width}×{height} px: {count / gone:.1f} pictures/s, {moves / gone:.0f} moves/s")


def many_clients(address: str, run: str) -> None:
    """Decode from many threads."""
    parts = urlsplit(address)
    origin = f"{parts.scheme}://{parts.netloc}"
    headers = {"origin": origin, "content-type": "application/octet-stream"}
    times: list[float] = []
    refused = 0

    def ask() -> None:
        nonlocal refused
        with httpx.Client(base_url=origin, headers=headers, timeout=120) as client:
            client.get(address)
            path = f"/api/raw/explore/{run}/"
            code = unpack(client.post(f"{path}codes", content=pack({"indices": [0]})).content)[1]["codes"]
            end = time.perf_counter() + SECONDS
            while (start := time.perf_counter()) < end:
                answer = client.post(f"{path}decode", content=pack({}, {"codes": code}))
                refused += answer.status_code != 200
                times.append(time.perf_counter() - start)

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(
        f"{CLIENTS} clients: {len(times) / SECONDS:.1f} pictures/s together, median {1000 * median(times):.0f} ms, "
        f"slowest {1000 * max(times):.0f} ms, {refused} refused"
    )


def main(root: str, run: str) -> None:
    words = [sys.executable, "-m", "ectype.cli", "ui", root, "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        assert server.stdout is not None
        address = next(line for line in server.stdout if line.startswith("http")).strip()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.goto(address)
        drawn = tab.evaluate(DRAW, POINTS)
        print(
            f"a map of {POINTS:,} points, 800×640 px: {drawn['first']:.0f} ms at first, then "
            f"{median(drawn['times']):.1f} ms to draw, {drawn['found']:.3f} ms to find a point"
        )
        at_first = memory(server.pid)
        drag(tab, address, run)
        browser.close()
        many_clients(address, run)
        print(f"memory of the server: {at_first:.0f} MB at first, {memory(server.pid):.0f} MB at the end")
        server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
