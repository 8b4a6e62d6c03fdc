"""Structural similarity at one scale and at several, differentiable and equal to scikit-image's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["ms_ssim", "ms_ssim_scales", "ssim", "ssim_radius"]

TRUNCATE = 3.5
"""Standard deviations to which the Gaussian window reaches, as in scikit-image."""
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM from the finest scale to the coarsest (Wang et al. 2003, section 3.2)."""
LEAST = 0.01
"""Mean below which a factor of MS-SSIM is no longer raised to its power but continued, see `ms_ssim`."""


def ssim_radius(size: tuple[int, int], sigma: float = 1.5) -> int:
    """How far the window reaches on each side for images of that height and width.

    5 for σ = 1.5: the 11-pixel window of the paper. Smaller images, for which scikit-image raises an error, get the
    largest odd window that fits; their values are not comparable with those of larger images.
    """
    return min(int(TRUNCATE * sigma + 0.5), (min(size) - 1) // 2)


def ssim(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"], *, data_range: float = 1.0, sigma: float = 1.5
) -> Float[Tensor, " b"]:
    """Mean structural similarity of each pair of images (Wang et al. 2004), at most 1; higher is more alike.

    Equal to scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`,
    averaged over channels. As there, a border as wide as the window's radius is left out of the mean, so nothing is
    padded. Gradients flow to both images. Computed in float32 at least, under autocast too: variances are small
    differences of large numbers.

    Args:
        x: Images.
        y: Images of the same shape.
        data_range: Largest possible difference of two pixels.
        sigma: Of the Gaussian window, in pixels. Windows larger than the image shrink, see `ssim_radius`.
    """
    x, y = _wide(x, y)
    with torch.autocast(x.device.type, enabled=False):
        luminance, contrast = _maps(x, y, data_range, sigma)
        return (luminance * contrast).flatten(1).mean(1)


def ms_ssim_scales(size: tuple[int, int], sigma: float = 1.5) -> int:
    """How many of the five scales are used for images of that height and width.

    A scale is used if the whole window fits in it: all five from 176 pixels on for σ = 1.5, four from 88, three from
    44, two from 22, and one, which is plain SSIM, below.
    """
    window = 2 * int(TRUNCATE * sigma + 0.5) + 1
    return max(1, sum(min(size) >> scale >= window for scale in range(len(SCALES))))


def ms_ssim(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"], *, data_range: float = 1.0, sigma: float = 1.5
) -> Float[Tensor, " b"]:
    """Structural similarity over five scales (Wang et al. 2003), in (0, 1]; higher is more alike.

    Each scale has half the sides of the one before, by the mean of 2 × 2 pixels; an odd last row or column is left out.
    The mean contrast and structure of every scale, and the mean SSIM of the coarsest, are raised to the paper's
    exponents and multiplied, channel by channel, and averaged over channels. Window, border and float32 are those of
    `ssim`. Images too small for five scales use fewer, with exponents that sum to 1 again: their values are comparable
    among themselves only, see `ms_ssim_scales`.

    The paper's power is undefined where images are negatively correlated and has an endless slope at 0. Below a mean of
    0.01 its logarithm is continued as a straight line: the value stays positive, and images that have nothing in
    common yet still have a gradient.

    Args:
        x: Images.
        y: Images of the same shape.
        data_range: Largest possible difference of two pixels.
        sigma: Of the Gaussian window, in pixels of each scale.
    """
    x, y = _wide(x, y)
    count = ms_ssim_scales((x.shape[2], x.shape[3]), sigma)
    exponents = [exponent / sum(SCALES[:count]) for exponent in SCALES[:count]]
    with torch.autocast(x.device.type, enabled=False):
        total = x.new_zeros(x.shape[:2])
        for scale, exponent in enumerate(exponents):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            luminance, contrast = _maps(x, y, data_range, sigma)
            factor = luminance * contrast if scale == count - 1 else contrast
            total = total + exponent * _log(factor.flatten(2).mean(2))
        return total.exp().mean(1)


def _wide(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != y.shape:
        raise ValueError(f"similarity is of images of one shape, got {tuple(x.shape)} and {tuple(y.shape)}.")
    wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(wide), y.to(wide)


def _maps(x: Tensor, y: Tensor, data_range: float, sigma: float) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at every place [b, c, h − 2r, w − 2r]."""
    channels, height, width = x.shape[1:]
    radius = ssim_radius((height, width), sigma)
    # The formula needs the two second moments' sum only: four maps. Processors filter them fastest with channels last.
    maps = torch.cat([x, y, x * x + y * y, x * y], dim=1).contiguous(memory_format=torch.channels_last)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    window = torch.exp(-0.5 * (offsets / sigma) ** 2)
    window = (window / window.sum()).expand(4 * channels, 1, -1)
    maps = F.conv2d(maps, window[..., None, :], groups=4 * channels)
    maps = F.conv2d(maps, window[..., :, None], groups=4 * channels)
    mean_x, mean_y, squares, product = maps.split(channels, dim=1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    both, either = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    return (2 * both + c1) / (either + c1), (2 * (product - both) + c2) / (squares - either + c2)


def _log(mean: Tensor) -> Tensor:
    held = mean.clamp(min=LEAST)
    return torch.where(mean > LEAST, held.log(), math.log(LEAST) + (mean - LEAST) / LEAST)
