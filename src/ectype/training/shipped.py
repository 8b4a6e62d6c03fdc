"""The model that a run ships: a small JSON that says what it is, its weights, and densities fitted on its codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from ectype.errors import CheckpointError, ModelError
from ectype.models.base import Model
from ectype.models.densities import Density, empty_density
from ectype.recipe import Recipe
from ectype.sections import DataInfo, ModelConfig, Target
from ectype.training.checkpoint import committed, load_tensors, verify
from ectype.untrusted import bounded, check_same, entries_of, header, inside, like, read_json

__all__ = ["DrawsCodes", "load_model", "ship", "store_density"]

FORMAT = 1
CHANNELS, SIDE = 64, 2**16
"""Of images, at most."""


@runtime_checkable
class DrawsCodes(Protocol):
    """A model that samples by decoding draws of a density on its codes."""

    densities: dict[str, Density]
    density: str
    prior: str | None
    """The density it was trained towards; None if any must first be fitted."""

    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, " b *code"]:
        """Images to codes."""
        ...


def ship(place: Path, recipe: Recipe, info: DataInfo, weights: dict[str, Tensor], *, step: int, seen: int) -> None:
    """Write a model directory, in one piece."""
    says = {
        "format": FORMAT,
        "preset": recipe.about.name,
        "model": recipe.model.shipped().model_dump(mode="json", serialize_as_any=True),
        "info": info._asdict() | {"target": None if info.target is None else info.target._asdict()},
        "step": step,
        "seen": seen,
    }
    with committed(place) as scratch:
        held = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in weights.items()}
        save_file(held, scratch / "model.safetensors")
        (scratch / "config.json").write_text(json.dumps(says, indent=1))


def store_density(place: Path, name: str, density: Density) -> None:
    """Add a fitted density to a model directory."""
    target = place / f"density-{name}.safetensors"
    scratch = target.with_suffix(".tmp")
    save_file({key: value.contiguous() for key, value in density.state_dict().items()}, scratch)
    scratch.replace(target)


def load_model(place: Path, device: torch.device | None = None) -> Model:
    """The model in a directory, in evaluation mode, with the densities beside it.

    The directory may come from anyone. No code is taken from it: a kind of model that this installation does not know
    is refused. What its files claim is held against each other before memory is taken for it; see
    `ectype.untrusted`.

    Raises:
        CheckpointError: Files are missing, damaged, or of another model.
    """
    says = read_json(inside(place, "config.json"))
    try:
        if says["format"] != FORMAT:
            raise CheckpointError(
                f"'{place}' has format {says['format']!r}: this version reads {FORMAT}; update ectype."
            )
        info = _info(says["info"])
        config = ModelConfig.model_validate(says["model"])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = f"model{''.join(f'.{part}' for part in first['loc'])}: {first['msg']}"
        raise CheckpointError(f"'{place}' holds no model that can be read ({_short(reason)}).") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = _short(f"{type(error).__name__}: {error}")
        raise CheckpointError(f"'{place}' holds no model that can be read ({reason}).") from None
    file = inside(place, "model.safetensors")
    check_same(file, header(file), entries_of(_outline(place, config, info)))
    if not verify(place):
        raise CheckpointError(f"'{place}' is damaged: a file differs from its manifest; `ectype keep` writes it anew.")
    model = config.build(info)
    assert isinstance(model, Model)
    model.load_state_dict(load_tensors(file))
    if spoiled := next((name for name, value in model.named_parameters() if not value.isfinite().all()), None):
        raise CheckpointError(f"the weights in '{place}' are not all finite numbers ({spoiled!r}): take another model.")
    if isinstance(model, DrawsCodes):
        shape = tuple(next(iter(model.densities.values())).shape)
        for found in sorted(place.glob("density-*.safetensors")):
            name = found.stem.removeprefix("density-")
            model.densities[name] = _density(inside(place, found.name), name, shape)
        model.density = model.prior or next((n for n in ("gmm", "gaussian") if n in model.densities), "normal")
    return model.to(device or torch.device("cpu")).eval()


def _outline(place: Path, config: ModelConfig, info: DataInfo) -> torch.nn.Module:
    """The model that a description names, without numbers."""
    try:
        with bounded(place):
            return config.build(info)
    except CheckpointError:
        raise
    except Exception as error:
        # Whatever a network trips over when it is given nonsense: anyone may have written the description.
        reason = _short(str(error)) or type(error).__name__
        raise CheckpointError(f"'{place}' names a model that cannot be built here ({reason}).") from None


def _short(reason: str) -> str:
    return " ".join(reason.split())[:200]


def _density(file: Path, name: str, shape: tuple[int, ...]) -> Density:
    """A density on codes of a shape, whose file is held against what it should be before it is read."""
    held = header(file)
    try:
        with torch.device("meta"):
            wanted = entries_of(empty_density(name, shape, like(held)))
        check_same(file, held, wanted)
        density = empty_density(name, shape, load_tensors(file))
        density.check()
    except (KeyError, ValueError, RuntimeError, ModelError, CheckpointError) as error:
        raise CheckpointError(f"'{file}' is no density on this model's codes ({_short(str(error))}).") from None
    return density


def _info(plain: dict[str, Any]) -> DataInfo:
    size = plain["size"]
    info = DataInfo(
        channels=int(plain["channels"]),
        size=(int(size[0]), int(size[1])),
        classes=tuple(str(name) for name in plain["classes"]),
        frequencies=tuple(float(share) for share in plain["frequencies"]),
        binary=bool(plain["binary"]),
        target=_target(plain.get("target")),
    )
    if not 1 <= info.channels <= CHANNELS or not all(1 <= side <= SIDE for side in info.size):
        raise ValueError(f"images of {info.channels} channels and {info.size[0]}×{info.size[1]} pixels")
    if info.frequencies and (len(info.frequencies) != len(info.classes) or not _shares(info.frequencies)):
        raise ValueError("the frequencies are not one share for each class")
    return info


def _shares(values: tuple[float, ...]) -> bool:
    return all(0 <= value <= 1 for value in values) and sum(values) > 0


def _target(plain: dict[str, Any] | None) -> Target | None:
    if plain is None:
        return None
    kind = plain["kind"]
    if kind not in ("masks", "images"):
        raise ValueError(f"partners of kind {kind!r}")
    target = Target(
        kind=kind,
        channels=int(plain["channels"]),
        classes=tuple(str(name) for name in plain["classes"]),
        shares=tuple(float(share) for share in plain["shares"]),
        colours=tuple((int(r), int(g), int(b)) for r, g, b in plain["colours"]),
        values=tuple(value if isinstance(value, int) else str(value) for value in plain.get("values", ())),
    )
    if not 1 <= target.channels <= CHANNELS:
        raise ValueError(f"partners of {target.channels} channels")
    if kind == "masks" and not (len(target.classes) == len(target.colours) >= 1):
        raise ValueError(f"{len(target.classes)} classes of masks and {len(target.colours)} colours")
    if not all(0 <= value <= 255 for colour in target.colours for value in colour):
        raise ValueError("a colour is not of three numbers from 0 to 255")
    return target
