"""Models over HTTP: exploring and using, with a model that was really trained, and requests from hostile hands."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import ectype
from ectype.core.images import as_pixels
from ectype.ui import batches, model_routes
from ectype.ui.app import Page
from ectype.ui.frames import pack, unpack
from tests.ui.conftest import Browser, write_run
from tests.ui.server import Served, serving

pytestmark = pytest.mark.trains

RAW = {"content-type": "application/octet-stream"}


def image(seed: int = 0, side: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def bomb(side: int = 50_000) -> bytes:
    """Return a PNG of a few bytes whose header claims 2.5 billion pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")
    )


def ask(served: Served, key: str, operation: str, head: Any = None, **arrays: Any) -> tuple[dict[str, Any], Any]:
    answer = served.client.post(f"/api/raw/explore/{key}/{operation}", content=pack(head or {}, arrays), headers=RAW)
    assert answer.status_code == 200, answer.text
    return unpack(answer.content)


def refusal(served: Served, key: str, operation: str, head: Any = None, **arrays: Any) -> tuple[int, str]:
    answer = served.client.post(f"/api/raw/explore/{key}/{operation}", content=pack(head or {}, arrays), headers=RAW)
    assert answer.status_code >= 400
    text = answer.json()["error"]
    assert "\n" not in text
    return answer.status_code, text


def test_a_model_is_explored_and_its_pictures_equal_those_of_the_api(served: Served, runs: Path) -> None:
    told, _ = ask(served, "vae", "describe")
    assert told["canEncode"]
    head, space = ask(served, "vae", "space")
    assert space["coordinates"].shape[1] == len(head["names"])
    _, found = ask(served, "vae", "codes", {"indices": [0, 5]})
    code = found["codes"] + 0.3 * space["directions"][0]
    _, decoded = ask(served, "vae", "decode", codes=code.astype(np.float32))
    shape = ectype.load(runs / "vae").code_shape
    expected = ectype.decode(runs / "vae", code.reshape(-1, *shape))
    assert isinstance(expected, ectype.ImageBatch)
    assert np.abs(as_pixels(expected.plain()).astype(int) - decoded["images"]).max() <= 1
    drawn, sampled = ask(served, "cgan-mlp", "sample", {"count": 4, "seed": 3})
    assert len(drawn["labels"]) == 4
    expected = ectype.sample(runs / "cgan-mlp", 4, seed=3)
    assert np.abs(as_pixels(expected.plain()).astype(int) - sampled["images"]).max() <= 1
    _, encoded = ask(served, "vae", "encode", file=np.frombuffer(image(), np.uint8))
    assert encoded["codes"].size == told["length"]
    near, _ = ask(served, "vae", "nearest", {"count": 3}, codes=found["codes"][1])
    assert near["indices"][0] == 5
    what, restored = ask(served, "unet-denoise", "examples", {"names": None, "count": 2})
    assert what["what"] == "restored images"
    assert restored["output"].shape[0] == 2


def test_requests_that_make_no_sense_are_refused_in_one_line(served: Served) -> None:
    code = np.zeros(8, np.float32)
    for key, operation, head, arrays in [
        ("vae", "decode", {}, {}),
        ("vae", "decode", {}, {"codes": np.zeros(3, np.float32)}),
        ("vae", "decode", {}, {"codes": np.full(2**19, np.nan, np.float32)}),
        ("vae", "sample", {"count": 0, "seed": 0}, {}),
        ("vae", "sample", {"count": 10**9, "seed": 0}, {}),
        ("vae", "sample", {"count": 1, "seed": "x"}, {}),
        ("vae", "sample", {"count": 1, "seed": 0, "truncation": -1}, {}),
        ("vae", "sample", {"count": 1, "seed": 0, "density": "../x"}, {}),
        ("vae", "codes", {"indices": [10**9]}, {}),
        ("vae", "pictures", {"indices": "all"}, {}),
        ("cgan-mlp", "sample", {"count": 1, "seed": 0, "label": 500}, {}),
        ("cgan-mlp", "encode", {}, {"file": np.frombuffer(image(), np.uint8)}),
        ("unet-denoise", "space", {}, {}),
        ("vae", "encode", {}, {"file": np.frombuffer(bomb(), np.uint8)}),
        ("vae", "encode", {}, {"file": np.zeros(1000, np.uint8)}),
        ("nothing", "describe", {}, {}),
        ("vae", "use", {"task": "encode", "inputs": "/etc", "out": "/tmp/x"}, {}),
        ("vae", "__class__", {}, {}),
        (".hidden", "describe", {}, {}),
    ]:
        status, text = refusal(served, key, operation, head, **arrays)
        assert status in (404, 422), (operation, head, text)
        assert "Traceback" not in text
        assert "Error:" not in text, text
    answer = served.client.post("/api/raw/explore/vae/decode", content=b"no frame", headers=RAW)
    assert answer.status_code == 422
    assert ask(served, "vae", "describe")[0]["length"] > len(code) // 8  # it still answers


