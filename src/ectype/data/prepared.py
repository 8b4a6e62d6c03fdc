"""A prepared entry of the cache: mapped files, and the split, label and target of each image. No PyTorch import."""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ectype.config.schema import DataConfig, DataInfo, Target
from ectype.core.errors import DataError, EctypeWarning
from ectype.data.cache import FoundEntry
from ectype.data.decode import MIN_KEPT_AREA
from ectype.data.decode_batch import DIGEST_BYTES
from ectype.data.labels import read_labels
from ectype.data.masks import MaskEncoding
from ectype.data.near_duplicates import stored_pairs
from ectype.data.packed_strings import PackedStrings, read_strings
from ectype.data.pixel_problems import PixelProblem
from ectype.data.sources.base import SPLIT_IDS, TRAIN, strip_tile_suffix
from ectype.data.split_memory import memory_lock
from ectype.data.splits import assign_splits, depends_on_duplicates

__all__ = ["Prepared", "Reject", "open_entry", "summarize_reasons"]

MAX_SHOWN_REASONS = 5
MAX_SHOWN_CLASSES = 6


class Reject(NamedTuple):
    """An image that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """Images on disk, ready to be mapped.

    Attributes:
        root: The cache entry: shards, `manifest.json`, `rejects.csv`, `copies.csv`.
        info: Channels, size, classes and their frequencies among the training images.
        shards: Files of uint8 [n, c, h, w], joined in this order. Rejected images are zeros, and in no split.
        split_ids: [n] split of each row: 0 none (rejected), 1 train, 2 validation, 3 test.
        labels: [n] class of each row, −1 for rejected images; None without classes.
        rejects: The images that cannot be used.
        notes: What the user should know about the images, one line each.
        mark_counts: Number of images with each mark of `Decoded`.
        pixel_problems: Problems that all images share, such as darkness.
        num_copies: Number of images that are exact copies of others after decoding.
        fingerprint: Hash of the pixels, names, labels and splits: equal if and only if training sees the same data.
        built: Whether they were decoded by this call, rather than found in the cache.
        checked: How many bytes were compared with their checksums, and how long that took; empty if this process had
            written or compared them before.
        problems: Why training would refuse the images, if they were prepared to be described.
    """

    root: Path
    info: DataInfo
    shards: tuple[Path, ...]
    split_ids: np.ndarray
    labels: np.ndarray | None
    rejects: tuple[Reject, ...]
    notes: tuple[str, ...]
    mark_counts: Mapping[str, int]
    pixel_problems: tuple[PixelProblem, ...]
    num_copies: int
    fingerprint: str
    built: bool
    checked: str = ""
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(np.count_nonzero(self.split_ids))

    @cached_property
    def split_sizes(self) -> dict[str, int]:
        """Number of images in train, val and test."""
        counts = np.bincount(self.split_ids, minlength=4)
        return {name: int(counts[split_id]) for name, split_id in SPLIT_IDS.items()}

    @property
    def rejects_note(self) -> str:
        """The number of rejected images and the reasons, to be appended to a line; empty if none was rejected."""
        return f"; {len(self.rejects):,} rejected ({summarize_reasons(self.rejects)})" if self.rejects else ""

    @property
    def summary(self) -> str:
        """One line with the number of images, of rejected ones with the reasons, the shape and the splits."""
        height, width = self.info.size
        color = "gray" if self.info.channels == 1 else "color"
        classes = f", {len(self.info.classes)} classes" if self.info.classes else ""
        splits = ", ".join(f"{count:,} {name}" for name, count in self.split_sizes.items())
        reasons = f" ({summarize_reasons(self.rejects)})" if self.rejects else ""
        shape = f"{width}×{height} {color}{classes}"
        return f"{len(self):,} images, {len(self.rejects):,} rejected{reasons}; {shape}; {splits}"

    @property
    def class_counts(self) -> list[str]:
        """One line for each split with the number of images of its most frequent classes; empty without classes."""
        lines = []
        for split, split_id in SPLIT_IDS.items() if self.labels is not None else ():
            assert self.labels is not None
            counts = np.bincount(self.labels[self.split_ids == split_id], minlength=len(self.info.classes))
            order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
            shown = [f"{self.info.classes[i]} {counts[i]:,}" for i in order[:MAX_SHOWN_CLASSES]]
            if hidden := len(order) - len(shown):
                shown.append(f"{hidden:,} more")
            lines += [f"{split}: {', '.join(shown)}"] if shown else []
        return lines

    def digests(self, split: str) -> np.ndarray:
        """Return the hashes [n] of the pixels of a split's images, as a void type of `DIGEST_BYTES` bytes."""
        is_in_split = self.split_ids == SPLIT_IDS[split]
        return np.load(self.root / "digests.npy").view(f"V{DIGEST_BYTES}")[is_in_split, 0]


