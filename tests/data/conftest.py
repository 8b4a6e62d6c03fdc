"""Generated images, and a separate cache for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a cache that no other test uses, and return its data folder."""
    monkeypatch.setenv("ECTYPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """Return a function that makes a smooth color image from a seed."""

    def make(seed: int = 0, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        return small.resize(size, Image.Resampling.BICUBIC).convert(mode)

    return make


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., Image.Image]) -> Callable[..., Path]:
    """Return a function that makes a folder of images with the given names."""

    def make(*names: str, root: str = "images", **how: object) -> Path:
        for i, name in enumerate(names):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(i, **how).save(path)
        return tmp_path / root

    return make


class FakeStepContext:
    """A step context whose draws depend on a seed and their use."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.seen, self.step = seed, 0, 0
        self.uses: list[str] = []

    def _generator(self, use: str) -> torch.Generator:
        self.uses.append(use)
        return torch.Generator().manual_seed(hash((self.seed, len(use), sum(map(ord, use)))))

    def normal(self, use: str, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator(use))

    def uniform(self, use: str, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self._generator(use))


@pytest.fixture
def context() -> FakeStepContext:
    return FakeStepContext()
