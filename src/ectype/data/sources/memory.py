"""Images passed as Python objects instead of a path: stored in the cache once, found there by their content. No torch.

`register` writes the images into the cache under a hash of their content and returns a source text such as
`memory:3f9a0c11b2d4`. That text is what a recipe keeps. Whoever opens it later, in this or another process, finds the
images in the cache; the Python object is not needed again. After `ectype clean`, or on another machine, it is: passing
the same data again restores the entry, since equal images have an equal name.

The images are stored as they are (uint8 pixels of any sizes, or encoded files), so that one registered set can be
prepared at any size. Preparing then treats them as it treats files: resized, cached, and split by a hash of their
names, which are their places in the set.
"""

from __future__ import annotations

import hashlib
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ectype.core.errors import DataError, EctypeWarning
from ectype.data import cache as entries
from ectype.data.packed_strings import NumberedStrings
from ectype.data.raw_image import Pair, Raw, Single
from ectype.data.sources.base import Listing, Source, evenly_spaced_positions, natural_sort_key
from ectype.data.sources.memory_items import MemorySplit, splits_of
from ectype.data.sources.memory_pixels import Stored

__all__ = ["MemoryPairs", "MemorySource", "is_memory", "open_memory", "register", "restore", "source_text"]

PREFIX = "memory:"
VERSION = 1
"""Version of the stored files."""
PARTS = ("images", "targets")


def register(data: Any) -> str:
    """Store images in the cache and return the text that names them as a source.

    Args:
        data: One of:

            - an array or tensor [n, h, w], [n, h, w, c] or [n, c, h, w] with 1, 3 or 4 channels,
            - a tuple (images, labels) or (images, masks) of as many elements; labels are class indices or names,
            - a `torch.utils.data.Dataset`, or any sequence, of images, (image, label) or (image, mask); images are PIL
              images, arrays or tensors, of any sizes,
            - a `datasets.Dataset` with an image column and possibly a label column (or a second image column: masks),
            - a dict of these by split (train, val, test), or a `datasets.DatasetDict`. A split that is missing is taken
              from the training images.

            Images are uint8, or floats in [0, 1], which are rounded to uint8. Masks hold class indices.

    Returns:
        The source, `memory:` and a hash of the content: equal images, labels and splits have equal names.

    Raises:
        DataError: It is not a set of images, or its values are not in the range; one line says what was given and how
            to fix it. Also if the cache cannot be written.

    Example:
        >>> import numpy as np
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
        >>> source = register((images, ["cat", "dog"] * 10))
        >>> source == register((images / 255, ["cat", "dog"] * 10))
        True
        >>> listing = open_memory(source).listing()
        >>> len(listing.names), listing.classes
        (20, ('cat', 'dog'))
    """
    splits = splits_of(data)
    if all(split.rereadable for split in splits):
        digest = _store(splits, None)["digest"]
        if entries.find_entry(entry := _entry(digest)) is not None:
            _warn(splits)
            return PREFIX + entry.name[-12:]
    root = entries.cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise entries.write_error(root, error) from None
    scratch = root / f"memory-{VERSION:012x}-{secrets.token_hex(6)}"
    with entries.temporary_entry(scratch, locked=False) as place:
        manifest = _store(splits, place)
        entry = _entry(manifest["digest"])
        if entries.find_entry(entry) is None:
            entries.publish_entry(place, entry, manifest)
    _warn(splits)
    return PREFIX + entry.name[-12:]


def open_memory(data: Any) -> MemorySource:
    """Open images that are passed as Python objects, or a source text that `register` returned.

    Args:
        data: As `register` takes it, or `memory:…`.

    Raises:
        DataError: As `register` raises it.
    """
    return MemorySource(data if is_memory(data) else register(data))


def is_memory(data: Any) -> bool:
    """Return whether this is a source text that `register` returned."""
    return isinstance(data, str) and data.startswith(PREFIX)


def source_text(data: Any) -> str:
    """Return the text that names a source: a text or path as it is, registered images by their hash.

    Raises:
        DataError: As `register` raises it.

    >>> source_text("photos/")
    'photos/'
    """
    return str(fspath(data)) if isinstance(data, str | PathLike) else register(data)


def restore(source: str, data: Any) -> None:
    """Put the images of a source into the cache again.

    Args:
        source: The `memory:…` text of a recipe.
        data: The same images as before, as `register` takes them.

    Raises:
        DataError: They are other images, or the recipe's are not from memory.
    """
    if not is_memory(source):
        raise DataError(f"the images of this run are at '{source}', not in memory: leave data out.")
    found = register(data)
    if found != source:
        raise DataError(
            f"these are not the images of '{source}' (theirs would be '{found}'): pass the same ones in the same "
            "order; a dataset with random transforms gives other images each time."
        )


