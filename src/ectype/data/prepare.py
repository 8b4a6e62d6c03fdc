"""Decoding once: from a source to mapped files of uint8, and back to them in a moment. No torch.

An entry of the cache holds what decoding depends on: the source as it was, the size, channels, resize rule, background
and smallest size. Labels from a file, splits and the limit of rejects are worked out anew each time, from names alone.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import re
import shutil
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ectype.data import cache as entries
from ectype.data.cache import Cleaned, cache_root, clean
from ectype.data.decode import DIGEST, Spec, colour, decode_chunk
from ectype.data.labels import read_labels
from ectype.data.names import Names, read_names, write_names
from ectype.data.sources import TEST, TRAIN, VAL, Listing, Source, open_source
from ectype.data.splits import assign
from ectype.data.workers import Decode, Measure, default_workers, run
from ectype.errors import DataError, EctypeWarning
from ectype.sections import DataConfig, DataInfo

__all__ = ["Cleaned", "Prepared", "Reject", "clean", "prepare"]

SHARD = 1 << 30
"""Bytes of a file of images, at most."""
CHUNK = 8 << 20
"""Bytes of decoded images that a worker holds, at most; but 64 images, and always one."""
OWN_SIZE, AUTO_SIZE = 128, 64
"""`size: auto` keeps the images' own size up to the first, else takes squares up to the second."""
PROBE = 32
"""Images that are looked at for colour before all are decoded."""
INLINE = 64
"""So few images are decoded sooner than other processes have started."""


class Reject(NamedTuple):
    """An image that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """Images on disk, ready to be mapped.

    Attributes:
        root: The cache entry: shards, `manifest.json`, `rejects.csv`.
        info: Channels, size, classes and their frequencies among the training images.
        shards: Files of uint8 [n, c, h, w], joined in this order; rejects are blank rows that no split names.
        sides: [n] split of each row: 0 none (rejected), 1 train, 2 validation, 3 test.
        labels: [n] class of each row, −1 for rejects; None without classes.
        rejects: What cannot be used.
        notes: What a user should know of the images, a line each.
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
    def summary(self) -> str:
        """One line: how many, rejected why, of what shape, split how."""
        height, width = self.info.size
        kind = "grey" if self.info.channels == 1 else "colour"
        classes = f", {len(self.info.classes)} classes" if self.info.classes else ""
        splits = ", ".join(f"{count:,} {name}" for name, count in self.splits.items())
        why = f" ({_reasons(self.rejects)})" if self.rejects else ""
        shape = f"{width}×{height} {kind}{classes}"
        return f"{len(self):,} images, {len(self.rejects):,} rejected{why}; {shape}; {splits}"


