"""Encoders that others drew, and perhaps trained: ResNets, MobileNet, any backbone of timm; and a decoder of ours."""

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

from ectype.errors import did_you_mean
from ectype.nets.blocks import Activation
from ectype.nets.coder import CoderConfig
from ectype.nets.conv import ConvConfig
from ectype.nets.groups import Group
from ectype.nets.libraries import TORCHVISION, Map, bare, geometry, pretrained
from ectype.nets.resampling import Upsampling
from ectype.sections import Count, DataInfo, Section

__all__ = ["Backbone", "BackboneConfig", "TrainedEncoder"]


class TrainedEncoder(Section):
    """Which network of others encodes, and how its weights are treated."""

    model_config = ConfigDict(serialize_by_alias=True)

    network: str = Field(default="resnet18", alias="encoder")
    """resnet18, resnet34, resnet50 or mobilenet_v2 of torchvision, or timm:NAME; the tokens of a vision transformer are
    taken as a map, class and register tokens left out."""
    pretrained: bool = False
    """Whether it starts with the weights that are published for it (of ImageNet-1k for torchvision's). BatchNorm then
    keeps their statistics, in training too. From scratch, GroupNorm stands in its place."""
    weights_file: Path | None = None
    """A file, .safetensors or .pth, to take the weights from instead."""
    tuning: Literal["finetune", "frozen", "release"] = "finetune"
    """frozen: weights that came with the encoder stay. release: they stay for `release_after` images."""
    release_after: Annotated[Count, Field(ge=0)] = 0
    """Images seen before an encoder that is released moves."""
    scale: float = Field(default=0.1, gt=0, le=1)
    """Learning rate of an encoder that came with weights, as a share of the others'."""

    @field_validator("network")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in TORCHVISION and not name.startswith("timm:"):
            raise ValueError(f"no such encoder; {did_you_mean(name, [*TORCHVISION, 'timm:NAME'])}")
        return name

    @model_validator(mode="after")
    def _tunable(self) -> TrainedEncoder:
        if self.tuning != "finetune" and not self.starts_trained:
            raise ValueError(
                f"tuning={self.tuning} would keep an encoder as it was drawn: set pretrained=true, weights_file=FILE, "
                "or tuning=finetune"
            )
        if (self.tuning == "release") != (self.release_after > 0):
            raise ValueError(
                f"release_after={self.release_after} with tuning={self.tuning}: give a number of images above 0 with "
                "tuning=release, and none without"
            )
        return self

    @property
    def starts_trained(self) -> bool:
        """Whether the encoder begins with weights that others trained."""
        return self.pretrained or self.weights_file is not None


class BackboneConfig(TrainedEncoder, CoderConfig):
    """A network of torchvision or timm without its classifier as encoder, and the decoder of `conv`.

    Images are brought to the colours that the encoder's weights expect, grey ones to three channels, and to sides that
    are whole numbers of the places of its map (⌈side / stride⌉ of them; mostly 32 pixels each): smaller images are
    enlarged, and any size gives at least one place.
    """

    kind: Literal["backbone"] = "backbone"
    pool: bool = True
    """Whether the code is a vector, from the mean over the map, or a map of as many places."""
    latent_dim: int | None = Field(default=512, ge=1)
    """Length of the vector, or channels of the map; null: the encoder's own features, no layer behind them."""
    width: int = Field(default=32, ge=4, multiple_of=4)
    """Channels of the decoder at its largest level; each halving doubles them."""
    max_width: int = Field(default=256, ge=4, multiple_of=4)
    depth: int = Field(default=1, ge=0)
    """Residual blocks per level of the decoder."""
    bottom: int = Field(default=8, ge=1)
    """Longest side of the map that the decoder starts with where the code is a vector."""
    patch: Literal[1, 2, 4] = 1
    """See `conv`; so are the following."""
    up: Upsampling = "nearest"
    attention: int = Field(default=0, ge=0)
    activation: Activation = "silu"

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        found = geometry(self.network, info.size)
        channels = self.latent_dim or found.channels
        return (channels,) if self.pool else (channels, *found.grid(info.size))

    def encoder(self, info: DataInfo, heads: int) -> nn.Module:
        body = Backbone(self, info)
        before, after = body.geometry.channels, heads * self.code_shape(info)[0]
        own = self.latent_dim is None and heads == 1
        if self.pool:
            last = [] if own else [nn.Linear(before, after)]
            return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *last)
        return nn.Sequential(body, *([] if own else [nn.Conv2d(before, after, 1)]))

    def decoder(self, info: DataInfo, heads: int) -> nn.Module:
        shape = self.code_shape(info)
        shared = ("width", "max_width", "depth", "bottom", "patch", "up", "attention", "activation")
        code: dict[str, Any] = {"latent_dim": shape[0]} if self.pool else {"latent": shape}
        return ConvConfig(**code, **{key: getattr(self, key) for key in shared}).decoder(info, heads)


