"""Images with a target each: a mask or another image, found by file name or in the same file.

Targets lie in a second folder (`images/` and `masks/`, below or above the split folders), next to the image with a
word in the name (`cell-7.png` and `cell-7_mask.png`, `img_7.png` and `mask_7.png`), in one folder per class of a mask
(`masks/nucleus/`), side by side with the image in one file, or in its alpha channel. The layouts of Pascal VOC,
Cityscapes and nnU-Net are known. Images with no target, or with more than one, are rejected with a reason. Nothing
here imports PyTorch.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from ectype.core.errors import DataError, did_you_mean
from ectype.data.image_file import LoadOptions, load_upright
from ectype.data.raw_image import Alpha, Pair, Raw, Rejected, SideBySide, Unreadable
from ectype.data.sources.base import (
    SPLIT_FOLDERS,
    UNASSIGNED,
    Listing,
    Source,
    evenly_spaced_positions,
    infer_labels_and_splits,
    natural_sort_key,
)
from ectype.data.sources.folder import FolderSource
from ectype.data.sources.pair_names import (
    ListedFile,
    find_folders,
    has_target_name,
    is_named,
    sort_files,
    split_of_folder,
)

__all__ = ["HALVES", "AlphaSource", "PairedFolder", "SideBySideSource", "open_pairs"]

HALVES = ("left", "right", "top", "bottom")
OPPOSITE_HALF = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
NUM_PROBED_FOR_ALPHA = 8
"""Images that are checked for transparent pixels if no targets are found."""


def open_pairs(
    source: Source, kind: Literal["masks", "images", "alpha"], input: str | None, target: str | None
) -> Source:
    """Turn a source of images into a source of pairs.

    Args:
        source: The source of the files.
        kind: What the targets are: masks, images (one each), or masks in the alpha channels.
        input: The folder of the images, at any depth, or left, right, top or bottom: the half of each file. None finds
            the folder by its name.
        target: The folder of the targets, or the other half.

    Raises:
        DataError: The source has no pairs.
    """
    if kind == "alpha":
        return AlphaSource(source)
    if source.text.startswith("memory:"):
        from ectype.data.sources.memory import MemoryPairs, MemorySource  # not needed, and not imported, otherwise

        assert isinstance(source, MemorySource)
        return MemoryPairs(source)
    if input in HALVES or target in HALVES:
        return SideBySideSource(source, input, target)
    if not isinstance(source, FolderSource):
        raise DataError(
            f"'{source.text}' is not a folder, but targets are found by the names of files in folders: unpack it, or "
            f"name the half of each file that is the image (data.input=left){_alpha_hint(source, kind)}."
        )
    return PairedFolder(source, input, target, kind)


def _alpha_hint(source: Source, kind: str) -> str:
    """Return the end of an error if masks were not found, but images have transparent pixels."""
    if kind != "masks":
        return ""
    source.listing()  # archives can be sampled once they are listed
    for raw in source.sample(NUM_PROBED_FOR_ALPHA):
        if isinstance(raw, str | bytes | np.ndarray):
            with contextlib.suppress(Rejected):
                if load_upright(Alpha(raw), LoadOptions(is_mask=True)).image.getextrema()[0] != 255:
                    return "; or set data.pairs=alpha, which takes the images' alpha channel as their mask"
    return ""


class AlphaSource(Source):
    """Images whose alpha channel is their mask."""

    def __init__(self, source: Source) -> None:
        self.source, self.decoded = source, source.decoded
        super().__init__(source.text, f"{source.location}#alpha", source.signature)

    def listing(self) -> Listing:
        return self.source.listing()

    def read(self) -> Iterator[Raw]:
        return map(self._pair, self.source.read())

    def sample(self, size: int) -> list[Raw]:
        return list(map(self._pair, self.source.sample(size)))

    def _pair(self, raw: Raw) -> Raw:
        assert isinstance(raw, str | bytes | np.ndarray | Unreadable)
        return Pair(raw, (raw if isinstance(raw, Unreadable) else Alpha(raw),))


class SideBySideSource(Source):
    """Files whose two halves are an image and its target."""

    def __init__(self, source: Source, input: str | None, target: str | None) -> None:
        image_half = input or OPPOSITE_HALF.get(target or "", "")
        if image_half not in HALVES or (target is not None and target != OPPOSITE_HALF[image_half]):
            raise DataError(
                f"data.input={input} and data.target={target} are not opposite halves: use left and right, or top and "
                "bottom."
            )
        self.source, self.image_half = source, image_half
        super().__init__(source.text, f"{source.location}#{image_half}", source.signature)

    def listing(self) -> Listing:
        return self.source.listing()

    def read(self) -> Iterator[Raw]:
        return map(self._side_by_side, self.source.read())

    def sample(self, size: int) -> list[Raw]:
        return list(map(self._side_by_side, self.source.sample(size)))

    def _side_by_side(self, raw: Raw) -> Raw:
        assert not isinstance(raw, Pair | SideBySide)
        return SideBySide(raw, self.image_half)


class PairedFolder(Source):
    """Files in a folder, each image with its target.

    Attributes:
        classes: Names of the classes if each has its own files; empty if one file holds all classes.
        input, target: The names of the folders; empty if targets lie next to their images.
        pairs: Name of each image, and the names of its targets.
        targets: Names of all files that are targets, those without an image included.
    """

    def __init__(
        self, source: FolderSource, input: str | None, target: str | None, kind: Literal["masks", "images"]
    ) -> None:
        self.source, self.kind = source, kind
        self.input, self.target = self._folders(input, target)
        images, targets = sort_files(source.names, self.input, self.target)
        self.targets = frozenset(file.name for file in targets)
        self._split_lists = self._read_split_lists(images)
        if self._split_lists:
            images = [file for file in images if self._listed_split(file.name) is not None]
            keys = {file.key for file in images}
            targets = [file for file in targets if file.key in keys]
        image_keys = {file.key for file in images}
        # A folder whose targets belong to no image is not a class.
        self.classes = tuple(
            sorted(
                {file.mask_class for file in targets if file.mask_class and file.key in image_keys},
                key=natural_sort_key,
            )
        )
        self._check_classes(targets, image_keys)
        self.refused: list[tuple[str, str]] = list(source.refused)
        self.pairs: list[tuple[str, tuple[str | None, ...]]] = []
        self._match(images, targets)
        if not self.pairs:
            raise DataError(self._no_pairs_message(images, targets))
        lists = hashlib.sha256(repr(sorted(self._split_lists.items())).encode()).hexdigest()[:12]
        signature = f"{source.signature} {lists}" if self._split_lists else source.signature
        super().__init__(source.text, f"{source.location}#{self.input}|{self.target}", signature)

    def _folders(self, input: str | None, target: str | None) -> tuple[str, str]:
        """Return the names of both folders, or two empty names if targets lie next to their images."""
        source = self.source
        options = sorted(
            {part for name in source.names for part in PurePosixPath(name).parts[:-1]}, key=natural_sort_key
        )
        for key, requested in (("input", input), ("target", target)):
            if requested is not None and not any(is_named(name, requested) for name in options):
                raise DataError(
                    f"data.{key}='{requested}': '{source.text}' has no such folder; {did_you_mean(requested, options)}"
                )
        found_input, found_target = find_folders(source.names, input, target)
        if found_input is not None and found_target is not None:
            return found_input, found_target
        stems = (PurePosixPath(name).stem for name in source.names)
        if input is None and target is None and any(map(has_target_name, stems)):
            return "", ""
        seen = ", ".join(options[:6]) or "none"
        raise DataError(
            f"'{source.text}' has no folders whose names mean images and targets (found {seen}): name them with "
            "data.input=… data.target=…, rename targets like their images with _mask at the end (a.png and "
            f"a_mask.png), or name a half of each file with data.input=left{_alpha_hint(source, self.kind)}."
        )

    def _read_split_lists(self, images: Sequence[ListedFile]) -> dict[str, dict[str, int]]:
        """Return the split of each image that Pascal VOC lists for segmentation, by the folder of its JPEGImages."""
        found: dict[str, dict[str, int]] = {}
        for above in sorted({self._folder_above(file.name) for file in images}):
            folder = self.source.root / above / "ImageSets" / "Segmentation"
            splits: dict[str, int] = {}
            for split in ("train", "val", "test"):
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    stems = (folder / f"{split}.txt").read_text(encoding="utf-8").split()
                    splits |= dict.fromkeys(stems, SPLIT_FOLDERS[split])
            if splits:
                found[above] = splits
        return found

    def _folder_above(self, name: str) -> str:
        """Return the path above the folder of images."""
        parts = PurePosixPath(name).parts[:-1]
        level = next((i for i, part in enumerate(parts) if self.input and is_named(part, self.input)), len(parts))
        return "/".join(parts[:level])

    def _listed_split(self, name: str) -> int | None:
        """Return the split in which an image is listed; None if a list exists and does not name it."""
        splits = self._split_lists.get(self._folder_above(name))
        return UNASSIGNED if splits is None else splits.get(PurePosixPath(name).stem)

    def _check_classes(self, targets: Sequence[ListedFile], image_keys: set[str]) -> None:
        folders = ", ".join(self.classes[:4])
        if self.classes and any(not file.mask_class and file.key in image_keys for file in targets):
            raise DataError(
                f"targets in '{self.source.text}' lie both in {self.target}/ and in its subfolders ({folders}): use "
                "one file for each image, or one folder for each class."
            )
        if self.classes and self.kind == "images":
            raise DataError(
                f"images in '{self.source.text}' have targets in several folders ({folders}): choose one with "
                f"data.target={self.classes[0]}."
            )

    def _match(self, images: Sequence[ListedFile], targets: Sequence[ListedFile]) -> None:
        """Fill `pairs`, and `refused` with the files that have no counterpart."""
        targets_by_key: dict[str, list[ListedFile]] = defaultdict(list)
        for file in targets:
            targets_by_key[file.key].append(file)
        seen: dict[str, ListedFile] = {}
        for file in images:
            found = targets_by_key.get(file.key, [])
            if file.key in seen:
                self.refused.append((file.name, f"a second image with the target of {seen[file.key].name}"))
                continue
            seen[file.key] = file
            by_class = {mask.mask_class: mask.name for mask in found}
            if not found:
                where = f"in {self.target}/" if self.target else "of its name with a suffix"
                self.refused.append((file.name, f"no target {where}"))
            elif len(by_class) < len(found):
                names = ", ".join(sorted(mask.name for mask in found)[:2])
                self.refused.append((file.name, f"more than one target ({names})"))
            else:
                self.pairs.append((file.name, tuple(by_class.get(name) for name in self.classes or ("",))))
        unmatched = [mask for key, found in targets_by_key.items() if key not in seen for mask in found]
        self.refused += [(mask.name, "a target without an image") for mask in unmatched]

    def _no_pairs_message(self, images: Sequence[ListedFile], targets: Sequence[ListedFile]) -> str:
        text = f"no image in '{self.source.text}' has a target of the same name"
        if images and targets:
            image, target = PurePosixPath(images[0].name), PurePosixPath(targets[0].name)
            wanted = image.stem if self.input else f"{image.stem}_mask"
            text += f": rename the target of '{image}' to '{target.with_name(wanted + target.suffix)}'"
            text += f" (targets are named like '{target}')"
        else:
            which, where = ("targets", self.target) if images else ("images", self.input)
            text += f": there are no {which} in '{where}/'" if where else f": there are no {which}"
        return (
            f"{text}; or name the folders (data.input=images data.target=masks), or a half of each file "
            f"(data.input=left){_alpha_hint(self.source, self.kind)}."
        )

    def listing(self) -> Listing:
        names = [self._pair_name(name) for name, _ in self.pairs]
        listing = infer_labels_and_splits(names)
        notes = [
            f"pairs: images in {self.input}/, targets in {self.target}/"
            if self.input
            else "pairs: targets have the name of their image and a suffix"
        ]
        if self.classes:
            notes[0] += f", one file for each of {len(self.classes)} classes ({', '.join(self.classes[:6])})"
        if self._split_lists:
            splits = np.array([self._listed_split(name) for name, _ in self.pairs], np.uint8)
            listing = replace(listing, split_ids=np.where(splits == UNASSIGNED, listing.split_ids, splits))
            notes.append("splits: the lists in ImageSets/Segmentation; other images are left out")
        return replace(
            listing,
            refused=tuple(sorted(self.refused)),
            skipped=self.source.skipped,
            notes=(*listing.notes, *notes),
        )

    def _pair_name(self, name: str) -> str:
        """Return the name of an image without the folder of images."""
        parts = PurePosixPath(name).parts
        kept = []
        for part in parts[:-1]:
            if not is_named(part, self.input):
                kept.append(part)
            elif split := split_of_folder(part)[0]:
                kept.append(split)
        return "/".join([*kept, parts[-1]])

    def _pair(self, pair: tuple[str, tuple[str | None, ...]]) -> Pair:
        image, targets = pair
        path = self.source.path
        return Pair(path(image), tuple(None if name is None else path(name) for name in targets))

    def file_pairs(self) -> Iterator[Pair]:
        """Yield the files of each pair."""
        return map(self._pair, self.pairs)

    def read(self) -> Iterator[Raw]:
        return self.file_pairs()

    def sample(self, size: int) -> list[Raw]:
        return [self._pair(self.pairs[i]) for i in evenly_spaced_positions(len(self.pairs), size)]
