"""Trainings from the page: the checks of the command, one at a time, a bounded queue, stopped and resumed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ectype.config.recipe import load_recipe
from ectype.core.errors import RunError
from ectype.ui.app import Page
from ectype.ui.folder import RunsFolder
from ectype.ui.trainings import MAX_WAITING, TOKEN_VARIABLE, Trainings
from tests.ui.conftest import PORT, TOKEN, Browser, write_run

SLEEP = [sys.executable, "-c", "import sys, time; print(*sys.argv[1:], flush=True); time.sleep(60)"]
FAIL = [sys.executable, "-c", "print('working'); print('error: no \\x1b[31mimages'); raise SystemExit(3)"]
PRINT_TOKEN = [sys.executable, "-c", f"import os; print('token', os.environ.get('{TOKEN_VARIABLE}'))"]


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_checks_and_hints_are_those_of_the_command(browser: Browser, root: Path) -> None:
    for asked, hint in (
        ({"preset": "vea", "data": "digits"}, "did you mean 'vae'"),
        ({"preset": "../vae.yaml", "data": "digits"}, "no preset"),
        ({"preset": "vae", "data": "digits", "overrides": ["latnt_dim=3"]}, "latent_dim"),
        ({"preset": "vae", "data": "digits", "overrides": ["--fix"]}, "key=value"),
        ({"preset": "vae", "data": "digits", "minutes": 1, "overrides": ["minutes=2"]}, "leave one out"),
        ({"preset": "vae", "data": "/nowhere/at/all"}, "no images at"),
        ({"preset": "vae", "data": "digits", "minutes": -1}, "minutes"),
        ({"preset": "vae", "data": "digits", "command": "rm"}, "command"),
        ({"preset": "vae"}, "data"),
    ):
        answer = browser.post("/api/start", asked)
        assert answer.status_code == 422, asked
        assert hint in answer.json()["error"], answer.text
    assert list(root.iterdir()) == []


def test_words_are_a_list_and_nothing_after_the_dashes_is_an_option(root: Path) -> None:
    trainings = Trainings(RunsFolder(root), SLEEP)
    try:
        started = trainings.start("vae-fast", "digits", ["size=8"], minutes=0.5)
        assert started.run.parent == root.resolve()
        until(lambda: trainings.log(started.key))
        assert started.arguments[:3] == ["train", f"--out={started.run}", "--minutes=0.5"]
        assert started.arguments[3:] == ["--", "vae-fast", "digits", "size=8"]
        assert trainings.log(started.key).split() == started.arguments
    finally:
        trainings.stop(started.key)
        until(lambda: started.state == "ended")
        trainings.close()
    assert not started.run.exists()  # nothing was written into it


def test_one_trains_the_others_wait_and_the_queue_has_a_bound(root: Path) -> None:
    page = Page(root, token=TOKEN, port=PORT, trainings=Trainings(RunsFolder(root), SLEEP))
    browser, asked = Browser(page), {"preset": "ae-linear", "data": "digits", "images": "1k"}
    first = browser.post("/api/start", asked).json()["key"]
    until(lambda: page.trainings.of(first).state == "training")  # pyright: ignore[reportOptionalMemberAccess]
    waiting = [browser.post("/api/start", asked).json()["key"] for _ in range(MAX_WAITING)]
    full = browser.post("/api/start", asked)
    assert (full.status_code, full.headers["retry-after"]) == (429, "2")
    assert "waiting" in full.json()["error"]
    queue = {item["key"]: item["state"] for item in browser.get("/api/runs").json()["queue"]}
    assert queue == {first: "training", **dict.fromkeys(waiting, "waiting")}
    assert browser.post(f"/api/runs/{waiting[0]}/stop").json()["state"] == "ended"
    assert not (root / waiting[0]).exists()
    assert browser.post(f"/api/runs/{first}/stop").status_code == 200
    until(lambda: page.trainings.of(waiting[1]).state == "training")  # pyright: ignore[reportOptionalMemberAccess]
    left = page.trainings.close()
    assert [training.key for training in left] == [waiting[1]]  # it goes on; what waited is dropped
    assert sorted(path.name for path in root.iterdir() if not path.name.startswith(".")) == [waiting[1]]
    assert left[0].pid is not None
    os.kill(left[0].pid, 15)
    assert browser.post("/api/runs/unknown/stop").status_code == 404


def test_the_reason_of_a_failed_start_is_shown(root: Path) -> None:
    page = Page(root, token=TOKEN, port=PORT, trainings=Trainings(RunsFolder(root), FAIL))
    browser = Browser(page)
    key = browser.post("/api/start", {"preset": "ae-linear", "data": "digits"}).json()["key"]
    until(lambda: page.trainings.of(key).state == "ended")  # pyright: ignore[reportOptionalMemberAccess]
    (item,) = browser.get("/api/runs").json()["queue"]
    assert item == {"key": key, "name": key, "state": "ended", "error": "error: no \\x1b[31mimages"}
    page.trainings.close()


def test_a_training_does_not_inherit_the_token(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    trainings = Trainings(RunsFolder(root), PRINT_TOKEN)
    started = trainings.start("ae-linear", "digits")
    until(lambda: started.state == "ended")
    assert trainings.log(started.key) == "token None\n"
    trainings.close()


def test_a_server_that_is_started_again_finds_and_stops_its_training(root: Path) -> None:
    before = Trainings(RunsFolder(root), SLEEP)
    started = before.start("ae-linear", "digits")
    until(lambda: started.state == "training")
    assert [each.key for each in before.close()] == [started.key]
    after = Trainings(RunsFolder(root), SLEEP)
    (adopted,) = after.all()
    assert (adopted.key, adopted.state, adopted.pid) == (started.key, "training", started.pid)
    after.stop(adopted.key)
    until(lambda: started.state == "ended")  # the process has ended: the first one waits for it
    until(lambda: adopted.state == "ended")
    after.close()


def test_a_record_of_another_process_is_never_signalled(root: Path) -> None:
    work = root / ".ectype-ui"
    work.mkdir()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        record = {"run": "a", "pid": other.pid, "started": "1", "arguments": ["train"]}
        work.joinpath("a.json").write_text(json.dumps(record))
        work.joinpath("b.json").write_text(json.dumps({**record, "run": "../b", "pid": 1}))
        work.joinpath("c.json").write_text("{")
        os.mkfifo(work / "d.json")
        trainings = Trainings(RunsFolder(root))
        assert trainings.all() == []
        with pytest.raises(RunError, match="was not started from this page"):
            trainings.stop("a")
        assert other.poll() is None
        other.kill()
        trainings.close()


def test_the_log_is_never_written_through_a_link(root: Path) -> None:
    target = root.parent / "target"
    target.mkdir()
    (root / ".ectype-ui").symlink_to(target)
    trainings = Trainings(RunsFolder(root), SLEEP)
    started = trainings.start("ae-linear", "digits")
    until(lambda: started.state == "ended")
    assert "cannot be started" in started.error
    assert list(target.iterdir()) == []
    trainings.close()


def test_a_run_is_resumed_only_if_something_is_left_and_nobody_trains_it(browser: Browser, root: Path) -> None:
    run = write_run(root / "a")
    run.recipe_file.write_text(load_recipe("ae-linear", ["source=digits"]).yaml())
    with run.locked():
        assert "is being trained" in browser.post("/api/runs/a/resume").json()["error"]
    run.write_summary({"state": "finished", "seen": 500})
    run.report.write_text("")
    assert "nothing is left to train" in browser.post("/api/runs/a/resume").json()["error"]
    run.report.unlink()  # it was interrupted while it was measured
    resumed = browser.post("/api/runs/a/resume")
    assert resumed.status_code == 200
    until(lambda: browser.page.trainings.all()[0].state == "ended")
    words = ["train", f"--out={root.resolve() / 'a'}", "--", str(root.resolve() / "a" / "recipe.yaml"), "digits"]
    assert browser.page.trainings.all()[0].arguments == words
    assert run.recipe_file.is_file()
