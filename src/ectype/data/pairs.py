"""Images with a partner each: a mask or another picture, found by file name or as two halves of one file. No torch.

Partners lie in two folders (`images/` and `masks/`, below or above the folders of splits), beside each other with a
word behind the name (`cell-7.png` and `cell-7_mask.png`), in a folder for each class of a mask (`masks/nucleus/`), or
in one file, side by side. What has no partner, or more than one, is left out with a reason.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple

from ectype.data.raw import Halves, Pair, Raw
from ectype.data.sources import SPLITS, FolderSource, Listing, Source, layout, natural, spread
from ectype.errors import DataError, did_you_mean

__all__ = ["HALVES", "HalvedSource", "PairedFolder", "open_pairs"]

INPUTS = ("images", "image", "imgs", "img", "inputs", "input", "source", "photos", "a")
TARGETS = (
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
"""Names of folders that are looked for, in this order, in lower case; trainA and trainB count as a and b."""
HALVES = ("left", "right", "top", "bottom")
BEHIND = re.compile(r"[-_ .](masks?|labels?|seg|segmentation|gt|target|annotation)$", re.IGNORECASE)
"""What stands behind a mask's name that its image's lacks."""
SIDE = re.compile(r"^(train|val|valid|test)(?=[ab]$)", re.IGNORECASE)
"""What trainA and trainB begin with."""


def open_pairs(source: Source, input: str | None, target: str | None, *, pictures: bool = False) -> Source:
    """A source of images as one of pairs.

    Args:
        source: Of the files.
        input: The folder of the images, at any depth, or left, right, top or bottom: a half of each file. None finds
            the folder by its name.
        target: The folder of their partners, or the other half.
        pictures: Whether partners are pictures, of which there is one each.

    Raises:
        DataError: Nothing that could be pairs.
    """
    if input in HALVES or target in HALVES:
        return HalvedSource(source, input, target)
    if not isinstance(source, FolderSource):
        raise DataError(
            f"'{source.text}' is no folder: partners are found by the names of files in folders; unpack it, or name "
            "the half of each picture that is the image (data.input=left)."
        )
    return PairedFolder(source, input, target, pictures=pictures)


class HalvedSource(Source):
    """Files whose two halves are an image and its partner."""

    def __init__(self, source: Source, input: str | None, target: str | None) -> None:
        opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
        first = input or opposite.get(target or "", "")
        if first not in HALVES or (target is not None and target != opposite[first]):
            raise DataError(
                f"data.input={input} and data.target={target} are no two halves: give left and right, or top and "
                "bottom."
            )
        self.source, self.first = source, first
        super().__init__(source.text, f"{source.location}#{first}", source.signature)

    def listing(self) -> Listing:
        return self.source.listing()

    def read(self) -> Iterator[Raw]:
        return map(self._halves, self.source.read())

    def sample(self, size: int) -> list[Raw]:
        return list(map(self._halves, self.source.sample(size)))

    def _halves(self, raw: Raw) -> Raw:
        assert not isinstance(raw, Pair | Halves)
        return Halves(raw, self.first)


class _File(NamedTuple):
    """An image file in one of the folders."""

    key: str
    """What it shares with its partner."""
    name: str
    kind: str
    """Of a mask that stands for one class: its name."""


class PairedFolder(Source):
    """Files in a folder, each image with its partner.

    Attributes:
        classes: Names of the classes where each has files of its own; none where a file holds all.
        input, target: The folders, as they are called.
    """

    def __init__(self, source: FolderSource, input: str | None, target: str | None, *, pictures: bool) -> None:
        self.source = source
        self.input, self.target = _folders(source, input, target)
        images, masks = self._sorted()
        known = {file.key for file in images}
        # A folder that holds partners of no image is no class.
        self.classes = tuple(sorted({file.kind for file in masks if file.kind and file.key in known}, key=natural))
        if self.classes and any(not file.kind and file.key in known for file in masks):
            folders = ", ".join(self.classes[:4])
            raise DataError(
                f"partners in '{source.text}' lie in {self.target}/ and in folders of it ({folders}): keep a file for "
                "each image, or a folder for each class."
            )
        if self.classes and pictures:
            folders = ", ".join(self.classes[:4])
            raise DataError(
                f"pictures in '{source.text}' have partners in several folders ({folders}): name one, "
                f"data.target={self.classes[0]}."
            )
        self.refused: list[tuple[str, str]] = list(source.refused)
        partners: dict[str, list[_File]] = defaultdict(list)
        for file in masks:
            partners[file.key].append(file)
        taken: dict[str, _File] = {}
        self.pairs: list[tuple[str, tuple[str | None, ...]]] = []
        for file in images:
            found = partners.get(file.key, [])
            if file.key in taken:
                self.refused.append((file.name, f"a second image of the name ({taken[file.key].name})"))
                continue
            taken[file.key] = file
            by_kind = {mask.kind: mask.name for mask in found}
            if not found:
                self.refused.append((file.name, f"no partner ({self.target or 'behind its name'})"))
            elif len(by_kind) < len(found):
                self.refused.append(
                    (file.name, f"more than one partner ({', '.join(sorted(f.name for f in found)[:2])})")
                )
            else:
                self.pairs.append((file.name, tuple(by_kind.get(kind) for kind in self.classes or ("",))))
        extra = [mask for key, found in partners.items() if key not in taken for mask in found]
        self.refused += [(mask.name, "a partner without its image") for mask in extra]
        if not self.pairs:
            seen = ", ".join(name for name, _ in sorted(self.refused)[:3])
            raise DataError(
                f"no image in '{source.text}' has a partner of its name (such as {seen}): files must be called alike "
                "in both folders; name these (data.input=images data.target=masks), or a half (data.input=left)."
            )
        where = f"{self.input}|{self.target}"
        super().__init__(source.text, f"{source.location}#{where}", source.signature)

    def _known(self) -> tuple[set[str], set[tuple[tuple[str, ...], tuple[str, ...]]]]:
        """Of the images: their names without suffix, and the folders above and below the one that holds them.

        A partner's name that an image has is whole, and folders that images lie in are no classes.
        """
        stems, inside = set(), set()
        for path in map(PurePosixPath, self.source.names):
            parts = path.parts[:-1]
            where = next((i for i, part in enumerate(parts) if _called(part, self.input)), None)
            if where is not None:
                stems.add(path.stem)
                inside.add((_shared(parts[:where], parts[where]), _shared(parts[where + 1 :])))
        return stems, inside

    def _sorted(self) -> tuple[list[_File], list[_File]]:
        """Images and partners, by what they share: the path without the folder, the suffix and what stands behind."""
        images: list[_File] = []
        masks: list[_File] = []
        stems, inside = self._known()
        for name in self.source.names:
            path = PurePosixPath(name)
            parts = path.parts[:-1]
            where = next((i for i, part in enumerate(parts) if _called(part, self.input, self.target)), None)
            if self.input == "" and where is None:
                stem = path.stem
                short = BEHIND.sub("", stem)
                key = "/".join([*parts, short])
                (images if short == stem else masks).append(_File(key, name, ""))
                continue
            if where is None:
                continue
            is_image = _called(parts[where], self.input)
            before, rest = _shared(parts[:where], parts[where]), _shared(parts[where + 1 :])
            stem = path.stem if is_image or path.stem in stems else BEHIND.sub("", path.stem)
            kind = ""
            if not is_image and rest and rest[-1].lower() not in SPLITS and (before, rest) not in inside:
                kind, rest = rest[-1], rest[:-1]
            (images if is_image else masks).append(_File("/".join([*before, *rest, stem]), name, kind))
        return images, masks

    def listing(self) -> Listing:
        names = [self._name(name) for name, _ in self.pairs]
        found = layout(names)
        note = (
            f"pairs: images in {self.input}/, partners in {self.target}/"
            if self.input
            else "pairs: partners are called like their images with a word behind"
        )
        if self.classes:
            note += f", a file for each of {len(self.classes)} classes ({', '.join(self.classes[:6])})"
        return replace(
            found, refused=tuple(sorted(self.refused)), skipped=self.source.skipped, notes=(*found.notes, note)
        )

    def _name(self, name: str) -> str:
        """A pair's name: the image's, without the folder that says it is one."""
        parts = PurePosixPath(name).parts
        kept = []
        for part in parts[:-1]:
            if not _called(part, self.input):
                kept.append(part)
            elif split := SIDE.match(part):
                kept.append(split[0])
        return "/".join([*kept, parts[-1]])

    def _pair(self, pair: tuple[str, tuple[str | None, ...]]) -> Pair:
        image, targets = pair
        path = self.source.path
        return Pair(path(image), tuple(None if name is None else path(name) for name in targets))

    def read(self) -> Iterator[Raw]:
        return map(self._pair, self.pairs)

    def sample(self, size: int) -> list[Raw]:
        return [self._pair(self.pairs[i]) for i in spread(len(self.pairs), size)]


def _shared(folders: Sequence[str], last: str = "") -> tuple[str, ...]:
    """Folders as partners share them: splits in one spelling, and that of trainA, if such a folder follows."""
    split = SIDE.match(last)
    found = [*folders, *([split[0]] if split else [])]
    return tuple(str(SPLITS[folder.lower()]) if folder.lower() in SPLITS else folder for folder in found)


def _called(folder: str, *names: str) -> bool:
    """Whether a folder has one of these names; trainA is called a."""
    short = SIDE.sub("", folder).lower()
    return any(name and name.lower() in (folder.lower(), short) for name in names)


def _folders(source: FolderSource, input: str | None, target: str | None) -> tuple[str, str]:
    """The names of both folders; two empty ones where partners lie beside their images."""
    names: Iterable[str] = {part for name in source.names for part in PurePosixPath(name).parts[:-1]}
    options = sorted(names, key=natural)
    for key, wanted in (("input", input), ("target", target)):
        if wanted is not None and not any(_called(name, wanted) for name in options):
            raise DataError(
                f"data.{key}='{wanted}': '{source.text}' has no such folder; {did_you_mean(wanted, options)}"
            )
    if input is not None and target is not None:
        return input, target
    found_input = input or next((name for name in INPUTS if any(_called(o, name) for o in options)), None)
    found_target = target or next((name for name in TARGETS if any(_called(o, name) for o in options)), None)
    others = [o for o in options if o.lower() not in SPLITS]
    if found_target is None and found_input is not None:
        found_target = _only(o for o in others if not _called(o, found_input))
    if found_input is None and found_target is not None:
        found_input = _only(o for o in others if not _called(o, found_target))
    if found_input is not None and found_target is not None:
        return found_input, found_target
    if input is None and target is None and any(BEHIND.search(PurePosixPath(name).stem) for name in source.names):
        return "", ""
    seen = ", ".join(options[:6]) or "none"
    raise DataError(
        f"'{source.text}' has no folders that are known as images and their partners (found {seen}): "
        "name them, data.input=… data.target=…, or a half of each file, data.input=left."
    )


def _only(options: Iterable[str]) -> str | None:
    found = list(options)
    return found[0] if len(found) == 1 else None
