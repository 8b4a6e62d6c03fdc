"""Prepared images as tensors: one vectorized gather per batch, from memory-mapped files."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ectype.config.schema import DataConfig, DataInfo
from ectype.core.errors import DataError
from ectype.data.batch import Batch
from ectype.data.packed_strings import read_strings
from ectype.data.prepare import Prepared
from ectype.data.sources.base import SPLIT_IDS

__all__ = ["ImageSplit", "ImageStore", "MappedFile", "open_store"]


class MappedFile(NamedTuple):
    """A file that is mapped into memory, and what it was when it was mapped."""

    path: Path
    inode: int
    num_bytes: int

    @classmethod
    def of(cls, path: Path) -> MappedFile:
        """Describe a file as it is now."""
        status = path.stat()
        return cls(path, status.st_ino, status.st_size)

    def check_not_cut(self) -> None:
        """Check that the file has not become shorter: the system would end a process that reads beyond its end.

        It may still be cut between this check and the reading of a batch.

        Raises:
            DataError: It is shorter.
        """
        try:
            status = os.stat(self.path)
        except OSError:  # a removed file stays mapped
            return
        if status.st_ino == self.inode and status.st_size < self.num_bytes:
            raise DataError(
                f"'{self.path}' was cut to {status.st_size:,} of {self.num_bytes:,} bytes while it was in use: repeat "
                "the command, training with --resume; the images are then prepared again."
            )


class ImageSplit:
    """The images of one split, in a fixed order.

    Args:
        shards: Arrays [n, c, h, w] uint8 of all images of the source.
        rows: Rows of this split's images in the joined shards.
        labels: As the attribute.
        names: As the attribute.
        channels: As the attribute; None if images have no targets.
        has_masks: As the attribute.
        files: The files that the shards are mapped from; none if they are in memory.

    Attributes:
        labels: [n] int64 class indices; None if images have no classes.
        names: Paths in the source, or numbers if it has none.
        channels: Channels of an image. Those that are stored after them are its target.
        has_masks: Whether targets are class indices rather than images.
    """

    def __init__(
        self,
        shards: Sequence[Tensor],
        rows: Tensor,
        labels: Tensor | None,
        names: Sequence[str],
        *,
        channels: int | None = None,
        has_masks: bool = False,
        files: Sequence[MappedFile] = (),
    ) -> None:
        self._shards, self._files = shards, files
        self._starts = np.cumsum([0, *map(len, shards)]).tolist()
        self._rows = rows
        self.labels = labels
        self.names = names
        self.channels = shards[0].shape[1] if channels is None else channels
        self.has_masks = has_masks

    def __len__(self) -> int:
        return len(self._rows)

    def separate_target(self, pixels: UInt8[Tensor, "*b c h w"]) -> tuple[UInt8[Tensor, "*b d h w"], Tensor | None]:
        """Separate stored pixels into images and targets; None if images have no targets."""
        if pixels.shape[-3] == self.channels:
            return pixels, None
        return pixels[..., : self.channels, :, :], pixels[..., self.channels :, :, :]

    def gather(self, index: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        """Return images as they are stored, with the channels of their targets after their own.

        Args:
            index: Positions in this split.

        Raises:
            IndexError: A position is beyond the end.
            DataError: A prepared file was cut.
        """
        rows = self._rows.index_select(0, index)
        if len(self._shards) == 1:
            self._check_not_cut(0)
            return self._shards[0].index_select(0, rows)
        images = torch.empty(len(rows), *self._shards[0].shape[1:], dtype=torch.uint8)
        for i, (start, shard) in enumerate(zip(self._starts, self._shards, strict=False)):
            in_shard = ((rows >= start) & (rows < start + len(shard))).nonzero()[:, 0]
            if len(in_shard):
                self._check_not_cut(i)
                images.index_copy_(0, in_shard, shard.index_select(0, rows[in_shard] - start))
        return images

    def _check_not_cut(self, shard: int) -> None:
        if self._files:
            self._files[shard].check_not_cut()

    def view(self, index: int) -> UInt8[Tensor, "c h w"]:
        """Return one image without its target, as a view of the mapped file. Do not write to it."""
        row = int(self._rows[index])
        shard = bisect.bisect_right(self._starts, row) - 1
        self._check_not_cut(shard)
        return self._shards[shard][row - self._starts[shard]][: self.channels]

    def batch(self, index: Int[Tensor, " b"]) -> Batch:
        """Return images in [0, 1] and their labels, not augmented or binarized; a `Loader` does that."""
        image = self.separate_target(self.gather(index))[0].to(torch.float32).div_(255)
        return Batch(image, None if self.labels is None else self.labels[index])

    def __iter__(self) -> Iterator[UInt8[Tensor, "c h w"]]:
        return (self.view(i) for i in range(len(self)))


class ImageStore:
    """All prepared images of a source, by split.

    Args:
        prepared: The prepared images.
        binary: Whether images will be binarized.

    Attributes:
        info: What a network has to know about the images.
    """

    def __init__(self, prepared: Prepared, *, binary: bool) -> None:
        self.info: DataInfo = prepared.info._replace(binary=binary)
        files = [MappedFile.of(path) for path in prepared.shards]
        shards = [torch.from_numpy(np.load(path, mmap_mode="c")) for path in prepared.shards]
        names = read_strings(prepared.root)
        labels = None if prepared.labels is None else torch.from_numpy(prepared.labels.astype(np.int64))
        has_masks = prepared.info.target is not None and prepared.info.target.kind == "masks"
        self._splits: dict[str, ImageSplit] = {}
        for name, split_id in SPLIT_IDS.items():
            rows = np.flatnonzero(prepared.split_ids == split_id)
            index = torch.from_numpy(rows)
            self._splits[name] = ImageSplit(
                shards,
                index,
                None if labels is None else labels[index],
                names.take(rows),
                channels=prepared.info.channels,
                has_masks=has_masks,
                files=files,
            )

    def split(self, name: Literal["train", "val", "test"]) -> ImageSplit:
        """Return the images of one split.

        Raises:
            DataError: The split is empty, because its fraction in the recipe is 0.
        """
        images = self._splits[name]
        if not len(images):
            if name == "train":
                raise DataError("there are no train images: the source holds all of them out; add some to train on.")
            raise DataError(f"there are no {name} images: split.{name} is 0; increase it to hold some out.")
        return images

    def splits(self) -> Iterator[tuple[str, ImageSplit]]:
        """Yield name and images of every split that is not empty."""
        return ((name, images) for name, images in self._splits.items() if len(images))


def open_store(prepared: Prepared, config: DataConfig) -> ImageStore:
    """Map prepared images into memory.

    Args:
        prepared: The result of `prepare`.
        config: The configuration they were prepared with, which states whether images are binarized.

    Raises:
        DataError: The prepared files are missing or damaged.
    """
    try:
        return ImageStore(prepared, binary=config.binarise != "none")
    except (OSError, ValueError) as error:
        raise DataError(
            f"prepared images in '{prepared.root}' are missing or damaged ({error}): prepare them again."
        ) from None
