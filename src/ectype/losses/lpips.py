"""Learned perceptual image patch similarity (Zhang et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.errors import ModelError, did_you_mean
from ectype.losses.features import FeatureLoss, Features, Maps, load_features, unit
from ectype.nets.pretrained import Frozen, load_weights

__all__ = ["LPIPS"]


class LPIPS(FeatureLoss):
    """LPIPS in version 0.1 of its authors, linear layers on a fixed network; at least 0, lower is more alike.

    The features of each layer are scaled to length 1 over channels at every place; their squared differences, weighted
    channel by channel as people's judgements taught, are summed over channels, averaged over places and summed over
    layers. Images are given in [0, 1], which is LPIPS' `normalize=True`.

    Args:
        channels: 1 or 3, of the images.
        network: VGG16, which the authors advise to train with, or AlexNet, which they advise to measure with.
        features: The network's layers, to be used instead of those with the published weights.
        linear: A layer's non-negative weights [c] each, to be used instead of the published ones.

    Raises:
        ModelError: Another network, or weights that cannot be had.
    """

    def __init__(
        self,
        channels: int,
        *,
        network: str = "VGG16",
        features: Features | None = None,
        linear: Sequence[Float[Tensor, " _"]] | None = None,
    ) -> None:
        published = ("VGG16", "AlexNet")
        if network not in published:
            raise ModelError(f"LPIPS has no linear layers for '{network}'; {did_you_mean(network, published)}")
        features = load_features(network) if features is None else features
        super().__init__(channels, features)
        if linear is None:
            weights = load_weights(f"LPIPS of {network}")
            linear = [weights[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(weights))]
        self.least = max(layer.least for layer in features.layers.values())
        self.linear = Frozen(nn.ParameterList(linear))

    def compare(self, maps: Maps) -> Float[Tensor, " b"]:
        weights = list(self.linear.net.parameters())
        if len(maps) < len(weights):
            raise ModelError(f"LPIPS of {self.network} needs images of {self.least} pixels a side at least.")
        distances = [
            torch.einsum("bchw,c->bhw", (unit(made) - unit(wanted)).square(), weight).mean((1, 2))
            for (made, wanted), weight in zip(maps, weights, strict=True)
        ]
        return torch.stack(distances).sum(0)
