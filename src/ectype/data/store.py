"""Prepared images as tensors: one vectorised gather for each batch, straight from mapped files."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ectype.data.batch import Batch
from ectype.data.names import read_names
from ectype.data.prepare import Prepared
from ectype.data.sources import TEST, TRAIN, VAL
from ectype.errors import DataError
from ectype.sections import DataConfig, DataInfo

__all__ = ["Images", "Store", "open_store"]

SIDES = {"train": TRAIN, "val": VAL, "test": TEST}


class Images:
    """The images of one split, in a fixed order.

    Attributes:
        labels: [n] int64 class indices, None where images have no classes.
        names: Paths in the source, or numbers where it has none.
        channels: Of the images; what is stored behind them are their partners.
        masks: Whether partners are class indices rather than pictures.
    """

    def __init__(
        self,
        shards: Sequence[Tensor],
        rows: Tensor,
        labels: Tensor | None,
        names: Sequence[str],
        *,
        channels: int | None = None,
        masks: bool = False,
    ) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *map(len, shards)]).tolist()
        self._rows = rows
        self.labels = labels
        self.names = names
        self.channels = shards[0].shape[1] if channels is None else channels
        self.masks = masks

    def __len__(self) -> int:
        return len(self._rows)

    def parts(self, pixels: UInt8[Tensor, "*b c h w"]) -> tuple[UInt8[Tensor, "*b d h w"], Tensor | None]:
        """What is stored as images and their partners, None where they have none."""
        if pixels.shape[-3] == self.channels:
            return pixels, None
        return pixels[..., : self.channels, :, :], pixels[..., self.channels :, :, :]

    def gather(self, index: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Images by their place in this split, as stored, their partners' channels behind their own.

        Raises `IndexError` beyond its end.
        """
        rows = self._rows.index_select(0, index)
        if len(self._shards) == 1:
            return self._shards[0].index_select(0, rows)
        images = torch.empty(len(rows), *self._shards[0].shape[1:], dtype=torch.uint8)
        for start, shard in zip(self._starts, self._shards, strict=False):
            here = ((rows >= start) & (rows < start + len(shard))).nonzero()[:, 0]
            if len(here):
                images.index_copy_(0, here, shard.index_select(0, rows[here] - start))
        return images

    def one(self, index: int) -> UInt8[Tensor, "c h w"]:
        """A single image without its partner, a view of the mapped file: do not write to it."""
        row = int(self._rows[index])
        shard = bisect.bisect_right(self._starts, row) - 1
        return self._shards[shard][row - self._starts[shard]][: self.channels]

    def batch(self, index: Int[Tensor, " b"]) -> Batch:
        """Images in [0, 1] and their labels, neither augmented nor binarised: see `ectype.data.feed` for those."""
        image = self.parts(self.gather(index))[0].to(torch.float32).div_(255)
        return Batch(image, None if self.labels is None else self.labels[index])

    def __iter__(self) -> Iterator[UInt8[Tensor, "c h w"]]:
        return (self.one(i) for i in range(len(self)))


class Store:
    """All prepared images of a source, by split."""

    def __init__(self, prepared: Prepared, *, binary: bool) -> None:
        self.info: DataInfo = prepared.info._replace(binary=binary)
        shards = [torch.from_numpy(np.load(path, mmap_mode="c")) for path in prepared.shards]
        names = read_names(prepared.root)
        labels = None if prepared.labels is None else torch.from_numpy(prepared.labels.astype(np.int64))
        self._splits: dict[str, Images] = {}
        for name, side in SIDES.items():
            rows = np.flatnonzero(prepared.sides == side)
            index = torch.from_numpy(rows)
            own = None if labels is None else labels[index]
            masks = prepared.info.target is not None and prepared.info.target.kind == "masks"
            self._splits[name] = Images(
                shards, index, own, names.take(rows), channels=prepared.info.channels, masks=masks
            )

    def split(self, name: Literal["train", "val", "test"]) -> Images:
        """The images of one split.

        Raises:
            DataError: It is empty, because its share in the recipe is 0.
        """
        images = self._splits[name]
        if not len(images):
            held = f"split.{name} is 0; raise it to hold some out"
            why = held if name != "train" else "the source holds all of them out; give some to train on"
            raise DataError(f"there are no {name} images: {why}.")
        return images

    def splits(self) -> Iterator[tuple[str, Images]]:
        """Every split that has images."""
        return ((name, images) for name, images in self._splits.items() if len(images))


def open_store(prepared: Prepared, config: DataConfig) -> Store:
    """Map prepared images.

    Args:
        prepared: What `prepare` gave.
        config: What it was prepared from: says whether images will be binarised.

    Raises:
        DataError: The prepared files are gone.
    """
    try:
        return Store(prepared, binary=config.binarise != "none")
    except (OSError, ValueError) as error:
        raise DataError(
            f"prepared images in '{prepared.root}' are gone or damaged ({error}): prepare them again."
        ) from None
