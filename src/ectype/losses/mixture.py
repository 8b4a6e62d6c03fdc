"""Losses by name, and several at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.errors import RecipeError, did_you_mean
from ectype.losses.features import FeatureLoss, Features, Maps, choose_network, load_features
from ectype.losses.lpips import LPIPS
from ectype.losses.perceptual import Perceptual, Style
from ectype.losses.pixels import bce, charbonnier, gradient, l1, mse, psnr
from ectype.losses.ssim import ms_ssim, ssim

__all__ = ["LOSSES", "Mixture"]

Images = Float[Tensor, "b c h w"]
Values = Float[Tensor, " b"]


class Plain(nn.Module):
    """A loss without a network."""

    def __init__(self, loss: Callable[[Images, Images], Values]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Images, target: Images) -> Values:
        return self.loss(output, target)


LOSSES: dict[str, Callable[[int, Callable[[], Features]], nn.Module]] = {
    "mse": lambda channels, features: Plain(mse),
    "psnr": lambda channels, features: Plain(psnr),
    "l1": lambda channels, features: Plain(l1),
    "charbonnier": lambda channels, features: Plain(charbonnier),
    "bce": lambda channels, features: Plain(bce),
    "gradient": lambda channels, features: Plain(gradient),
    "ssim": lambda channels, features: Plain(lambda output, target: 1 - ssim(output, target)),
    "ms_ssim": lambda channels, features: Plain(lambda output, target: 1 - ms_ssim(output, target)),
    "perceptual": lambda channels, features: Perceptual(channels, network=features()),
    "style": lambda channels, features: Style(channels, network=features()),
    "lpips": lambda channels, features: LPIPS(channels),
}
"""Name → made of the images' channels and of what gives the features that are compared, always the same.

Each compares an output with a target [b, c, h, w], means over everything but the images, and is lower where they are
more alike.
"""


class Mixture(nn.Module):
    """Several losses on the same images, in float32 at least whatever autocast says.

    Args:
        weights: Names of `LOSSES` and what their values are to be multiplied by, which is left to the caller.
        channels: Of the images.
        network: What perceptual and style compare features by, see `choose_network`.

    Attributes:
        networks: Loss → name of the network it compares features by.

    Raises:
        RecipeError: A name that is not in `LOSSES`, or none.
        ModelError: Weights of a network that cannot be had.
    """

    def __init__(self, weights: Mapping[str, float], *, channels: int, network: str = "auto") -> None:
        super().__init__()
        if not weights:
            raise RecipeError("a loss needs a name and a weight, such as {mse: 1}; " + did_you_mean("", LOSSES))
        for name in weights:
            if name not in LOSSES:
                raise RecipeError(f"no loss '{name}'; {did_you_mean(name, LOSSES)}")
        self.weights = dict(weights)
        features = functools.cache(lambda: load_features(choose_network(network)))
        self.losses = nn.ModuleDict({name: LOSSES[name](channels, features) for name in weights})
        self.networks = {name: loss.network for name, loss in self.losses.items() if hasattr(loss, "network")}

    def forward(self, output: Images, target: Images) -> dict[str, Values]:
        """One value per image of each loss, unweighted.

        Args:
            output: In [0, 1]; all but bce bear numbers a little outside.
            target: Of the same shape, in [0, 1].

        Raises:
            ModelError: Outputs outside of [0, 1] for bce.
        """
        with torch.autocast(output.device.type, enabled=False):
            wide = torch.promote_types(torch.promote_types(output.dtype, target.dtype), torch.float32)
            output, target = output.to(wide), target.to(wide)
            found: dict[str, Values] = {}
            maps: dict[nn.Module, Maps] = {}  # losses that share a network share its one pass
            for name, loss in self.losses.items():
                if isinstance(loss, FeatureLoss):
                    network = loss.features.net
                    maps[network] = maps[network] if network in maps else loss.maps(output, target)
                    found[name] = loss.compare(maps[network])
                else:
                    found[name] = loss(output, target)
            return found
