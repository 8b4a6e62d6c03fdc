from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ectype.core.errors import CheckpointError, TrainingError
from ectype.runs import checkpoint


def write(directory: Path, step: int, value: float = 1.0, seen: int | None = None) -> Path:
    place = directory / f"step-{step:08d}"
    state = {"seen": step * 10 if seen is None else seen, "step": step}
    checkpoint.save(place, {"objective": {"w": torch.full((3,), value)}}, state)
    return place


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    shared = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    tensors = {"a": {"x": shared, "tied": shared, "half": torch.ones(2).bfloat16()}, "b": {"n": torch.tensor(3)}}
    checkpoint.save(tmp_path / "step-1", tensors, {"seen": 5, "best": float("inf")})
    found = {file.stem: load_file(file) for file in (tmp_path / "step-1").glob("*.safetensors")}
    for name, group in tensors.items():
        for key, value in group.items():
            assert torch.equal(found[name][key], value)
            assert found[name][key].dtype == value.dtype
    assert checkpoint.load_state(tmp_path / "step-1") == {"seen": 5, "best": float("inf")}
    assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob("*.pt")) + list(tmp_path.glob("*.tmp"))


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


def test_a_half_written_checkpoint_is_not_one(tmp_path: Path) -> None:
    good = write(tmp_path, 1)
    write(tmp_path, 2).rename(tmp_path / "step-00000002.tmp")
    assert checkpoint.latest(tmp_path) == good
    assert checkpoint.checkpoint_dirs(tmp_path) == [good]
    write(tmp_path, 2)  # the leftover is no obstacle


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
    (place / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load_state(place)
    (place / "objective.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        checkpoint.load_tensors(place / "objective.safetensors")


def test_the_manifest_covers_every_file(tmp_path: Path) -> None:
    place = write(tmp_path, 1)
    manifest = json.loads((place / "manifest.json").read_text())
    assert set(manifest) == {path.name for path in place.iterdir()} - {"manifest.json"}


def test_a_file_that_is_added_is_in_the_manifest_and_the_directory_is_always_valid(tmp_path: Path) -> None:
    place = write(tmp_path, 1)
    for content in (b"one", b"two"):
        with checkpoint.replaced_file(place, "more.bin"):
            assert checkpoint.verify(place)  # stopped before the file is replaced
            (place / "more.bin").write_bytes(content)
            assert checkpoint.verify(place)  # or after it
        assert "more.bin" in checkpoint.load_json(place / checkpoint.MANIFEST)
        assert checkpoint.verify(place)
    (place / "more.bin").write_bytes(b"twp")
    assert not checkpoint.verify(place)
