"""Structural similarity, differentiable and equal to scikit-image's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["ssim", "ssim_radius"]

TRUNCATE = 3.5
"""Standard deviations to which the Gaussian window reaches, as in scikit-image."""


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
    if x.shape != y.shape:
        raise ValueError(f"ssim compares images of one shape, got {tuple(x.shape)} and {tuple(y.shape)}.")
    channels, height, width = x.shape[1:]
    radius = ssim_radius((height, width), sigma)
    with torch.autocast(x.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        x, y = x.to(wide), y.to(wide)
        maps = torch.cat([x, y, x * x, y * y, x * y], dim=1)
        offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=wide)
        window = torch.exp(-0.5 * (offsets / sigma) ** 2)
        window = (window / window.sum()).expand(5 * channels, 1, -1)
        maps = F.conv2d(maps, window[..., None, :], groups=5 * channels)
        maps = F.conv2d(maps, window[..., :, None], groups=5 * channels)
        mean_x, mean_y, xx, yy, xy = maps.split(channels, dim=1)
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        structure = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
        return (luminance * structure).flatten(1).mean(1)
