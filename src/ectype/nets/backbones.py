"""Encoders from torchvision and timm, optionally pretrained, combined with the convolutional decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn

from ectype.config.schema import Count, DataInfo, Section
from ectype.core.errors import did_you_mean
from ectype.nets.backbone_weights import load_pretrained
from ectype.nets.blocks import Activation
from ectype.nets.coder import CoderConfig
from ectype.nets.conv import ConvConfig
from ectype.nets.param_groups import ParameterGroup
from ectype.nets.resampling import Upsampling
from ectype.nets.timm_backbones import TORCHVISION, FeatureMap, feature_backbone, geometry

__all__ = ["Backbone", "BackboneConfig", "TrainedEncoder"]


class TrainedEncoder(Section):
    """The keys that select an encoder from torchvision or timm, its weights and how these are trained."""

    model_config = ConfigDict(serialize_by_alias=True)

    network: str = Field(default="resnet18", alias="encoder")
    """resnet18, resnet34, resnet50 or mobilenet_v2 of torchvision, or timm:NAME. The tokens of a vision transformer are
    arranged as a map, without class and register tokens."""
    pretrained: bool = False
    """Whether it starts with its published weights (trained on ImageNet-1k for torchvision). BatchNorm then keeps their
    statistics, in training too. Without pretrained weights, BatchNorm is replaced by GroupNorm."""
    weights_file: Path | None = None
    """A file of weights to load instead, .safetensors or .pth."""
    tuning: Literal["finetune", "frozen", "release"] = "finetune"
    """frozen: the loaded weights are not trained. release: they are not trained for `release_after` images."""
    release_after: Annotated[Count, Field(ge=0)] = 0
    """Number of training images seen before the encoder is trained, with tuning=release."""
    scale: float = Field(default=0.1, gt=0, le=1)
    """Factor on the learning rate of an encoder whose weights were loaded."""

    @field_validator("network")
    @classmethod
    def _check_network(cls, name: str) -> str:
        if name not in TORCHVISION and not name.startswith("timm:"):
            raise ValueError(f"no such encoder; {did_you_mean(name, [*TORCHVISION, 'timm:NAME'])}")
        return name

    @model_validator(mode="after")
    def _check_tuning(self) -> TrainedEncoder:
        if self.tuning != "finetune" and not self.starts_trained:
            raise ValueError(
                f"tuning={self.tuning} would freeze a randomly initialized encoder: set pretrained=true, "
                "weights_file=FILE, or tuning=finetune"
            )
        if (self.tuning == "release") != (self.release_after > 0):
            raise ValueError(
                f"release_after={self.release_after} with tuning={self.tuning}: set a number of images above 0 with "
                "tuning=release, and leave it out otherwise"
            )
        return self

    @property
    def starts_trained(self) -> bool:
        """Whether the encoder starts with weights that are loaded."""
        return self.pretrained or self.weights_file is not None


class BackboneConfig(TrainedEncoder, CoderConfig):
    """A network of torchvision or timm without its classifier as the encoder, and the decoder of `ConvConfig`.

    Images are normalized as the encoder's weights expect it, gray ones are repeated to three channels, and all are
    resized so that the map has ⌈side / stride⌉ positions along each side; the stride is 32 pixels for most networks.
    Small images are enlarged, so that any size gives at least one position.
    """

    kind: Literal["backbone"] = "backbone"
    pool: bool = True
    """true: the code is a vector, computed from the mean over the map. false: it is a map."""
    latent_dim: int | None = Field(default=512, ge=1, le=1_000_000)
    """Length of the vector, or channels of the map. null: the encoder's own features, without a layer after them."""
    width: int = Field(default=32, ge=4, le=16_384, multiple_of=4)
    """Channels of the decoder at its largest level; each level below has twice as many."""
    max_width: int = Field(default=256, ge=4, le=16_384, multiple_of=4)
    """Upper limit of the channels of a level."""
    depth: int = Field(default=1, ge=0, le=100)
    """Residual blocks per level of the decoder."""
    bottom: int = Field(default=8, ge=1, le=16_384)
    """Longest side of the map that the decoder starts with if the code is a vector."""
    patch: Literal[1, 2, 4] = 1
    """This and the following keys are described in `ConvConfig`."""
    up: Upsampling = "nearest"
    attention: int = Field(default=0, ge=0, le=16_384)
    activation: Activation = "silu"

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        shape = geometry(self.network, info.size)
        channels = self.latent_dim or shape.channels
        return (channels,) if self.pool else (channels, *shape.grid(info.size))

    def encoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        body = Backbone(self, info)
        features, outputs = body.geometry.channels, params_per_element * self.code_shape(info)[0]
        needs_layer = self.latent_dim is not None or params_per_element > 1
        if self.pool:
            last = [nn.Linear(features, outputs)] if needs_layer else []
            return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *last)
        return nn.Sequential(body, *([nn.Conv2d(features, outputs, 1)] if needs_layer else []))

    def decoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        shape = self.code_shape(info)
        shared = ("width", "max_width", "depth", "bottom", "patch", "up", "attention", "activation")
        code: dict[str, Any] = {"latent_dim": shape[0]} if self.pool else {"latent": shape}
        config = ConvConfig(**code, **{key: getattr(self, key) for key in shared})
        return config.decoder(info, params_per_element)


