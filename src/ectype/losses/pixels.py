"""Losses on pixels and their differences. Each is a mean over channels and pixels, and returns one value per image.

To add a loss, write such a function here or in a file of its own, and name it in `LOSSES` in `weighted.py`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.core.errors import ModelError

__all__ = ["bce", "charbonnier", "gradient", "l1", "mse", "psnr"]

CHARBONNIER_EPSILON = 1e-3
"""ε of the Charbonnier loss, for pixels in [0, 1]."""
PSNR_CEILING_DB = 60.0
"""PSNR that counts as perfect; improvements beyond it reduce the loss very little."""
MIN_PROBABILITY = 1e-12
"""Probabilities are clamped to this value before their logarithm is taken."""

Images = Float[Tensor, "b c h w"]
Values = Float[Tensor, " b"]


def mse(output: Images, target: Images) -> Values:
    """Compute the mean squared error: the mean of (o − t)².

    Args:
        output: Images [b, c, h, w].
        target: Images of the same shape.

    Returns:
        One value per image [b].

    Example:
        >>> mse(torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, 1, 2, 2))
        tensor([0.2500, 0.2500])
    """
    return (output - target).square().flatten(1).mean(1)


def psnr(output: Images, target: Images) -> Values:
    """Compute by how many decibels the PSNR falls short of 60 dB: 10 · log₁₀(1 + MSE / 10⁻⁶).

    This loss reduces the error of every image by the same factor, whereas `mse` is dominated by the images with the
    largest errors (negative PSNR as a loss: Chen et al. 2021, "HINet").
    """
    return 10 / math.log(10) * (mse(output, target) / 10 ** (-PSNR_CEILING_DB / 10)).log1p()


def l1(output: Images, target: Images) -> Values:
    """Compute the mean absolute error: the mean of |o − t|."""
    return (output - target).abs().flatten(1).mean(1)


def charbonnier(output: Images, target: Images) -> Values:
    """Compute the mean of √((o − t)² + ε²) with ε = 0.001 (Charbonnier et al. 1994; Lai et al. 2017).

    It is close to the absolute error, but smooth at 0. Equal images have a loss of ε, not 0.
    """
    return ((output - target).square() + CHARBONNIER_EPSILON**2).sqrt().flatten(1).mean(1)


def bce(output: Images, target: Images) -> Values:
    """Compute the binary cross-entropy in nats per element: the mean of −t · ln o − (1 − t) · ln(1 − o).

    For gray pixels it is not a likelihood, and equal images have the target's own entropy as their loss, not 0.
    Probabilities are clamped to at least 1e-12.

    Args:
        output: Images [b, c, h, w] in [0, 1].
        target: Images of the same shape in [0, 1].

    Raises:
        ModelError: If an output is outside [0, 1].
    """
    if bool(((output < 0) | (output > 1)).any()):
        low, high = float(output.detach().min()), float(output.detach().max())
        raise ModelError(f"loss bce needs outputs in [0, 1], got {low:.3g} to {high:.3g}: set output=sigmoid.")
    log_one, log_zero = output.clamp(min=MIN_PROBABILITY).log(), (1 - output).clamp(min=MIN_PROBABILITY).log()
    return -(target * log_one + (1 - target) * log_zero).flatten(1).mean(1)


def gradient(output: Images, target: Images) -> Values:
    """Compute the mean absolute error of the differences of adjacent pixels, averaged over both directions.

    The sign of a difference counts, unlike in the gradient difference loss of Mathieu et al. 2016, which compares
    magnitudes. Images that differ by a constant have a loss of 0.

    Raises:
        ModelError: If a side of the images is one pixel long.
    """
    if min(output.shape[2:]) < 2:
        raise ModelError(f"loss gradient needs images of at least 2 × 2 pixels, got {tuple(output.shape[2:])}.")
    error = output - target
    horizontal, vertical = (torch.diff(error, dim=dim).abs().flatten(1).mean(1) for dim in (3, 2))
    return (horizontal + vertical) / 2
