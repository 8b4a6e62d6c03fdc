"""Tiny autoencoders of diffusers, in folders."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

SHAPE: dict[str, Any] = {"block_out_channels": (8, 16), "layers_per_block": 1, "latent_channels": 3}
GROUPS = {"norm_num_groups": 4}


def made(channels: int = 3, **keys: Any) -> Any:
    """A network with weights of its own."""
    from diffusers import AutoencoderKL

    shape = {**SHAPE, **GROUPS, **keys}
    levels = len(shape["block_out_channels"])
    torch.manual_seed(5)
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **shape,
    ).eval()


def folder(place: Path, channels: int = 3, **keys: Any) -> Path:
    """The same in a folder."""
    made(channels, **keys).save_pretrained(place)
    return place


def loaded(place: Path) -> Any:
    """What diffusers makes of a folder."""
    from diffusers import AutoencoderKL

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # diffusers leaves a file for Python to close
        return AutoencoderKL.from_pretrained(place, low_cpu_mem_usage=False).eval()
