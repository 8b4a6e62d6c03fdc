"""Layers that change a map's size: halving, doubling, and the shortcuts around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "Beside",
    "Down",
    "Patch",
    "Shuffle",
    "Squeeze",
    "Stretch",
    "Transposed",
    "Up",
    "Upsampling",
    "beside",
    "filled",
    "halved",
    "quiet",
    "unshuffle",
    "upsampling",
]

Upsampling = Literal["nearest", "transposed", "shuffle", "residual_shuffle"]
QUIET = 0.03
"""What the first weights of a convolution beside a shortcut are multiplied by, so that the shortcut is heard first.
Not 0: channels that a shortcut copies would then never differ."""


# ── Down ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """The size behind a `Down`: odd sides round up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


class Down(nn.Conv2d):
    """Half the height and width (odd sides round up) by a convolution of stride 2, 3×3 if not said otherwise."""

    def __init__(self, before: int, after: int, kernel: int = 3) -> None:
        super().__init__(before, after, kernel, stride=2, padding=kernel // 2)


class Patch(nn.Conv2d):
    """Squares of `factor` × `factor` pixels become channels (pixel unshuffle), then a convolution.

    Sides that do not divide are filled up with their last row or column.
    """

    def __init__(self, before: int, after: int, factor: int, kernel: int = 3) -> None:
        super().__init__(before * factor**2, after, kernel, padding=kernel // 2)
        self.factor = factor

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return super().forward(unshuffle(input, self.factor))


def unshuffle(x: Float[Tensor, "b c h w"], factor: int) -> Float[Tensor, "b d h2 w2"]:
    """Squares of pixels as channels; sides that do not divide are filled up with their last row or column."""
    down, right = -x.shape[2] % factor, -x.shape[3] % factor
    if down or right:
        x = F.pad(x, (0, right, 0, down), mode="replicate")
    return F.pixel_unshuffle(x, factor)


# ── Up ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _grown(x: Tensor, size: tuple[int, int], factor: int = 2) -> tuple[int, int]:
    """The size above that of x: `size` where it leads there, else `factor` times its own.

    So a decoder of maps takes other maps than those of its own images: parts of them, or larger ones.
    """
    height, width = x.shape[2:]
    if (height, width) == (-(-size[0] // factor), -(-size[1] // factor)):
        return size
    return height * factor, width * factor


class Up(nn.Module):
    """To a given size: 1×1 to the outgoing channels, nearest neighbour, a convolution, 3×3 if not said otherwise.

    A constant comes out as a constant away from the border: no checkerboard, which transposed convolution and pixel
    shuffling draw at the start and must unlearn (Odena et al. 2016, "Deconvolution and checkerboard artifacts").
    """

    def __init__(self, before: int, after: int, size: tuple[int, int], kernel: int = 3) -> None:
        super().__init__()
        self.size = size
        self.reduce = nn.Conv2d(before, after, 1)
        self.smooth = nn.Conv2d(after, after, kernel, padding=kernel // 2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self.smooth(F.interpolate(self.reduce(x), size=_grown(x, self.size), mode="nearest"))


class Transposed(nn.ConvTranspose2d):
    """To a given size by a transposed convolution of stride 2, 4×4 if not said otherwise.

    Its kernel divides by its stride, so that all pixels hear of as many numbers; they hear them through different
    weights, and a fresh one draws a checkerboard.
    """

    def __init__(self, before: int, after: int, size: tuple[int, int], kernel: int = 4) -> None:
        super().__init__(before, after, kernel, stride=2, padding=kernel // 2 - 1)
        self.size = size

    def forward(
        self, input: Float[Tensor, "b c h w"], output_size: list[int] | None = None
    ) -> Float[Tensor, "b d h2 w2"]:
        height, width = _grown(input, self.size)
        return super().forward(input, output_size)[:, :, :height, :width]


class Shuffle(nn.Conv2d):
    """To a given size: a convolution to `factor`² numbers for each outgoing one, which become pixels (Shi et al. 2016).

    These begin with equal weights and have one bias, so that a fresh block is a convolution before nearest neighbour
    and draws no checkerboard (ICNR, Aitken et al. 2017, arXiv 1707.02937).
    """

    def __init__(
        self,
        before: int,
        after: int,
        size: tuple[int, int],
        *,
        factor: int = 2,
        kernel: int = 3,
        gain: float = 1.0,
    ) -> None:
        super().__init__(before, after * factor**2, kernel, padding=kernel // 2, bias=False)
        self.size, self.factor, self.gain = size, factor, gain
        self.bias = nn.Parameter(torch.zeros(after))
        self.tie()

    @torch.no_grad()
    def tie(self) -> None:
        """Give all pixels of a square the weights of the first, times `gain`: for weights that were just drawn."""
        square = self.factor**2
        self.weight.copy_(self.gain * self.weight[::square].repeat_interleave(square, dim=0))

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        height, width = _grown(input, self.size, self.factor)
        assert self.bias is not None
        numbers = F.conv2d(input, self.weight, padding=self.padding)
        return F.pixel_shuffle(numbers, self.factor)[:, :, :height, :width] + self.bias[:, None, None]


# ── Shortcuts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _matched(x: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b d h w"]:
    """So many channels without a weight: each repeated, or neighbours averaged.

    Numbers that do not divide are matched by the nearest power of two, then zeros are put on or cut off: three colours
    fill three quarters of 32 channels, and are found there again.
    """
    before = x.shape[1]
    many, few = max(before, channels), min(before, channels)
    times = many // few if many % few == 0 else 2 ** round(math.log2(many / few))
    if channels >= before:
        return filled(x.repeat_interleave(times, dim=1), channels)
    return filled(filled(x, before + -before % times).unflatten(1, (-1, times)).mean(2), channels)


def filled(x: Float[Tensor, "b c h w"], channels: int) -> Float[Tensor, "b d h w"]:
    """So many channels: zeros behind, or the last cut off."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


class Squeeze(nn.Module):
    """Down by `factor` without weights: pixels become channels, whose neighbours are averaged (Chen et al. 2024, DC-AE,
    arXiv 2410.10733). With a factor of 1 only the channels change.

    Args:
        channels: Wanted.
        factor: Of both sides.
        carried: Of these, how many are filled, the first; the others are 0. All if not given.
    """

    def __init__(self, channels: int, factor: int, carried: int | None = None) -> None:
        super().__init__()
        self.channels, self.factor, self.carried = channels, factor, carried or channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return filled(_matched(unshuffle(x, self.factor), self.carried), self.channels)


class Stretch(nn.Module):
    """Up to a given size without weights: channels are repeated and become pixels, the other way of `Squeeze`."""

    def __init__(self, channels: int, size: tuple[int, int], factor: int, carried: int | None = None) -> None:
        super().__init__()
        self.channels, self.size, self.factor, self.carried = channels, size, factor, carried or channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        height, width = _grown(x, self.size, self.factor)
        pixels = F.pixel_shuffle(_matched(x, self.carried * self.factor**2), self.factor)
        return filled(pixels[:, :, :height, :width], self.channels)


class Beside(nn.Module):
    """The sum of what two modules make of the same map: layers with weights, and a shortcut around them."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        return self.body(x) + self.shortcut(x)


@torch.no_grad()
def quiet(layer: nn.Module) -> None:
    """Make a fresh layer start so that what stands beside it is heard first."""
    for parameter in layer.parameters():
        parameter.mul_(QUIET)


def beside(layers: Sequence[nn.Module], shortcut: nn.Module) -> Beside:
    """Layers around a shortcut; the last one starts quiet."""
    quiet(layers[-1])
    return Beside(nn.Sequential(*layers), shortcut)


def upsampling(
    kind: Upsampling,
    before: int,
    after: int,
    size: tuple[int, int],
    *,
    first: Sequence[nn.Module] = (),
    kernel: int = 3,
    factor: int = 2,
    carried: int | None = None,
) -> list[nn.Module]:
    """The layers that bring a map to a size.

    Args:
        kind: nearest: `Up`. transposed: `Transposed`, one wider than the kernel. shuffle: `Shuffle`. residual_shuffle:
            the same beside `Stretch`, so that a fresh decoder repeats pixels.
        before: Incoming channels.
        after: Outgoing channels.
        size: Height and width wanted.
        first: What comes before, and is left out of the shortcut: normalisation and activation.
        kernel: Of the convolution.
        factor: How much smaller the incoming map is; other than 2 only for shuffling.
        carried: How many outgoing channels the shortcut fills; all if not given.
    """
    if kind == "nearest":
        return [*first, Up(before, after, size, kernel)]
    if kind == "transposed":
        return [*first, Transposed(before, after, size, kernel + 1)]
    if kind == "shuffle":
        return [*first, Shuffle(before, after, size, factor=factor, kernel=kernel)]
    last = Shuffle(before, after, size, factor=factor, kernel=kernel, gain=QUIET)
    return [Beside(nn.Sequential(*first, last), Stretch(after, size, factor, carried))]
