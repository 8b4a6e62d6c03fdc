"""The autoencoder of latent diffusion as implemented by diffusers (`AutoencoderKL`), with the same weight names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from ectype.config.schema import DataInfo, Factor, Section
from ectype.core.errors import ModelError
from ectype.core.optional import optional_import
from ectype.nets.coder import CoderConfig

__all__ = ["BLOCK_TYPES", "DIFFUSERS_CLASS", "KLConfig", "KLDecoder", "KLEncoder", "LatentScaling"]

DIFFUSERS_CLASS = "AutoencoderKL"
BLOCK_TYPES = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
CONFIG_DEFAULTS: dict[str, Any] = {
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
"""Values of the keys that a config.json leaves out."""
LEGACY_LAYER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Maps names of attention layers in the files of Stable Diffusion 1 and 2 to today's names."""


class LatentScaling(Section):
    """The normalization of codes that a diffusion model was trained with, from the network's config.json.

    It is used if the encoder is frozen, because codes do not change then. Otherwise the export measures a new one.
    """

    scaling_factor: Factor | None = None
    """Factor on the codes."""
    shift_factor: Factor | None = None
    """Value that is subtracted first."""
    latents_mean: tuple[Factor, ...] | None = None
    """Mean of each channel of the codes."""
    latents_std: tuple[Factor, ...] | None = None
    """Standard deviation of each channel of the codes."""


class KLConfig(CoderConfig):
    """The `AutoencoderKL` of diffusers: levels of residual blocks, the first at full size, and attention in the middle.

    Keys have the same names as in its config.json. Each level after the first halves the size, and the sides of the
    images must be multiples of the resulting stride. A bottleneck with one value per element of the code gets no log
    variances.
    """

    class_name: ClassVar[str] = DIFFUSERS_CLASS

    kind: Literal["diffusers"] = "diffusers"
    block_out_channels: tuple[Annotated[int, Field(ge=1, le=16_384)], ...] = Field(
        default=(32, 64, 128, 128), min_length=1
    )
    """Channels of each level, the first at the image's size. In Stable Diffusion: [128, 256, 512, 512]."""
    layers_per_block: int = Field(default=1, ge=1, le=100)
    """Residual blocks per level of the encoder; the decoder has one more. In Stable Diffusion: 2."""
    latent_channels: int = Field(default=4, ge=1, le=16_384)
    """Channels of the code."""
    norm_num_groups: int = Field(default=8, ge=1, le=16_384)
    """Groups of the group normalizations; it must divide all channels. In Stable Diffusion: 32."""
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    mid_block_add_attention: bool = True
    """Whether the smallest map has self-attention. Its cost grows with the fourth power of the side."""
    use_quant_conv: bool = True
    """Whether the encoder ends with a 1×1 convolution."""
    use_post_quant_conv: bool = True
    """Whether the decoder starts with a 1×1 convolution."""
    train: Literal["all", "decoder"] = "all"
    """decoder: the encoder is frozen, so that a diffusion model that was trained on its codes still fits (`--from`)."""
    scaling: LatentScaling = LatentScaling()

    @model_validator(mode="after")
    def _check_groups(self) -> KLConfig:
        if indivisible := [channels for channels in self.block_out_channels if channels % self.norm_num_groups]:
            raise ValueError(
                f"norm_num_groups={self.norm_num_groups} does not divide the {indivisible[0]} channels of "
                f"block_out_channels={list(self.block_out_channels)}: choose a common divisor of all"
            )
        return self

    @property
    def stride(self) -> int:
        """Ratio of the side of an image to the side of its code."""
        return 2 ** (len(self.block_out_channels) - 1)

    def overrides_from_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of this section that a config.json defines; see `HasDiffusersConfig`."""
        for key, plain in BLOCK_TYPES.items():
            if other := set(config.get(key, ())) - {plain}:
                raise ModelError(
                    f"this AutoencoderKL's config.json has {key} with {other.pop()}: only {plain} is supported."
                )
        scaling = {"scaling_factor": 0.18215, **{k: config[k] for k in LatentScaling.model_fields if k in config}}
        return {**{key: config.get(key, value) for key, value in CONFIG_DEFAULTS.items()}, "scaling": scaling}

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        if indivisible := [side for side in info.size if side % self.stride]:
            lower = indivisible[0] // self.stride * self.stride
            suggestion = f"{lower} or {lower + self.stride}" if lower else str(self.stride)
            raise ModelError(
                f"size={indivisible[0]} is not a multiple of {self.stride}, the stride of "
                f"{len(self.block_out_channels)} levels of block_out_channels: set data.size to a multiple, such as "
                f"{suggestion}."
            )
        return (self.latent_channels, *(side // self.stride for side in info.size))

    def encoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        return KLEncoder(self, info.channels, params_per_element * self.latent_channels)

    def decoder(self, info: DataInfo, params_per_element: int) -> nn.Module:
        return KLDecoder(self, params_per_element * info.channels)


class _AutoencoderKLHalf(nn.Module):
    """The encoder or the decoder of an `AutoencoderKL`, with the same weight names."""

    class_name: ClassVar[str] = DIFFUSERS_CLASS

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config

    def _build(self, class_name: Literal["Encoder", "Decoder"], in_channels: int, out_channels: int) -> nn.Module:
        vae = optional_import("diffusers.models.autoencoders.vae", "diffusers", "net=diffusers")
        config, key = (self.config, "down_block_types" if class_name == "Encoder" else "up_block_types")
        double_z = {"double_z": False} if class_name == "Encoder" else {}
        return getattr(vae, class_name)(
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups,
            act_fn=config.act_fn,
            mid_block_add_attention=config.mid_block_add_attention,
            **{key: (BLOCK_TYPES[key],) * len(config.block_out_channels)},
            **double_z,
        )

    def upgrade_keys(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file under today's names; see `HasDiffusersWeights`."""
        upgraded = {}
        for name, tensor in weights.items():
            parts = name.split(".")
            if len(parts) > 2 and "attentions" in parts and parts[-2] in LEGACY_LAYER_NAMES:
                parts[-2] = LEGACY_LAYER_NAMES[parts[-2]]
            upgraded[".".join(parts)] = tensor
        return upgraded


