"""Losses on the features of a network trained on ImageNet: what is shown where, and in which style."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.losses.features import FeatureLoss, Features, Maps, choose_network, load_features, unit

__all__ = ["Perceptual", "Style", "gram"]

Values = Float[Tensor, " b"]


def _features(network: str | Features, layers: Sequence[str] | None) -> Features:
    return network if isinstance(network, Features) else load_features(choose_network(network), layers)


class Perceptual(FeatureLoss):
    """Distance of feature maps (Johnson et al. 2016, section 3.2), between 0 and 2.

    The features of each layer are scaled to length 1 over channels at every place, as in Zhang et al. 2018, eq. 1,
    without its learned weights. Their squared distance, 2 − 2 · cosine, is averaged over places, then over layers. So
    no layer outweighs another by the size of its numbers, and nothing has to be fitted to images.

    Args:
        channels: 1 or 3, of the images.
        network: A key of `NETWORKS`, auto (see `choose_network`), or the features themselves.
        layers: Names of the network's layers; five resolutions if none are named. Small images are compared by those
            that still have extent.
    """

    def __init__(self, channels: int, *, network: str | Features = "auto", layers: Sequence[str] | None = None) -> None:
        super().__init__(channels, _features(network, layers))

    def compare(self, maps: Maps) -> Values:
        distances = [(unit(made) - unit(wanted)).square().sum(1).mean((1, 2)) for made, wanted in maps]
        return torch.stack(distances).mean(0)


def gram(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """F · Fᵀ / (c · h · w) with F the features [c, h · w] of an image."""
    flat = features.flatten(2)
    return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


class Style(FeatureLoss):
    """Distance of Gram matrices (Gatys et al. 2016, eqs. 3 to 5): which features occur together, not where.

    The squared distance of each layer's matrices, see `gram`, is divided by the target's squared norm and averaged over
    layers, so that no layer outweighs another by the size of its numbers. 1 is an output without any features.

    Args:
        channels: 1 or 3, of the images.
        network: A key of `NETWORKS`, auto (see `choose_network`), or the features themselves.
        layers: Names of the network's layers, as for `Perceptual`.
    """

    def __init__(self, channels: int, *, network: str | Features = "auto", layers: Sequence[str] | None = None) -> None:
        super().__init__(channels, _features(network, layers))

    def compare(self, maps: Maps) -> Values:
        distances = []
        for made, wanted in maps:
            goal = gram(wanted)
            size = goal.square().sum((1, 2)).clamp(min=torch.finfo(goal.dtype).tiny)
            distances.append((gram(made) - goal).square().sum((1, 2)) / size)
        return torch.stack(distances).mean(0)
