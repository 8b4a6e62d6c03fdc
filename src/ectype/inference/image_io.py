"""Reading the images that a trained model is applied to, and writing its outputs."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from ectype.analysis.other_images import other_source
from ectype.config.recipe import Recipe
from ectype.config.schema import DataConfig, DataInfo
from ectype.core.errors import DataError, EctypeWarning, ModelError
from ectype.core.images import to_uint8
from ectype.core.outputs import check_output
from ectype.core.table import Table
from ectype.data.colors import parse_color
from ectype.data.decode import Spec
from ectype.data.decode import decode as decode_image
from ectype.data.decode_batch import measure_batch
from ectype.data.image_file import LoadOptions
from ectype.data.preview import check_folder_writable, writing_file
from ectype.data.raw_image import Rejected
from ectype.data.sources.base import unsupported_notes
from ectype.data.sources.tiles import cut_tiles
from ectype.data.sources.walk import check_path_given, check_regular_file, list_folder, path_exists
from ectype.runs.load import recipe_of

__all__ = [
    "MAX_CODES_PER_BATCH",
    "OVERVIEW",
    "InferenceResult",
    "at_model_size",
    "check_not_overwriting",
    "decode_spec",
    "exceeds_model_size",
    "has_no_run",
    "list_images",
    "open_images",
    "output_paths",
    "png",
    "read_images",
    "read_tiles",
    "rejected_note",
    "require_capability",
    "save_png",
]

MAX_CODES_PER_BATCH = 256
"""Codes that are decoded together."""
OVERVIEW = "overview.png"
"""The picture of inputs next to outputs."""


C = TypeVar("C")

InputFile = tuple[str, Path, bool]
"""Name, path, and whether the user named this file (rather than its folder)."""


class InferenceResult(NamedTuple):
    """The result of applying a model to images."""

    summary: str
    """What a command prints."""
    out: Path | None
    """The file or directory that was written."""
    table: Table | None = None
    images: Tensor | None = None
    """[n, c, h, w] in [0, 1]."""


def require_capability(model: nn.Module, what: type[C], run: Path, verb: str) -> C:
    """Return a model as one that has a capability. Raises `ModelError` if it has not."""
    if not isinstance(model, what):
        raise ModelError(f"the model of '{run}' cannot {verb}.")
    return model


def save_png(image: Tensor, path: Path) -> None:
    """Write one image [c, h, w] in [0, 1] as PNG."""
    pixels = to_uint8(image[None])[0].permute(1, 2, 0).numpy()
    with writing_file(path) as scratch:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(scratch)


def has_no_run(place: Path) -> bool:
    """Return whether a directory holds an exported model without its run, so that its recipe names no files here."""
    return any((place / name).is_file() for name in ("config.json", "recipe.json"))


def open_images(place: Path, source: str, info: DataInfo) -> DataConfig:
    """Return how the images of a source are prepared for a model. Paths in the recipe of an exported model are
    ignored.
    """
    data = recipe_of(place).data
    return other_source(
        data.model_copy(update={"labels": None, "label_column": None}) if has_no_run(place) else data, source, info
    )


def list_images(inputs: Sequence[str]) -> list[InputFile]:
    """Return every image file among files and folders, which are listed as for training (see `list_folder`).

    Raises:
        DataError: A file or folder does not exist, or there is no image.
    """
    found: list[InputFile] = []
    refused: list[tuple[str, str]] = []
    for text in inputs:
        check_path_given(text)
        path = Path(text).expanduser()
        check_regular_file(path)
        if not path_exists(path):
            raise DataError(f"no image at '{text}': there is no such file or folder; check the path.")
        if path.is_dir():
            listing = list_folder(path)
            found += [(name, path / name, False) for name, _, _ in listing.files]
            refused += listing.refused
        else:
            found.append((path.name, path, True))
    for note in unsupported_notes(refused):
        warnings.warn(f"{note}.", EctypeWarning, stacklevel=3)
    if not found:
        raise DataError(f"no images in {', '.join(inputs)}: name image files, or folders that contain some.")
    return found


def rejected_note(skipped: Sequence[str]) -> str:
    """Return what was skipped as the end of a line; empty if nothing was."""
    return f"; {len(skipped)} skipped: {', '.join(skipped[:3])}{' …' if len(skipped) > 3 else ''}" if skipped else ""


def decode_spec(info: DataInfo, recipe: Recipe) -> Spec:
    """Return how an image is decoded so that it looks like the training images."""
    data = recipe.data
    return Spec(
        info.size,
        info.channels,
        data.resize_mode,
        parse_color(data.background),
        min_size=1,
        load=LoadOptions(data.max_pixels, data.value_range),
        ignore_alpha=data.ignores_alpha,
    )


def exceeds_model_size(path: Path, spec: Spec) -> tuple[int, int] | None:
    """Return the height and width of a file if either is larger than the model's; else, or if it is no image, None."""
    found = measure_batch([str(path)])[0]
    return found if found is not None and (found[0] > spec.size[0] or found[1] > spec.size[1]) else None


