"""What the names of files and folders say about images and their targets: which are which, and which belong together.

Nothing here imports PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from ectype.data.sources.base import SPLIT_FOLDERS, natural_sort_key, same_name_key

__all__ = [
    "ListedFile",
    "find_folders",
    "has_target_name",
    "is_named",
    "sort_files",
    "split_of_folder",
]

INPUT_FOLDERS = (
    "images",
    "image",
    "imgs",
    "img",
    "jpegimages",
    "leftimg8bit",
    "inputs",
    "input",
    "source",
    "photos",
    "a",
)
TARGET_FOLDERS = (
    "masks",
    "mask",
    "labels",
    "label",
    "segmentationclass",
    "gtfine",
    "gtcoarse",
    "annotations",
    "gt",
    "groundtruth",
    "targets",
    "target",
    "segmentation",
    "b",
)
"""Folder names that are looked for, in this order, in lower case; trainA and trainB count as a and b."""
_TARGET_WORDS = r"(?:masks?|labels?|seg|segmentation|gt|target|annotation)"
_IMAGE_WORDS = r"(?:images?|imgs?|img|inputs?|photo|sat|leftImg8bit)"
_TARGET_AFFIX = re.compile(rf"^{_TARGET_WORDS}[-_ .]|[-_ .]{_TARGET_WORDS}$", re.IGNORECASE)
"""Start or end of a target's name that the image's name lacks."""
_IMAGE_AFFIX = re.compile(rf"^{_IMAGE_WORDS}[-_ .]|[-_ .]{_IMAGE_WORDS}$", re.IGNORECASE)
"""Start or end of an image's name that the target's name lacks."""
_CHANNEL_SUFFIX = re.compile(r"_\d{4}$")
"""End of an image's name that numbers its channels (nnU-Net)."""
_CITYSCAPES_SUFFIX = re.compile(
    r"_gt(?:Fine|Coarse)_(labelTrainIds|labelIds|color|instanceIds|instanceTrainIds)$", re.IGNORECASE
)
_CITYSCAPES_MASKS = ("labeltrainids", "labelids")
"""Ends of the names of Cityscapes' masks of classes; the first that occurs is used."""
_SPLIT_AFFIX = re.compile(
    r"^(train|val|valid|test)[-_ ]?(?=(?:[ab]|images?|imgs?|masks?|labels?|annotations?|gt)$)", re.IGNORECASE
)
"""Start of folder names such as trainA, trainB and train_masks."""
_NNUNET_FOLDER = re.compile(r"^(images|labels)(Tr|Ts)$")


class ListedFile(NamedTuple):
    """An image file that is an image of a pair, or a target."""

    key: str
    """What an image and its target share."""
    name: str
    mask_class: str
    """The class, if the file is the mask of one class; else empty."""


class _Part(NamedTuple):
    """A file, before names are compared: its folders without the folder of images or targets, and its stem."""

    name: str
    folders: tuple[str, ...]
    stem: str
    mask_class: str = ""

    def key(self, stem: str | None = None) -> str:
        return "/".join([*self.folders, self.stem if stem is None else stem])


def split_of_folder(folder: str) -> tuple[str, str]:
    """Return the split that the name of a folder of images or targets starts or ends with, and the rest of the name.

    Example:
        >>> split_of_folder("trainA"), split_of_folder("imagesTs"), split_of_folder("masks")
        (('train', 'A'), ('test', 'images'), ('', 'masks'))
    """
    if match := _NNUNET_FOLDER.match(folder):
        return {"Tr": "train", "Ts": "test"}[match[2]], match[1]
    if match := _SPLIT_AFFIX.match(folder):
        return match[1], folder[match.end() :]
    return "", folder


def is_named(folder: str, *names: str) -> bool:
    """Return whether a folder has one of the names; trainA also has the name a."""
    folder = same_name_key(folder)
    short = split_of_folder(folder)[1].lower()
    return any(name and same_name_key(name).lower() in (folder.lower(), short) for name in names)


def has_target_name(stem: str) -> bool:
    """Return whether the name of a file, without suffix, says that it is a target."""
    return bool(_TARGET_AFFIX.search(stem))


def _normalize_folders(folders: Sequence[str], next_folder: str = "") -> tuple[str, ...]:
    """Return folders in a form that images and targets share: splits by their id, also that in a following trainA."""
    split = split_of_folder(next_folder)[0]
    names = [*folders, *([split] if split else [])]
    return tuple(str(SPLIT_FOLDERS[name.lower()]) if name.lower() in SPLIT_FOLDERS else name for name in names)