def _entry(digest: str) -> Path:
    return entries.cache_root() / f"memory-{VERSION:012x}-{digest[:12]}"


def _warn(splits: Sequence[MemorySplit]) -> None:
    for text in dict.fromkeys(text for split in splits for text in split.warnings):
        warnings.warn(f"{text}.", EctypeWarning, stacklevel=3)


# ── Storing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Pixels:
    """Images one behind the other in a file, with the end and shape of each; without a file they are only hashed."""

    def __init__(self, file: BinaryIO | None) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.sizes: list[np.ndarray] = []
        self.shapes: list[np.ndarray] = []

    def add(self, images: np.ndarray | list[Stored]) -> None:
        if isinstance(images, np.ndarray):
            self._write(np.ascontiguousarray(images).data)
            self.shapes.append(np.tile(np.array(images.shape[1:], np.int32), (len(images), 1)))
            self.sizes.append(np.full(len(images), images[0].size, np.int64))
            return
        for image in images:
            encoded = isinstance(image, bytes)
            content = image if isinstance(image, bytes) else np.ascontiguousarray(image).data
            self._write(content)
            self.shapes.append(np.zeros((1, 3), np.int32) if encoded else np.array([np.shape(image)], np.int32))
            self.sizes.append(np.array([memoryview(content).nbytes], np.int64))

    def _write(self, content: Any) -> None:
        self.digest.update(content)
        if self.file is not None:
            self.file.write(content)

    def finish(self, place: Path | None, name: str) -> tuple[str, bool]:
        """Write ends and shapes if there is a place; returns the hash, and whether no image is encoded."""
        ends, shapes = np.cumsum(np.concatenate(self.sizes)), np.concatenate(self.shapes)
        for what, array in (("ends", ends), ("shapes", shapes)):
            self.digest.update(array.tobytes())
            if place is not None:
                np.save(place / f"{name}-{what}.npy", array)
        return self.digest.hexdigest(), bool(shapes.all())


def _store(splits: Sequence[MemorySplit], place: Path | None) -> dict[str, Any]:
    """Read all images, write them if there is a place, and return what the manifest says of them."""
    labels: list[list[Any] | None] = []
    paired: set[bool] = set()
    with ExitStack() as stack:
        files = [None if place is None else stack.enter_context(open(place / f"{n}.bin", "wb")) for n in PARTS]
        images, targets = map(_Pixels, files)
        for split in splits:
            own: list[Any] | None = []
            for block in split.blocks():
                images.add(block.images)
                paired.add(block.targets is not None)
                if block.targets is not None:
                    targets.add(block.targets)
                if own is None or block.labels is None:
                    own = None
                else:
                    own.extend(block.labels)
            labels.append(own)
    if len(paired) > 1:
        raise DataError("only some splits have masks: give masks to each image, or to none.")
    found, classes, notes = _resolve_labels(splits, labels)
    digest, decoded = images.finish(place, PARTS[0])
    partners, partners_decoded = targets.finish(place, PARTS[1]) if paired == {True} else ("", True)
    if place is not None and found is not None:
        np.save(place / "labels.npy", found)
    held_splits = [[split.name, split.count, split.code] for split in splits]
    held = [VERSION, digest, partners, held_splits, classes, None if found is None else found.tolist()]
    return {
        "digest": hashlib.sha256(repr(held).encode(errors="surrogateescape")).hexdigest(),
        "splits": held_splits,
        "classes": list(classes),
        "decoded": decoded and partners_decoded,
        "paired": paired == {True},
        "notes": notes,
    }


