"""Structural similarity at one scale (SSIM) and at several (MS-SSIM), differentiable and equal to scikit-image's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["ms_ssim", "ms_ssim_scales", "ssim", "ssim_radius"]

WINDOW_RADIUS_STDS = 3.5
"""Radius of the Gaussian window in standard deviations, as in scikit-image."""
MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM from the finest scale to the coarsest (Wang et al. 2003, section 3.2)."""
MIN_POWER_BASE = 0.01
"""Mean below which the logarithm of a factor of MS-SSIM is replaced by its tangent, see `ms_ssim`."""


def ssim_radius(size: tuple[int, int], sigma: float = 1.5) -> int:
    """Return the radius of the SSIM window in pixels.

    It is 5 for σ = 1.5: the 11-pixel window of the paper. Smaller images, for which scikit-image raises an error, get
    the largest odd window that fits; their values are not comparable with those of larger images.

    Args:
        size: Height and width of the images in pixels.
        sigma: Standard deviation of the Gaussian window in pixels.

    Example:
        >>> ssim_radius((64, 64)), ssim_radius((8, 8))
        (5, 3)
    """
    return min(int(WINDOW_RADIUS_STDS * sigma + 0.5), (min(size) - 1) // 2)


def ssim(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"], *, data_range: float = 1.0, sigma: float = 1.5
) -> Float[Tensor, " b"]:
    """Compute the mean structural similarity of each pair of images (Wang et al. 2004).

    The result equals that of scikit-image's
    `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`, averaged over channels. As
    there, a border as wide as the window's radius is excluded from the mean, so nothing is padded. Gradients flow to
    both images. The computation is in float32 or higher precision, even under autocast, because variances are small
    differences of large values.

    Args:
        x: Images [b, c, h, w].
        y: Images of the same shape.
        data_range: Largest possible difference between two pixels.
        sigma: Standard deviation of the Gaussian window in pixels. Windows larger than the image shrink, see
            `ssim_radius`.

    Returns:
        One value per image [b], at most 1; higher means more similar.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> x = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
        >>> ssim(x, x)
        tensor([1.])
        >>> bool(ssim(x, 0.5 * x) < 1)
        True
    """
    x, y = _promote(x, y)
    with torch.autocast(x.device.type, enabled=False):
        luminance, contrast = _ssim_maps(x, y, data_range, sigma)
        return (luminance * contrast).flatten(1).mean(1)


def ms_ssim_scales(size: tuple[int, int], sigma: float = 1.5) -> int:
    """Return how many of the five scales are used for images of this height and width.

    A scale is used if the complete window fits into it: for σ = 1.5, five scales for sides of at least 176 pixels, four
    from 88, three from 44, two from 22, and below that a single one, which is plain SSIM.

    Args:
        size: Height and width of the images in pixels.
        sigma: Standard deviation of the Gaussian window in pixels of each scale.
    """
    window = 2 * int(WINDOW_RADIUS_STDS * sigma + 0.5) + 1
    return max(1, sum(min(size) >> scale >= window for scale in range(len(MS_SSIM_EXPONENTS))))


def ms_ssim(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"], *, data_range: float = 1.0, sigma: float = 1.5
) -> Float[Tensor, " b"]:
    """Compute the multi-scale structural similarity over five scales (Wang et al. 2003).

    Each scale has half the side lengths of the previous one, by averaging 2 × 2 pixels; an odd last row or column is
    dropped. The mean contrast and structure of every scale, and the mean SSIM of the coarsest, are raised to the
    paper's exponents and multiplied for each channel, then averaged over channels. Window, border and precision are
    those of `ssim`. Images that are too small for five scales use fewer, with exponents that are rescaled to sum to 1:
    their values are comparable only with each other, see `ms_ssim_scales`.

    The paper's power is undefined where images are negatively correlated, and its gradient at 0 is infinite. Below a
    mean of 0.01 the logarithm is therefore continued as a straight line: the value stays positive, and images that have
    nothing in common yet still have a useful gradient.

    Args:
        x: Images [b, c, h, w].
        y: Images of the same shape.
        data_range: Largest possible difference between two pixels.
        sigma: Standard deviation of the Gaussian window in pixels of each scale.

    Returns:
        One value per image [b], in (0, 1]; higher means more similar.

    Raises:
        ValueError: If the shapes differ.
    """
    x, y = _promote(x, y)
    num_scales = ms_ssim_scales((x.shape[2], x.shape[3]), sigma)
    exponents = [exponent / sum(MS_SSIM_EXPONENTS[:num_scales]) for exponent in MS_SSIM_EXPONENTS[:num_scales]]
    with torch.autocast(x.device.type, enabled=False):
        total = x.new_zeros(x.shape[:2])
        for scale, exponent in enumerate(exponents):
            if scale:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            luminance, contrast = _ssim_maps(x, y, data_range, sigma)
            factor = luminance * contrast if scale == num_scales - 1 else contrast
            total = total + exponent * _extended_log(factor.flatten(2).mean(2))
        return total.exp().mean(1)


def _promote(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Convert both images to a common type of at least float32."""
    if x.shape != y.shape:
        raise ValueError(f"SSIM compares images of the same shape, got {tuple(x.shape)} and {tuple(y.shape)}.")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype), y.to(dtype)


def _ssim_maps(x: Tensor, y: Tensor, data_range: float, sigma: float) -> tuple[Tensor, Tensor]:
    """Return the luminance, and the product of contrast and structure, at every position [b, c, h − 2r, w − 2r]."""
    channels, height, width = x.shape[1:]
    radius = ssim_radius((height, width), sigma)
    # The formula needs only the sum of the two second moments: four maps. CPUs filter them fastest with channels last.
    maps = torch.cat([x, y, x * x + y * y, x * y], dim=1).contiguous(memory_format=torch.channels_last)
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    window = torch.exp(-0.5 * (offsets / sigma) ** 2)
    window = (window / window.sum()).expand(4 * channels, 1, -1)
    maps = F.conv2d(maps, window[..., None, :], groups=4 * channels)
    maps = F.conv2d(maps, window[..., :, None], groups=4 * channels)
    mean_x, mean_y, second_moments, product = maps.split(channels, dim=1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_xy, mean_xx_yy = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    luminance = (2 * mean_xy + c1) / (mean_xx_yy + c1)
    return luminance, (2 * (product - mean_xy) + c2) / (second_moments - mean_xx_yy + c2)


def _extended_log(mean: Tensor) -> Tensor:
    clamped = mean.clamp(min=MIN_POWER_BASE)
    tangent = math.log(MIN_POWER_BASE) + (mean - MIN_POWER_BASE) / MIN_POWER_BASE
    return torch.where(mean > MIN_POWER_BASE, clamped.log(), tangent)
