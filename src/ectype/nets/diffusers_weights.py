"""Loads networks that are published in the format of diffusers: a folder with a config.json and a file of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from ectype.config.schema import Section
from ectype.core.errors import ModelError
from ectype.core.hub import REPO_ID, HubUnavailable, download_snapshot
from ectype.core.safe_loading import load_tensors

__all__ = [
    "WEIGHTS_FILE",
    "HasDiffusersConfig",
    "HasDiffusersWeights",
    "diffusers_overrides",
    "find_diffusers_folder",
    "load_diffusers_weights",
]

CONFIG_FILE, WEIGHTS_FILE = "config.json", "diffusion_pytorch_model.safetensors"
SUBFOLDERS = ("", "vae")
"""Where the network is in a folder: at the top, or in this part of a complete pipeline."""


@runtime_checkable
class HasDiffusersConfig(Protocol):
    """A section of a recipe that a published config.json can fill in."""

    class_name: ClassVar[str]
    """Class of the network, as in config.json."""

    def overrides_from_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of this section that a config.json defines.

        Raises:
            ModelError: If the network uses something that is not supported.
        """
        ...


@runtime_checkable
class HasDiffusersWeights(Protocol):
    """A part of a model whose weights have the same names as in a published file."""

    class_name: ClassVar[str]
    """Class of the network, as in config.json."""

    def upgrade_keys(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file, with names of earlier versions replaced by today's."""
        ...


def find_diffusers_folder(start: str | Path) -> Path | None:
    """Return the folder of a published network, downloaded from the Hub if necessary.

    Args:
        start: A folder, possibly that of a complete pipeline with the network in `vae/`, or user/name on the Hub.

    Returns:
        The folder, or None if `start` does not name a network of diffusers but something else, such as a run.

    Raises:
        ModelError: If it is neither on this machine nor available for download.
    """
    path = Path(start)
    if path.exists():
        return _find_subfolder(path)
    if REPO_ID.fullmatch(str(start)) is None or path.parent.exists():
        return None
    folder = _find_subfolder(_download(str(start)))
    if folder is None:
        raise ModelError(
            f"'{start}' on the Hub is not a network of diffusers: it has neither {CONFIG_FILE} nor vae/{CONFIG_FILE}."
        )
    return folder


def _find_subfolder(path: Path) -> Path | None:
    return next((path / part for part in SUBFOLDERS if "_class_name" in _read_config(path / part)), None)


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _download(name: str) -> Path:
    files = [f"{part}/{file}".lstrip("/") for part in SUBFOLDERS for file in (CONFIG_FILE, WEIGHTS_FILE)]
    try:
        return download_snapshot(name, files, f"--from {name}")
    except HubUnavailable as reason:
        raise ModelError(
            f"'{name}' is neither a run nor a folder on this machine, is not in the Hub's cache and cannot be "
            f"downloaded ({reason}): put its {CONFIG_FILE} and {WEIGHTS_FILE} into a folder and give --from FOLDER, or "
            "set HF_HUB_CACHE to a cache that contains it."
        ) from None


def diffusers_overrides(model: Section, folder: Path) -> dict[str, Any]:
    """Return the overrides that adapt a recipe to a folder's config.json.

    Args:
        model: The recipe's model section.
        folder: A folder returned by `find_diffusers_folder`.

    Returns:
        Values by dotted key, such as `model.net.latent_channels`.

    Raises:
        ModelError: If the config.json belongs to another network than the recipe's.
    """
    config = _read_config(folder)
    candidates = [
        (path, section) for path, section in _walk_sections(model, "model") if isinstance(section, HasDiffusersConfig)
    ]
    for path, section in candidates:
        if section.class_name == config["_class_name"]:
            return {f"{path}.{key}": value for key, value in section.overrides_from_config(config).items()}
    own_class = f"of class {candidates[0][1].class_name}" if candidates else "not one of diffusers"
    raise ModelError(
        f"'{folder}' contains a network of class {config['_class_name']}, the recipe's is {own_class}: `ectype train "
        "vae-kl` starts from an AutoencoderKL."
    )


def _walk_sections(section: Section, path: str) -> Iterator[tuple[str, Section]]:
    yield path, section
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _walk_sections(value, f"{path}.{name}")


def load_diffusers_weights(model: nn.Module, folder: Path) -> int:
    """Load the weights in a folder into the parts of a model that have diffusers' weight names, all of them.

    Only safetensors are read.

    Returns:
        The number of tensors.

    Raises:
        ModelError: If there are no weights, or their names or shapes do not match.
        CheckpointError: If the file is damaged.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        others = ", ".join(sorted(path.name for path in folder.iterdir() if path.name != CONFIG_FILE)) or "nothing else"
        raise ModelError(
            f"'{folder}' has no {WEIGHTS_FILE} (next to {CONFIG_FILE}: {others}): no other format is read, because "
            "pickled files can run code; write it again with diffusers' save_pretrained(…, safe_serialization=True)."
        )
    parts = [part for part in model.modules() if isinstance(part, HasDiffusersWeights)]
    class_name = _read_config(folder).get("_class_name")
    if any(part.class_name != class_name for part in parts) or not parts:
        raise ModelError(f"'{folder}' contains a network of class {class_name}, which this model does not have.")
    weights = parts[0].upgrade_keys(load_tensors(file))
    expected = {name: tensor for part in parts for name, tensor in part.state_dict().items()}
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is unexpected" for name in weights if name not in expected]
    problems += [
        f"{name} is {list(weights[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise ModelError(
            f"the weights in '{folder}' do not fit this model ({len(problems)} tensors; {problems[0]}): leave out "
            "overrides of the network, and use images with as many channels as it has (channels=3)."
        )
    for part in parts:
        assert isinstance(part, nn.Module)
        part.load_state_dict({name: weights[name] for name in part.state_dict()})
    return len(expected)