def prepare(
    config: DataConfig,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Prepared:
    """Decode a source's images once, or find them decoded.

    Args:
        config: The source, and what its images become.
        cache: Where entries lie; see `ectype.data.cache.cache_root` for the default.
        progress: Called with the number of images decoded so far and of all.
        workers: Decoding processes; one for each core by default, 1 for none besides this one.

    Raises:
        DataError: No source, no usable image, more rejects than `max_rejects`, too few images to split, no room on the
            disk; always one line that names the value, the rule and the fix.
    """
    if config.source is None:
        raise DataError("no images given: name a folder, an archive or `digits` as data.source.")
    source = open_source(config.source)
    try:
        background = colour(config.background)
    except ValueError:
        raise DataError(
            f"data.background='{config.background}' is no colour: give a name such as white, or #rrggbb."
        ) from None
    keys = [source.location, config.size, config.channels, config.resize, background, config.min_size, entries.FORMAT]
    key = hashlib.sha256(repr(keys).encode(errors="surrogateescape")).hexdigest()[:12]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", Path(source.text).name).strip("-")[:40] or "images"
    signature = hashlib.sha256(source.signature.encode()).hexdigest()[:12]
    entry = (cache or cache_root()) / f"{slug}-{key}-{signature}"
    manifest, built = entries.load(entry), False
    if manifest is None:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise entries.no_room(entry.parent, error) from None
        with entries.locked(entry) as alone:
            manifest = entries.load(entry)  # another process may have been at it
            if manifest is None:
                with entries.writing(entry, alone=alone) as place:
                    builder = _Builder(source, config, background, place, progress, workers or default_workers())
                    entries.publish(place, entry, builder.build())
                entries.forget_older(entry)
                manifest, built = entries.load(entry), True
    assert manifest is not None
    return _assemble(entry, manifest, config, built=built)


# ── Building an entry ────────────────────────────────────────────────────────────────────────────────────────────────


class _Builder:
    """Decodes a source into a directory."""

    def __init__(
        self,
        source: Source,
        config: DataConfig,
        background: tuple[int, int, int],
        place: Path,
        progress: Callable[[int, int], None] | None,
        workers: int,
    ) -> None:
        self.source, self.config, self.background, self.place = source, config, background, place
        self.progress = progress
        self.listing: Listing = source.listing()
        self.count = len(self.listing.names)
        self.workers = 1 if source.decoded or self.count < INLINE else workers

    def build(self) -> dict[str, Any]:
        """Write everything but the manifest, and return that."""
        size = self.config.sides or self._auto_size()
        if self.config.channels == "auto":
            spec = self._spec(size, 1, guess=True)
            if self._sample_has_colour(spec):
                spec = self._spec(size, 3)
        else:
            spec = self._spec(size, self.config.channels)
        done = self._decode(spec)
        if done is None:  # rare: the sample was grey, but not all were
            spec = self._spec(size, 3)
            done = self._decode(spec)
        assert done is not None
        return self._finish(spec, *done)

    def _spec(self, size: tuple[int, int], channels: int, *, guess: bool = False) -> Spec:
        return Spec(size, channels, self.config.resize, self.background, self.config.min_size, guess)

    def _auto_size(self) -> tuple[int, int]:
        sizes: Counter[tuple[int, int]] = Counter()
        step = max(1, min(256, self.count // (4 * self.workers) or 1))
        if self.source.decoded:
            sizes.update(filter(None, (s for chunk in self.source.chunks(64) for s in Measure(0, chunk).do())))
        else:
            chunks = (Measure(i * step, chunk) for i, chunk in enumerate(self.source.chunks(step)))
            # Paths are opened elsewhere; bytes would cost more to send than to look at.
            workers = self.workers if self._reads_elsewhere else 1
            for _, found in run(chunks, workers):
                sizes.update(filter(None, found))
        sizes = Counter({s: n for s, n in sizes.items() if min(s) >= self.config.min_size})
        if len(sizes) == 1 and max(own := next(iter(sizes))) <= OWN_SIZE and min(own) >= 4:
            return own
        if not sizes:
            return AUTO_SIZE, AUTO_SIZE  # decoding will say why there are none
        side = min(AUTO_SIZE, max(4, round(statistics.median(min(s) for s in sizes.elements()))))
        return side, side

    @cached_property
    def _reads_elsewhere(self) -> bool:
        return isinstance(next(iter(self.source.sample(1)), None), str)

    def _sample_has_colour(self, spec: Spec) -> bool:
        return any(decode_chunk([raw], spec).coloured for raw in self.source.sample(PROBE))

    def _decode(self, spec: Spec) -> tuple[list[str], _Outcome] | None:
        """Write all images into shards; None as soon as one has colour that was not expected."""
        each = spec.channels * spec.size[0] * spec.size[1]
        needed = self.count * each
        if shutil.disk_usage(self.place).free < needed:
            raise entries.no_room(self.place.parent, needed=needed)
        step = max(1, min(64, CHUNK // each, -(-self.count // (4 * self.workers))))
        rows = max(1, SHARD // (each * step)) * step  # a chunk never straddles two files
        shards = [_blank(self.place, i, min(rows, self.count - first), spec) for i, first in _starts(self.count, rows)]

        def tasks() -> Iterator[Decode]:
            first = 0
            for chunk in self.source.chunks(step):
                path, header = shards[first // rows]
                yield Decode(first, chunk, spec, path, header + first % rows * each)
                first += len(chunk)

        outcome = _Outcome(self.count)
        with contextlib.closing(run(tasks(), self.workers)) as results:
            for task, done in results:
                if done.coloured:
                    return None
                outcome.add(task.first, done)
                if self.progress is not None:
                    self.progress(outcome.done, self.count)
        if outcome.done != self.count:
            raise DataError(f"'{self.source.text}' changed while it was read: prepare it again.")
        return [path.name for path, _ in shards], outcome

    def _finish(self, spec: Spec, shards: Sequence[str], outcome: _Outcome) -> dict[str, Any]:
        listing, place = self.listing, self.place
        kept = np.ones(self.count, bool)
        kept[list(outcome.reasons)] = False
        rejects = [Reject(listing.names[i], outcome.reasons[i]) for i in sorted(outcome.reasons)]
        rejects = sorted([*rejects, *(Reject(*refused) for refused in listing.refused)])
        if not kept.any():
            shown = "; ".join(f"{path}: {reason}" for path, reason in rejects[:3])
            raise DataError(
                f"none of the {len(rejects):,} images in '{self.source.text}' can be used ({_reasons(rejects)}), such "
                f"as {shown}: check that they open elsewhere."
            )
        with open(place / "rejects.csv", "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Reject._fields)
            writer.writerows(rejects)
        write_names(place, listing.names)
        arrays = {"kept": kept, "sides": listing.sides, "digests": outcome.digests}
        if listing.labels is not None:
            arrays["labels"] = listing.labels.astype(np.int32)
        for name, array in arrays.items():
            np.save(place / f"{name}.npy", array)
        digests = outcome.digests[kept]
        copies = len(digests) - len(np.unique(digests.view(f"V{DIGEST}")))
        return {
            "source": self.source.text,
            "shape": [spec.channels, *spec.size],
            "shards": list(shards),
            "classes": list(listing.classes),
            "rejects": len(rejects),
            "copies": copies,
            "content": hashlib.sha256(digests.tobytes()).hexdigest(),
            "warnings": self._warnings(outcome),
            "notes": self._notes(outcome),
        }

    def _warnings(self, outcome: _Outcome) -> list[str]:
        deep = outcome.notes["16-bit"] + self.source.deep
        if not deep:
            return []
        text = f"{deep:,} images of 16 bits or floats were reduced to 8 bits"
        brightest = max(outcome.brightest, self.source.brightest)
        if 0 < brightest < 1 << 15:
            text += f"; their largest value is {brightest} of 65535, so they are dark: rescale them first"
        return [text]

    def _notes(self, outcome: _Outcome) -> list[str]:
        notes = list(self.listing.notes)
        if transparent := outcome.notes["transparent"]:
            notes.append(f"{transparent:,} images with transparency were painted onto {self.config.background}")
        if animated := outcome.notes["animated"]:
            notes.append(f"of {animated:,} animations the first frame is used")
        if skipped := self.listing.skipped:
            kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in skipped.most_common(4))
            notes.append(f"{skipped.total():,} files that are no images were skipped ({kinds})")
        return notes


class _Outcome:
    """What became of each image, gathered from chunks that come in any order."""

    def __init__(self, count: int) -> None:
        self.done = 0
        self.reasons: dict[int, str] = {}
        self.digests = np.zeros((count, DIGEST), np.uint8)
        self.notes: Counter[str] = Counter()
        self.brightest = 0

    def add(self, first: int, done: Any) -> None:
        count = len(done.reasons)
        self.done += count
        self.digests[first : first + count] = done.digests
        self.reasons |= {first + i: reason for i, reason in enumerate(done.reasons) if reason is not None}
        self.notes.update(done.notes)
        self.brightest = max(self.brightest, done.brightest)


def _starts(count: int, rows: int) -> Iterator[tuple[int, int]]:
    return enumerate(range(0, count, rows))


def _blank(place: Path, number: int, rows: int, spec: Spec) -> tuple[Path, int]:
    """A file of zeros (sparse where the file system can) and where its pixels begin."""
    path = place / f"images-{number:03d}.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, spec.channels, *spec.size))
    return path, mapped.offset


def _reasons(rejects: Sequence[Reject]) -> str:
    """Counts by reason, the most frequent first."""
    counts = Counter(reject.reason.split(" (")[0] for reject in rejects)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common(5))


# ── Using an entry ───────────────────────────────────────────────────────────────────────────────────────────────────


def _assemble(entry: Path, manifest: dict[str, Any], config: DataConfig, *, built: bool) -> Prepared:
    kept = np.load(entry / "kept.npy")
    rows = np.flatnonzero(kept)
    with open(entry / "rejects.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rejects = tuple(Reject(*row) for row in list(csv.reader(file))[1:])
    share = len(rejects) / (len(rejects) + len(rows))
    if share > config.max_rejects:
        raise DataError(
            f"{len(rejects):,} of {len(rejects) + len(rows):,} images in '{config.source}' were rejected "
            f"({_reasons(rejects)}), more than data.max_rejects={config.max_rejects:g} allows: mend or remove those in "
            f"'{entry / 'rejects.csv'}', or raise it."
        )
    names = read_names(entry).take(rows)
    sides = np.zeros(len(kept), np.uint8)
    sides[rows] = assign(names, np.load(entry / "sides.npy")[rows], config.split)
    labels, classes = _labels(entry, manifest, config, names, rows, len(kept))
    frequencies: tuple[float, ...] = ()
    if labels is not None:
        counts = np.bincount(labels[sides == TRAIN], minlength=len(classes))
        frequencies = tuple((counts / counts.sum()).tolist())
    channels, height, width = manifest["shape"]
    info = DataInfo(channels, (height, width), classes, frequencies, config.binarise != "none")
    for text in manifest["warnings"]:
        warnings.warn(f"{text}.", EctypeWarning, stacklevel=3)
    return Prepared(
        root=entry,
        info=info,
        shards=tuple(entry / name for name in manifest["shards"]),
        sides=sides,
        labels=labels,
        rejects=rejects,
        notes=(*manifest["warnings"], *manifest["notes"], *_copies(entry, manifest, sides)),
        fingerprint=_fingerprint(manifest, names, sides[rows], None if labels is None else labels[rows], classes),
        built=built,
    )


def _labels(
    entry: Path, manifest: dict[str, Any], config: DataConfig, names: Sequence[str], rows: np.ndarray, count: int
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Class of each row, and the classes."""
    if config.labels is not None:
        labels = np.full(count, -1, np.int32)
        labels[rows], classes = read_labels(config.labels, names, config.source or "")
        return labels, classes
    if not manifest["classes"]:
        return None, ()
    stored = np.load(entry / "labels.npy")
    labels = np.full(count, -1, np.int32)
    labels[rows] = stored[rows]
    return labels, tuple(manifest["classes"])


def _copies(entry: Path, manifest: dict[str, Any], sides: np.ndarray) -> list[str]:
    """A word on images that are exact copies of others, above all of training images that are held out as well."""
    if not manifest["copies"]:
        return []
    digests = np.load(entry / "digests.npy").view(f"V{DIGEST}")[:, 0]
    held_out = digests[sides > TRAIN]
    leaked = int(np.isin(held_out, digests[sides == TRAIN]).sum())
    text = f"{manifest['copies']:,} images are exact copies of others once decoded"
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
