"""Images with a target each: a mask or another image, found by file name or in the other half of the same file.

Targets lie in a second folder (`images/` and `masks/`, below or above the split folders), next to the image with a
suffix in the name (`cell-7.png` and `cell-7_mask.png`), in one folder per class of a mask (`masks/nucleus/`), or side
by side with the image in one file. Images with no target, or with more than one, are rejected with a reason. Nothing
here imports PyTorch.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple

from ectype.core.errors import DataError, did_you_mean
from ectype.data.raw_image import Pair, Raw, SideBySide
from ectype.data.sources.base import (
    SPLIT_FOLDERS,
    Listing,
    Source,
    evenly_spaced_positions,
    infer_labels_and_splits,
    natural_sort_key,
)
from ectype.data.sources.folder import FolderSource

__all__ = ["HALVES", "PairedFolder", "SideBySideSource", "open_pairs"]

INPUT_FOLDERS = ("images", "image", "imgs", "img", "inputs", "input", "source", "photos", "a")
TARGET_FOLDERS = (
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "gt",
    "groundtruth",
    "targets",
    "target",
    "segmentation",
    "b",
)
"""Folder names that are looked for, in this order, in lower case; trainA and trainB count as a and b."""
HALVES = ("left", "right", "top", "bottom")
OPPOSITE_HALF = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
TARGET_STEM_SUFFIX = re.compile(r"[-_ .](masks?|labels?|seg|segmentation|gt|target|annotation)$", re.IGNORECASE)
"""End of a target's name that the image's name lacks."""
SPLIT_PREFIX = re.compile(r"^(train|val|valid|test)(?=[ab]$)", re.IGNORECASE)
"""Start of folder names such as trainA and trainB."""


def open_pairs(source: Source, input: str | None, target: str | None, *, image_targets: bool = False) -> Source:
    """Turn a source of images into a source of pairs.

    Args:
        source: The source of the files.
        input: The folder of the images, at any depth, or left, right, top or bottom: the half of each file. None finds
            the folder by its name.
        target: The folder of the targets, or the other half.
        image_targets: Targets are images, one each, rather than masks.

    Raises:
        DataError: The source has no pairs.
    """
    if source.text.startswith("memory:"):
        from ectype.data.sources.memory import MemoryPairs, MemorySource  # not needed, and not imported, otherwise

        assert isinstance(source, MemorySource)
        return MemoryPairs(source)
    if input in HALVES or target in HALVES:
        return SideBySideSource(source, input, target)
    if not isinstance(source, FolderSource):
        raise DataError(
            f"'{source.text}' is not a folder, but targets are found by the names of files in folders: unpack it, or "
            "name the half of each file that is the image (data.input=left)."
        )
    return PairedFolder(source, input, target, image_targets=image_targets)


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


class _ListedFile(NamedTuple):
    """An image file in one of the two folders."""

    key: str
    """What an image and its target share."""
    name: str
    mask_class: str
    """The class, if the file is the mask of one class; else empty."""


class PairedFolder(Source):
    """Files in a folder, each image with its target.

    Attributes:
        classes: Names of the classes if each has its own files; empty if one file holds all classes.
        input, target: The names of the folders; empty if targets lie next to their images.
        pairs: Name of each image, and the names of its targets.
        targets: Names of all files that are targets, those without an image included.
    """

    def __init__(self, source: FolderSource, input: str | None, target: str | None, *, image_targets: bool) -> None:
        self.source = source
        self.input, self.target = _find_folders(source, input, target)
        images, targets = self._sorted_files()
        self.targets = frozenset(file.name for file in targets)
        image_keys = {file.key for file in images}
        # A folder whose targets belong to no image is not a class.
        self.classes = tuple(
            sorted(
                {file.mask_class for file in targets if file.mask_class and file.key in image_keys},
                key=natural_sort_key,
            )
        )
        self._check_classes(targets, image_keys, image_targets=image_targets)
        self.refused: list[tuple[str, str]] = list(source.refused)
        self.pairs: list[tuple[str, tuple[str | None, ...]]] = []
        self._match(images, targets)
        if not self.pairs:
            examples = ", ".join(name for name, _ in sorted(self.refused)[:3])
            raise DataError(
                f"no image in '{source.text}' has a target of the same name (such as {examples}): files need the same "
                "name in both folders; name the folders (data.input=images data.target=masks), or a half of each file "
                "(data.input=left)."
            )
        super().__init__(source.text, f"{source.location}#{self.input}|{self.target}", source.signature)

    def _check_classes(self, targets: Sequence[_ListedFile], image_keys: set[str], *, image_targets: bool) -> None:
        folders = ", ".join(self.classes[:4])
        if self.classes and any(not file.mask_class and file.key in image_keys for file in targets):
            raise DataError(
                f"targets in '{self.source.text}' lie both in {self.target}/ and in its subfolders ({folders}): use "
                "one file for each image, or one folder for each class."
            )
        if self.classes and image_targets:
            raise DataError(
                f"images in '{self.source.text}' have targets in several folders ({folders}): choose one with "
                f"data.target={self.classes[0]}."
            )

    def _match(self, images: Sequence[_ListedFile], targets: Sequence[_ListedFile]) -> None:
        """Fill `pairs`, and `refused` with the files that have no counterpart."""
        targets_by_key: dict[str, list[_ListedFile]] = defaultdict(list)
        for file in targets:
            targets_by_key[file.key].append(file)
        seen: dict[str, _ListedFile] = {}
        for file in images:
            found = targets_by_key.get(file.key, [])
            if file.key in seen:
                self.refused.append((file.name, f"a second image with the name of {seen[file.key].name}"))
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

    def _image_stems_and_folders(self) -> tuple[set[str], set[tuple[tuple[str, ...], tuple[str, ...]]]]:
        """Return the images' names without suffix, and the folders above and below the folder of images.

        A target's name that is also an image's is complete: no suffix has to be removed from it. Folders that hold
        images are not classes.
        """
        stems, folders = set(), set()
        for path in map(PurePosixPath, self.source.names):
            parts = path.parts[:-1]
            level = next((i for i, part in enumerate(parts) if _is_named(part, self.input)), None)
            if level is not None:
                stems.add(path.stem)
                folders.add((_normalize_folders(parts[:level], parts[level]), _normalize_folders(parts[level + 1 :])))
        return stems, folders

    def _sorted_files(self) -> tuple[list[_ListedFile], list[_ListedFile]]:
        """Return images and targets. Their keys are paths without the folder of images or targets and the suffix."""
        images: list[_ListedFile] = []
        targets: list[_ListedFile] = []
        image_stems, image_folders = self._image_stems_and_folders()
        for name in self.source.names:
            path = PurePosixPath(name)
            parts = path.parts[:-1]
            level = next((i for i, part in enumerate(parts) if _is_named(part, self.input, self.target)), None)
            if self.input == "" and level is None:
                short_stem = TARGET_STEM_SUFFIX.sub("", path.stem)
                key = "/".join([*parts, short_stem])
                (images if short_stem == path.stem else targets).append(_ListedFile(key, name, ""))
                continue
            if level is None:
                continue
            is_image = _is_named(parts[level], self.input)
            above, below = _normalize_folders(parts[:level], parts[level]), _normalize_folders(parts[level + 1 :])
            stem = path.stem if is_image or path.stem in image_stems else TARGET_STEM_SUFFIX.sub("", path.stem)
            mask_class = ""
            is_class = below and (above, below) not in image_folders and below[-1].lower() not in SPLIT_FOLDERS
            if not is_image and is_class:
                mask_class, below = below[-1], below[:-1]
            key = "/".join([*above, *below, stem])
            (images if is_image else targets).append(_ListedFile(key, name, mask_class))
        return images, targets

    def listing(self) -> Listing:
        names = [self._pair_name(name) for name, _ in self.pairs]
        listing = infer_labels_and_splits(names)
        note = (
            f"pairs: images in {self.input}/, targets in {self.target}/"
            if self.input
            else "pairs: targets have the name of their image and a suffix"
        )
        if self.classes:
            note += f", one file for each of {len(self.classes)} classes ({', '.join(self.classes[:6])})"
        return replace(
            listing, refused=tuple(sorted(self.refused)), skipped=self.source.skipped, notes=(*listing.notes, note)
        )

    def _pair_name(self, name: str) -> str:
        """Return the name of an image without the folder of images."""
        parts = PurePosixPath(name).parts
        kept = []
        for part in parts[:-1]:
            if not _is_named(part, self.input):
                kept.append(part)
            elif split := SPLIT_PREFIX.match(part):
                kept.append(split[0])
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


def _normalize_folders(folders: Sequence[str], next_folder: str = "") -> tuple[str, ...]:
    """Return folders in a form that images and targets share: splits by their id, also that in a following trainA."""
    split = SPLIT_PREFIX.match(next_folder)
    names = [*folders, *([split[0]] if split else [])]
    return tuple(str(SPLIT_FOLDERS[name.lower()]) if name.lower() in SPLIT_FOLDERS else name for name in names)


def _is_named(folder: str, *names: str) -> bool:
    """Return whether a folder has one of the names; trainA also has the name a."""
    short = SPLIT_PREFIX.sub("", folder).lower()
    return any(name and name.lower() in (folder.lower(), short) for name in names)


def _find_folders(source: FolderSource, input: str | None, target: str | None) -> tuple[str, str]:
    """Return the names of both folders, or two empty names if targets lie next to their images."""
    names: Iterable[str] = {part for name in source.names for part in PurePosixPath(name).parts[:-1]}
    options = sorted(names, key=natural_sort_key)
    for key, requested in (("input", input), ("target", target)):
        if requested is not None and not any(_is_named(name, requested) for name in options):
            raise DataError(
                f"data.{key}='{requested}': '{source.text}' has no such folder; {did_you_mean(requested, options)}"
            )
    if input is not None and target is not None:
        return input, target
    found_input = input or next((name for name in INPUT_FOLDERS if any(_is_named(o, name) for o in options)), None)
    found_target = target or next((name for name in TARGET_FOLDERS if any(_is_named(o, name) for o in options)), None)
    others = [o for o in options if o.lower() not in SPLIT_FOLDERS]
    if found_target is None and found_input is not None:
        found_target = _single_or_none(o for o in others if not _is_named(o, found_input))
    if found_input is None and found_target is not None:
        found_input = _single_or_none(o for o in others if not _is_named(o, found_target))
    if found_input is not None and found_target is not None:
        return found_input, found_target
    stems = (PurePosixPath(name).stem for name in source.names)
    if input is None and target is None and any(TARGET_STEM_SUFFIX.search(stem) for stem in stems):
        return "", ""
    seen = ", ".join(options[:6]) or "none"
    raise DataError(
        f"'{source.text}' has no folders whose names mean images and targets (found {seen}): name them with "
        "data.input=… data.target=…, or name a half of each file with data.input=left."
    )


def _single_or_none(options: Iterable[str]) -> str | None:
    found = list(options)
    return found[0] if len(found) == 1 else None