def read_images(
    files: Sequence[InputFile], spec: Spec, skipped: list[str], *, batch_size: int, resize: bool
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield names and images [b, c, h, w] uint8 in batches.

    An image that is larger than the model's size is yielded alone and at its own size, unless `resize`.

    Args:
        files: The files to read.
        spec: How they are decoded.
        skipped: Files of a folder that cannot be used are appended here. One that the user named raises `DataError`.
        batch_size: Images at a time.
        resize: Whether to resize large images to the model's size.
    """
    names, images = [], []
    for name, path, asked in files:
        own = None if resize else exceeds_model_size(path, spec)
        pixels = _usable(name, path, asked, skipped, lambda path=path, own=own: _whole(path, spec, own))
        if pixels is None:
            continue
        if own is not None:
            yield [name], pixels[None]
            continue
        names.append(name)
        images.append(pixels)
        if len(images) == batch_size:
            yield names, torch.stack(images)
            names, images = [], []
    if images:
        yield names, torch.stack(images)


def read_tiles(files: Sequence[InputFile], spec: Spec, skipped: list[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, image [c, h, w] uint8, and its tiles [n, c, h, w], cut as for training with `resize=tiles`."""
    for name, path, asked in files:

        def pieces(path: Path = path) -> Tensor:
            parts = cut_tiles(str(path), spec.size)
            return torch.stack([torch.tensor(decode_image(part, spec).pixels) for part in parts])  # pyright: ignore[reportArgumentType]

        parts = _usable(name, path, asked, skipped, pieces)
        if parts is not None:
            yield name, _whole(path, spec, exceeds_model_size(path, spec)), parts


def _whole(path: Path, spec: Spec, own: tuple[int, int] | None) -> Tensor:
    return torch.tensor(decode_image(str(path), spec if own is None else spec._replace(size=own)).pixels)


def _usable(name: str, path: Path, asked: bool, skipped: list[str], decoded: Callable[[], Tensor]) -> Tensor | None:
    """Return the decoded image; None if it is skipped."""
    try:
        return decoded()
    except Rejected as reason:
        if asked:
            raise DataError(f"'{path}' cannot be used ({reason}): leave it out.") from None
        skipped.append(f"{name} ({reason})")
        return None


def at_model_size(image: Tensor, spec: Spec) -> Tensor:
    """Return an image [c, h, w], in [0, 1] or uint8, at the model's size in [0, 1]."""
    if image.shape[1:] != spec.size:
        pixels = image if image.dtype == torch.uint8 else to_uint8(image[None])[0]
        image = torch.tensor(decode_image(pixels.permute(1, 2, 0).numpy(), spec).pixels)
    return image.cpu() if image.is_floating_point() else image / 255


def _outputs_of(names: Sequence[str]) -> dict[str, Path]:
    """Return the relative path of each output without its suffix, which is kept only where two would coincide."""
    inside = {name: _inside(name) for name in names}
    taken = Counter(path.with_suffix("") for path in inside.values())
    return {name: path if taken[path.with_suffix("")] > 1 else path.with_suffix("") for name, path in inside.items()}


def output_paths(
    files: Sequence[InputFile], out: Path, endings: Sequence[str] = ("",), *, overview: bool = True
) -> dict[str, Path]:
    """Return the path of each file's outputs below `out`, without suffix. Only earlier outputs are ever overwritten.

    Args:
        files: As `list_images` returns them.
        out: A directory.
        endings: The endings of the names of several outputs of one file.
        overview: Whether `OVERVIEW` is written as well.

    Raises:
        DataError: Two outputs would be one file, an input or a file that Ectype did not write would be overwritten, or
            `out` cannot be written.
    """
    check_folder_writable(out)
    places = {name: out / place for name, place in _outputs_of([name for name, _, _ in files]).items()}
    if len(places) < len(files):
        twice = Counter(name for name, _, _ in files).most_common(1)[0][0]
        raise DataError(
            f"two of the images have the name '{twice}' and would be one file: pass their folders one by one."
        )
    written = [png(place, ending) for place in places.values() for ending in endings]
    check_not_overwriting(files, [*written, out / OVERVIEW] if overview else written)
    return places


def check_not_overwriting(files: Sequence[InputFile], written: Sequence[Path]) -> None:
    """Raise `DataError` if an output would overwrite something else than an earlier one, or two would be one file."""
    inputs = {(stat.st_dev, stat.st_ino) for _, path, _ in files if path.exists() for stat in (path.stat(),)}
    taken: set[Path] = set()
    for place in written:
        # Compare files, not names: on some file systems A.png and a.png are the same file.
        if place.exists() and ((stat := place.stat()).st_dev, stat.st_ino) in inputs:
            raise DataError(f"'{place}' would be overwritten: give an --out other than the folder of the images.")
        try:
            check_output(place)
        except OSError as error:
            raise DataError(f"cannot write '{place}' ({error.strerror}): give another --out.") from None
        if place in taken:
            raise DataError(f"two results would be one file, '{place}': rename one of the images.")
        taken.add(place)


def png(place: Path, more: str = "") -> Path:
    """Return the path of a PNG, given its path without a suffix."""
    return place.with_name(f"{place.name}{more}.png")


def _inside(name: str) -> Path:
    """Return a file's name as a relative path that cannot leave its folder."""
    # A colon is a letter in a name inside of an archive, but on Windows it would name a drive.
    text = name.replace(":", "_") if os.name == "nt" else name
    parts = [part for part in Path(text).parts if part not in ("/", "..", "")]
    if not parts:
        raise DataError(f"the path '{name}' of an image contains no file name: give each image a name.")
    return Path(*parts)
