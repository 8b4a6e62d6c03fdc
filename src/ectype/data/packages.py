"""Images that come with packages: scikit-learn's digits, torchvision's data sets."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ectype.data.arrays import ArraySource, File, Part, stream
from ectype.data.cache import cache_root
from ectype.data.names import Numbered
from ectype.data.raw import Raw
from ectype.data.sources import NONE, TEST, TRAIN, VAL, Listing, Source, spread
from ectype.errors import DataError, did_you_mean

__all__ = ["TorchvisionSource", "digits"]


def digits() -> ArraySource:
    """1,797 scanned digits of 8×8 pixels that scikit-learn carries: a demo that needs no network."""

    @contextlib.contextmanager
    def opener() -> Iterator[File]:
        yield io.BytesIO(_digits()[0].tobytes())

    shape = (1797, 8, 8)
    # Finding prepared digits need not import scikit-learn: all is read when asked for.
    part = Part("digits", shape, stream(opener, 0, shape, np.dtype(np.uint8)), lambda: _digits()[1])
    return ArraySource("digits", "digits", "scikit-learn 1797", [part])


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target


class TorchvisionSource(Source):
    """A data set of torchvision, fetched on first use."""

    decoded = True

    def __init__(self, text: str) -> None:
        self.name = text.removeprefix("torchvision:")
        super().__init__(text, text, text)
        self._sets: list[tuple[int, str, Any]] | None = None

    def _load(self) -> list[tuple[int, str, Any]]:
        """Split, its name, and the data set, for each split there is."""
        if self._sets is not None:
            return self._sets
        try:
            import torchvision.datasets as available
        except ImportError:
            raise DataError(f"'{self.text}' needs torchvision: pip install 'ectype[torchvision]'.") from None
        kind = getattr(available, self.name, None)
        if kind is None or self.name not in available.__all__:
            raise DataError(f"torchvision has no data set '{self.name}'; {did_you_mean(self.name, available.__all__)}")
        known = inspect.signature(kind).parameters
        root = cache_root().parent / "torchvision"
        if "train" in known:
            choices = [(TRAIN, "train", {"train": True}), (TEST, "test", {"train": False})]
        elif "split" in known:
            choices = [(side, name, {"split": name}) for side, name in ((TRAIN, "train"), (VAL, "val"), (TEST, "test"))]
        else:
            choices = [(NONE, "all", {})]
        if "download" in known:
            choices = [(side, name, {**values, "download": True}) for side, name, values in choices]
        self._sets = []
        for side, name, values in choices:
            try:
                os.makedirs(root, exist_ok=True)
                self._sets.append((side, name, kind(root=str(root), **values)))
            except ValueError:
                continue  # no split of that name
            except (OSError, RuntimeError, TypeError) as error:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"'{self.text}' could not be fetched ({reason}): connect to the network, or put its files into "
                    f"'{root}'."
                ) from None
        if not self._sets:
            raise DataError(f"'{self.text}' has no split train, val or test: choose another data set.")
        return self._sets

    def listing(self) -> Listing:
        sets = self._load()
        names = Numbered([(split, len(data)) for _, split, data in sets])
        sides = np.concatenate([np.full(len(data), side, np.uint8) for side, _, data in sets])
        labels = [self._targets(data) for _, _, data in sets]
        if any(one is None for one in labels):
            return Listing(names, sides)
        joined = np.concatenate([one for one in labels if one is not None]).astype(np.int32)
        classes = [str(name) for name in getattr(sets[0][2], "classes", ())]
        if joined.min() < 0 or joined.max() >= max(len(classes), 1):
            classes = [str(i) for i in range(int(joined.max()) + 1)]
        return Listing(names, sides, joined, tuple(classes)) if len(classes) > 1 else Listing(names, sides)

    @staticmethod
    def _targets(data: Any) -> np.ndarray | None:
        """Class indices without decoding an image, where the data set keeps such a list."""
        for name in ("targets", "labels", "_labels", "y"):
            values = getattr(data, name, None)
            if values is not None and len(values) == len(data):
                labels = np.asarray(values)
                return labels if labels.ndim == 1 and labels.dtype.kind in "iu" else None
        return None

    def _one(self, data: Any, index: int) -> Raw:
        image = data[index][0]
        if image.mode not in ("L", "RGB", "RGBA"):
            image = image.convert("RGB")
        return np.asarray(image)

    def read(self) -> Iterator[Raw]:
        return itertools.chain.from_iterable(
            (self._one(data, i) for i in range(len(data))) for _, _, data in self._load()
        )

    def sample(self, size: int) -> list[Raw]:
        data = self._load()[0][2]
        return [self._one(data, i) for i in spread(len(data), size)]
