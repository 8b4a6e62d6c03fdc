"""The registry of image losses, and several of them at once."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.core.errors import ModelError, RecipeError, did_you_mean
from ectype.losses.features import (
    FeatureExtractor,
    FeatureLoss,
    FeatureMapPairs,
    choose_network,
    load_feature_extractor,
)
from ectype.losses.lpips import LPIPS
from ectype.losses.perceptual import PerceptualLoss, StyleLoss
from ectype.losses.pixels import bce, charbonnier, gradient, l1, mse, psnr
from ectype.losses.ssim import ms_ssim, ssim

__all__ = ["LOSSES", "WeightedLoss", "register_loss"]

Images = Float[Tensor, "b c h w"]
Values = Float[Tensor, " b"]


class PixelLoss(nn.Module):
    """Wraps a loss function that needs no network as a module."""

    def __init__(self, loss: Callable[[Images, Images], Values]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Images, target: Images) -> Values:
        return self.loss(output, target)


LOSSES: dict[str, Callable[[int, Callable[[], FeatureExtractor]], nn.Module]] = {
    "mse": lambda channels, features: PixelLoss(mse),
    "psnr": lambda channels, features: PixelLoss(psnr),
    "l1": lambda channels, features: PixelLoss(l1),
    "charbonnier": lambda channels, features: PixelLoss(charbonnier),
    "bce": lambda channels, features: PixelLoss(bce),
    "gradient": lambda channels, features: PixelLoss(gradient),
    "ssim": lambda channels, features: PixelLoss(lambda output, target: 1 - ssim(output, target)),
    "ms_ssim": lambda channels, features: PixelLoss(lambda output, target: 1 - ms_ssim(output, target)),
    "perceptual": lambda channels, features: PerceptualLoss(channels, network=features()),
    "style": lambda channels, features: StyleLoss(channels, network=features()),
    "lpips": lambda channels, features: LPIPS(channels),
}
"""Maps a name to a function that builds the loss.

The function takes the number of image channels and a function that returns the shared feature extractor. A loss
compares outputs with targets [b, c, h, w] and returns one value per image [b]; lower means more similar.
"""

_registered: dict[str, Callable[[Images, Images], Tensor]] = {}
"""Losses of users, by name."""


def register_loss(name: str, loss: Any = None) -> Any:
    """Make your own loss usable in recipes by a name, next to the built-in ones: `loss='{mse: 1, my-loss: 0.1}'`.

    The loss gets outputs and targets [b, c, h, w] in float32, in [0, 1] or slightly outside, and returns one value per
    image [b], or a scalar that is taken as the value of each image. Lower means more similar. Recipes and runs hold the
    name only: register the loss again before the run is resumed.

    Args:
        name: Letters, digits, - and _ only. An own loss of that name is replaced; a built-in one cannot be.
        loss: A function of (output, target), or an `nn.Module`, of which a copy with fixed weights is used. Leave it
            out to use `register_loss` as a decorator.

    Returns:
        The loss, unchanged.

    Raises:
        RecipeError: An invalid name.

    Example:
        >>> @register_loss("mean-color")
        ... def mean_color(output, target):
        ...     return (output.mean((2, 3)) - target.mean((2, 3))).abs().mean(1)
        >>> weighted = WeightedLoss({"mse": 1.0, "mean-color": 0.1}, channels=3)
        >>> target = torch.zeros(2, 3, 8, 8)
        >>> weighted(target + 0.5, target)["mean-color"]
        tensor([0.5000, 0.5000])
    """
    if loss is None:
        return lambda own: register_loss(name, own)
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
        raise RecipeError(f"a loss cannot be registered as {name!r}: use letters, digits, - and _ only.")
    if name in LOSSES:
        raise RecipeError(f"'{name}' is a built-in loss: choose another name.")
    if not callable(loss):
        raise RecipeError(f"loss '{name}' is a {type(loss).__name__}: pass a function of (output, target).")
    _registered[name] = cast(Callable[[Tensor, Tensor], Tensor], loss)
    return loss


class RegisteredLoss(nn.Module):
    """A user's loss, checked: it must have one value per image, and a gradient where one is needed."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        loss = _registered[name]
        self.loss = copy.deepcopy(loss).requires_grad_(False) if isinstance(loss, nn.Module) else loss

    def forward(self, output: Images, target: Images) -> Values:
        found = self.loss(output, target)
        if not isinstance(found, Tensor) or found.shape not in ((), (len(output),)):
            said = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ModelError(
                f"the loss '{self.name}' returned {said} for {len(output)} images: return one value per image "
                f"[{len(output)}], or a scalar."
            )
        if output.requires_grad and torch.is_grad_enabled() and not found.requires_grad:
            raise ModelError(
                f"the loss '{self.name}' has no gradient with respect to the output: compute it from tensors, without "
                ".detach(), .item() or NumPy."
            )
        return found.expand(len(output))


