"""Images that come with packages: scikit-learn's digits and torchvision's datasets."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ectype.core.errors import DataError, did_you_mean
from ectype.core.optional import optional_import
from ectype.data.cache import cache_root
from ectype.data.packed_strings import NumberedStrings
from ectype.data.raw_image import Raw
from ectype.data.sources.array import ArrayPart, ArraySource, BinaryFile, block_reader
from ectype.data.sources.base import TEST, TRAIN, UNASSIGNED, VAL, Listing, Source, evenly_spaced_positions

__all__ = ["TorchvisionSource", "digits"]

NUM_DIGITS = 1797
MAX_DIGITS_VALUE = 16


def digits() -> ArraySource:
    """Return the 1,797 scanned digits of 8×8 pixels that come with scikit-learn, a demo that needs no network."""

    @contextlib.contextmanager
    def open_pixels() -> Iterator[BinaryFile]:
        yield io.BytesIO(_load_digits()[0].tobytes())

    shape = (NUM_DIGITS, 8, 8)
    # Images and labels are read on demand, so that finding prepared digits does not import scikit-learn.
    read_blocks = block_reader(open_pixels, 0, shape, np.dtype(np.uint8))
    part = ArrayPart("digits", shape, read_blocks, lambda: _load_digits()[1])
    return ArraySource("digits", "digits", f"scikit-learn {NUM_DIGITS}", [part])


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return np.rint(bunch.images * (255 / MAX_DIGITS_VALUE)).astype(np.uint8), bunch.target


class TorchvisionSource(Source):
    """A dataset of torchvision, downloaded on first use."""

    decoded = True

    def __init__(self, text: str) -> None:
        self.name = text.removeprefix("torchvision:")
        super().__init__(text, text, text)
        self._splits: list[tuple[int, str, Any]] | None = None

    def _load(self) -> list[tuple[int, str, Any]]:
        """Return id, name and dataset of each split that exists."""
        if self._splits is not None:
            return self._splits
        available = optional_import("torchvision.datasets", "torchvision", f"'{self.text}'", error=DataError)
        dataset_class = getattr(available, self.name, None)
        if dataset_class is None or self.name not in available.__all__:
            raise DataError(f"torchvision has no dataset '{self.name}'; {did_you_mean(self.name, available.__all__)}")
        parameters = inspect.signature(dataset_class).parameters
        root = cache_root().parent / "torchvision"
        if "train" in parameters:
            choices = [(TRAIN, "train", {"train": True}), (TEST, "test", {"train": False})]
        elif "split" in parameters:
            choices = [(i, name, {"split": name}) for i, name in ((TRAIN, "train"), (VAL, "val"), (TEST, "test"))]
        else:
            choices = [(UNASSIGNED, "all", {})]
        if "download" in parameters:
            choices = [(split_id, name, {**options, "download": True}) for split_id, name, options in choices]
        self._splits = []
        for split_id, name, options in choices:
            try:
                os.makedirs(root, exist_ok=True)
                self._splits.append((split_id, name, dataset_class(root=str(root), **options)))
            except ValueError:
                continue  # the dataset has no split of that name
            except (OSError, RuntimeError, TypeError) as error:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"'{self.text}' could not be downloaded ({reason}): connect to the network, or put its files into "
                    f"'{root}'."
                ) from None
        if not self._splits:
            raise DataError(f"'{self.text}' has no split train, val or test: choose another dataset.")
        return self._splits

    def listing(self) -> Listing:
        splits = self._load()
        names = NumberedStrings([(name, len(data)) for _, name, data in splits])
        split_ids = np.concatenate([np.full(len(data), split_id, np.uint8) for split_id, _, data in splits])
        labels = [self._targets(data) for _, _, data in splits]
        if any(one is None for one in labels):
            return Listing(names, split_ids)
        joined = np.concatenate([one for one in labels if one is not None]).astype(np.int32)
        classes = [str(name) for name in getattr(splits[0][2], "classes", ())]
        if joined.min() < 0 or joined.max() >= max(len(classes), 1):
            classes = [str(i) for i in range(int(joined.max()) + 1)]
        if len(classes) < 2:
            return Listing(names, split_ids)
        return Listing(names, split_ids, joined, tuple(classes))

    @staticmethod
    def _targets(data: Any) -> np.ndarray | None:
        """Return the class indices if the dataset has a list of them; no image is decoded."""
        for name in ("targets", "labels", "_labels", "y"):
            values = getattr(data, name, None)
            if values is not None and len(values) == len(data):
                labels = np.asarray(values)
                return labels if labels.ndim == 1 and labels.dtype.kind in "iu" else None
        return None

    def _image(self, data: Any, index: int) -> Raw:
        image = data[index][0]
        if image.mode not in ("L", "RGB", "RGBA"):
            image = image.convert("RGB")
        return np.asarray(image)

    def read(self) -> Iterator[Raw]:
        return itertools.chain.from_iterable(
            (self._image(data, i) for i in range(len(data))) for _, _, data in self._load()
        )

    def sample(self, size: int) -> list[Raw]:
        data = self._load()[0][2]
        return [self._image(data, i) for i in evenly_spaced_positions(len(data), size)]
