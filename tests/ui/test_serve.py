"""The command: addresses that it refuses, and a training that is started, watched, stopped and resumed."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ectype.core.errors import RecipeError, RunError
from ectype.runs.run_dir import RunDir
from ectype.ui.serve import TOKEN_VARIABLE, is_loopback, serve
from tests.ui.conftest import write_run
from tests.ui.server import Served, serving

SMALL = ["size=8", "train.batch=16", "monitor.images=32", "monitor.every=1600", "monitor.patience=null"]


@pytest.mark.parametrize(
    "host, local", [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_which_addresses_reach_only_this_machine(host: str, local: bool) -> None:
    assert is_loopback(host) == local


def refused(root: Path, **options: Any) -> str:
    with pytest.raises((RecipeError, RunError)) as error:
        serve(root, say=print, **options)
    return str(error.value)


def test_other_machines_need_a_token_of_the_users_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    message = refused(root, host="0.0.0.0")
    assert "lets other machines look at all runs" in message
    assert "--token" in message
    assert "at least 16" in refused(root, host="0.0.0.0", token="short")
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    assert "at least 16" in refused(root)


def test_a_port_in_use_and_a_wrong_address_are_said(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "--port" in refused(root, port=taken.getsockname()[1])
    assert "--host" in refused(root, host="no.such.host.invalid", token="0123456789abcdef")
    file = root / "file"
    file.write_text("")
    assert "not a folder" in refused(file)


def test_the_missing_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(Exception, match=r"pip install 'ectype\[ui\]'"):
        serve(root, say=print)


def next_event(served: Served, key: str, name: str, accept: Callable[[Any], object]) -> Any:
    """Return the first event of a kind that is accepted."""
    return next(value for event, value in served.events(key) if event == name and accept(value))


@pytest.mark.trains
def test_a_run_is_started_watched_stopped_and_resumed(root: Path) -> None:
    with serving(root) as served:
        asked = {"preset": "vae-fast", "data": "digits", "images": "1M", "overrides": [*SMALL, "train.prior=none"]}
        key = served.post("/api/start", asked)["key"]
        with httpx.Client(base_url=served.origin) as stranger:
            assert stranger.get("/api/runs").status_code == 401

        def began() -> bool:
            return any(row["key"] == key for row in served.client.get("/api/runs").json()["runs"])

        wait_for(began)
        seen: dict[str, list[Any]] = {}
        for name, value in served.events(key):
            seen.setdefault(name, []).append(value)
            live = [each for each in seen.get("metrics", []) if not each["reset"]]
            if live and len(seen.get("pictures", [{}])[-1].get("samples", [])) >= 2:
                break
        assert seen["metrics"][0]["reset"]
        assert any(line["kind"] == "check" for each in seen["metrics"] for line in each["lines"])
        state = seen["state"][-1]
        assert (state["state"], state["own"], state["budget"]) == ("training", True, 1_000_000)
        assert 0 < state["share"] < 1
        assert any("images" in each["text"] for each in seen["log"])
        step = seen["pictures"][-1]["samples"][-1]
        assert served.client.get(f"/api/runs/{key}/pictures/samples/{step}").content.startswith(b"\x89PNG")

        assert served.post(f"/api/runs/{key}/stop")["state"] == "stopping"
        stopped = next_event(served, key, "state", lambda value: value["state"] == "stopped" and not value["own"])
        assert not stopped["error"]
        assert stopped["left"] is None
        assert RunDir(root / key).checkpoints.is_dir()

    with serving(root) as served:  # a server that is started again shows the same
        row = next(row for row in served.client.get("/api/runs").json()["runs"] if row["key"] == key)
        assert (row["state"], row["seen"]) == ("stopped", stopped["seen"])
        served.post(f"/api/runs/{key}/resume")
        on = next_event(served, key, "state", lambda value: value["seen"] > stopped["seen"])
        assert on["state"] == "training"
        log = next_event(served, key, "log", lambda value: "continuing from" in value["text"])
        assert "Error" not in log["text"]
        served.post(f"/api/runs/{key}/stop")
        next_event(served, key, "state", lambda value: value["state"] == "stopped" and not value["own"])


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_streams_are_bounded_and_free_their_place_when_they_are_closed(root: Path) -> None:
    write_run(root / "a")
    with serving(root) as served:
        limit = 64
        with httpx.Client(base_url=served.origin, cookies=served.client.cookies, timeout=60) as client:
            client._transport._pool._max_connections = 200  # pyright: ignore
            open_streams = [client.stream("GET", "/api/runs/a/live") for _ in range(limit)]
            answers = [stream.__enter__() for stream in open_streams]
            assert {answer.status_code for answer in answers} == {200}
            assert client.get("/api/runs/a/live").status_code == 429
            assert client.get("/api/runs").status_code == 200  # other kinds have places of their own
            for stream in open_streams:
                stream.__exit__(None, None, None)

            def free() -> bool:
                with client.stream("GET", "/api/runs/a/live") as answer:
                    return answer.status_code == 200

            wait_for(free)


@pytest.mark.trains
def test_train_with_watch_serves_a_page_on_the_run_while_it_trains(root: Path) -> None:
    import os
    import subprocess

    words = [sys.executable, "-m", "ectype.cli", "train", "ae-linear", "digits", *SMALL[:1], "--images", "2000"]
    process = subprocess.run(
        [*words, "--watch"],
        capture_output=True,
        text=True,
        cwd=root.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=250,
    )
    assert process.returncode == 0, process.stderr
    address = next(line for line in process.stdout.splitlines() if line.startswith("http"))
    assert address.endswith("#/run/ae-linear-001")
    assert (root / "ae-linear-001" / "report.html").is_file()
    stored = RunDir(root / "ae-linear-001").findings_file.read_text()
    assert '"sentence"' in stored
    port = int(address.split(":")[2].split("/")[0])
    with socket.socket() as probe:  # the page has ended with the training, because this is no terminal
        assert probe.connect_ex(("127.0.0.1", port)) != 0
