"""Layers that change the size of a map: downsampling, upsampling, and parameter-free shortcuts around them.

Attribute names of modules and parameters are part of saved weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "DownConv",
    "Residual",
    "ShortcutDown",
    "ShortcutUp",
    "ShuffleConv",
    "TransposedConv",
    "UnshuffleConv",
    "UpConv",
    "Upsampling",
    "halved_size",
    "pad_and_unshuffle",
    "pad_or_crop_channels",
    "scale_down_layer",
    "upsampling_layers",
    "with_shortcut",
]

Upsampling = Literal["nearest", "transposed", "shuffle", "residual_shuffle"]
SHORTCUT_INIT_SCALE = 0.03
"""Factor on the initial weights of a convolution with a shortcut around it, so that the shortcut dominates at first.
It is not 0, because channels that the shortcut copies would then stay identical."""


# ── Down ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def halved_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width after a `DownConv`: half of each, rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


class DownConv(nn.Conv2d):
    """Halves height and width, rounded up, with a convolution of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=2, padding=kernel // 2)


class UnshuffleConv(nn.Conv2d):
    """Turns blocks of `factor` × `factor` pixels into channels (pixel unshuffle), then applies a convolution.

    Sides that are not multiples of the factor are padded by repeating their last row or column.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int, kernel: int = 3) -> None:
        super().__init__(in_channels * factor**2, out_channels, kernel, padding=kernel // 2)
        self.factor = factor

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return super().forward(pad_and_unshuffle(input, self.factor))


def pad_and_unshuffle(x: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b d h2 w2"]:
    """Apply pixel unshuffle; sides that are not multiples of the factor are padded with their last row or column.

    Returns:
        A tensor [b, c · factor², ⌈h / factor⌉, ⌈w / factor⌉].
    """
    bottom, right = -x.shape[2] % factor, -x.shape[3] % factor
    if bottom or right:
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    return F.pixel_unshuffle(x, factor)


# ── Up ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _upsampled_size(x: Tensor, size: tuple[int, int], factor: int = 2) -> tuple[int, int]:
    """Return `size` if dividing it by `factor` gives the size of x, otherwise `factor` times the size of x.

    So a decoder of maps also accepts maps of other sizes than those of its own images: crops of them, or larger ones.
    """
    height, width = x.shape[2:]
    if (height, width) == (-(-size[0] // factor), -(-size[1] // factor)):
        return size
    return height * factor, width * factor


class UpConv(nn.Module):
    """Upsamples to a given size: 1×1 convolution to the output channels, nearest neighbor, then a convolution.

    Away from the border a constant map stays constant: there is no checkerboard, which transposed convolution and pixel
    shuffle produce at initialization and must unlearn (Odena et al. 2016, "Deconvolution and checkerboard artifacts").
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int], kernel: int = 3) -> None:
        super().__init__()
        self.size = size
        self.reduce = nn.Conv2d(in_channels, out_channels, 1)
        self.smooth = nn.Conv2d(out_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self.smooth(F.interpolate(self.reduce(x), size=_upsampled_size(x, self.size), mode="nearest"))


class TransposedConv(nn.ConvTranspose2d):
    """Upsamples to a given size with a transposed convolution of stride 2.

    Its kernel is a multiple of its stride, so that every output pixel receives the same number of inputs. They pass
    through different weights, however, so a fresh layer produces a checkerboard.
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int], kernel: int = 4) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=2, padding=kernel // 2 - 1)
        self.size = size

    def forward(
        self, input: Float[Tensor, "b c h w"], output_size: list[int] | None = None
    ) -> Float[Tensor, "b d h2 w2"]:
        height, width = _upsampled_size(input, self.size)
        return super().forward(input, output_size)[:, :, :height, :width]


class ShuffleConv(nn.Conv2d):
    """Upsamples to a given size: a convolution to `factor`² channels per output channel, then pixel shuffle.

    From Shi et al. 2016. The channels that become the pixels of one block start with equal weights and share one bias,
    so that a fresh layer equals a convolution followed by nearest neighbor and produces no checkerboard (ICNR, Aitken
    et al. 2017, arXiv 1707.02937).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        size: Height and width of the output.
        factor: Upsampling factor of both sides.
        kernel: Side of the convolution's kernel.
        gain: Factor on the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        *,
        factor: int = 2,
        kernel: int = 3,
        gain: float = 1.0,
    ) -> None:
        super().__init__(in_channels, out_channels * factor**2, kernel, padding=kernel // 2, bias=False)
        self.size, self.factor, self.gain = size, factor, gain
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.tie_subpixels()

    @torch.no_grad()
    def tie_subpixels(self) -> None:
        """Give all pixels of a block the weights of its first one, times `gain`. Call it on freshly drawn weights."""
        if self.weight.is_meta:  # arithmetic there imports PyTorch's compiler, which takes seconds
            return
        block = self.factor**2
        self.weight.copy_(self.gain * self.weight[::block].repeat_interleave(block, dim=0))

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        height, width = _upsampled_size(input, self.size, self.factor)
        assert self.bias is not None
        subpixels = F.conv2d(input, self.weight, padding=self.padding)
        return F.pixel_shuffle(subpixels, self.factor)[:, :, :height, :width] + self.bias[:, None, None]


# ── Shortcuts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _match_channels(x: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b d h w"]:
    """Change the number of channels without parameters: repeat each, or average neighbors.

    If neither number divides the other, the nearest power of two is used as the factor and zeros are appended or
    channels cropped: three color channels fill 24 of 32 channels, and are recovered from these.
    """
    before = x.shape[1]
    more, fewer = max(before, channels), min(before, channels)
    times = more // fewer if more % fewer == 0 else 2 ** round(math.log2(more / fewer))
    if channels >= before:
        return pad_or_crop_channels(x.repeat_interleave(times, dim=1), channels)
    padded = pad_or_crop_channels(x, before + -before % times)
    return pad_or_crop_channels(padded.unflatten(1, (-1, times)).mean(2), channels)


def pad_or_crop_channels(x: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b d h w"]:
    """Append channels of zeros, or drop the last channels, so that there are `channels` of them."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


class ShortcutDown(nn.Module):
    """Downsamples by `factor` without parameters: pixels become channels, and neighboring channels are averaged.

    From Chen et al. 2024 (DC-AE, arXiv 2410.10733). With a factor of 1 only the number of channels changes.

    Args:
        channels: Output channels.
        factor: Downsampling factor of both sides.
        filled: Number of output channels that are filled, counted from the first; the others are 0. All if None.

    Example:
        >>> ShortcutDown(3, factor=2)(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 3, 4, 4])
    """

    def __init__(self, channels: int, factor: int, filled: int | None = None) -> None:
        super().__init__()
        self.channels, self.factor, self.filled = channels, factor, filled or channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return pad_or_crop_channels(_match_channels(pad_and_unshuffle(x, self.factor), self.filled), self.channels)


class ShortcutUp(nn.Module):
    """Upsamples to a given size without parameters, the inverse of `ShortcutDown`: repeated channels become pixels.

    Args:
        channels: Output channels.
        size: Height and width of the output.
        factor: Upsampling factor of both sides.
        filled: Number of output channels that are filled, counted from the first; the others are 0. All if None.
    """

    def __init__(self, channels: int, size: tuple[int, int], factor: int, filled: int | None = None) -> None:
        super().__init__()
        self.channels, self.size, self.factor, self.filled = (channels, size, factor, filled or channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        height, width = _upsampled_size(x, self.size, self.factor)
        pixels = F.pixel_shuffle(_match_channels(x, self.filled * self.factor**2), self.factor)
        return pad_or_crop_channels(pixels[:, :, :height, :width], self.channels)


class Residual(nn.Module):
    """The sum of two modules applied to the same map: layers with parameters, and a shortcut around them."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self.body(x) + self.shortcut(x)


@torch.no_grad()
def scale_down_layer(layer: nn.Module) -> None:
    """Multiply the fresh weights of a layer by `SHORTCUT_INIT_SCALE`, so that its shortcut dominates at first."""
    for parameter in layer.parameters():
        parameter.mul_(SHORTCUT_INIT_SCALE)


def with_shortcut(layers: Sequence[nn.Module], shortcut: nn.Module) -> Residual:
    """Put a shortcut around layers, and scale down the initial weights of the last one."""
    scale_down_layer(layers[-1])
    return Residual(nn.Sequential(*layers), shortcut)


def upsampling_layers(
    kind: Upsampling,
    in_channels: int,
    out_channels: int,
    size: tuple[int, int],
    *,
    pre_layers: Sequence[nn.Module] = (),
    kernel: int = 3,
    factor: int = 2,
    filled: int | None = None,
) -> list[nn.Module]:
    """Return the layers that upsample a map to a given size.

    Args:
        kind: nearest: `UpConv`. transposed: `TransposedConv` with a kernel one larger. shuffle: `ShuffleConv`.
            residual_shuffle: the same with a `ShortcutUp` around it, so that a fresh decoder repeats pixels.
        in_channels: Input channels.
        out_channels: Output channels.
        size: Height and width of the output.
        pre_layers: Layers that come first, inside the shortcut: normalization and activation.
        kernel: Side of the convolution's kernel.
        factor: Upsampling factor of both sides; other than 2 only for shuffle and residual_shuffle.
        filled: Number of output channels that the shortcut fills; all if None.
    """
    if kind == "nearest":
        return [*pre_layers, UpConv(in_channels, out_channels, size, kernel)]
    if kind == "transposed":
        return [*pre_layers, TransposedConv(in_channels, out_channels, size, kernel + 1)]
    if kind == "shuffle":
        return [*pre_layers, ShuffleConv(in_channels, out_channels, size, factor=factor, kernel=kernel)]
    last = ShuffleConv(in_channels, out_channels, size, factor=factor, kernel=kernel, gain=SHORTCUT_INIT_SCALE)
    return [Residual(nn.Sequential(*pre_layers, last), ShortcutUp(out_channels, size, factor, filled))]
