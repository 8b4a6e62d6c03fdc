"""A real server in a process of its own, for tests that need streams of events or a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx


class Served:
    """A page that is served."""

    def __init__(self, address: str, process: subprocess.Popen[str]) -> None:
        self.address, self.process = address, process
        parts = urlsplit(address)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.client = httpx.Client(base_url=self.origin, timeout=60, headers={"origin": self.origin})
        self.client.get(address)

    def post(self, path: str, content: Any = None) -> dict[str, Any]:
        answer = self.client.post(path, json=content or {})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, key: str) -> Iterator[tuple[str, Any]]:
        """Yield the events of a run until the stream is closed."""
        with self.client.stream("GET", f"/api/runs/{key}/live") as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))


@contextmanager
def serving(root: Path, *options: str, **variables: str) -> Iterator[Served]:
    """Serve the page on a runs folder with the command."""
    words = [sys.executable, "-m", "ectype.cli", "ui", str(root), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=root.parent)
    try:
        assert process.stdout is not None
        address = next(line for line in process.stdout if line.startswith("http"))
        served = Served(address.strip(), process)
        with closing(served.client):
            yield served
    finally:
        process.terminate()
        process.communicate(timeout=60)
