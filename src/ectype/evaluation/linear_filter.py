"""The best linear filter against a corruption: a baseline of models that restore images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["LinearFilter", "fit_linear_filter"]

Image = Float[Tensor, "b c h w"]

SIDE_PX = 7
"""Side of the window of pixels that a filter sees. A larger one hardly helps against noise."""
RIDGE = 1e-4
"""Penalty on the filter's weights, relative to the mean variance of a pixel, for pixels that never vary."""


class LinearFilter(NamedTuple):
    """A filter that predicts each clean pixel from the corrupted pixels around it, in all channels.

    Example:
        >>> clean = torch.rand(8, 1, 1, 1).expand(8, 1, 16, 16)
        >>> noisy = clean + 0.5 * torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> restored = fit_linear_filter([(noisy, clean)]).apply(noisy)
        >>> float((restored - clean).std()) < 0.2
        True
    """

    weight: Float[Tensor, "c c side side"]
    bias: Float[Tensor, " c"]

    def apply(self, image: Image) -> Image:
        """Return the filtered images, clamped to [0, 1] like the outputs of a model."""
        weight, bias = self.weight.to(image.device), self.bias.to(image.device)
        return F.conv2d(_padded(image), weight, bias).clamp(0, 1)


def fit_linear_filter(pairs: Iterable[tuple[Image, Image]]) -> LinearFilter:
    """Fit the filter of least squared error; against noise this is Wiener's filter.

    Args:
        pairs: Batches of corrupted images, and of the clean ones.
    """
    sums: Tensor | None = None
    channels = total = 0
    for corrupted, clean in pairs:
        channels = clean.shape[1]
        windows = F.unfold(_padded(corrupted), SIDE_PX).transpose(1, 2).flatten(0, 1)
        rows = torch.cat([torch.ones_like(windows[:, :1]), windows, clean.movedim(1, -1).flatten(0, 2)], dim=1)
        products = (rows.T @ rows).double().cpu()
        sums, total = products if sums is None else sums + products, total + len(rows)
    assert sums is not None, "no images"
    mean, moments = sums[0, 1:] / total, sums[1:, 1:] / total
    covariance, inputs = moments - mean.outer(mean), len(mean) - channels
    seen = covariance[:inputs, :inputs]
    seen = seen + (RIDGE * float(seen.diagonal().mean()) + torch.finfo(torch.float32).tiny) * torch.eye(inputs)
    weight = torch.linalg.solve(seen, covariance[:inputs, inputs:])
    bias = mean[inputs:] - mean[:inputs] @ weight
    return LinearFilter(weight.T.reshape(channels, channels, SIDE_PX, SIDE_PX).float(), bias.float())


def _padded(image: Image) -> Float[Tensor, "b c h2 w2"]:
    return F.pad(image, (SIDE_PX // 2,) * 4, mode="replicate")
