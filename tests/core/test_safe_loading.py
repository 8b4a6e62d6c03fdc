"""Malicious model directories: each is refused with one line, quickly, and before memory is allocated for it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ectype.config.recipe import load_recipe
from ectype.config.schema import DataInfo
from ectype.core.errors import CheckpointError
from ectype.models.densities import fit_density
from ectype.runs import checkpoint
from ectype.runs.model_files import load_model, save_model, store_density

INFO = DataInfo(1, (8, 8), ("a", "b"), (0.5, 0.5))
MAX_BYTES = 48 * 2**20
"""Memory that Python may take until a directory is refused: a few copies of the largest description."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shipped") / "model"
    recipe = load_recipe("ae-mlp-3d", {"model.net.hidden": [8]})
    torch.manual_seed(0)
    save_model(place, recipe, INFO, recipe.model.build(INFO).state_dict(), step=1, seen=2)
    store_density(place, "gaussian", fit_density("gaussian", torch.randn(20, 3)))
    return place


def sign(place: Path) -> None:
    """Write a manifest that matches the directory."""
    named = {file.name: file for file in place.iterdir() if file.is_file() and file.name != "manifest.json"}
    digests = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in named.items()}
    (place / "manifest.json").write_text(json.dumps(digests))


def config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        says = json.loads((place / "config.json").read_text())
        change(says)
        (place / "config.json").write_text(json.dumps(says))
        sign(place)

    return spoil


def raw(text: str | bytes) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        (place / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
        sign(place)

    return spoil


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        text = (place / "config.json").read_text()
        assert old in text
        (place / "config.json").write_text(text.replace(old, new, 1))
        sign(place)

    return spoil


def tensors(change: Callable[[dict[str, torch.Tensor]], object], name: str = "model") -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        held = load_file(place / f"{name}.safetensors")
        change(held)
        save_file(held, place / f"{name}.safetensors")
        sign(place)

    return spoil


def head(change: Callable[[dict[str, Any]], object], name: str = "model") -> Callable[[Path], None]:
    """Replace the header of a file, and keep the bytes of its tensors."""

    def spoil(place: Path) -> None:
        file = place / f"{name}.safetensors"
        content = file.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        says = json.loads(content[8 : 8 + length])
        change(says)
        fresh = json.dumps(says).encode()
        file.write_bytes(struct.pack("<Q", len(fresh)) + fresh + content[8 + length :])
        sign(place)

    return spoil


def content(fresh: bytes, name: str = "model.safetensors", hole: int = 0) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        (place / name).write_bytes(fresh)
        if hole:
            os.truncate(place / name, hole)  # takes no room on the disk
        else:
            sign(place)

    return spoil


def packed(header: dict[str, Any], size: int, name: str = "model.safetensors") -> Callable[[Path], None]:
    """Replace a file by one with this header and `size` zero bytes."""

    def spoil(place: Path) -> None:
        raw = json.dumps(header).encode()
        (place / name).write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(size))
        sign(place)

    return spoil


def manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        says = json.loads((place / "manifest.json").read_text())
        change(says)
        (place / "manifest.json").write_text(json.dumps(says))

    return spoil


def linked(name: str, target: str) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        outside = place.parent / "outside"
        outside.mkdir()
        shutil.copy(place / name, outside / name)
        (place / name).unlink()
        (place / name).symlink_to(target.format(outside=outside))

    return spoil


def pipe(name: str) -> Callable[[Path], None]:
    def spoil(place: Path) -> None:
        (place / name).unlink()
        os.mkfifo(place / name)

    return spoil


def twice(place: Path) -> None:
    text = (place / "config.json").read_text()
    (place / "config.json").write_text(text.replace('"format": 1', '"format": 1, "format": 1', 1))
    sign(place)