def test_the_run_that_is_named_in_the_head_is_not_read(served: Served, tmp_path: Path) -> None:
    told, _ = ask(served, "vae", "describe", {"run": str(tmp_path), "operation": "use"})
    assert told["name"] == "vae"


def sent(served: Served, files: dict[str, bytes]) -> str:
    batch = served.post("/api/batches")["id"]
    for name, raw in files.items():
        answer = served.client.post(f"/api/raw/files/{batch}", params={"name": name}, content=raw, headers=RAW)
        assert answer.status_code == 200, answer.text
    return batch


def done(served: Served, batch: str, key: str, task: str) -> dict[str, Any]:
    served.post(f"/api/batches/{batch}/start", {"key": key, "task": task})
    end = time.monotonic() + 120
    while True:
        found = served.client.get(f"/api/batches/{batch}").json()
        if found["state"] not in ("waiting", "working"):
            return found
        assert time.monotonic() < end
        time.sleep(0.1)


def fetched(served: Served, found: dict[str, Any], name: str) -> httpx.Response:
    answer = served.client.get(f"/api/batches/{found['id']}/{found['job']}/{name}")
    assert answer.status_code == 200, answer.text
    return answer


def test_images_are_used_as_the_commands_use_them(served: Served, runs: Path, tmp_path: Path) -> None:
    files = {f"photo {i}.png": image(i, 16) for i in range(3)}
    batch = sent(served, files)
    for name, raw in files.items():
        (tmp_path / name.replace(" ", "_")).write_bytes(raw)
    found = done(served, batch, "vae", "reconstruct")
    assert found["state"] == "done", found
    assert "ectype-ui-" not in found["summary"]
    assert [item["name"] for item in found["items"]] == ["photo_0.png", "photo_1.png", "photo_2.png"]
    ectype.reconstruct(runs / "vae", tmp_path, tmp_path / "out")
    output = fetched(served, found, found["items"][1]["outputs"][0])
    assert output.content == (tmp_path / "out" / "photo_1.png").read_bytes()
    assert output.headers["content-security-policy"].startswith("sandbox")
    names = zipfile.ZipFile(io.BytesIO(fetched(served, found, "results.zip").content)).namelist()
    assert "results/photo_2.png" in names
    assert not any(name.startswith(("inputs", "/", ".")) or ".ectype" in name for name in names)
    assert fetched(served, found, found["items"][0]["input"]).content.startswith(b"\x89PNG")

    found = done(served, batch, "vae", "score")
    rows = list(csv.reader(io.StringIO(fetched(served, found, "scores.csv").text)))
    table = ectype.score(runs / "vae", sorted(tmp_path.glob("*.png")))
    assert [row[0] for row in rows[1:]] == [row["image"] for row in table.rows] == [i["name"] for i in found["items"]]
    found = done(served, batch, "vae", "nearest")
    assert len(found["items"]) == 3
    assert fetched(served, found, "neighbors.csv").headers["content-disposition"].startswith("attachment")
    found = done(served, batch, "vae", "encode")
    codes = np.load(io.BytesIO(fetched(served, found, "codes.npz").content))["code"]
    with Image.open(io.BytesIO(files["photo 0.png"])) as opened:
        pixels = torch.from_numpy(np.asarray(opened).copy())[None, None].float() / 255
    assert torch.allclose(torch.from_numpy(codes[0]), ectype.encode(runs / "vae", pixels)[0], atol=1e-5)
    found = done(served, batch, "unet-denoise", "restore")
    assert found["what"] == "restored images"
    assert len(found["items"]) == 3
    found = done(served, batch, "unet-denoise", "score")
    assert found["state"] == "failed"
    assert "cannot score" in found["error"]


def test_hostile_images_are_named_and_the_others_are_used(served: Served) -> None:
    files = {"good.png": image(), "bomb.png": bomb(), "text.jpg": b"<script>alert(1)</script>", "cut.png": image()[:80]}
    files |= {"empty.png": b"", "zip.png": b"PK\x03\x04" + bytes(100), "small-bomb.png": bomb(6000)}
    found = done(served, sent(served, files), "vae", "reconstruct")
    assert found["state"] == "done", found
    assert [item["name"] for item in found["items"]] == ["good.png"]
    assert "bomb.png" in " ".join(found["skipped"])
    found = done(served, sent(served, {"a.png": bomb()}), "vae", "encode")
    assert found["state"] == "failed"
    assert "pixels" in found["error"]
    found = done(served, sent(served, {"a.png": b"x"}), "vae", "reconstruct")
    assert found["state"] == "failed"
    assert "\n" not in found["error"]


