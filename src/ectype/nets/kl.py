"""The autoencoder of latent diffusion, as diffusers builds it: `AutoencoderKL`, weights of the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from ectype.errors import ModelError
from ectype.extras import needed
from ectype.nets.coder import CoderConfig
from ectype.sections import DataInfo, Section

__all__ = ["CLASS", "KLConfig", "KLDecoder", "KLEncoder", "Scaling"]

CLASS = "AutoencoderKL"
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
LEFT_OUT: dict[str, Any] = {
    "block_out_channels": [64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
"""What a config.json means that does not say it."""
EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention that the files of Stable Diffusion 1 and 2 call by other names."""


class Scaling(Section):
    """What brings codes to the size that a diffusion model was trained with, as the network's folder says it.

    It counts where the encoder is kept, so that codes stay what they are. Elsewhere it is measured at the export.
    """

    scaling_factor: float | None = None
    """What codes are multiplied by."""
    shift_factor: float | None = None
    """What is taken off first."""
    latents_mean: tuple[float, ...] | None = None
    """The same for each channel by itself."""
    latents_std: tuple[float, ...] | None = None


class KLConfig(CoderConfig):
    """diffusers' `AutoencoderKL`: levels of residual blocks from full size on, attention in the middle.

    Keys are called as in its config.json. Sides must be whole numbers of the places of the code, which is half as large
    with each level beyond the first. A bottleneck that wants one number for each of the code gets no log variances.
    """

    class_name: ClassVar[str] = CLASS

    kind: Literal["diffusers"] = "diffusers"
    block_out_channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(32, 64, 128, 128), min_length=1)
    """Channels of each level, the first at the image's size. Stable Diffusion's: [128, 256, 512, 512]."""
    layers_per_block: int = Field(default=1, ge=1)
    """Residual blocks per level of the encoder; the decoder has one more. Stable Diffusion's: 2."""
    latent_channels: int = Field(default=4, ge=1)
    """Channels of the code."""
    norm_num_groups: int = Field(default=8, ge=1)
    """Of each group normalisation; a divisor of all channels. Stable Diffusion's: 32."""
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    mid_block_add_attention: bool = True
    """Whether places of the smallest map attend to each other. Its time grows with the fourth power of the side."""
    use_quant_conv: bool = True
    """Whether a 1×1 convolution ends the encoder."""
    use_post_quant_conv: bool = True
    """Whether a 1×1 convolution begins the decoder."""
    train: Literal["all", "decoder"] = "all"
    """decoder: the encoder stays what it is, as where a diffusion model knows its codes (`--from`)."""
    scaling: Scaling = Scaling()

    @model_validator(mode="after")
    def _divisible(self) -> KLConfig:
        if odd := [channels for channels in self.block_out_channels if channels % self.norm_num_groups]:
            raise ValueError(
                f"norm_num_groups={self.norm_num_groups} does not divide the {odd[0]} channels of "
                f"block_out_channels={list(self.block_out_channels)}: choose a divisor of all"
            )
        return self

    @property
    def stride(self) -> int:
        """Pixels of a side for each place of the code."""
        return 2 ** (len(self.block_out_channels) - 1)

    def described(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of this section as a config.json has them; see `Described`."""
        for key, plain in BLOCKS.items():
            if other := set(config.get(key, ())) - {plain}:
                raise ModelError(
                    f"this AutoencoderKL's config.json has {key} with {other.pop()}: only {plain} is built here."
                )
        scaling = {"scaling_factor": 0.18215, **{k: config[k] for k in Scaling.model_fields if k in config}}
        return {**{key: config.get(key, value) for key, value in LEFT_OUT.items()}, "scaling": scaling}

    def code_shape(self, info: DataInfo) -> tuple[int, ...]:
        if uneven := [side for side in info.size if side % self.stride]:
            low = uneven[0] // self.stride * self.stride
            near = f"{low} or {low + self.stride}" if low else str(self.stride)
            raise ModelError(
                f"size={uneven[0]} is no multiple of {self.stride}, by which {len(self.block_out_channels)} levels of "
                f"block_out_channels shrink a side: set data.size to one, such as {near}."
            )
        return (self.latent_channels, *(side // self.stride for side in info.size))

    def encoder(self, info: DataInfo, heads: int) -> nn.Module:
        return KLEncoder(self, info.channels, heads * self.latent_channels)

    def decoder(self, info: DataInfo, heads: int) -> nn.Module:
        return KLDecoder(self, heads * info.channels)


class _Part(nn.Module):
    """Half of an `AutoencoderKL`, its weights called as there."""

    class_name: ClassVar[str] = CLASS

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config

    def _built(self, which: str, into: int, out: int) -> nn.Module:
        vae = needed("diffusers.models.autoencoders.vae", "diffusers", "net=diffusers")
        config, key = self.config, "down_block_types" if which == "Encoder" else "up_block_types"
        double = {"double_z": False} if which == "Encoder" else {}
        return getattr(vae, which)(
            in_channels=into,
            out_channels=out,
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups,
            act_fn=config.act_fn,
            mid_block_add_attention=config.mid_block_add_attention,
            **{key: (BLOCKS[key],) * len(config.block_out_channels)},
            **double,
        )

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file under the names of today; see `Published`."""
        found = {}
        for name, tensor in weights.items():
            parts = name.split(".")
            if len(parts) > 2 and "attentions" in parts and parts[-2] in EARLIER:
                parts[-2] = EARLIER[parts[-2]]
            found[".".join(parts)] = tensor
        return found


class KLEncoder(_Part):
    """Images in [0, 1] to the numbers of their codes: means first, then log variances."""

    def __init__(self, config: KLConfig, channels: int, numbers: int) -> None:
        super().__init__(config)
        self.encoder = self._built("Encoder", channels, numbers)
        self.quant_conv = nn.Conv2d(numbers, numbers, 1) if config.use_quant_conv else None
        self.frozen = config.train == "decoder"
        if self.frozen:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> KLEncoder:
        """A frozen one stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def needs_start(self) -> None:
        """Refuse to keep an encoder that has learned nothing; see `NeedsStart`."""
        if self.frozen:
            raise ModelError(
                "train=decoder would keep an encoder as it was drawn: give --from a run, a folder of diffusers or "
                "user/name on the Hub, or set train=all."
            )

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        found = self.encoder(2 * image - 1)
        return found if self.quant_conv is None else self.quant_conv(found)


class KLDecoder(_Part):
    """Codes of any size to images as much larger, where [0, 1] is."""

    def __init__(self, config: KLConfig, channels: int) -> None:
        super().__init__(config)
        numbers = config.latent_channels
        self.post_quant_conv = nn.Conv2d(numbers, numbers, 1) if config.use_post_quant_conv else None
        self.decoder = self._built("Decoder", numbers, channels)

    def unscaled(self, wanted: Tensor) -> Tensor:
        """What the last layer has to give; see `Scaled`."""
        return 2 * wanted - 1

    def forward(self, code: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b kc h w"]:
        return 0.5 * self.decoder(code if self.post_quant_conv is None else self.post_quant_conv(code)) + 0.5
