"""Networks of torchvision and timm without their classifiers: their feature maps, and the sizes of these.

The attribute names of modules, such as `published`, are part of saved weights.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ectype.core.errors import ModelError, did_you_mean
from ectype.core.meta_device import meta_device
from ectype.core.optional import optional_import
from ectype.nets.blocks import group_norm

__all__ = [
    "TORCHVISION",
    "FeatureBackbone",
    "FeatureMap",
    "FrozenBatchNorm",
    "Geometry",
    "TimmBackbone",
    "build_backbone",
    "create_timm_model",
    "feature_backbone",
    "geometry",
    "replace_batch_norms",
]

TORCHVISION = {"resnet18": "ResNet18", "resnet34": "ResNet34", "resnet50": "ResNet50", "mobilenet_v2": "MobileNetV2"}
"""Supported networks of torchvision, and the keys of their weights in `ectype.nets.pretrained.WEIGHTS`."""
IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

FeatureMap = Float[Tensor, "b d h2 w2"]


class FeatureBackbone(nn.Module):
    """Base class of networks without a classifier.

    Attributes:
        mean: Mean of each color channel, which the caller subtracts from images in [0, 1].
        std: Standard deviation of each color channel, by which the caller divides them.
        native_size: Height and width in pixels of the images that the network was designed for.
        published: The part of the network whose weights are published.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    native_size: tuple[int, int]
    published: nn.Module

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> FeatureMap:
        """Return the last feature map of normalized images."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(image)")

    def feature_maps(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the last feature map of each size that the network has; the last one is that of `forward`."""
        raise NotImplementedError(f"{type(self).__name__} must define feature_maps(image)")


