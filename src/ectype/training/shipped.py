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

__all__ = ["DrawsCodes", "load_model", "ship", "store_density"]

FORMAT = 1


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
        "model": recipe.model.model_dump(mode="json", serialize_as_any=True),
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

    No code is taken from the directory: a kind of model that this installation does not know is refused.

    Raises:
        CheckpointError: Files are missing, damaged, or of another model.
    """
    try:
        says: dict[str, Any] = json.loads((place / "config.json").read_text())
        if says["format"] != FORMAT:
            raise CheckpointError(f"'{place}' has format {says['format']}: this version reads {FORMAT}; update ectype.")
        info = _info(says["info"])
        config = ModelConfig.model_validate(says["model"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"'{place}' holds no model that can be read ({reason}).") from None
    if not verify(place):
        raise CheckpointError(f"'{place}' is damaged: a file differs from its manifest; `ectype keep` writes it anew.")
    model = config.build(info)
    assert isinstance(model, Model)
    try:
        model.load_state_dict(load_tensors(place / "model.safetensors"))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the weights in '{place}' are not of the model that it names ({reason}).") from None
    if isinstance(model, DrawsCodes):
        shape = tuple(next(iter(model.densities.values())).shape)
        for file in sorted(place.glob("density-*.safetensors")):
            name = file.stem.removeprefix("density-")
            try:
                model.densities[name] = empty_density(name, shape, load_tensors(file))
            except (KeyError, RuntimeError, ModelError) as error:
                raise CheckpointError(f"'{file}' is no density on this model's codes ({error}).") from None
        model.density = model.prior or next((n for n in ("gmm", "gaussian") if n in model.densities), "normal")
    return model.to(device or torch.device("cpu")).eval()


def _info(plain: dict[str, Any]) -> DataInfo:
    size = plain["size"]
    return DataInfo(
        channels=int(plain["channels"]),
        size=(int(size[0]), int(size[1])),
        classes=tuple(str(name) for name in plain["classes"]),
        frequencies=tuple(float(share) for share in plain["frequencies"]),
        binary=bool(plain["binary"]),
        target=_target(plain.get("target")),
    )


def _target(plain: dict[str, Any] | None) -> Target | None:
    if plain is None:
        return None
    kind = plain["kind"]
    if kind not in ("masks", "images"):
        raise ValueError(f"partners of kind {kind!r}")
    return Target(
        kind=kind,
        channels=int(plain["channels"]),
        classes=tuple(str(name) for name in plain["classes"]),
        shares=tuple(float(share) for share in plain["shares"]),
        colours=tuple((int(r), int(g), int(b)) for r, g, b in plain["colours"]),
        values=tuple(value if isinstance(value, int) else str(value) for value in plain.get("values", ())),
    )