class WeightedLoss(nn.Module):
    """Computes several losses of the same images, in float32 or higher precision even under autocast.

    Args:
        weights: Maps names in `LOSSES` to weights. The weights are stored but not applied; the caller does that.
        channels: Channels of the images.
        network: Network whose features perceptual and style compare, see `choose_network`.

    Attributes:
        weights: The weights as given.
        networks: Maps each loss that compares features to the name of its network.

    Raises:
        RecipeError: If a name is not in `LOSSES`, or if no loss is given.
        ModelError: If the weights of a network are not available.

    Example:
        >>> loss = WeightedLoss({"l1": 1.0, "ssim": 0.5}, channels=3)
        >>> target = torch.full((2, 3, 16, 16), 0.5)
        >>> values = loss(target + 0.25, target)
        >>> values["l1"]
        tensor([0.2500, 0.2500])
        >>> total = sum(weight * values[name] for name, weight in loss.weights.items())
        >>> total.shape
        torch.Size([2])
    """

    def __init__(self, weights: Mapping[str, float], *, channels: int, network: str = "auto") -> None:
        super().__init__()
        if not weights:
            raise RecipeError("a loss needs a name and a weight, such as {mse: 1}; " + did_you_mean("", LOSSES))
        for name in weights:
            if name not in LOSSES and name not in _registered:
                hint = did_you_mean(name, [*LOSSES, *_registered])
                raise RecipeError(f"no loss '{name}'; {hint} Register a loss of your own with ectype.register_loss.")
        self.weights = dict(weights)
        features = functools.cache(lambda: load_feature_extractor(choose_network(network)))
        self.losses = nn.ModuleDict(
            {name: LOSSES[name](channels, features) if name in LOSSES else RegisteredLoss(name) for name in weights}
        )
        self.networks = {name: loss.network for name, loss in self.losses.items() if hasattr(loss, "network")}

    def forward(self, output: Images, target: Images) -> dict[str, Values]:
        """Compute the unweighted value of each loss for each image.

        Args:
            output: Images [b, c, h, w] in [0, 1]; all losses except bce accept values slightly outside.
            target: Images of the same shape in [0, 1].

        Returns:
            The values [b] by the name of the loss.

        Raises:
            ModelError: If bce is among the losses and an output is outside [0, 1].
        """
        with torch.autocast(output.device.type, enabled=False):
            dtype = torch.promote_types(torch.promote_types(output.dtype, target.dtype), torch.float32)
            output, target = output.to(dtype), target.to(dtype)
            values: dict[str, Values] = {}
            maps: dict[nn.Module, FeatureMapPairs] = {}  # losses with the same network share one forward pass
            for name, loss in self.losses.items():
                if isinstance(loss, FeatureLoss):
                    network = loss.features.net
                    maps[network] = maps[network] if network in maps else loss.maps(output, target)
                    values[name] = loss.compare(maps[network])
                else:
                    values[name] = loss(output, target)
            return values
