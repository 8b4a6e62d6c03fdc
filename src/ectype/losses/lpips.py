"""Learned perceptual image patch similarity (Zhang et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.core.errors import ModelError, did_you_mean
from ectype.losses.features import (
    FeatureExtractor,
    FeatureLoss,
    FeatureMapPairs,
    load_feature_extractor,
    normalize_channels,
)
from ectype.nets.pretrained import FrozenNetwork, load_weights

__all__ = ["LPIPS"]


class LPIPS(FeatureLoss):
    """LPIPS, version 0.1: the authors' linear layers on a fixed network. At least 0; lower means more similar.

    The feature vectors of each layer are scaled to length 1 at every position. Their squared differences are weighted
    per channel with weights that were fitted to human judgments, summed over channels, averaged over positions and
    summed over layers. Images are expected in [0, 1], which corresponds to `normalize=True` of the original.

    Args:
        channels: Channels of the images, 1 or 3.
        network: VGG16, which the authors recommend as a training loss, or AlexNet, which they recommend as a metric.
        features: A feature extractor to use instead of the one with the published weights.
        linear: Non-negative channel weights [c] of each layer to use instead of the published ones.

    Raises:
        ModelError: If the network is another one or the weights are not available.
    """

    def __init__(
        self,
        channels: int,
        *,
        network: str = "VGG16",
        features: FeatureExtractor | None = None,
        linear: Sequence[Float[Tensor, " _"]] | None = None,
    ) -> None:
        published = ("VGG16", "AlexNet")
        if network not in published:
            raise ModelError(f"LPIPS has no linear layers for '{network}'; {did_you_mean(network, published)}")
        features = load_feature_extractor(network) if features is None else features
        super().__init__(channels, features)
        if linear is None:
            weights = load_weights(f"LPIPS of {network}")
            linear = [weights[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(weights))]
        self.min_side_px = max(layer.min_side_px for layer in features.layers.values())
        self.linear = FrozenNetwork(nn.ParameterList(linear))

    def compare(self, maps: FeatureMapPairs) -> Float[Tensor, " b"]:
        weights = list(self.linear.net.parameters())
        if len(maps) < len(weights):
            raise ModelError(f"LPIPS of {self.network} needs images of at least {self.min_side_px} pixels a side.")
        distances = [
            torch.einsum(
                "bchw,c->bhw", (normalize_channels(output) - normalize_channels(target)).square(), weight
            ).mean((1, 2))
            for (output, target), weight in zip(maps, weights, strict=True)
        ]
        return torch.stack(distances).sum(0)