def test_files_that_are_too_large_or_are_no_images_do_not_arrive(served: Served) -> None:
    batch = served.post("/api/batches")["id"]
    send = f"/api/raw/files/{batch}"

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(2**20)

    for content in (bytes(batches.MAX_FILE_BYTES + 1), endless()):
        try:
            answer = served.client.post(send, params={"name": "a.png"}, content=content, headers=RAW)
            assert answer.status_code == 413
            assert "at most 32 MiB" in answer.json()["error"]
        except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
            pass  # the connection is closed while the client still sends
    answer = served.client.post(send, params={"name": "a.exe"}, content=image(), headers=RAW)
    assert answer.status_code == 422
    assert served.client.get(f"/api/batches/{batch}").json()["count"] == 0
    assert (
        served.client.post("/api/raw/files/nothing", params={"name": "a.png"}, content=b"x", headers=RAW).status_code
        == 404
    )


def test_raw_paths_need_bytes_and_others_json(served: Served) -> None:
    for path, kind in [("/api/raw/files/x?name=a.png", "application/json"), ("/api/batches", RAW["content-type"])]:
        answer = served.client.post(path, content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 415
    for path in ("/api/raw/files/x?name=a.png", "/api/raw/explore/vae/describe", "/api/batches"):
        headers = RAW if "raw" in path else {"content-type": "application/json"}
        assert httpx.post(served.origin + path, content=b"{}", headers=headers).status_code == 403  # no Origin
        assert (
            httpx.post(served.origin + path, content=b"{}", headers={**headers, "origin": served.origin}).status_code
            == 401
        )


def test_many_slow_senders_leave_the_page_usable_and_are_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(root / "a")
    with serving(root) as served:
        host, port = served.origin.removeprefix("http://").split(":")
        cookie = "; ".join(f"{name}={value}" for name, value in served.client.cookies.items())
        head = (
            f"POST /api/raw/explore/a/decode HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {served.origin}\r\n"
            f"Cookie: {cookie}\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\nabc"
        )
        slow = []
        for _ in range(100):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(head.encode())
            slow.append(connection)
        start = time.monotonic()
        assert served.client.get("/api/runs").status_code == 200
        assert time.monotonic() - start < 5
        refused = 0
        for connection in slow:
            connection.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                refused += connection.recv(4096).startswith(b"HTTP/1.1 429")
            connection.close()
        assert refused >= 20  # the others wait for a place, and would be ended after a while


def test_a_body_that_does_not_arrive_is_ended(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr(model_routes, "BODY_SECONDS", 0.05)
    browser = Browser(page)

    async def slow() -> int:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        given = {"host": "127.0.0.1:8421", "origin": "http://127.0.0.1:8421", "cookie": browser.cookie, **RAW}
        scope = {"type": "http", "method": "POST", "path": "/api/raw/explore/a/decode", "query_string": b""}
        headers = [(key.encode(), value.encode()) for key, value in given.items()]
        await page.app({**scope, "headers": headers}, receive, send)
        return sent[0]["status"]

    assert asyncio.run(slow()) == 408


def test_a_model_with_links_is_refused(page: Page, root: Path, tmp_path: Path) -> None:
    run = write_run(root / "a")
    run.model.mkdir()
    (tmp_path / "elsewhere").write_text("{}")
    (run.model / "config.json").symlink_to(tmp_path / "elsewhere")
    answer = Browser(page).send("POST", "/api/raw/explore/a/describe", content=pack({}), headers=RAW)
    assert answer.status_code == 404
    assert "has a link" in answer.json()["error"]


def test_the_server_survives_its_process_of_models_and_stays_small(served: Served) -> None:
    import subprocess

    server = served.process.pid
    found = subprocess.run(["pgrep", "-P", str(server)], capture_output=True, text=True).stdout.split()
    assert found
    before = memory(server)
    os.kill(int(found[0]), 9)
    answer = served.client.post("/api/raw/explore/vae/describe", content=pack({}), headers=RAW)
    assert answer.status_code in (200, 503)
    assert ask(served, "vae", "describe")[0]["name"] == "vae"
    for seed in range(30):
        ask(served, "vae", "sample", {"count": 64, "seed": seed})
        ask(served, "vae", "encode", file=np.frombuffer(image(seed, 400), np.uint8))
    assert memory(server) - before < 30 * 2**20


def memory(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
