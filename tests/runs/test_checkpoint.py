from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ectype.core.errors import CheckpointError, TrainingError
from ectype.runs import checkpoint
from tests.crash import each_crash


def write(directory: Path, step: int, value: float = 1.0, seen: int | None = None) -> Path:
    place = directory / f"step-{step:08d}"
    state = {"seen": step * 10 if seen is None else seen, "step": step}
    checkpoint.save(place, {"objective": {"w": torch.full((3,), value)}}, state)
    return place


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    shared = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    tensors = {"a": {"x": shared, "tied": shared, "half": torch.ones(2).bfloat16()}, "b": {"n": torch.tensor(3)}}
    checkpoint.save(tmp_path / "step-1", tensors, {"seen": 5, "step": 1, "best": float("inf")})
    found = {file.stem: load_file(file) for file in (tmp_path / "step-1").glob("*.safetensors")}
    for name, group in tensors.items():
        for key, value in group.items():
            assert torch.equal(found[name][key], value)
            assert found[name][key].dtype == value.dtype
    assert checkpoint.load_state(tmp_path / "step-1") == {"seen": 5, "step": 1, "best": float("inf")}
    assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob("*.pt")) + list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["flip a bit", "cut", "remove a file", "remove the manifest", "empty manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    good, bad = write(tmp_path, 1), write(tmp_path, 2)
    file = bad / "objective.safetensors"
    if damage == "flip a bit":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "remove a file":
        file.unlink()
    elif damage == "remove the manifest":
        (bad / "manifest.json").unlink()
    else:
        (bad / "manifest.json").write_text("")
    assert checkpoint.latest(tmp_path) == good


def test_a_step_that_is_saved_already_is_not_saved_again(tmp_path: Path) -> None:
    place = write(tmp_path, 1)
    before = {path.name: path.stat().st_ino for path in place.iterdir()}
    write(tmp_path, 1, value=2.0)
    assert {path.name: path.stat().st_ino for path in place.iterdir()} == before
    (place / "state.json").write_text("{")
    write(tmp_path, 1, value=2.0)  # what was damaged is replaced
    assert load_file(place / "objective.safetensors")["w"][0] == 2
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_a_crash_at_any_call_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """Also where only one is kept, the same step is saved again, and a damaged one is in the way."""

    def save() -> None:
        write(tmp_path, 2, value=2.0)
        checkpoint.prune(tmp_path, last=1, kept=[], every=None)
        write(tmp_path, 2, value=2.0)

    def begin() -> None:
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        write(tmp_path, 1, value=1.0)
        write(tmp_path, 2, value=3.0)
        (tmp_path / "step-00000002" / "state.json").write_text("cut o")

    found = set()
    for _ in each_crash(save, before=begin):
        place = checkpoint.latest(tmp_path)
        assert place is not None
        value = float(place.name[-1])
        assert load_file(place / "objective.safetensors")["w"].tolist() == [value] * 3
        assert checkpoint.load_state(place)["step"] == value
        found.add(value)
    assert found == {1.0, 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_what_is_kept_is_whole(tmp_path: Path) -> None:
    """A damaged checkpoint does not count as one of the newest: else the last whole one would be removed."""
    whole, damaged = write(tmp_path, 1), write(tmp_path, 2)
    (damaged / "objective.safetensors").write_bytes(b"cut")
    checkpoint.prune(tmp_path, last=1, kept=[], every=None)
    assert checkpoint.latest(tmp_path) == whole


def test_no_room_is_one_line_and_the_last_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = write(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*free some space"):
        write(tmp_path, 2)
    assert checkpoint.latest(tmp_path) == good
    assert [path.name for path in tmp_path.iterdir()] == [good.name]


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on file size")
def test_no_room_is_noticed_by_the_real_writer(tmp_path: Path) -> None:
    """Safetensors reports a failed write with an error of its own, which has to become the same message."""
    code = f"""
import resource, signal, torch
from pathlib import Path
from ectype.runs import checkpoint
from tests.crash import each_crash
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
checkpoint.save(Path({str(tmp_path)!r}) / "step-1", {{"a": {{"w": torch.zeros(1 << 16)}}}}, {{}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "TrainingError: cannot save" in done.stderr, done.stderr
    assert "free some space" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "policy, kept",
    [
        ({"last": 1, "kept": [], "every": None}, [9]),
        ({"last": 2, "kept": [3], "every": None}, [3, 8, 9]),
        ({"last": 1, "kept": [], "every": 40}, [4, 8, 9]),
        ({"last": 20, "kept": [], "every": None}, list(range(10))),
    ],
)
def test_the_keep_policy(tmp_path: Path, policy: dict, kept: list[int]) -> None:
    for step in range(10):
        write(tmp_path, step)
    checkpoint.prune(tmp_path, **policy)
    assert [checkpoint.step_of(path) for path in checkpoint.checkpoint_dirs(tmp_path)] == kept


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing or damaged"):
        checkpoint.load_tensors(tmp_path / "none.safetensors")
    place = write(tmp_path, 1)
    for text in ("{", "[1, 2]", "7", "[" * 100_000, "\udcff"):
        (place / "state.json").write_text(text, errors="surrogateescape")
        with pytest.raises(CheckpointError, match="cannot be read"):
            checkpoint.load_state(place)
    (place / "state.json").write_text('{"seen": "5", "step": 1}')
    with pytest.raises(CheckpointError, match="how many images"):
        checkpoint.load_state(place)
    (place / "objective.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        checkpoint.load_tensors(place / "objective.safetensors")


def test_the_manifest_covers_every_file(tmp_path: Path) -> None:
    place = write(tmp_path, 1)
    manifest = json.loads((place / "manifest.json").read_text())
    assert set(manifest) == {path.name for path in place.iterdir()} - {"manifest.json"}