def find_folders(names: Iterable[str], input: str | None, target: str | None) -> tuple[str | None, str | None]:
    """Return the names of the folders of images and of targets, each None if it is not found.

    Args:
        names: The names of all files.
        input: The folder of images, if it is known.
        target: The folder of targets, if it is known.
    """
    options = sorted({part for name in names for part in PurePosixPath(name).parts[:-1]}, key=natural_sort_key)
    found_input = input or next((name for name in INPUT_FOLDERS if any(is_named(o, name) for o in options)), None)
    found_target = target or next((name for name in TARGET_FOLDERS if any(is_named(o, name) for o in options)), None)
    others = [o for o in options if o.lower() not in SPLIT_FOLDERS]
    if found_target is None and found_input is not None:
        found_target = _single_or_none(o for o in others if not is_named(o, found_input))
    if found_input is None and found_target is not None:
        found_input = _single_or_none(o for o in others if not is_named(o, found_target))
    return found_input, found_target


def _single_or_none(options: Iterable[str]) -> str | None:
    found = list(options)
    return found[0] if len(found) == 1 else None


def sort_files(names: Sequence[str], input: str, target: str) -> tuple[list[ListedFile], list[ListedFile]]:
    """Return the images and the targets, with keys that are equal for an image and its target.

    Args:
        names: The names of all files.
        input: The folder of images; empty if targets lie next to their images.
        target: The folder of targets.
    """
    images, targets = _split_by_folder(names, input, target) if input else _split_by_name(names)
    targets = _keep_class_masks(targets)
    # A name that both share is complete: nothing has to be removed from it.
    image_keys = {part.key() for part in images}
    target_keys = {key for part in targets for key in (part.key(), part.key(_core_of_target(part.stem)))}
    found_images = []
    for part in images:
        stems = (part.stem, _IMAGE_AFFIX.sub("", part.stem), _CHANNEL_SUFFIX.sub("", part.stem))
        key = next((key for key in map(part.key, stems) if key in target_keys), part.key())
        found_images.append(ListedFile(key, part.name, ""))
    found_targets = []
    for part in targets:
        key = part.key() if part.key() in image_keys else part.key(_core_of_target(part.stem))
        found_targets.append(ListedFile(key, part.name, part.mask_class))
    return found_images, found_targets


def _core_of_target(stem: str) -> str:
    """Return a target's name without what says that it is a target."""
    return _CITYSCAPES_SUFFIX.sub("", stem) if _CITYSCAPES_SUFFIX.search(stem) else _TARGET_AFFIX.sub("", stem, count=1)


def _split_by_name(names: Sequence[str]) -> tuple[list[_Part], list[_Part]]:
    """Return images and targets that lie in the same folders."""
    images: list[_Part] = []
    targets: list[_Part] = []
    for name in names:
        path = PurePosixPath(same_name_key(name))
        (targets if has_target_name(path.stem) else images).append(_Part(name, path.parts[:-1], path.stem))
    return images, targets


def _split_by_folder(names: Sequence[str], input: str, target: str) -> tuple[list[_Part], list[_Part]]:
    """Return the files in the folders of images and of targets."""
    images: list[_Part] = []
    found_targets: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = []
    image_folders: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    for name in names:
        path = PurePosixPath(same_name_key(name))
        parts = path.parts[:-1]
        level = next((i for i, part in enumerate(parts) if is_named(part, input, target)), None)
        if level is None:
            continue
        above, below = _normalize_folders(parts[:level], parts[level]), _normalize_folders(parts[level + 1 :])
        if is_named(parts[level], input):
            images.append(_Part(name, (*above, *below), path.stem))
            image_folders.add((above, below))
        else:
            found_targets.append((name, path.stem, above, below))
    targets = []
    for name, stem, above, below in found_targets:
        # A folder that also holds images is not a class.
        original = PurePosixPath(same_name_key(name)).parts[:-1]
        is_class = below and (above, below) not in image_folders and original[-1].lower() not in SPLIT_FOLDERS
        folders, mask_class = ((*above, *below[:-1]), below[-1]) if is_class else ((*above, *below), "")
        targets.append(_Part(name, folders, stem, mask_class))
    return images, targets


def _keep_class_masks(targets: Sequence[_Part]) -> list[_Part]:
    """Return targets without the other drawings that Cityscapes has of each image."""
    kinds = {part.name: match[1].lower() for part in targets if (match := _CITYSCAPES_SUFFIX.search(part.stem))}
    used = next((kind for kind in _CITYSCAPES_MASKS if kind in kinds.values()), None)
    return [part for part in targets if used is None or kinds.get(part.name, used) == used]