FIRST = "encoder.1.weight"
"""A tensor of the model; a test below checks that it still has this name."""
HOSTILE: dict[str, Callable[[Path], None]] = {
    # The description.
    "no description": lambda place: (place / "config.json").unlink(),
    "an empty description": raw(""),
    "a list": raw("[1]"),
    "no text": raw(b"\xff\xfe\x00"),
    "a description too large": raw('{"a": "' + "x" * 5 * 2**20 + '"}'),
    "lists in lists": raw('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "mappings a little too deep": raw('{"a": ' * 40 + "1" + "}" * 40),
    "a key twice": twice,
    "not a number": replaced('"seen": 2', '"seen": NaN'),
    "an infinite number": replaced('"seen": 2', '"seen": 1e999'),
    "a number of many digits": replaced('"seen": 2', '"seen": ' + "9" * 100_000),
    "another format": config(lambda says: says.update(format=99)),
    "a format that is a list": config(lambda says: says.update(format=[1])),
    "no format": config(lambda says: says.pop("format")),
    "an unknown kind": config(lambda says: says["model"].update(kind="os.system")),
    "a kind that is a path": config(lambda says: says["model"].update(kind="../evil.py")),
    "an unknown key": config(lambda says: says["model"].update(run="rm -rf /")),
    "no model": config(lambda says: says.update(model=None)),
    "no images": config(lambda says: says.update(info=[])),
    "images without pixels": config(lambda says: says["info"].update(size=[0, 8])),
    "images of many pixels": config(lambda says: says["info"].update(size=[10**9, 10**9])),
    "images of minus one channel": config(lambda says: says["info"].update(channels=-1)),
    "negative frequencies": config(lambda says: says["info"].update(frequencies=[-1.0, 2.0])),
    "frequencies of other classes": config(lambda says: says["info"].update(frequencies=[1.0])),
    # Models that are absurd.
    "a layer of 10¹² numbers": config(lambda says: says["model"]["net"].update(hidden=[10**6, 10**6])),
    "a layer of 10³⁰ numbers": config(lambda says: says["model"]["net"].update(latent_dim=10**30)),
    "half a million layers": config(lambda says: says["model"]["net"].update(hidden=[1] * 500_000)),
    "a billion blocks": config(lambda says: says["model"].update(net={"kind": "conv", "depth": 10**9})),
    "another model": config(lambda says: says["model"]["net"].update(latent_dim=4)),
    # The tensors.
    "no tensors": lambda place: (place / "model.safetensors").unlink(),
    "an empty file": content(b""),
    "a header longer than the file": content(struct.pack("<Q", 2**60) + b"{}"),
    "a header of gigabytes": content(struct.pack("<Q", 2**32) + b"{}", hole=2**33),
    "a header that is no JSON": content(struct.pack("<Q", 8) + b"\x80\x04pickle"),
    "a header with a key twice": content(struct.pack("<Q", 16) + b'{"a": 1, "a": 1}'),
    "tensors that are a pickle": content(b"\x80\x04\x95cposix\nsystem\n."),
    "an unknown type": head(lambda says: says[FIRST].update(dtype="F128")),
    "a type that is a list": head(lambda says: says[FIRST].update(dtype=["F32"])),
    "a shape of absurd size": head(lambda says: says[FIRST].update(shape=[2**40, 2**40])),
    "a negative shape": head(lambda says: says[FIRST].update(shape=[-8, -64])),
    "a shape of truths": head(lambda says: says[FIRST].update(shape=[True, 512])),
    "an 8-bit type": packed({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, 4),
    "a tensor without elements and with huge sides": packed(
        {"a": {"dtype": "F32", "shape": [0, 2**60, 2**60], "data_offsets": [0, 0]}}, 0
    ),
    "a hundred thousand axes": packed({"a": {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]}}, 4),
    "a header of many megabytes": packed(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"b": "c" * 20 * 2**20}}, 4
    ),
    "a shape of many axes": head(lambda says: says[FIRST].update(shape=[1] * 1000)),
    "more bytes than there are": head(lambda says: says[FIRST].update(shape=[2**30], data_offsets=[0, 2**32])),
    "tensors over each other": head(lambda says: [each.update(data_offsets=[0, 4]) for each in says.values()]),
    "bytes that belong to none": lambda place: (
        (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes() + b"\0" * 64),
        sign(place),
    )[1],
    "a tensor of another type": tensors(lambda held: held.update({FIRST: held[FIRST].double()})),
    "a tensor of another shape": tensors(lambda held: held.update({FIRST: held[FIRST].T.contiguous()})),
    "a tensor missing": tensors(lambda held: held.pop(FIRST)),
    "a tensor too many": tensors(lambda held: held.update(more=torch.ones(3))),
    "weights that are not numbers": tensors(lambda held: held[FIRST].fill_(torch.nan)),
    # The manifest, and what is no file.
    "no manifest": lambda place: (place / "manifest.json").unlink(),
    "a manifest that is a pipe": pipe("manifest.json"),
    "a manifest that is a device": linked("manifest.json", "/dev/zero"),
    "a manifest too large": lambda place: (place / "manifest.json").write_text(" " * 3 * 2**20 + "{}") and None,
    "a manifest that is a list": lambda place: (place / "manifest.json").write_text("[]") and None,
    "another digest": manifest(lambda says: says.update({"config.json": "0" * 64})),
    "a digest that is a number": manifest(lambda says: says.update({"config.json": 5})),
    "a name that climbs out": manifest(lambda says: says.update({"../../secret": "0" * 64})),
    "a name from the root": manifest(lambda says: says.update({"/etc/passwd": "0" * 64})),
    "a name with a nought": manifest(lambda says: says.update({"a\0b": "0" * 64})),
    "a description behind a link": linked("config.json", "{outside}/config.json"),
    "tensors behind a link": linked("model.safetensors", "{outside}/model.safetensors"),
    "a density behind a link": linked("density-gaussian.safetensors", "{outside}/density-gaussian.safetensors"),
    "a link to itself": linked("model.safetensors", "model.safetensors"),
    "a link to a device": linked("config.json", "/dev/zero"),
    "a description that is a pipe": pipe("config.json"),
    "tensors that are a pipe": pipe("model.safetensors"),
    # Densities.
    "a density of an unknown name": lambda place: (
        (place / "density-gaussian.safetensors").rename(place / "density-evil.safetensors") and None
    ),
    "a density on other codes": tensors(lambda held: held.update(means=torch.ones(1, 4)), "density-gaussian"),
    "a density without means": tensors(lambda held: held.pop("means"), "density-gaussian"),
    "a density of absurd rank": head(lambda says: says["factors"].update(shape=[1, 3, 2**40]), "density-gaussian"),
    "a density of a flat factor": tensors(lambda held: held.update(factors=torch.ones(3)), "density-gaussian"),
    "a density of doubles": tensors(lambda held: held.update(means=held["means"].double()), "density-gaussian"),
    "negative weights": tensors(lambda held: held.update(weights=-held["weights"]), "density-gaussian"),
    "a density that is no number": tensors(lambda held: held["means"].fill_(torch.inf), "density-gaussian"),
}