class _TorchvisionBackbone(FeatureBackbone):
    mean, std = IMAGENET_MEAN_STD
    native_size = (224, 224)

    def __init__(self, name: str) -> None:
        super().__init__()
        net = getattr(optional_import("torchvision.models", "torchvision", f"encoder={name}"), name)()
        layers = OrderedDict(net.features.named_children() if name == "mobilenet_v2" else net.named_children())
        for head in ("avgpool", "fc"):
            layers.pop(head, None)
        self.published = nn.Sequential(layers)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> FeatureMap:
        return self.published(image)

    def feature_maps(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        x, maps = image, []
        for layer in self.published.children():
            x = layer(x)
            if maps and maps[-1].shape[2] == x.shape[2]:
                maps.pop()
            maps.append(x)
        return maps


class TimmBackbone(FeatureBackbone):
    """A network of timm.

    Feature maps are taken with forward hooks on the modules that timm's `feature_info` names. timm's own ways were
    compared with this on timm 1.0.31 and do not replace it:

    - `features_only=True` renames the weights (all networks) and drops the layers after the last stage, such as the
      1×1 convolution that ends an EfficientNet, so that saved runs and codes would change.
    - `forward_intermediates` returns the same maps, but timm before 1.0.31 does not have it for DenseNet, VGG, Xception
      and others.

    Args:
        name: Name of the network in timm.

    Raises:
        ModelError: If timm is missing or has no such network.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        timm = optional_import("timm", "timm", f"encoder=timm:{name}")
        if not timm.is_model(name):
            suggestion = did_you_mean(name.split(".")[0], timm.list_models())
            raise ModelError(f"encoder=timm:{name}: timm {timm.__version__} has no such network; {suggestion}")
        self.published = create_timm_model(timm, name)
        config: Any = self.published.pretrained_cfg
        _, height, width = config["input_size"]
        self.mean, self.std, self.native_size = (tuple(config["mean"]), tuple(config["std"]), (height, width))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> FeatureMap:
        net: Any = self.published
        features = net.forward_features(image)
        if features.ndim == 4:
            return self._channels_first(features)
        # Class and register tokens come first; the others are the positions of a map, row by row.
        tokens = features[:, getattr(net, "num_prefix_tokens", 0) :]
        height = round(math.sqrt(tokens.shape[1] * image.shape[2] / image.shape[3]))
        return tokens.transpose(1, 2).contiguous().unflatten(2, (height, -1))

    def feature_maps(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        outputs: list[Any] = []
        hooks = [
            stage.register_forward_hook(lambda module, args, output: outputs.append(output)) for stage in self._stages()
        ]
        try:
            last = self(image)
        finally:
            for hook in hooks:
                hook.remove()
        return [*(self._channels_first(output) for output in outputs if output.ndim == 4), last]

    def _channels_first(self, features: Tensor) -> FeatureMap:
        channels_last = getattr(self.published, "output_fmt", "NCHW") == "NHWC"
        return features.permute(0, 3, 1, 2) if channels_last else features

    def _stages(self) -> list[nn.Module]:
        """Return the modules whose outputs are the last maps of their size; none if all maps have the same size."""
        infos: Any = getattr(self.published, "feature_info", None)
        infos = getattr(infos, "info", infos) or ()  # a list of dictionaries, or an object that contains one
        module_names = {info["reduction"]: info["module"] for info in infos}  # the last one of each size
        modules = dict(self.published.named_modules())
        return [modules[name] for name in module_names.values() if name in modules] if len(module_names) > 1 else []


def create_timm_model(timm: ModuleType, name: str, **options: Any) -> nn.Module:
    """Create a network of timm without a classifier, for images of any size if it supports that."""
    try:
        return timm.create_model(name, num_classes=0, dynamic_img_size=True, **options)
    except TypeError:  # it accepts any size without this option, or only one size
        return timm.create_model(name, num_classes=0, **options)


def build_backbone(encoder: str) -> FeatureBackbone:
    """Build a network as its library defines it, with random weights.

    Args:
        encoder: A key of `TORCHVISION`, or `timm:NAME`.

    Raises:
        ModelError: If the library is missing or has no such network.
    """
    if encoder.startswith("timm:"):
        return TimmBackbone(encoder.removeprefix("timm:"))
    return _TorchvisionBackbone(encoder)


def feature_backbone(encoder: str, *, frozen_norm: bool) -> FeatureBackbone:
    """Build a network with random weights and without batch statistics, so that splitting a batch changes nothing.

    Args:
        encoder: A key of `TORCHVISION`, or `timm:NAME`.
        frozen_norm: Whether BatchNorm is replaced by `FrozenBatchNorm`, for networks whose weights will be loaded,
            instead of GroupNorm.

    Raises:
        ModelError: If the library is missing or has no such network.
    """
    net = build_backbone(encoder)
    replace_batch_norms(net, FrozenBatchNorm if frozen_norm else _to_group_norm)
    return net


class FrozenBatchNorm(nn.Module):
    """A BatchNorm that always uses its stored statistics, in training too; its scale and shift can be trained."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.register_parameter("weight", norm.weight)
        self.register_parameter("bias", norm.bias)
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def _to_group_norm(norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    # A BatchNorm of tokens stays: GroupNorm needs a map.
    return group_norm(norm.num_features) if isinstance(norm, nn.BatchNorm2d) else norm


def replace_batch_norms(module: nn.Module, replace: Callable[[nn.modules.batchnorm._BatchNorm], nn.Module]) -> None:
    """Replace each BatchNorm in a module, in place, by what a function returns for it."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.track_running_stats:
            # The BatchNorm of timm also contains the dropout and activation that follow it.
            rest = [part for key in ("drop", "act") if isinstance(part := getattr(child, key, None), nn.Module)]
            setattr(module, name, nn.Sequential(replace(child), *rest) if rest else replace(child))
        else:
            replace_batch_norms(child, replace)


class Geometry(NamedTuple):
    """The size of a network's last feature map for images of a given size."""

    channels: int
    """Channels of the map."""
    stride: int
    """Ratio of the image's side to the map's side: a power of 2, so that repeated doubling restores the size."""
    patch_px: int
    """Ratio of the side of the network's input to the map's side."""
    fixed_size: tuple[int, int] | None
    """Height and width of the input if the network accepts no other size; the map is then resized."""

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of the map for images of this size: size / stride, rounded up."""
        return -(-size[0] // self.stride), -(-size[1] // self.stride)

    def input(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width that images of this size are resized to."""
        height, width = self.grid(size)
        return self.fixed_size or (height * self.patch_px, width * self.patch_px)


@cache
def geometry(encoder: str, size: tuple[int, int]) -> Geometry:
    """Determine the size of a network's feature map by running it without weights.

    Args:
        encoder: A key of `TORCHVISION`, or `timm:NAME`.
        size: Height and width of the images.

    Raises:
        ModelError: If the library is missing or has no such network.
    """
    with torch.random.fork_rng(devices=[]), meta_device():
        net = build_backbone(encoder).eval()
        _, channels, height, _ = net(torch.empty(1, 3, *net.native_size)).shape
        patch_px = round(net.native_size[0] / height)
        result = Geometry(channels, _nearest_power_of_two(patch_px), patch_px, None)
        try:
            net(torch.empty(1, 3, *result.input(size)))
        except (AssertionError, RuntimeError, ValueError):
            return Geometry(channels, _nearest_power_of_two(max(size) / height), patch_px, net.native_size)
    return result


def _nearest_power_of_two(value: float) -> int:
    return 2 ** max(1, round(math.log2(max(1.0, value))))