def _resolve_labels(
    splits: Sequence[MemorySplit], labels: Sequence[list[Any] | None]
) -> tuple[np.ndarray | None, tuple[str, ...], list[str]]:
    """Class indices of all images, class names, and what to say of them."""
    missing = [split.name for split, own in zip(splits, labels, strict=True) if own is None]
    if missing:
        note = f"labels are ignored, since the split {', '.join(missing)} has none"
        return None, (), [note] if len(missing) < len(splits) else []
    values = [value for own in labels for value in own or ()]
    named = {split.classes for split in splits if split.classes}
    if len(named) > 1:
        raise DataError("the splits have different class names: give all splits the same classes in the same order.")
    classes = named.pop() if named else ()
    numbers = all(isinstance(value, int) for value in values)
    if numbers and classes and min(values) >= 0 and max(values) < len(classes):
        return (np.array(values, np.int32), classes, []) if len(classes) > 1 else (None, (), [])
    if numbers and -1 in values:
        return None, (), ["labels are ignored, since some are -1, which stands for unknown"]
    names = [str(value) for value in values]
    notes = [] if not classes else [f"the {len(classes)} class names do not fit the labels, whose values are used"]
    classes = tuple(sorted(set(names), key=natural_sort_key))
    if len(classes) < 2:
        return None, (), notes
    place = {name: i for i, name in enumerate(classes)}
    return np.array([place[name] for name in names], np.int32), classes, notes


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class MemorySource(Source):
    """Images that were registered from Python.

    The stored images are only needed to prepare them; opening the source does not look for them.

    Args:
        text: What `register` returned.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, text, text)
        self.entry = _entry(text.removeprefix(PREFIX))

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What was stored. Raises `DataError` if it is gone."""
        found = entries.find_entry(self.entry)
        if found is None:
            raise DataError(
                f"the images '{self.text}' are not in the cache ('{self.entry.parent}'; it was cleaned, or this is "
                "another machine): pass the same images again from Python, data=images."
            )
        return found.manifest

    @property
    def decoded(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether all images are stored as pixels."""
        return self.manifest["decoded"]

    def listing(self) -> Listing:
        splits = self.manifest["splits"]
        names = NumberedStrings([(name, count) for name, count, _ in splits], with_prefix=len(splits) > 1)
        codes = np.concatenate([np.full(count, code, np.uint8) for _, count, code in splits])
        labels = np.load(self.entry / "labels.npy") if self.manifest["classes"] else None
        notes = list(self.manifest["notes"])
        if self.manifest["paired"]:
            notes.append("masks or partners of these images are left out: set data.pairs=masks (or images) to use them")
        return Listing(names, codes, labels, tuple(self.manifest["classes"]), notes=tuple(notes))

    def _load(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All bytes of the images or partners, mapped, the end of each, and its shape."""
        assert self.manifest
        ends, shapes = (np.load(self.entry / f"{name}-{what}.npy") for what in ("ends", "shapes"))
        content = np.memmap(self.entry / f"{name}.bin", np.uint8, "r") if ends[-1] else np.zeros(0, np.uint8)
        return content, ends, shapes

    def items(self, name: str, places: Sequence[int] | None = None) -> Iterator[Single]:
        """Images, or partners, in order; only some if places are given."""
        content, ends, shapes = self._load(name)
        for i in range(len(ends)) if places is None else places:
            piece = content[int(ends[i - 1]) if i else 0 : int(ends[i])]
            yield np.asarray(piece).reshape(shapes[i]) if shapes[i].any() else piece.tobytes()

    def read(self) -> Iterator[Raw]:
        return self.items("images")

    def batches(self, size: int) -> Iterator[Sequence[Raw] | np.ndarray]:
        content, ends, shapes = self._load("images")
        if not self.decoded or (shapes != shapes[0]).any():
            yield from super().batches(size)
            return
        block = np.asarray(content).reshape(len(ends), *shapes[0])
        yield from (block[first : first + size] for first in range(0, len(block), size))

    def sample(self, size: int) -> list[Raw]:
        count = sum(count for _, count, _ in self.manifest["splits"])
        return list(self.items("images", evenly_spaced_positions(count, size)))


class MemoryPairs(Source):
    """Registered images, each with its mask or picture."""

    def __init__(self, source: MemorySource) -> None:
        super().__init__(source.text, f"{source.location}#pairs", source.signature)
        self.source = source

    @property
    def decoded(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether all of them are stored as pixels."""
        return self.source.decoded

    def listing(self) -> Listing:
        if not self.source.manifest["paired"]:
            raise DataError(
                f"the images '{self.text}' have no masks or partners: register (images, masks), or set data.pairs=none."
            )
        found = self.source.listing()
        return Listing(
            found.names, found.split_ids, found.labels, found.classes, notes=tuple(self.source.manifest["notes"])
        )

    def read(self) -> Iterator[Raw]:
        for image, target in zip(self.source.items("images"), self.source.items("targets"), strict=True):
            yield Pair(image, (target,))

    def sample(self, size: int) -> list[Raw]:
        places = evenly_spaced_positions(len(self.listing().names), size)
        both = (self.source.items(name, places) for name in ("images", "targets"))
        return [Pair(image, (target,)) for image, target in zip(*both, strict=True)]
