"""Networks that others publish as a folder, here or on the Hub: a config.json beside a file of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from ectype.errors import ModelError
from ectype.hub import NAME, NotHad, snapshot
from ectype.sections import Section
from ectype.untrusted import load_tensors

__all__ = ["WEIGHTS_FILE", "Described", "Published", "described", "fill", "find_published"]

CONFIG, WEIGHTS_FILE = "config.json", "diffusion_pytorch_model.safetensors"
PARTS = ("", "vae")
"""Where in a folder the network lies: in itself, or in this part of a whole pipeline."""


@runtime_checkable
class Described(Protocol):
    """A section of a recipe that a published config.json fills in."""

    class_name: ClassVar[str]
    """Of the network, as config.json says it."""

    def described(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """This section's keys as a config.json has them. Raises `ModelError` for what cannot be built."""
        ...


@runtime_checkable
class Published(Protocol):
    """A part of a model whose weights have the names that they have in a published file."""

    class_name: ClassVar[str]

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file, those with names of earlier versions under today's."""
        ...


def find_published(start: str | Path) -> Path | None:
    """The folder that a start names, downloaded first where it is one on the Hub; None where it is something of ours.

    Args:
        start: A folder, that of a whole pipeline with the network in `vae/`, or user/name.

    Raises:
        ModelError: Not here, and not to be had.
    """
    place = Path(start)
    if place.exists():
        return _within(place)
    if NAME.fullmatch(str(start)) is None or place.parent.exists():
        return None
    folder = _within(_downloaded(str(start)))
    if folder is None:
        raise ModelError(f"'{start}' on the Hub is no network of diffusers: it has neither {CONFIG} nor vae/{CONFIG}.")
    return folder


def _within(place: Path) -> Path | None:
    return next((place / part for part in PARTS if "_class_name" in _config(place / part)), None)


def _config(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _downloaded(name: str) -> Path:
    wanted = [f"{part}/{file}".lstrip("/") for part in PARTS for file in (CONFIG, WEIGHTS_FILE)]
    try:
        return snapshot(name, wanted, f"--from {name}")
    except NotHad as why:
        raise ModelError(
            f"'{name}' is no run and no folder here, is not in the Hub's cache and cannot be downloaded ({why}): put "
            f"its {CONFIG} and {WEIGHTS_FILE} into a folder and give --from FOLDER, or set HF_HUB_CACHE to a cache "
            "that has it."
        ) from None


def described(model: Section, folder: Path) -> dict[str, Any]:
    """What a folder's config.json says of a model, as overrides of its recipe.

    Args:
        model: The recipe's section.
        folder: As `find_published` gives it.

    Raises:
        ModelError: It is of another network than the recipe's.
    """
    config = _config(folder)
    known = [(path, section) for path, section in _sections(model, "model") if isinstance(section, Described)]
    for path, section in known:
        if section.class_name == config["_class_name"]:
            return {f"{path}.{key}": value for key, value in section.described(config).items()}
    have = known[0][1].class_name if known else "none of diffusers"
    raise ModelError(
        f"'{folder}' holds a network of class {config['_class_name']}, this recipe's is {have}: `ectype train vae-kl` "
        "starts from an AutoencoderKL."
    )


def _sections(section: Section, path: str) -> Iterator[tuple[str, Section]]:
    yield path, section
    for name in type(section).model_fields:
        held = getattr(section, name)
        if isinstance(held, Section):
            yield from _sections(held, f"{path}.{name}")


def fill(model: nn.Module, folder: Path) -> int:
    """Give the parts of a model the weights in a folder, every one of them; how many tensors there were.

    Nothing but safetensors is read.

    Raises:
        ModelError: There are none, or they have other names or shapes.
        CheckpointError: Their file is damaged.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        others = ", ".join(sorted(path.name for path in folder.iterdir() if path.name != CONFIG)) or "nothing else"
        raise ModelError(
            f"'{folder}' has no {WEIGHTS_FILE} (beside {CONFIG}: {others}): no other format is read, as pickled ones "
            "can run code; have diffusers write it anew with save_pretrained(…, safe_serialization=True)."
        )
    parts = [part for part in model.modules() if isinstance(part, Published)]
    class_name = _config(folder).get("_class_name")
    if any(part.class_name != class_name for part in parts) or not parts:
        raise ModelError(f"'{folder}' holds a network of class {class_name}, which this model's is not.")
    weights = parts[0].renamed(load_tensors(file))
    ours = {name: tensor for part in parts for name, tensor in part.state_dict().items()}
    wrong = [f"{name} is missing" for name in ours if name not in weights]
    wrong += [f"{name} has no place" for name in weights if name not in ours]
    wrong += [
        f"{name} is {list(weights[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in ours.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        raise ModelError(
            f"the weights in '{folder}' do not fit this model ({len(wrong)} tensors; {wrong[0]}): leave out overrides "
            "of the network, and give images as many channels as it has (channels=3)."
        )
    for part in parts:
        assert isinstance(part, nn.Module)
        part.load_state_dict({name: weights[name] for name in part.state_dict()})
    return len(ours)
