"""The directory of a run's model.

It contains `config.json` (what the model is), `model.safetensors` (its weights), `density-*.safetensors` (densities
that were fitted to its codes), and a manifest of hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ectype.config.recipe import Recipe
from ectype.config.schema import DataInfo, ModelConfig, Target
from ectype.core.errors import CheckpointError, ModelError, TrainingError
from ectype.core.files import atomic_file
from ectype.core.safe_loading import (
    bounded_build,
    check_tensors_match,
    meta_tensors,
    path_inside,
    read_header,
    read_json,
    tensor_specs,
)
from ectype.models.base import Model
from ectype.models.densities import Density, empty_density
from ectype.models.flow_density import FlowDensity
from ectype.nets.registered import ModuleNotRegistered
from ectype.runs.checkpoint import load_tensors, verified_directory, verify

__all__ = ["FLOW", "CodeSampler", "default_density", "load_model", "save_model", "store_density"]

FORMAT = 1
"""Version of the files."""
HASH_KEY = "sha256"
"""Key of the hash of a density's tensors in the metadata of its file."""
FLOW = "flow"
"""Name of the density that is a flow."""
MAX_CHANNELS = 64
MAX_SIDE_PX = 2**16


@runtime_checkable
class CodeSampler(Protocol):
    """A model that samples by drawing codes from a density and decoding them."""

    densities: dict[str, Density]
    density: str
    """Name of the density that codes are drawn from by default."""
    prior: str | None
    """Name of the density that the codes were trained towards; None if a density has to be fitted first."""

    def continuous_code(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, " b *code"]:
        """Return the codes of images that densities are fitted to."""
        ...


def save_model(
    place: Path, recipe: Recipe, info: DataInfo, weights: dict[str, Tensor], *, step: int, seen: int
) -> None:
    """Write the directory of a model atomically.

    Args:
        place: The directory; an existing one is replaced.
        recipe: What the model was trained with.
        info: The images that it was trained on.
        weights: Its state dict.
        step: Number of updates that gave the weights.
        seen: Number of images shown until then.

    Raises:
        TrainingError: The disk is full, or the directory cannot be written.
    """
    config = {
        "format": FORMAT,
        "preset": recipe.about.name,
        "model": recipe.model.without_local_paths().model_dump(mode="json", serialize_as_any=True),
        "info": info._asdict() | {"target": None if info.target is None else info.target._asdict()},
        "step": step,
        "seen": seen,
    }
    with verified_directory(place) as scratch:
        copies = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in weights.items()}
        save_file(copies, scratch / "model.safetensors")
        (scratch / "config.json").write_text(json.dumps(config, indent=1))


