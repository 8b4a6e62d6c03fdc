"""What a prepared entry holds: mapped files, the split and label of each image, and what partners are. No torch."""

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

from ectype.data.chunks import DIGEST
from ectype.data.labels import read_labels
from ectype.data.masks import Coding
from ectype.data.names import Names, read_names
from ectype.data.sources import TEST, TRAIN, VAL, untiled
from ectype.data.splits import assign
from ectype.errors import DataError, EctypeWarning
from ectype.sections import DataConfig, DataInfo, Target

__all__ = ["Prepared", "Reject", "assemble", "reasons"]


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
        shards: Files of uint8 [n, c, h, w], joined in this order; rejects are blank rows that no split names.
        sides: [n] split of each row: 0 none (rejected), 1 train, 2 validation, 3 test.
        labels: [n] class of each row, −1 for rejects; None without classes.
        rejects: What cannot be used.
        notes: What a user should know of the images, a line each.
        marks: How many images each of these is true of: grey (among colour), enlarged, cut, bent, transparent,
            animated, paged, 16-bit.
        copies: Images that are exact copies of others once decoded.
        fingerprint: Hash of the pixels, names, labels and splits: equal if and only if training sees the same.
        built: Whether they were decoded just now, rather than found.
    """

    root: Path
    info: DataInfo
    shards: tuple[Path, ...]
    sides: np.ndarray
    labels: np.ndarray | None
    rejects: tuple[Reject, ...]
    notes: tuple[str, ...]
    marks: Mapping[str, int]
    copies: int
    fingerprint: str
    built: bool

    def __len__(self) -> int:
        return int(np.count_nonzero(self.sides))

    @cached_property
    def splits(self) -> dict[str, int]:
        """Number of images in train, val and test."""
        counts = np.bincount(self.sides, minlength=4)
        return {"train": int(counts[TRAIN]), "val": int(counts[VAL]), "test": int(counts[TEST])}

    @property
    def left_out(self) -> str:
        """What was rejected, as the end of a line; empty where nothing was."""
        return f"; {len(self.rejects):,} rejected ({reasons(self.rejects)})" if self.rejects else ""

    @property
    def summary(self) -> str:
        """One line: how many, rejected why, of what shape, split how."""
        height, width = self.info.size
        kind = "grey" if self.info.channels == 1 else "colour"
        classes = f", {len(self.info.classes)} classes" if self.info.classes else ""
        splits = ", ".join(f"{count:,} {name}" for name, count in self.splits.items())
        why = f" ({reasons(self.rejects)})" if self.rejects else ""
        shape = f"{width}×{height} {kind}{classes}"
        return f"{len(self):,} images, {len(self.rejects):,} rejected{why}; {shape}; {splits}"

    def digests(self, split: str) -> np.ndarray:
        """Hashes [n] of the pixels of a split's images, a number of bytes each."""
        side = {"train": TRAIN, "val": VAL, "test": TEST}[split]
        return np.load(self.root / "digests.npy").view(f"V{DIGEST}")[self.sides == side, 0]


def reasons(rejects: Sequence[Reject]) -> str:
    """Counts by reason, the most frequent first."""
    counts = Counter(reject.reason.split(" (")[0] for reject in rejects)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common(5))