class Backbone(nn.Module):
    """Images in [0, 1] to the last map of a network of torchvision or timm."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TrainedEncoder, info: DataInfo) -> None:
        super().__init__()
        self.config = config
        self.geometry = geometry(config.network, info.size)
        self.net = bare(config.network, still=config.starts_trained)
        # They belong to the weights, which a configuration names: no state.
        for name, colours in (("mean", self.net.mean), ("std", self.net.std)):
            self.register_buffer(name, torch.tensor(colours).view(-1, 1, 1), persistent=False)
        if config.tuning == "frozen":
            self.net.requires_grad_(False)
            self.net.eval()

    def train(self, mode: bool = True) -> Backbone:
        """A frozen network stays in evaluation mode."""
        super().train(mode)
        if self.config.tuning == "frozen":
            self.net.eval()
        return self

    def start_from_weights(self) -> None:
        """Take the weights that the configuration names. Raises `ModelError` where they cannot be had."""
        if self.config.starts_trained:
            self.net.load_state_dict(pretrained(self.config.network, self.config.weights_file).state_dict())

    def parameter_groups(self) -> Sequence[Group]:
        """The network's, at its own rate and from its own start."""
        scale = self.config.scale if self.config.starts_trained else 1.0
        return [Group(list(self.net.parameters()), scale, self.config.release_after)]

    def _prepared(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """In the colours and of a size that the network expects."""
        size = (image.shape[2], image.shape[3])
        image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        if (wanted := self.geometry.input(size)) != size:
            image = F.interpolate(image, wanted, mode="bilinear", antialias=True)
        return (image - self.mean) / self.std

    def forward(self, image: Float[Tensor, "b c h w"]) -> Map:
        features = self.net(self._prepared(image))
        return _at(features, self.geometry.grid((image.shape[2], image.shape[3])))

    def pyramid(self, image: Float[Tensor, "b c h w"]) -> dict[int, Map]:
        """Every size of map that the network has, by how many halvings of the image's sides it stands for.

        Args:
            image: Its sides whole numbers of the network's stride.
        """
        found: list[Tensor] = []
        hooks = [stage.register_forward_hook(lambda *given: found.append(given[2])) for stage in self.net.stages()]
        try:
            last = self.net(self._prepared(image))
        finally:
            for hook in hooks:
                hook.remove()
        maps: dict[int, Map] = {}
        for features in [*found, last]:
            if features.ndim == 4:
                features = features if features is last else self.net.laid(features)
                level = max(1, round(math.log2(image.shape[2] / features.shape[2])))
                maps[level] = _at(features, (image.shape[2] >> level, image.shape[3] >> level))
        return maps


def _at(features: Map, size: tuple[int, int]) -> Float[Tensor, "b d h3 w3"]:
    if tuple(features.shape[2:]) == size:
        return features
    return F.interpolate(features, size, mode="bilinear", antialias=True)
