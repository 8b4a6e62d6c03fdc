"""Building an entry of the cache: all images of a source, decoded into a folder. Nothing here imports PyTorch."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ectype.config.schema import DataConfig
from ectype.core.errors import DataError
from ectype.core.escape import write_csv
from ectype.data.cache import write_error
from ectype.data.decode import Spec, TargetSpec
from ectype.data.decode_batch import DIGEST_BYTES, decode_batch
from ectype.data.decode_pairs import Orientation, resolve_orientation, split_halves
from ectype.data.image_file import LoadOptions
from ectype.data.mask_values import MaskValues
from ectype.data.masks import IGNORE_INDEX, alpha_encoding, find_encoding
from ectype.data.packed_strings import write_strings
from ectype.data.pixel_problems import find_pixel_problems
from ectype.data.prepared import Reject, summarize_reasons
from ectype.data.raw_image import Pair, Raw, Rejected, SideBySide, Single
from ectype.data.sources.base import Listing, Source, unsupported_notes
from ectype.data.workers import Decode, DecodeResult, InspectPairs, Measure, run_tasks

__all__ = ["MAX_OWN_SIDE_PX", "EntryBuilder"]

MAX_SHARD_BYTES = 1 << 30
"""Maximum bytes of a file of images."""
MAX_BATCH_BYTES = 8 << 20
"""Maximum bytes of decoded images that a worker holds, unless one image has more."""
MAX_IMAGES_PER_BATCH = 64
MAX_FILES_PER_MEASURING_BATCH = 256
BATCHES_PER_WORKER = 4
"""A worker should get at least this many batches, so that all workers end at about the same time."""
MAX_AUTO_OWN_SIDE_PX = 128
"""Longest side up to which `size: auto` keeps the images' own size."""
MAX_AUTO_SQUARE_PX = 64
"""Largest square that `size: auto` uses otherwise."""
MAX_OWN_SIDE_PX = 512
"""Longest side that `size: own` keeps."""
MIN_SIDE_PX = 4
NUM_PROBED_IMAGES = 32
"""Images that are checked for color before all are decoded."""
MIN_IMAGES_FOR_WORKERS = 64
"""Fewer images are decoded faster in this process than other processes take to start."""


UNREADABLE = ("truncated", "damaged", "not an image")
"""Starts of reasons that a second program can confirm."""


def _advice(rejects: Sequence[Reject]) -> str:
    """Return what helps if no image can be used, by the most frequent kind of reason."""
    unreadable = sum(reject.reason.startswith(UNREADABLE) for reject in rejects)
    small = sum(reject.reason.startswith("too small") for reject in rejects)
    if unreadable >= max(small, len(rejects) / 2):
        return "check that they open in other programs"
    if small >= len(rejects) / 2:
        return "use larger images, or lower data.min_size"
    return "change what these reasons name, or use other images"


