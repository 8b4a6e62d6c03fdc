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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ectype.data import cache as entries
from ectype.data.cache import Cleaned, cache_root, clean
from ectype.data.chunks import DIGEST, decode_chunk
from ectype.data.decode import Rejected, Spec, TargetSpec, colour
from ectype.data.decode_pairs import parted
from ectype.data.masks import IGNORED, find_coding
from ectype.data.names import write_names
from ectype.data.pairs import PairedFolder, open_pairs
from ectype.data.prepared import Prepared, Reject, assemble, reasons
from ectype.data.raw import Halves, Pair, Raw, Single
from ectype.data.sources import Listing, Source, open_source
from ectype.data.tiles import TiledSource
from ectype.data.workers import Decode, LookAtMasks, Measure, default_workers, run
from ectype.errors import DataError
from ectype.sections import DataConfig

__all__ = ["Cleaned", "Prepared", "Reject", "clean", "prepare"]

SHARD = 1 << 30
"""Bytes of a file of images, at most."""
CHUNK = 8 << 20
"""Bytes of decoded images that a worker holds, at most; but 64 images, and always one."""
OWN_SIZE, AUTO_SIZE = 128, 64
"""`size: auto` keeps the images' own size up to the first, else takes squares up to the second."""
LARGEST_OWN = 512
"""Longest side that `size: own` keeps."""
PROBE = 32
"""Images that are looked at for colour before all are decoded."""
INLINE = 64
"""So few images are decoded sooner than other processes have started."""


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
    if config.pairs != "none":
        source = open_pairs(source, config.input, config.target, pictures=config.pairs == "images")
    classes = source.classes if isinstance(source, PairedFolder) else ()
    if config.resize == "tiles" and config.sides is not None:
        source = TiledSource(source, config.sides)
    try:
        background = colour(config.background)
    except ValueError:
        raise DataError(
            f"data.background='{config.background}' is no colour: give a name such as white, or #rrggbb."
        ) from None
    keys = [source.location, config.size, config.channels, config.resize, background, config.min_size, entries.FORMAT]
    if config.pairs != "none":
        keys += [config.pairs, config.class_names, config.class_values, config.ignore]
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
                    builder = _Builder(
                        source, config, background, place, progress, workers or default_workers(), classes
                    )
                    entries.publish(place, entry, builder.build())
                entries.forget_older(entry)
                manifest, built = entries.load(entry), True
    assert manifest is not None
    return assemble(entry, manifest, config, built=built)


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
        classes: tuple[str, ...],
    ) -> None:
        self.classes = classes
        self.source, self.config, self.background, self.place = source, config, background, place
        self.progress = progress
        self.listing: Listing = source.listing()
        self.count = len(self.listing.names)
        self.workers = 1 if source.decoded or self.count < INLINE else workers

    def build(self) -> dict[str, Any]:
        """Write everything but the manifest, and return that."""
        size = self.config.sides or self._auto_size()
        target = self._target() if self.config.pairs != "none" else None
        if self.config.channels == "auto":
            spec = self._spec(size, 1, target, guess=True)
            if self._sample_has_colour(spec):
                spec = self._spec(size, 3, target)
        else:
            spec = self._spec(size, self.config.channels, target)
        done = self._decode(spec)
        if done is None:  # rare: the sample was grey, but not all were
            if target is not None and target.coding is None:
                target = TargetSpec(None, 3)
            spec = self._spec(size, 3 if self.config.channels == "auto" else self.config.channels, target)
            done = self._decode(spec)
        assert done is not None
        return self._finish(spec, *done)

    def _spec(self, size: tuple[int, int], channels: int, target: TargetSpec | None, *, guess: bool = False) -> Spec:
        return Spec(size, channels, self.config.fitting, self.background, self.config.min_size, guess, target)

    def _target(self) -> TargetSpec:
        """What partners become: masks by the values that all of them have, pictures grey or in colour."""
        if self.config.pairs == "images":
            grey = TargetSpec(None, 1, guess=True)
            coloured = self._sample_has_colour(Spec((AUTO_SIZE, AUTO_SIZE), 1, guess=True), partner=True)
            return TargetSpec(None, 3) if coloured else grey
        looks = []
        if not self.classes:
            step = max(1, min(64, self.count // (4 * self.workers) or 1))
            chunks = (LookAtMasks(i * step, chunk) for i, chunk in enumerate(self.source.chunks(step)))
            looks = [look for _, found in run(chunks, self.workers) for look in found]
        config = self.config
        found = find_coding(
            looks,
            files=self.classes,
            names=config.class_names,
            ignore=config.ignore,
            given=config.class_values,
        )
        return TargetSpec(found)

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
        if self.config.size == "own" and sizes:
            (height, width), _ = max(sizes.items(), key=lambda item: (item[1], item[0]))
            scale = min(1.0, LARGEST_OWN / max(height, width))
            return max(4, round(height * scale)), max(4, round(width * scale))
        if len(sizes) == 1 and max(own := next(iter(sizes))) <= OWN_SIZE and min(own) >= 4:
            return own
        if not sizes:
            return AUTO_SIZE, AUTO_SIZE  # decoding will say why there are none
        side = min(AUTO_SIZE, max(4, round(statistics.median(min(s) for s in sizes.elements()))))
        return side, side

    @cached_property
    def _reads_elsewhere(self) -> bool:
        first = next(iter(self.source.sample(1)), None)
        return isinstance(first.file if isinstance(first, Halves) else first, str | Pair)

    def _sample_has_colour(self, spec: Spec, *, partner: bool = False) -> bool:
        alone = spec._replace(target=None)
        some = (_one(raw, partner=partner) for raw in self.source.sample(PROBE))
        return any(decode_chunk([raw], alone).coloured for raw in some if raw is not None)

    def _decode(self, spec: Spec) -> tuple[list[str], _Outcome] | None:
        """Write all images into shards; None as soon as one has colour that was not expected."""
        each = spec.depth * spec.size[0] * spec.size[1]
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
                f"none of the {len(rejects):,} images in '{self.source.text}' can be used ({reasons(rejects)}), such "
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
        copies = self._copies(listing.names, kept, digests)
        return {
            "source": self.source.text,
            "shape": [spec.channels, *spec.size],
            "shards": list(shards),
            "classes": list(listing.classes),
            "rejects": len(rejects),
            "copies": len(copies),
            "content": hashlib.sha256(digests.tobytes()).hexdigest(),
            "target": self._described(spec, shards),
            "warnings": self._warnings(outcome),
            "notes": self._notes(outcome),
            "marks": dict(outcome.notes),
        }

    def _copies(self, names: Sequence[str], kept: np.ndarray, digests: np.ndarray) -> list[tuple[str, str]]:
        """Images that are exact copies of others, and the first that each repeats; also written down."""
        _, first, group = np.unique(digests.view(f"V{DIGEST}")[:, 0], return_index=True, return_inverse=True)
        rows, original = np.flatnonzero(kept), first[group]
        found = [
            (names[int(rows[i])], names[int(rows[original[i]])])
            for i in np.flatnonzero(original != np.arange(len(rows)))
        ]
        with open(self.place / "copies.csv", "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "copy of"))
            writer.writerows(found)
        return found

    def _described(self, spec: Spec, shards: Sequence[str]) -> dict[str, Any] | None:
        """What partners are, and of masks how many pixels of each class every row has."""
        if spec.target is None:
            return None
        coding = spec.target.coding
        if coding is None:
            return {"kind": "images", "channels": spec.target.channels}
        counts = []
        for name in shards:
            for mask in np.load(self.place / name, mmap_mode="r")[:, spec.channels]:
                counts.append(np.bincount(mask.ravel(), minlength=IGNORED + 1)[: len(coding.names)])
        np.save(self.place / "pixels.npy", np.stack(counts).astype(np.int32))
        return {"kind": "masks", "channels": 1, "coding": coding._asdict()}

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
        several = outcome.notes + Counter(self.source.several)
        if animated := several["animated"]:
            notes.append(f"of {animated:,} animations the first frame is used")
        if paged := several["paged"]:
            notes.append(f"of {paged:,} TIFF files of several pages the first is used: make a file of each to use all")
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


def _one(raw: Raw, *, partner: bool) -> Single | None:
    """The image of a pair, or its partner; what is no pair is the image."""
    if not isinstance(raw, Pair | Halves):
        return raw
    try:
        pair = parted(raw)
    except Rejected:
        return None
    return pair.targets[0] if partner else pair.image


def _starts(count: int, rows: int) -> Iterator[tuple[int, int]]:
    return enumerate(range(0, count, rows))


def _blank(place: Path, number: int, rows: int, spec: Spec) -> tuple[Path, int]:
    """A file of zeros (sparse where the file system can) and where its pixels begin."""
    path = place / f"images-{number:03d}.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, spec.depth, *spec.size))
    return path, mapped.offset