def assemble(entry: Path, manifest: dict[str, Any], config: DataConfig, *, built: bool) -> Prepared:
    """An entry of the cache with labels and splits as the configuration wants them. Raises `DataError`."""
    kept = np.load(entry / "kept.npy")
    rows = np.flatnonzero(kept)
    with open(entry / "rejects.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rejects = tuple(Reject(*row) for row in list(csv.reader(file))[1:])
    share = len(rejects) / (len(rejects) + len(rows))
    if share > config.max_rejects:
        raise DataError(
            f"{len(rejects):,} of {len(rejects) + len(rows):,} images in '{config.source}' were rejected "
            f"({reasons(rejects)}), more than data.max_rejects={config.max_rejects:g} allows: mend or remove those in "
            f"'{entry / 'rejects.csv'}', or raise it."
        )
    names = read_names(entry).take(rows)
    sides = np.zeros(len(kept), np.uint8)
    sides[rows] = assign(names, np.load(entry / "sides.npy")[rows], config.split)
    labels, classes = _labels(entry, manifest, config, names, rows, len(kept))
    frequencies: tuple[float, ...] = ()
    if labels is not None:
        counts = np.bincount(labels[sides == TRAIN], minlength=len(classes))
        frequencies = tuple((counts / max(1, counts.sum())).tolist())
    channels, height, width = manifest["shape"]
    target, told = _target(entry, manifest, sides)
    info = DataInfo(channels, (height, width), classes, frequencies, config.binarise != "none", target)
    for text in manifest["warnings"]:
        warnings.warn(f"{text}.", EctypeWarning, stacklevel=3)
    return Prepared(
        root=entry,
        info=info,
        shards=tuple(entry / name for name in manifest["shards"]),
        sides=sides,
        labels=labels,
        rejects=rejects,
        notes=(*manifest["warnings"], *manifest["notes"], *told, *_copies(entry, manifest, sides)),
        marks=manifest["marks"],
        copies=manifest["copies"],
        fingerprint=_fingerprint(manifest, names, sides[rows], None if labels is None else labels[rows], classes),
        built=built,
    )


def _labels(
    entry: Path, manifest: dict[str, Any], config: DataConfig, names: Sequence[str], rows: np.ndarray, count: int
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Class of each row, and the classes."""
    if config.labels is not None:
        labels = np.full(count, -1, np.int32)
        whole = list(map(untiled, names))
        unique = {name: place for place, name in enumerate(dict.fromkeys(whole))}
        found, classes = read_labels(config.labels, list(unique), config.source or "")
        labels[rows] = found[[unique[name] for name in whole]]
        return labels, classes
    if not manifest["classes"]:
        return None, ()
    stored = np.load(entry / "labels.npy")
    labels = np.full(count, -1, np.int32)
    labels[rows] = stored[rows]
    return labels, tuple(manifest["classes"])


def _target(entry: Path, manifest: dict[str, Any], sides: np.ndarray) -> tuple[Target | None, list[str]]:
    """What partners are, and what to say of them."""
    found = manifest.get("target")
    if found is None:
        return None, []
    if found["kind"] == "images":
        return Target("images", found["channels"]), [
            f"partners are {'grey' if found['channels'] == 1 else 'colour'} pictures"
        ]
    coding = Coding(**found["coding"])
    pixels = np.load(entry / "pixels.npy")[sides == TRAIN].sum(0, dtype=np.int64)
    shares = tuple((pixels / max(1, pixels.sum())).tolist())
    colours = tuple((int(r), int(g), int(b)) for r, g, b in coding.colours)
    told = ", ".join(f"{name} {share:.1%}" for name, share in zip(coding.names, shares, strict=True))
    missing = [name for name, share in zip(coding.names, shares, strict=True) if share == 0]
    notes = [coding.summary, f"training pixels: {told}"]
    if missing:
        notes.append(f"no training mask has {', '.join(missing)}: nothing can be learned of it")
    return Target("masks", 1, tuple(coding.names), shares, colours, coding.written), notes


def _copies(entry: Path, manifest: dict[str, Any], sides: np.ndarray) -> list[str]:
    """A word on images that are exact copies of others, above all of training images that are held out as well."""
    if not manifest["copies"]:
        return []
    digests = np.load(entry / "digests.npy").view(f"V{DIGEST}")[:, 0]
    held_out = digests[sides > TRAIN]
    leaked = int(np.isin(held_out, digests[sides == TRAIN]).sum())
    text = f"{manifest['copies']:,} images are exact copies of others once decoded (see {entry / 'copies.csv'})"
    if leaked:
        text += f"; {leaked:,} held-out images are in training too: remove them, or keep kin together with split.group"
    return [text]


def _fingerprint(
    manifest: dict[str, Any], names: Names, sides: np.ndarray, labels: np.ndarray | None, classes: Sequence[str]
) -> str:
    digest = hashlib.sha256(repr((manifest["content"], manifest["shape"], list(classes))).encode())
    for piece in names.pieces():
        digest.update(piece)
    digest.update(sides.tobytes())
    digest.update(b"" if labels is None else labels.tobytes())
    return digest.hexdigest()