def test_what_is_spoiled_below_is_whole_before(good: Path) -> None:
    model = load_model(good)
    assert FIRST in model.state_dict()
    assert len(HOSTILE) >= 25


@pytest.mark.skipif(os.name == "nt", reason="needs pipes and links")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_directory_is_refused(good: Path, tmp_path: Path, name: str) -> None:
    place = tmp_path / "model"
    shutil.copytree(good, place)
    HOSTILE[name](place)
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            load_model(place)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert peak < MAX_BYTES, f"{peak:,} bytes"
    # Tracing and shape checks make Python many times slower; without them, the slowest case takes under a second.
    assert time.process_time() - began < 15


def test_an_absurd_model_is_refused_before_torch_takes_memory(good: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(good, place)
    HOSTILE["a layer of 10¹² numbers"](place)
    with (
        torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        pytest.raises(CheckpointError, match=r"hidden\.0: Input should be less than or equal to"),
    ):
        load_model(place)
    assert sum(max(0, event.self_cpu_memory_usage) for event in profile.events() or []) < 2**20


def test_a_checkpoint_that_training_goes_on_from_is_read_with_the_same_care(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "step-1", {"objective": {"w": torch.ones(3)}}, {"seen": 1})
    file = tmp_path / "step-1" / "objective.safetensors"
    assert torch.equal(checkpoint.load_tensors(file)["w"], torch.ones(3))
    file.write_bytes(struct.pack("<Q", 2**40) + file.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="header of 1,099,511,627,776 bytes"):
        checkpoint.load_tensors(file)


def test_links_of_the_hubs_cache_are_followed_to_its_blobs_only(good: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--thing"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in good.iterdir():
        shutil.copy(file, blobs / f"blob-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.name}")
    same = load_model(snapshot).state_dict()
    for key, value in load_model(good).state_dict().items():
        assert torch.equal(value, same[key])
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(good / "config.json")
    with pytest.raises(CheckpointError, match="link to outside"):
        load_model(snapshot)