def store_density(place: Path, name: str, density: Density) -> None:
    """Add a fitted density to the directory of a model. The manifest stays as it is: the file holds its own hash.

    Raises:
        TrainingError: The disk is full, or the directory cannot be written.
    """
    target = place / f"density-{name}.safetensors"
    tensors = {key: value.cpu().contiguous() for key, value in density.state_dict().items()}
    try:
        with atomic_file(target) as scratch:
            save_file(tensors, scratch, metadata={HASH_KEY: _hash(tensors), **density.description()})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"cannot save '{target}' ({reason}): free some space.") from None


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(repr((name, value.dtype, tuple(value.shape))).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_model(place: Path, device: torch.device | None = None) -> Model:
    """Return the model in a directory, in evaluation mode, with its densities.

    The directory may come from anyone. No code is loaded from it: a kind of model that this installation does not know
    is refused. Its files are checked against each other before memory is allocated; see `ectype.core.safe_loading`.

    Args:
        place: The directory.
        device: Where the model is moved; the CPU by default.

    Raises:
        CheckpointError: Files are missing, damaged, or of another model.
    """
    description = read_json(path_inside(place, "config.json"))
    try:
        if description["format"] != FORMAT:
            raise CheckpointError(
                f"'{place}' has format {description['format']!r}, this version reads format {FORMAT}: update ectype."
            )
        info = _parse_info(description["info"])
        config = ModelConfig.model_validate(description["model"])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"model{''.join(f'.{part}' for part in first['loc'])}: {first['msg']}"
        raise CheckpointError(f"'{place}' does not contain a readable model ({_short(reason)}).") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = _short(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"'{place}' does not contain a readable model ({reason}).") from None
    file = path_inside(place, "model.safetensors")
    check_tensors_match(file, read_header(file), tensor_specs(_build_on_meta(place, config, info)))
    if not verify(place):
        raise CheckpointError(
            f"'{place}' is damaged: a file does not match its manifest; `ectype keep` writes it again."
        )
    model = config.build(info)
    assert isinstance(model, Model)
    model.load_state_dict(load_tensors(file))
    if bad := next((name for name, value in model.named_parameters() if not value.isfinite().all()), None):
        raise CheckpointError(f"the weights in '{place}' are not all finite ({bad!r}): use another model.")
    if isinstance(model, CodeSampler):
        shape = tuple(next(iter(model.densities.values())).shape)
        for found in sorted(place.glob("density-*.safetensors")):
            name = found.stem.removeprefix("density-")
            model.densities[name] = _load_density(path_inside(place, found.name), name, shape)
        model.density = default_density(model)
    return model.to(device or torch.device("cpu")).eval()


def default_density(model: CodeSampler, *, flow: bool = True) -> str:
    """Return the best density of a model: a flow, then the prior of its codes, then a mixture of Gaussians.

    Args:
        model: The model.
        flow: Whether a flow counts.
    """
    names = (FLOW if flow else None, model.prior, "gmm", "gaussian", "normal")
    return next(name for name in names if name in model.densities)


def _build_on_meta(place: Path, config: ModelConfig, info: DataInfo) -> torch.nn.Module:
    """Return the described model with tensors that have shapes but no memory."""
    try:
        with bounded_build(f"'{place}'"):
            return config.build(info)
    except (CheckpointError, ModuleNotRegistered):
        raise
    except Exception as error:
        # Anyone may have written the description, and networks fail in many ways if it makes no sense.
        reason = _short(str(error)) or type(error).__name__
        raise CheckpointError(f"'{place}' describes a model that cannot be built here ({reason}).") from None


def _empty_density(name: str, shape: tuple[int, ...], state: dict[str, Tensor], metadata: Mapping[str, str]) -> Density:
    if name != FLOW:
        return empty_density(name, shape, state)
    density = FlowDensity.described(metadata, shape, classes=len(state["frequencies"]))
    density.load_state_dict(state)
    return density


def _short(reason: str) -> str:
    return " ".join(reason.split())[:200]


def _load_density(file: Path, name: str, shape: tuple[int, ...]) -> Density:
    """Return a density on codes of this shape. Its file is checked before its tensors are read."""
    specs = read_header(file)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
        with bounded_build(f"'{file}'"):
            expected = tensor_specs(_empty_density(name, shape, meta_tensors(specs), metadata))
        check_tensors_match(file, specs, expected)
        tensors = load_tensors(file)
        expected_hash = metadata.get(HASH_KEY)
        if expected_hash is not None and expected_hash != _hash(tensors):
            raise ValueError("its tensors do not match its hash: it is damaged")
        density = _empty_density(name, shape, tensors, metadata)
        density.check()
    except (KeyError, ValueError, RuntimeError, ModelError, CheckpointError) as error:
        raise CheckpointError(f"'{file}' is not a density on the codes of this model ({_short(str(error))}).") from None
    return density


def _parse_info(plain: dict[str, Any]) -> DataInfo:
    size = plain["size"]
    info = DataInfo(
        channels=int(plain["channels"]),
        size=(int(size[0]), int(size[1])),
        classes=tuple(str(name) for name in plain["classes"]),
        frequencies=tuple(float(fraction) for fraction in plain["frequencies"]),
        binary=bool(plain["binary"]),
        target=_parse_target(plain.get("target")),
    )
    if not 1 <= info.channels <= MAX_CHANNELS or not all(1 <= side <= MAX_SIDE_PX for side in info.size):
        raise ValueError(f"images with {info.channels} channels and {info.size[0]}×{info.size[1]} pixels")
    if info.frequencies and (len(info.frequencies) != len(info.classes) or not _are_fractions(info.frequencies)):
        raise ValueError("the frequencies are not one fraction per class")
    return info


def _are_fractions(values: tuple[float, ...]) -> bool:
    return all(0 <= value <= 1 for value in values) and sum(values) > 0


def _parse_target(plain: dict[str, Any] | None) -> Target | None:
    if plain is None:
        return None
    kind = plain["kind"]
    if kind not in ("masks", "images"):
        raise ValueError(f"targets of kind {kind!r}")
    target = Target(
        kind=kind,
        channels=int(plain["channels"]),
        classes=tuple(str(name) for name in plain["classes"]),
        shares=tuple(float(fraction) for fraction in plain["shares"]),
        colours=tuple((int(r), int(g), int(b)) for r, g, b in plain["colours"]),
        values=tuple(value if isinstance(value, int) else str(value) for value in plain.get("values", ())),
    )
    if not 1 <= target.channels <= MAX_CHANNELS:
        raise ValueError(f"targets with {target.channels} channels")
    if kind == "masks" and not (len(target.classes) == len(target.colours) >= 1):
        raise ValueError(f"{len(target.classes)} classes of masks with {len(target.colours)} colors")
    if not all(0 <= value <= 255 for color in target.colours for value in color):
        raise ValueError("a color is not three numbers from 0 to 255")
    return target
