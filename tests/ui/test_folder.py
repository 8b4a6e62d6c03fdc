"""What is read of a runs folder: nothing outside of it, nothing that blocks, and no hostile run breaks the list."""

from __future__ import annotations

import json
import os
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image

from ectype.runs.run_dir import RunDir
from ectype.ui.folder import key_of
from tests.ui.conftest import Browser, write_picture, write_run

HOSTILE_NAMES = ["<img src=x onerror=alert(1)>", "a\x1b[31mb", "a\nb", "‮gnp", "x" * 200, "%2e%2e", "a b", "..a", "~x"]


def test_names_are_data_whatever_they_contain(browser: Browser, root: Path) -> None:
    names = [*HOSTILE_NAMES, os.fsdecode(b"caf\xe9")]
    for name in names:
        write_run(root / name)
    answer = browser.get("/api/runs")
    assert answer.headers["content-type"] == "application/json"
    rows = answer.json()["runs"]
    assert len(rows) == len(names) - 1  # `..a` begins with a dot: it is hidden
    assert {row["state"] for row in rows} == {"stopped"}
    for row in rows:
        assert row["name"].isprintable()
        assert browser.get(f"/api/runs/{row['key']}/pictures/samples/2").status_code == 200


@pytest.mark.parametrize(
    "key",
    [
        "..",
        "../secret",
        "%2e%2e",
        "..%2f..%2fetc",
        "%2e%2e%2fsecret",
        ".",
        ".ectype-ui",
        "a/../../secret",
        "a%00",
        "~",
        "b",
    ],
)
def test_a_path_is_never_made_from_a_request(browser: Browser, root: Path, key: str) -> None:
    write_run(root / "a")
    secret = write_run(root.parent / "secret")
    secret.report.write_text("secret")
    for rest in ("report", "pictures/samples/1", "live"):
        answer = browser.get(f"/api/runs/{key}/{rest}") if rest != "live" else browser.post(f"/api/runs/{key}/resume")
        assert answer.status_code in (404, 405), (key, rest)
        assert "secret" not in answer.text.replace(key, "")


@pytest.mark.parametrize("name", ["../page.css", "..%2fapp.py", "%2e%2e/app.py", "uPlot.LICENSE", "__init__.py"])
def test_only_the_files_of_the_page_are_served(browser: Browser, name: str) -> None:
    assert browser.get(f"/static/{name}").status_code == 404


def test_links_are_refused(browser: Browser, root: Path) -> None:
    outside = write_run(root.parent / "outside")
    outside.report.write_text("secret")
    (root / "link").symlink_to(outside.path)
    for name in ("report.html", "samples", "metrics.jsonl", "recipe.yaml", "model", ".lock"):
        run = write_run(root / f"has-{name.strip('.')}")
        place = run.path / name
        if place.is_dir():
            place.rename(run.path / "moved")
        else:
            place.unlink(missing_ok=True)
        place.symlink_to(outside.path / name)
    single = write_run(root / "picture")
    single.samples.joinpath("samples-00000001.png").unlink()
    single.samples.joinpath("samples-00000001.png").symlink_to(outside.samples / "samples-00000001.png")
    rows = browser.rows()
    assert "link" in rows["link"]["refused"]
    assert all("is a link" in row["refused"] for name, row in rows.items() if name.startswith("has-"))
    for key in rows:
        for rest in ("report", "pictures/samples/1"):
            assert browser.get(f"/api/runs/{key}/{rest}").status_code == 404, key
    assert browser.get("/api/runs/picture/pictures/samples/2").status_code == 200


def test_damaged_runs_are_named_and_the_others_are_listed(browser: Browser, root: Path) -> None:
    write_run(root / "whole")
    torn = write_run(root / "torn", summary={"state": "finished", "seen": 5})
    torn.metrics_file.write_bytes(torn.metrics_file.read_bytes()[:-30] + b"\xff\x00")
    torn.summary_file.write_text('{"state": "fin')
    wrong = write_run(root / "wrong")
    wrong.recipe_file.write_text("a: &a [1]\nb: *a\n")
    wrong.evaluation_file.write_text('{"evaluation": {"figures": [{"key": 3}]}}')
    wrong.findings_file.write_text('{"findings": [{"evidence": 3, "advice": [{"overrides": [1]}]}, 4]}')
    deep = write_run(root / "deep")
    deep.evaluation_file.write_text("[" * 100_000)
    fifo = write_run(root / "fifo")
    fifo.summary_file.unlink(missing_ok=True)
    os.mkfifo(fifo.summary_file)
    giant = write_run(root / "giant")
    with giant.metrics_file.open("r+b") as file:
        file.truncate(2**40)
    endless = write_run(root / "endless")
    endless.recipe_file.unlink()
    os.mkfifo(endless.recipe_file)
    directory = write_run(root / "directory")
    directory.metrics_file.unlink()
    directory.metrics_file.mkdir()
    (root / "no-run").mkdir()
    (root / "file").write_text("")

    started = time.monotonic()
    rows = browser.rows()
    assert time.monotonic() - started < 5
    assert set(rows) == {"whole", "torn", "wrong", "deep", "fifo", "giant", "endless", "directory"}
    assert rows["whole"]["state"] == "stopped"
    assert not rows["whole"]["problems"]
    assert rows["torn"]["seen"] == 500  # all but the line that was cut off
    assert any("summary.json" in problem for problem in rows["torn"]["problems"])
    assert any("recipe.yaml" in problem for problem in rows["wrong"]["problems"])
    assert any("evaluation.json" in problem for problem in rows["wrong"]["problems"])
    assert any("evaluation.json" in problem for problem in rows["deep"]["problems"])
    for name in ("fifo", "giant", "endless", "directory"):
        assert rows[name]["state"] == "refused", name
        assert rows[name]["refused"], name
        assert browser.get(f"/api/runs/{name}/pictures/samples/1").status_code == 404