class Backbone(nn.Module):
    """Maps images in [0, 1], gray or RGB, to the last feature map of a network of torchvision or timm.

    Args:
        config: Selects the network and how it is trained.
        info: Describes the images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: TrainedEncoder, info: DataInfo) -> None:
        super().__init__()
        self.config = config
        self.geometry = geometry(config.network, info.size)
        self.net = feature_backbone(config.network, frozen_norm=config.starts_trained)
        # Not persistent, because the configuration determines them.
        for name, values in (("mean", self.net.mean), ("std", self.net.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        if config.tuning == "frozen":
            self.net.requires_grad_(False)
            self.net.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.config.tuning == "frozen":
            self.net.eval()
        return self

    def load_pretrained_weights(self) -> None:
        """Load the weights that the configuration names.

        Raises:
            ModelError: If they are not available or do not fit.
        """
        if self.config.starts_trained:
            self.net.load_state_dict(load_pretrained(self.config.network, self.config.weights_file).state_dict())

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return one group: the network's parameters, with their own learning rate and start."""
        lr_scale = self.config.scale if self.config.starts_trained else 1.0
        return [ParameterGroup(list(self.net.parameters()), lr_scale, self.config.release_after)]

    def _preprocess(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """Resize and normalize images as the network expects them."""
        size = (image.shape[2], image.shape[3])
        image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        if (input_size := self.geometry.input(size)) != size:
            image = F.interpolate(image, input_size, mode="bilinear", antialias=True)
        return (image - self.mean) / self.std

    def forward(self, image: Float[Tensor, "b c h w"]) -> FeatureMap:
        features = self.net(self._preprocess(image))
        return _resize_map(features, self.geometry.grid((image.shape[2], image.shape[3])))

    def pyramid(self, image: Float[Tensor, "b c h w"]) -> dict[int, Float[Tensor, "b _ _ _"]]:
        """Return the feature maps of all sizes that the network has, by level: level n has 1 / 2ⁿ of the image's size.

        Args:
            image: Images whose sides are multiples of the network's stride.
        """
        maps: dict[int, Tensor] = {}
        for features in self.net.feature_maps(self._preprocess(image)):
            level = max(1, round(math.log2(image.shape[2] / features.shape[2])))
            maps[level] = _resize_map(features, (image.shape[2] >> level, image.shape[3] >> level))
        return maps


def _resize_map(features: FeatureMap, size: tuple[int, int]) -> Float[Tensor, "b d h3 w3"]:
    if tuple(features.shape[2:]) == size:
        return features
    return F.interpolate(features, size, mode="bilinear", antialias=True)
