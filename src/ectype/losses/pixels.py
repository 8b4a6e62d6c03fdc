"""Losses on pixels and on their differences; each is a mean over channels and places, one value per image."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.errors import ModelError

__all__ = ["bce", "charbonnier", "gradient", "l1", "mse", "psnr"]

EPSILON = 1e-3
"""Of the Charbonnier loss, for pixels in [0, 1]."""
CEILING = 60.0
"""PSNR in dB beyond which hardly anything is gained."""
LEAST = 1e-12
"""Probability below which a logarithm falls no further."""

Images = Float[Tensor, "b c h w"]
Values = Float[Tensor, " b"]


def mse(output: Images, target: Images) -> Values:
    """Mean squared error: the mean of (o − t)²."""
    return (output - target).square().flatten(1).mean(1)


def psnr(output: Images, target: Images) -> Values:
    """Decibels by which the peak signal-to-noise ratio falls short of 60: 10 · log₁₀(1 + MSE / 10⁻⁶).

    Each image is to be better by the same share of its own error, where `mse` heeds those that are hardest (minus the
    PSNR as a loss: Chen et al. 2021, "HINet").
    """
    return 10 / math.log(10) * (mse(output, target) / 10 ** (-CEILING / 10)).log1p()


def l1(output: Images, target: Images) -> Values:
    """Mean absolute error: the mean of |o − t|."""
    return (output - target).abs().flatten(1).mean(1)


def charbonnier(output: Images, target: Images) -> Values:
    """The mean of √((o − t)² + ε²) with ε = 0.001 (Charbonnier et al. 1994; Lai et al. 2017).

    Nearly the absolute error, and smooth at 0. Equal images have ε, not 0.
    """
    return ((output - target).square() + EPSILON**2).sqrt().flatten(1).mean(1)


def bce(output: Images, target: Images) -> Values:
    """Binary cross-entropy in nats per number: the mean of −t · ln o − (1 − t) · ln(1 − o).

    On grey pixels it is no likelihood, and equal images have the target's own entropy, not 0. Logarithms are cut at
    ln 1e-12.

    Raises:
        ModelError: An output outside of [0, 1].
    """
    if bool(((output < 0) | (output > 1)).any()):
        low, high = float(output.detach().min()), float(output.detach().max())
        raise ModelError(f"loss bce needs outputs in [0, 1], got {low:.3g} to {high:.3g}: set output=sigmoid.")
    hit, miss = output.clamp(min=LEAST).log(), (1 - output).clamp(min=LEAST).log()
    return -(target * hit + (1 - target) * miss).flatten(1).mean(1)


def gradient(output: Images, target: Images) -> Values:
    """Mean absolute error of horizontal and of vertical differences of neighbouring pixels, averaged over the two.

    The sign of a difference counts, unlike in the gradient difference loss of Mathieu et al. 2016, which compares
    magnitudes. Images that differ by a constant have 0.

    Raises:
        ModelError: Images with a side of one pixel.
    """
    if min(output.shape[2:]) < 2:
        raise ModelError(f"loss gradient needs images of 2 × 2 pixels at least, got {tuple(output.shape[2:])}.")
    error = output - target
    across, down = (torch.diff(error, dim=dim).abs().flatten(1).mean(1) for dim in (3, 2))
    return (across + down) / 2