class KLEncoder(_AutoencoderKLHalf):
    """Maps images in [0, 1] to the parameters of their codes: means first, then log variances."""

    def __init__(self, config: KLConfig, channels: int, out_channels: int) -> None:
        super().__init__(config)
        self.encoder = self._build("Encoder", channels, out_channels)
        self.quant_conv = nn.Conv2d(out_channels, out_channels, 1) if config.use_quant_conv else None
        self.frozen = config.train == "decoder"
        if self.frozen:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> KLEncoder:
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def check_trainable_from_scratch(self) -> None:
        """Raise an error if the encoder is frozen and has not been trained; see `MayRequirePretrained`."""
        if self.frozen:
            raise ModelError(
                "train=decoder would freeze a randomly initialized encoder: give --from a run, a folder of diffusers "
                "or user/name on the Hub, or set train=all."
            )

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        params = self.encoder(2 * image - 1)
        return params if self.quant_conv is None else self.quant_conv(params)


class KLDecoder(_AutoencoderKLHalf):
    """Maps codes of any size to images in the range [0, 1], unclamped."""

    def __init__(self, config: KLConfig, channels: int) -> None:
        super().__init__(config)
        latent = config.latent_channels
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.use_post_quant_conv else None
        self.decoder = self._build("Decoder", latent, channels)

    def invert_output_scaling(self, output: Tensor) -> Tensor:
        """Return what the last layer must produce; see `ScalesOutput`."""
        return 2 * output - 1

    def forward(self, code: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b kc h w"]:
        return 0.5 * self.decoder(code if self.post_quant_conv is None else self.post_quant_conv(code)) + 0.5