class EntryBuilder:
    """Decodes a source into a folder.

    Args:
        source: The images.
        config: What they are decoded to.
        background: Color of transparent pixels and padding.
        folder: The folder, which is empty.
        progress: Called with the number of images that are decoded and the number of all images.
        workers: Number of decoding processes.
        file_classes: Names of the classes of masks if each has its own files.
    """

    def __init__(
        self,
        source: Source,
        config: DataConfig,
        background: tuple[int, int, int],
        folder: Path,
        progress: Callable[[int, int], None] | None,
        workers: int,
        file_classes: tuple[str, ...],
    ) -> None:
        self.source, self.config, self.background, self.folder = source, config, background, folder
        self.progress, self.file_classes = progress, file_classes
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.load = LoadOptions(config.max_pixels, config.value_range)
        self.listing: Listing = source.listing()
        self.count = len(self.listing.names)
        self.workers = 1 if source.decoded or self.count < MIN_IMAGES_FOR_WORKERS else workers

    def build(self) -> dict[str, Any]:
        """Write all files except the manifest, and return the manifest."""
        size = self.config.fixed_size or self._auto_size()
        target = self._target_spec() if self.config.pairs != "none" else None
        if self.config.channels == "auto":
            spec = self._spec(size, 1, target, assume_gray=True)
            if self._sample_has_color(spec):
                spec = self._spec(size, 3, target)
        else:
            spec = self._spec(size, self.config.channels, target)
        decoded = self._decode(spec)
        if decoded is None:  # rare: the sample was gray, but another image has color
            if target is not None and target.encoding is None:
                target = target._replace(channels=3, assume_gray=False)
            spec = self._spec(size, 3 if self.config.channels == "auto" else self.config.channels, target)
            decoded = self._decode(spec)
        assert decoded is not None
        return self._write_tables(spec, *decoded)

    def _spec(
        self, size: tuple[int, int], channels: int, target: TargetSpec | None, *, assume_gray: bool = False
    ) -> Spec:
        config = self.config
        return Spec(
            size,
            channels,
            config.resize_mode,
            self.background,
            config.min_size,
            assume_gray,
            target,
            self.load,
            config.ignores_alpha,
        )

    def _batch_size(self, maximum: int) -> int:
        """Return a number of items that gives each worker several batches."""
        return max(1, min(maximum, self.count // (BATCHES_PER_WORKER * self.workers) or 1))

    def _target_spec(self) -> TargetSpec:
        """Return what targets are decoded to: masks by the values of all of them, images in gray or color."""
        config = self.config
        if config.pairs == "alpha":
            return TargetSpec(alpha_encoding(config.class_names))
        read_masks = config.pairs == "masks" and not self.file_classes
        size = self._batch_size(MAX_IMAGES_PER_BATCH)
        tasks = (
            InspectPairs(i * size, items, self.load, read_masks) for i, items in enumerate(self.source.batches(size))
        )
        masks: list[MaskValues] = []
        orientations: Counter[Orientation] = Counter()
        for _, found in run_tasks(tasks, self.workers):
            for facts in found:
                masks += facts.masks
                orientations[facts.orientation] += 1
        is_stored, note = resolve_orientation(orientations, config.target_orientation)
        is_guess = config.target_orientation == "auto" and orientations["unknown"] > 0
        if note is not None:
            (self.warnings if is_guess else self.notes).append(note)
        if config.pairs == "images":
            probe = Spec((MAX_AUTO_SQUARE_PX, MAX_AUTO_SQUARE_PX), 1, assume_gray=True, load=self.load)
            has_color = self._sample_has_color(probe, of_target=True)
            return TargetSpec(None, 3 if has_color else 1, assume_gray=not has_color, is_stored=is_stored)
        encoding = find_encoding(
            masks,
            file_classes=self.file_classes,
            names=config.class_names,
            ignore=config.ignore,
            class_values=config.class_values,
        )
        return TargetSpec(encoding, is_stored=is_stored)

    def _auto_size(self) -> tuple[int, int]:
        """Return height and width for `size: auto` and `size: own`."""
        sizes = self._count_sizes()
        if self.config.size == "own" and sizes:
            (height, width), _ = max(sizes.items(), key=lambda item: (item[1], item[0]))
            scale = min(1.0, MAX_OWN_SIDE_PX / max(height, width))
            return max(MIN_SIDE_PX, round(height * scale)), max(MIN_SIDE_PX, round(width * scale))
        if len(sizes) == 1:
            (own,) = sizes
            if max(own) <= MAX_AUTO_OWN_SIDE_PX and min(own) >= MIN_SIDE_PX:
                return own
        if not sizes:
            return MAX_AUTO_SQUARE_PX, MAX_AUTO_SQUARE_PX  # decoding will report why there are none
        median = round(statistics.median(min(size) for size in sizes.elements()))
        side = min(MAX_AUTO_SQUARE_PX, max(MIN_SIDE_PX, median))
        return side, side

    def _count_sizes(self) -> Counter[tuple[int, int]]:
        """Return how many images have each size, without those that are too small."""
        sizes: Counter[tuple[int, int]] = Counter()
        if self.source.decoded:
            for items in self.source.batches(MAX_IMAGES_PER_BATCH):
                sizes.update(filter(None, Measure(0, items).run()))
        else:
            size = self._batch_size(MAX_FILES_PER_MEASURING_BATCH)
            tasks = (Measure(i * size, items) for i, items in enumerate(self.source.batches(size)))
            # Workers open paths themselves. To send encoded images to them would take longer than to measure them.
            for _, found in run_tasks(tasks, self.workers if self._yields_paths else 1):
                sizes.update(filter(None, found))
        return Counter({size: count for size, count in sizes.items() if min(size) >= self.config.min_size})

    @cached_property
    def _yields_paths(self) -> bool:
        first = next(iter(self.source.sample(1)), None)
        return isinstance(first.file if isinstance(first, SideBySide) else first, str | Pair)

    def _sample_has_color(self, spec: Spec, *, of_target: bool = False) -> bool:
        image_spec = spec._replace(target=None)
        sample = (_image_or_target(raw, target=of_target) for raw in self.source.sample(NUM_PROBED_IMAGES))
        return any(decode_batch([raw], image_spec).is_color for raw in sample if raw is not None)

    def _decode(self, spec: Spec) -> tuple[list[str], _BuildResult] | None:
        """Write all images to shards. Return None as soon as one that was assumed to be gray has color."""
        image_bytes = spec.stored_channels * spec.size[0] * spec.size[1]
        required_bytes = self.count * image_bytes
        if shutil.disk_usage(self.folder).free < required_bytes:
            raise write_error(self.folder.parent, required_bytes=required_bytes)
        batches_wanted = BATCHES_PER_WORKER * self.workers
        size = max(1, min(MAX_IMAGES_PER_BATCH, MAX_BATCH_BYTES // image_bytes, -(-self.count // batches_wanted)))
        shard_rows = max(1, MAX_SHARD_BYTES // (image_bytes * size)) * size  # no batch extends over two shards
        shards = [
            _create_shard(self.folder, i, min(shard_rows, self.count - first), spec)
            for i, first in enumerate(range(0, self.count, shard_rows))
        ]

        def tasks() -> Iterator[Decode]:
            first = 0
            for items in self.source.batches(size):
                path, header_bytes = shards[first // shard_rows]
                yield Decode(first, items, spec, path, header_bytes + first % shard_rows * image_bytes)
                first += len(items)

        result = _BuildResult(self.count)
        with contextlib.closing(run_tasks(tasks(), self.workers)) as finished:
            for task, decoded in finished:
                if decoded.is_color:
                    return None
                result.add(task.first, decoded)
                if self.progress is not None:
                    self.progress(result.num_decoded, self.count)
        if result.num_decoded != self.count:
            raise DataError(f"'{self.source.text}' changed while it was read: prepare it again.")
        return [path.name for path, _ in shards], result

    def _write_tables(self, spec: Spec, shards: Sequence[str], result: _BuildResult) -> dict[str, Any]:
        listing, folder = self.listing, self.folder
        kept = np.ones(self.count, bool)
        kept[list(result.reasons)] = False
        rejects = [Reject(listing.names[i], result.reasons[i]) for i in sorted(result.reasons)]
        rejects = sorted([*rejects, *(Reject(*refused) for refused in listing.refused)])
        if not kept.any():
            examples = "; ".join(f"{path}: {reason}" for path, reason in rejects[:3])
            raise DataError(
                f"none of the {len(rejects):,} images in '{self.source.text}' can be used "
                f"({summarize_reasons(rejects)}), such as {examples}: {_advice(rejects)}."
            )
        with open(folder / "rejects.csv", "w", encoding="utf-8", newline="") as file:
            write_csv(file, [Reject._fields, *rejects])
        write_strings(folder, listing.names)
        arrays = {"kept": kept, "split_ids": listing.split_ids, "digests": result.digests}
        if listing.labels is not None:
            arrays["labels"] = listing.labels.astype(np.int32)
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        digests = result.digests[kept]
        copies = self._write_copies(kept, digests)
        problems = find_pixel_problems(
            num_images=len(digests),
            num_invisible=result.mark_counts["invisible"],
            max_value=result.max_value,
            max_16_bit_value=0
            if self.config.value_range is not None
            else max(result.max_16_bit_value, self.source.max_16_bit_value),
            shards=[np.load(folder / name, mmap_mode="r")[:, : spec.channels] for name in shards],
            kept=kept,
        )
        return {
            "source": self.source.text,
            "shape": [spec.channels, *spec.size],
            "shards": list(shards),
            "classes": list(listing.classes),
            "rejects": len(rejects),
            "copies": len(copies),
            "content": hashlib.sha256(digests.tobytes()).hexdigest(),
            "target": self._target_manifest(spec, shards),
            "problems": [problem._asdict() for problem in problems],
            "warnings": [*self._warnings(spec, result), *(problem.message for problem in problems)],
            "notes": self._notes(result),
            "marks": dict(result.mark_counts),
        }

    def _write_copies(self, kept: np.ndarray, digests: np.ndarray) -> list[tuple[str, str]]:
        """Return, and write to a file, the images that are exact copies of another, and the first such image."""
        names = self.listing.names
        _, first, group = np.unique(digests.view(f"V{DIGEST_BYTES}")[:, 0], return_index=True, return_inverse=True)
        rows, original = np.flatnonzero(kept), first[group]
        copies = [
            (names[int(rows[i])], names[int(rows[original[i]])])
            for i in np.flatnonzero(original != np.arange(len(rows)))
        ]
        with open(self.folder / "copies.csv", "w", encoding="utf-8", newline="") as file:
            write_csv(file, [("path", "copy of"), *copies])
        return copies

    def _target_manifest(self, spec: Spec, shards: Sequence[str]) -> dict[str, Any] | None:
        """Return what targets are; of masks, also write the number of pixels of each class in every row."""
        if spec.target is None:
            return None
        encoding = spec.target.encoding
        if encoding is None:
            return {"kind": "images", "channels": spec.target.channels}
        counts = []
        for name in shards:
            for mask in np.load(self.folder / name, mmap_mode="r")[:, spec.channels]:
                counts.append(np.bincount(mask.ravel(), minlength=IGNORE_INDEX + 1)[: len(encoding.names)])
        np.save(self.folder / "pixels.npy", np.stack(counts).astype(np.int32))
        return {"kind": "masks", "channels": 1, "encoding": encoding._asdict()}

    def _warnings(self, spec: Spec, result: _BuildResult) -> list[str]:
        warnings = list(self.warnings)
        if num_16_bit := result.mark_counts["16-bit"] + self.source.num_16_bit:
            warnings.append(f"{num_16_bit:,} images of 16 bits or floats were reduced to 8 bits")
        encoding = None if spec.target is None else spec.target.encoding
        if encoding is not None and (stray := encoding.stray_warning) is not None:
            warnings.append(stray)
        return warnings

    def _notes(self, result: _BuildResult) -> list[str]:
        notes = [*self.listing.notes, *unsupported_notes(self.listing.refused), *self.notes]
        if transparent := result.mark_counts["transparent"]:
            notes.append(f"{transparent:,} transparent images were painted on {self.config.background}")
        if 0 < (invisible := result.mark_counts["invisible"]) < self.count - len(result.reasons):
            notes.append(f"{invisible:,} of them are wholly transparent, so that only the background is seen")
        if converted := result.mark_counts["color profile"]:
            notes.append(f"{converted:,} images were converted to sRGB from the color space of their profile")
        if unusable := result.mark_counts["unusable profile"]:
            notes.append(f"{unusable:,} images have a color profile that is damaged or of another kind, and is ignored")
        multi_frame_counts = result.mark_counts + Counter(self.source.multi_frame_counts)
        if animated := multi_frame_counts["animated"]:
            notes.append(f"only the first frame of {animated:,} animated images is used")
        if paged := multi_frame_counts["paged"]:
            notes.append(
                f"only the first page of {paged:,} TIFF files with several pages is used: save each page as a file to "
                "use all"
            )
        if skipped := self.listing.skipped:
            kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in skipped.most_common(4))
            notes.append(f"{skipped.total():,} files that are not images were skipped ({kinds})")
        return notes


class _BuildResult:
    """The results of all images, collected from batches that finish in any order."""

    def __init__(self, count: int) -> None:
        self.num_decoded = 0
        self.reasons: dict[int, str] = {}
        self.digests = np.zeros((count, DIGEST_BYTES), np.uint8)
        self.mark_counts: Counter[str] = Counter()
        self.max_16_bit_value = 0
        self.max_value = 0

    def add(self, first: int, decoded: DecodeResult) -> None:
        count = len(decoded.reasons)
        self.num_decoded += count
        self.digests[first : first + count] = decoded.digests
        self.reasons |= {first + i: reason for i, reason in enumerate(decoded.reasons) if reason is not None}
        self.mark_counts.update(decoded.mark_counts)
        self.max_16_bit_value = max(self.max_16_bit_value, decoded.max_16_bit_value)
        self.max_value = max(self.max_value, decoded.max_value)


def _image_or_target(raw: Raw, *, target: bool) -> Single | None:
    """Return the image of a pair, or its target; an item that is not a pair is the image."""
    if not isinstance(raw, Pair | SideBySide):
        return raw
    try:
        pair = split_halves(raw)
    except Rejected:
        return None
    return pair.targets[0] if target else pair.image


def _create_shard(folder: Path, number: int, num_rows: int, spec: Spec) -> tuple[Path, int]:
    """Create a file of zeros (sparse if the file system supports it); return it and where its pixels begin."""
    path = folder / f"images-{number:03d}.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.uint8, (num_rows, spec.stored_channels, *spec.size))
    return path, mapped.offset
