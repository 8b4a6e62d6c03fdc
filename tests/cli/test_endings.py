"""How commands end: any encoding, an output that cannot be written, and signals at any moment."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ectype import cli
from ectype.cli import shared
from ectype.data.build_entry import EntryBuilder
from ectype.runs.run_dir import RunDir
from ectype.training.session import TrainingSession

pytestmark = pytest.mark.trains

FULL = Path("/dev/full")
TRAIN = ("train", "ae-linear", "digits", "size=8", "latent_dim=4", "run.pictures=0", "--images", "1280")

Command = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run a command with its own standard output; returns the exit code, that output, and standard error."""

    def run(*words: object, encoding: str = "utf-8", out: Path | None = None) -> tuple[int, bytes, str]:
        target = out or tmp_path / "stdout"
        monkeypatch.setattr(sys, "argv", ["ectype", *map(str, words)])
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        for console in (shared.out, shared.err):
            monkeypatch.setattr(console, "_file", None)
        with target.open("w", encoding=encoding) as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            with pytest.raises(SystemExit) as end:
                cli.main()
        assert isinstance(end.value.code, int)
        return end.value.code, b"" if out else target.read_bytes(), sys.stderr.getvalue()

    return run


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import ectype

    place = tmp_path_factory.mktemp("runs") / "run"
    ectype.train("ae-linear", "digits", list(TRAIN[3:-2]), images=1280, out=place, progress=False)
    return place


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp949"])
def test_every_encoding_is_written(command: Command, run_path: Path, tmp_path: Path, encoding: str) -> None:
    photos = tmp_path / "café→猫"
    photos.mkdir()
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)).save(photos / f"½{i}.png")
    for words in (
        ("evaluate", run_path, "--all"),
        ("evaluate", run_path, "--json"),
        ("runs", run_path.parent),
        ("data", photos, "--out", tmp_path / "→.png"),
        ("presets", "vae"),
        ("train", "--help"),
    ):
        code, said, errors = command(*words, encoding=encoding)
        assert code == 0, errors
        assert said.decode(encoding)
    code, _, errors = command("data", tmp_path / "no→thing", encoding=encoding)
    assert code == 3
    assert errors.count("\n") == 1


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
def test_training_is_not_lost_with_its_output(command: Command, tmp_path: Path) -> None:
    code, _, errors = command(*TRAIN, "--out", tmp_path / "run", out=FULL)
    assert code == 1
    assert errors == "error: not all of the output could be written (No space left on device).\n"
    assert RunDir(tmp_path / "run").state() == "finished"
    assert RunDir(tmp_path / "run").report.is_file()
    for words in (("runs", tmp_path), ("presets",), ("presets", "vae", "--plain"), ("--help",), ("--version",)):
        assert command(*words, out=FULL)[::2] == (1, errors)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_images_are_prepared(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("ECTYPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(EntryBuilder, "_write_tables", lambda *_: os.kill(os.getpid(), number))
    for words in (("data", "digits"), (*TRAIN, "--out", tmp_path / "run")):
        code, _, errors = command(*words)
        assert code == 75
        assert errors.startswith("stopped: ")
        assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert {path.suffix for path in (tmp_path / "cache/data").iterdir()} == {".lock"}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_while_a_trained_run_is_measured(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("ectype.analysis.open_view._measure", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        code, _, errors = command(*TRAIN, "--out", tmp_path / "run")
    assert (code, errors) == (75, "stopped: SIGTERM: what was written before is kept; repeat the command.\n")
    assert RunDir(tmp_path / "run").state() == "finished"
    code, _, errors = command(*TRAIN, "--out", tmp_path / "run")
    assert code == 0, errors
    assert RunDir(tmp_path / "run").report.is_file()


def test_a_signal_before_the_first_step_and_while_the_model_is_saved(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method, left in (("monitoring", False), ("_finish", True)):
        with monkeypatch.context() as patched:
            patched.setattr(TrainingSession, method, lambda *_: os.kill(os.getpid(), signal.SIGHUP))
            code, _, errors = command(*TRAIN, "--out", tmp_path / "run")
        assert code == 75
        assert errors.startswith("stopped: SIGHUP")
        assert ("repeat the command with --resume to continue" in errors) == left
        assert (tmp_path / "run").exists() == left
    code, _, errors = command(*TRAIN, "--out", tmp_path / "run")
    assert code == 0, errors
    assert RunDir(tmp_path / "run").state() == "finished"


def test_running_out_of_memory_is_one_line(command: Command, run_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr("ectype.inference.reconstruct.reconstruct", fail)
    code, _, errors = command("reconstruct", run_path, "nothing")
    assert code == 1
    assert errors.startswith("error: out of memory: ")
    assert errors.count("\n") == 1


def test_a_path_that_is_too_long_is_one_line(command: Command) -> None:
    for words in (("data", "x" * 300), ("train", "vae", "x" * 300), ("evaluate", "x" * 300)):
        code, _, errors = command(*words)
        assert code != 0
        assert errors.count("\n") == 1


def test_a_new_place_of_images_is_checked_before_it_is_stored(command: Command, run_path: Path, tmp_path: Path) -> None:
    for name in ("evaluate", "diagnose", "report"):
        code, _, errors = command(name, run_path, "--data", tmp_path / "nothing")
        assert code == 3
        assert errors.startswith("error: no images at")
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8), np.uint8)).save(tmp_path / f"{i}.png")
    code, _, errors = command("evaluate", run_path, "--data", tmp_path)
    assert code == 7
    assert "are not those that" in errors
    assert RunDir(run_path).recipe.data.source == "digits"
    assert command("evaluate", run_path, "--data", "digits")[0] == 0