def test_metrics_that_are_not_finite_are_null(browser: Browser, root: Path) -> None:
    run = write_run(root / "nan")
    line = '{"kind": "check", "seen": 600, "step": 3, "sse": NaN, "best": false}\n'
    with run.metrics_file.open("a") as file:
        file.write(line)
    assert "NaN" not in browser.get("/api/runs").text


def test_pictures_are_checked_before_they_are_sent_or_decoded(browser: Browser, root: Path) -> None:
    run = write_run(root / "a")
    (run.samples / "samples-00000003.png").write_text("<script>alert(1)</script>")
    (run.samples / "samples-00000004.png").write_bytes(_bomb())
    os.mkfifo(run.samples / "samples-00000005.png")
    (run.samples / "samples-00000006.png").write_bytes((run.samples / "samples-00000001.png").read_bytes()[:60])
    base = "/api/runs/a/pictures/samples"
    good = browser.get(f"{base}/1")
    assert (good.status_code, good.headers["content-type"]) == (200, "image/png")
    assert browser.get(f"{base}/1?small=true").content != good.content or good.content
    for step in (3, 5, 7, -1, 10**30):
        assert browser.get(f"{base}/{step}").status_code in (404, 422), step
    for step in (3, 4, 5, 6):
        assert browser.get(f"{base}/{step}?small=true").status_code == 404, step
    assert browser.get("/api/runs/a/pictures/..%2fmodel/1").status_code == 404


def _bomb() -> bytes:
    """A PNG that claims 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    side = (60_000).to_bytes(4, "big")
    head = chunk(b"IHDR", side + side + bytes([8, 0, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def test_thumbnails_are_small_and_show_single_images(browser: Browser, root: Path, tmp_path: Path) -> None:
    run = write_run(root / "a")
    write_picture(run.samples / "samples-00000009.png", side=1600)
    file = tmp_path / "small.png"
    file.write_bytes(browser.get("/api/runs/a/pictures/samples/9?small=true").content)
    with Image.open(file) as image:
        assert image.size == (192, 192)
    assert browser.rows()["a"]["thumbnail"] == {"kind": "samples", "step": 9}


def test_nothing_is_written_by_looking(browser: Browser, root: Path) -> None:
    run = write_run(root / "a")
    (run.path / ".lock").touch()

    def state() -> dict[str, tuple[int, bytes]]:
        files = [path for path in root.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    browser.rows()
    for rest in ("report", "pictures/samples/1", "pictures/samples/1?small=true"):
        browser.get(f"/api/runs/a/{rest}")
    assert state() == before


def test_the_list_of_a_hundred_runs_is_fast_and_is_not_sent_twice(browser: Browser, root: Path) -> None:
    for i in range(100):
        write_run(root / f"run-{i:03d}", checks=20, summary={"state": "finished", "seen": 500} if i % 2 else None)
    started = time.perf_counter()
    first = browser.get("/api/runs")
    cold = time.perf_counter() - started
    assert len(first.json()["runs"]) == 100
    again = browser.get("/api/runs", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert cold < 5  # 0.3 s on an idle machine


def test_keys_tell_runs_apart() -> None:
    names = ["vae-001", "vae 001", "<vae-001>", "", "~", os.fsdecode(b"\xe9"), os.fsdecode(b"\xe8")]
    assert len({key_of(name) for name in names}) == len(names)
    assert key_of("vae-001") == "vae-001"


def test_a_stored_finding_is_shown_with_its_override(browser: Browser, root: Path) -> None:
    run = write_run(root / "a")
    finding = {
        "name": "blur",
        "severity": "serious",
        "sign": "images <b>are</b> blurred",
        "evidence": [{"name": "sharpness", "value": 0.5, "beside": "real 1.0"}],
        "advice": [{"title": "more", "why": "because", "overrides": {"optimizer.betas": [0.0, 0.9]}}],
    }
    run.findings_file.write_text(json.dumps({"sentence": "It is blurred.", "findings": [finding]}))
    details = browser.page.states.details(browser.page.folder.find("a"))
    assert details["sentence"] == "It is blurred."
    (shown,) = details["findings"]
    assert shown["message"] == "images <b>are</b> blurred"  # the page sets texts, never HTML
    assert shown["evidence"] == ["sharpness 0.500 (real 1.0)"]
    assert shown["advice"][0]["override"] == "'optimizer.betas=[0.0, 0.9]'"


def test_progress_comes_from_the_newest_checkpoint_and_the_lock(browser: Browser, root: Path) -> None:
    run = write_run(root / "a", images=1000, seen=500)
    assert browser.rows()["a"]["share"] == 0.5
    place = run.checkpoint(5)
    place.mkdir(parents=True)
    (place / "state.json").write_text(json.dumps({"seen": 0, "step": 0, "choices": {"budget": 2000}}))
    with run.locked():
        row = browser.rows()["a"]
        assert (row["state"], row["share"], row["left"]) == ("training", 0.25, 15.0)
    row = browser.rows()["a"]
    assert (row["state"], row["left"]) == ("stopped", None)
    assert RunDir(run.path).is_locked() is False


def test_a_run_that_trains_its_prior_or_another_attempt_is_not_yet_finished(browser: Browser, root: Path) -> None:
    run = write_run(root / "a", summary={"state": "finished", "seen": 500})
    with run.locked():
        assert browser.rows()["a"]["state"] == "finishing"
        run.report.write_text("")
        assert browser.rows()["a"]["state"] == "finished"
    run.report.unlink()
    assert browser.rows()["a"]["state"] == "finished"