def summarize_reasons(rejects: Sequence[Reject]) -> str:
    """Return the number of rejected images by reason, the most frequent first."""
    counts = Counter(reject.reason.split(" (")[0] for reject in rejects)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common(MAX_SHOWN_REASONS))


def open_entry(
    entry: Path, found: FoundEntry, config: DataConfig, memory: Path, *, built: bool, describe: bool = False
) -> Prepared:
    """Open an entry of the cache, with the labels and splits of a configuration.

    Args:
        entry: The folder.
        found: The entry as `find_entry` returned it.
        config: Labels, splits and the limit of rejected images.
        memory: The file in which the splits of images are remembered.
        built: As in `Prepared`.
        describe: As in `prepare`.

    Raises:
        DataError: More images were rejected than `max_rejects` allows, or labels or splits cannot be assigned.
    """
    manifest = found.manifest
    kept = np.load(entry / "kept.npy")
    rows = np.flatnonzero(kept)
    with open(entry / "rejects.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rejects = tuple(Reject(*row) for row in list(csv.reader(file))[1:])
    num_images = len(rejects) + len(rows)
    problems: list[str] = []
    if len(rejects) / num_images > config.max_rejects:
        problems.append(
            f"{len(rejects):,} of {num_images:,} images in '{config.source}' were rejected "
            f"({summarize_reasons(rejects)}), more than data.max_rejects={config.max_rejects:g} allows: fix or remove "
            f"those listed in '{entry / 'rejects.csv'}', or increase it."
        )
        if not describe:
            raise DataError(problems[0])
    names = read_strings(entry).take(rows)
    split_ids = np.zeros(len(kept), np.uint8)
    shards = tuple(entry / name for name in manifest["shards"])
    channels, height, width = manifest["shape"]
    split_note = ""
    try:
        source_split_ids = np.load(entry / "split_ids.npy")[rows]
        if depends_on_duplicates(source_split_ids, config.split):
            with memory_lock(memory):
                pairs = stored_pairs(entry, shards, channels)
                pairs = pairs._replace(rows=np.searchsorted(rows, pairs.rows))
                assigned = assign_splits(names, source_split_ids, config.split, pairs, memory)
        else:
            assigned = assign_splits(names, source_split_ids, config.split)
        split_ids[rows], split_note = assigned
    except DataError as error:
        if not describe:
            raise
        problems.append(str(error))
        split_ids[rows] = TRAIN
    labels, classes, label_notes = _labels(entry, manifest, config, names, rows, len(kept))
    frequencies: tuple[float, ...] = ()
    if labels is not None:
        counts = np.bincount(labels[split_ids == TRAIN], minlength=len(classes))
        frequencies = tuple((counts / max(1, counts.sum())).tolist())
        label_notes = (*label_notes, *_untrained_class_notes(classes, counts))
    target, target_notes = _target_info(entry, manifest, split_ids)
    info = DataInfo(channels, (height, width), classes, frequencies, config.binarise != "none", target)
    for text in manifest["warnings"]:
        warnings.warn(f"{text}.", EctypeWarning, stacklevel=3)
    crop_notes = _crop_notes(manifest, config, len(rows))
    notes = (
        *manifest["warnings"],
        *manifest["notes"],
        *crop_notes,
        *label_notes,
        *target_notes,
        *filter(None, [split_note]),
        *_copy_notes(entry, manifest, split_ids),
    )
    return Prepared(
        root=entry,
        info=info,
        shards=shards,
        split_ids=split_ids,
        labels=labels,
        rejects=rejects,
        notes=notes,
        mark_counts=manifest["marks"],
        pixel_problems=tuple(PixelProblem(**problem) for problem in manifest["problems"]),
        num_copies=manifest["copies"],
        fingerprint=_fingerprint(manifest, names, split_ids[rows], None if labels is None else labels[rows], classes),
        built=built,
        checked=f"{found.checked_bytes / 1e6:,.1f} MB of prepared images match their checksums ({found.seconds:.2f} s)"
        if found.checked_bytes
        else "",
        problems=tuple(problems),
    )


def _labels(
    entry: Path, manifest: dict[str, Any], config: DataConfig, names: Sequence[str], rows: np.ndarray, num_rows: int
) -> tuple[np.ndarray | None, tuple[str, ...], tuple[str, ...]]:
    """Return the class of each row, the class names, and notes."""
    labels = np.full(num_rows, -1, np.int32)
    if config.labels is not None:
        image_names = list(map(strip_tile_suffix, names))
        image_index = {name: i for i, name in enumerate(dict.fromkeys(image_names))}
        found = read_labels(config.labels, list(image_index), config.source or "", config.label_column)
        labels[rows] = found.indices[[image_index[name] for name in image_names]]
        return labels, found.classes, found.notes
    if not manifest["classes"]:
        return None, (), ()
    labels[rows] = np.load(entry / "labels.npy")[rows]
    return labels, tuple(manifest["classes"]), ()


def _crop_notes(manifest: dict[str, Any], config: DataConfig, num_images: int) -> list[str]:
    """Return a note on images that lose much of their area by cropping."""
    count = manifest["marks"].get("cut", 0)
    if not count or config.resize != "crop":
        return []
    return [
        f"{count:,} of {num_images:,} images lose over {1 - MIN_KEPT_AREA:.0%} of their area by cropping: resize=pad "
        "keeps all of it"
    ]


def _untrained_class_notes(classes: Sequence[str], train_counts: np.ndarray) -> list[str]:
    """Return a note on the classes that no training image has, unless there are no training images at all."""
    untrained = [f"'{name}'" for name, count in zip(classes, train_counts, strict=True) if not count]
    if not untrained or len(untrained) == len(classes):
        return []
    shown = ", ".join(untrained[:MAX_SHOWN_CLASSES]) + (", …" if len(untrained) > MAX_SHOWN_CLASSES else "")
    what, them = f"class {shown} has", "it"
    if len(untrained) > 1:
        what, them = f"{len(untrained)} classes ({shown}) have", "them"
    return [f"{what} no training images, only held-out ones, so a model cannot learn {them}"]


def _target_info(entry: Path, manifest: dict[str, Any], split_ids: np.ndarray) -> tuple[Target | None, list[str]]:
    """Return what targets are, and notes about them."""
    found = manifest.get("target")
    if found is None:
        return None, []
    if found["kind"] == "images":
        color = "gray" if found["channels"] == 1 else "color"
        return Target("images", found["channels"]), [f"targets are {color} images"]
    encoding = MaskEncoding(**found["encoding"])
    pixel_counts = np.load(entry / "pixels.npy")[split_ids == TRAIN].sum(0, dtype=np.int64)
    fractions = tuple((pixel_counts / max(1, pixel_counts.sum())).tolist())
    colors = tuple((int(r), int(g), int(b)) for r, g, b in encoding.colors)
    percentages = ", ".join(f"{name} {value:.1%}" for name, value in zip(encoding.names, fractions, strict=True))
    missing = [name for name, fraction in zip(encoding.names, fractions, strict=True) if fraction == 0]
    notes = [encoding.summary, f"training pixels: {percentages}"]
    if missing:
        notes.append(f"no training mask has {', '.join(missing)}, so a model cannot learn it")
    return Target("masks", 1, tuple(encoding.names), fractions, colors, encoding.class_values), notes


def _copy_notes(entry: Path, manifest: dict[str, Any], split_ids: np.ndarray) -> list[str]:
    """Return a note on images that are exact copies of others, in particular of training images that are held out."""
    if not manifest["copies"]:
        return []
    digests = np.load(entry / "digests.npy").view(f"V{DIGEST_BYTES}")[:, 0]
    num_leaked = int(np.isin(digests[split_ids > TRAIN], digests[split_ids == TRAIN]).sum())
    note = f"{manifest['copies']:,} images are exact copies of others after decoding (see {entry / 'copies.csv'})"
    if num_leaked:
        note += (
            f"; {num_leaked:,} held-out images are also in training: remove them, or keep related images in one split "
            "with split.group"
        )
    return [note]


def _fingerprint(
    manifest: dict[str, Any],
    names: PackedStrings,
    split_ids: np.ndarray,
    labels: np.ndarray | None,
    classes: Sequence[str],
) -> str:
    digest = hashlib.sha256(repr((manifest["content"], manifest["shape"], list(classes))).encode())
    for block in names.blocks():
        digest.update(block)
    digest.update(split_ids.tobytes())
    digest.update(b"" if labels is None else labels.tobytes())
    return digest.hexdigest()
