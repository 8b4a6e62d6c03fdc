"""Perceptual and style losses on the features of a network trained on ImageNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.losses.features import (
    FeatureExtractor,
    FeatureLoss,
    FeatureMapPairs,
    choose_network,
    load_feature_extractor,
    normalize_channels,
)

__all__ = ["PerceptualLoss", "StyleLoss", "gram_matrix"]

Values = Float[Tensor, " b"]


def _resolve_features(network: str | FeatureExtractor, layers: Sequence[str] | None) -> FeatureExtractor:
    if isinstance(network, FeatureExtractor):
        return network
    return load_feature_extractor(choose_network(network), layers)


class PerceptualLoss(FeatureLoss):
    """Distance between feature maps (Johnson et al. 2016, section 3.2), between 0 and 2.

    The feature vectors of each layer are scaled to length 1 at every position, as in Zhang et al. 2018, eq. 1, without
    its learned weights. Their squared distance, 2 − 2 · cosine, is averaged over positions, then over layers. So no
    layer outweighs another by the magnitude of its activations, and nothing has to be fitted to images.

    Args:
        channels: Channels of the images, 1 or 3.
        network: A key of `FEATURE_NETWORKS`, auto (see `choose_network`), or a feature extractor.
        layers: Names of the network's layers; by default one layer for each of five resolutions. Small images are
            compared with those layers whose maps are not empty.

    Example:
        Any body with the layers of VGG19 serves as a feature extractor, here one with fixed weights.

        >>> from torch import nn
        >>> convolution = nn.Conv2d(3, 2, 1)
        >>> _ = convolution.weight.data.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 1]])[:, :, None, None])
        >>> _ = convolution.bias.data.zero_()
        >>> extractor = FeatureExtractor("VGG19", nn.Sequential(convolution, nn.ReLU()), ["relu1_1"])
        >>> loss = PerceptualLoss(3, network=extractor)
        >>> red, blue = torch.eye(3)[[0, 2], :, None, None].expand(2, 3, 8, 8).split(1)
        >>> loss(red, red), loss(red, blue)
        (tensor([0.]), tensor([2.]))
    """

    def __init__(
        self, channels: int, *, network: str | FeatureExtractor = "auto", layers: Sequence[str] | None = None
    ) -> None:
        super().__init__(channels, _resolve_features(network, layers))

    def compare(self, maps: FeatureMapPairs) -> Values:
        distances = [
            (normalize_channels(output) - normalize_channels(target)).square().sum(1).mean((1, 2))
            for output, target in maps
        ]
        return torch.stack(distances).mean(0)


def gram_matrix(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Compute F · Fᵀ / (c · h · w), where F are the features [c, h · w] of an image."""
    flat = features.flatten(2)
    return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


class StyleLoss(FeatureLoss):
    """Distance between Gram matrices (Gatys et al. 2016, eqs. 3 to 5): which features occur together, not where.

    The squared distance between each layer's matrices (see `gram_matrix`) is divided by the target's squared norm and
    averaged over layers, so that no layer outweighs another by the magnitude of its activations. An output without any
    features has a loss of 1.

    Args:
        channels: Channels of the images, 1 or 3.
        network: A key of `FEATURE_NETWORKS`, auto (see `choose_network`), or a feature extractor.
        layers: Names of the network's layers, as in `PerceptualLoss`.
    """

    def __init__(
        self, channels: int, *, network: str | FeatureExtractor = "auto", layers: Sequence[str] | None = None
    ) -> None:
        super().__init__(channels, _resolve_features(network, layers))

    def compare(self, maps: FeatureMapPairs) -> Values:
        distances = []
        for output, target in maps:
            target_gram = gram_matrix(target)
            norm = target_gram.square().sum((1, 2)).clamp(min=torch.finfo(target_gram.dtype).tiny)
            distances.append((gram_matrix(output) - target_gram).square().sum((1, 2)) / norm)
        return torch.stack(distances).mean(0)
