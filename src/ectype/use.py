"""What is done with a trained run: reconstruct, encode, decode. Each returns the line to print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ectype.data.chunks import measure
from ectype.data.codes import read_codes, write_codes
from ectype.data.decode import Rejected, Spec, colour
from ectype.data.decode import decode as decode_image
from ectype.data.feed import Feed
from ectype.data.preview import fillable, save_grid, writable, writing
from ectype.data.sources import judge
from ectype.data.tiles import cut
from ectype.errors import DataError, ModelError
from ectype.loading import load, open_data, recipe_of
from ectype.models.base import DrawsPosterior, Encodes, Reconstructs, evaluating
from ectype.recipe import Recipe
from ectype.results import other_source
from ectype.sections import DataConfig, DataInfo
from ectype.share.hub import located
from ectype.tiling import tiled
from ectype.training.position import looking
from ectype.training.watch import to_uint8

__all__ = [
    "OVERVIEW",
    "able",
    "at_size",
    "decode",
    "destinations",
    "encode",
    "files_of",
    "from_elsewhere",
    "in_parts",
    "left_out",
    "png",
    "readable",
    "reconstruct",
    "save",
    "source_of",
    "spec_of",
    "unharmed",
]

AT_ONCE = 256
"""Codes that go through a decoder together."""
OVERVIEW = "overview.png"
"""The picture of inputs beside what was made of them."""


C = TypeVar("C")


def able(model: nn.Module, what: type[C], run: Path, verb: str) -> C:
    """A model that can do what is asked. Raises `ModelError`."""
    if not isinstance(model, what):
        raise ModelError(f"the model of '{run}' cannot {verb}.")
    return model


def save(image: Tensor, path: Path) -> None:
    """One image [c, h, w] in [0, 1] as PNG."""
    pixels = to_uint8(image[None])[0].permute(1, 2, 0).numpy()
    with writing(path):
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)


def from_elsewhere(place: Path) -> bool:
    """Whether a model was handed on without its run: what its recipe names is not of this machine."""
    return any((place / name).is_file() for name in ("config.json", "recipe.json"))


def source_of(place: Path, source: str, info: DataInfo) -> DataConfig:
    """How images of a source become what a model takes; no path is opened that a recipe from elsewhere names."""
    data = recipe_of(place).data
    return other_source(data.model_copy(update={"labels": None}) if from_elsewhere(place) else data, source, info)


def files_of(given: Sequence[str]) -> list[tuple[str, Path, bool]]:
    """(name, path, whether it was named itself) of every image, folders searched at any depth.

    Raises:
        DataError: No such file or folder, or no image in any.
    """
    found: list[tuple[str, Path, bool]] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file() and not file.name.startswith(".") and judge(file.name) in ("image", "unknown"):
                    found.append((str(file.relative_to(path)), file, False))
        elif path.is_file():
            found.append((path.name, path, True))
        else:
            raise DataError(f"no image at '{text}': there is no such file or folder; check the path.")
    if not found:
        raise DataError(f"no images in {', '.join(given)}: name files, or folders that hold some.")
    return found


def left_out(skipped: Sequence[str]) -> str:
    """What was skipped, as the end of a line; empty where nothing was."""
    return f"; {len(skipped)} skipped: {', '.join(skipped[:3])}{' …' if len(skipped) > 3 else ''}" if skipped else ""


def spec_of(info: DataInfo, recipe: Recipe) -> Spec:
    """What an image becomes so that it is as the model was trained to see it."""
    data = recipe.data
    return Spec(info.size, info.channels, data.fitting, colour(data.background), 1)


def _own_size(path: Path, spec: Spec) -> tuple[int, int] | None:
    """Height and width of a file if either is larger than the model's; None if not, or if it is no image."""
    found = measure([str(path)])[0]
    return found if found is not None and (found[0] > spec.size[0] or found[1] > spec.size[1]) else None


def readable(
    files: Sequence[tuple[str, Path, bool]], spec: Spec, skipped: list[str], *, at_once: int, resize: bool
) -> Iterator[tuple[list[str], Tensor]]:
    """Names and images [b, c, h, w] uint8, some at a time; what cannot be used is skipped, unless it was asked for.

    What is larger than the model's size comes by itself and at its own size, unless it is to be resized.
    """
    names, images = [], []
    for name, path, asked in files:
        own = None if resize else _own_size(path, spec)
        pixels = _usable(name, path, asked, skipped, lambda path=path, own=own: _whole(path, spec, own))
        if pixels is None:
            continue
        if own is not None:
            yield [name], pixels[None]
            continue
        names.append(name)
        images.append(pixels)
        if len(images) == at_once:
            yield names, torch.stack(images)
            names, images = [], []
    if images:
        yield names, torch.stack(images)


def in_parts(
    files: Sequence[tuple[str, Path, bool]], spec: Spec, skipped: list[str]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, image [c, h, w] uint8, and its parts [n, c, h, w] as training with `resize=tiles` cuts them."""
    for name, path, asked in files:

        def pieces(path: Path = path) -> Tensor:
            parts = cut(str(path), spec.size)
            return torch.stack([torch.tensor(decode_image(part, spec).pixels) for part in parts])  # pyright: ignore[reportArgumentType]

        parts = _usable(name, path, asked, skipped, pieces)
        if parts is not None:
            yield name, _whole(path, spec, _own_size(path, spec)), parts


def _whole(path: Path, spec: Spec, own: tuple[int, int] | None) -> Tensor:
    return torch.tensor(decode_image(str(path), spec if own is None else spec._replace(size=own)).pixels)


def _usable(name: str, path: Path, asked: bool, skipped: list[str], decoded: Callable[[], Tensor]) -> Tensor | None:
    """What was decoded; None for what is skipped."""
    try:
        return decoded()
    except Rejected as reason:
        if asked:
            raise DataError(f"'{path}' cannot be used ({reason}): leave it out.") from None
        skipped.append(f"{name} ({reason})")
        return None


def at_size(image: Tensor, spec: Spec) -> Tensor:
    """One image [c, h, w] in [0, 1] or uint8, brought to the model's size, in [0, 1]."""
    if image.shape[1:] != spec.size:
        pixels = image if image.dtype == torch.uint8 else to_uint8(image[None])[0]
        image = torch.tensor(decode_image(pixels.permute(1, 2, 0).numpy(), spec).pixels)
    return image.cpu() if image.is_floating_point() else image / 255


def _outputs_of(names: Sequence[str]) -> dict[str, Path]:
    """Where each file's picture goes, without its suffix: this is added where two would be one without it."""
    inside = {name: _inside(name) for name in names}
    taken = Counter(path.with_suffix("") for path in inside.values())
    return {name: path if taken[path.with_suffix("")] > 1 else path.with_suffix("") for name, path in inside.items()}


def destinations(
    files: Sequence[tuple[str, Path, bool]], out: Path, endings: Sequence[str] = ("",), *, overview: bool = True
) -> dict[str, Path]:
    """Where each file's pictures go below `out`, without suffix; an input is never written over.

    Args:
        files: As `files_of` gives them.
        out: A directory.
        endings: What the names of pictures made of one file end in.
        overview: Whether `OVERVIEW` is written beside them.

    Raises:
        DataError: Two would be one, an input would be lost, or nothing can be written there.
    """
    fillable(out)
    places = {name: out / place for name, place in _outputs_of([name for name, _, _ in files]).items()}
    if len(places) < len(files):
        twice = Counter(name for name, _, _ in files).most_common(1)[0][0]
        raise DataError(
            f"two of the images have one name, '{twice}': they would be one file; take their folders apart."
        )
    written = [png(place, ending) for place in places.values() for ending in endings]
    unharmed(files, [*written, out / OVERVIEW] if overview else written)
    return places


def unharmed(files: Sequence[tuple[str, Path, bool]], written: Sequence[Path]) -> None:
    """Raise `DataError` if an input stands where something is to be written, or two things would be one file."""
    inputs = {(stat.st_dev, stat.st_ino) for _, path, _ in files if path.exists() for stat in (path.stat(),)}
    taken: set[Path] = set()
    for place in written:
        # By what lies there, not by its name: some disks take A.png and a.png for one.
        if place.exists() and ((stat := place.stat()).st_dev, stat.st_ino) in inputs:
            raise DataError(f"'{place}' would be written over: give another --out than the folder of the images.")
        if place in taken:
            raise DataError(f"two results would be one file, '{place}': rename one of the images.")
        taken.add(place)


def png(place: Path, more: str = "") -> Path:
    """A PNG at a place without a suffix."""
    return place.with_name(f"{place.name}{more}.png")


def reconstruct(
    run: Path,
    images: Sequence[str],
    out: Path,
    *,
    draws: int = 0,
    overlap: float = 0.25,
    resize: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> str:
    """Pass images through the model and save what comes back, and a picture of pairs.

    An image that is larger than the model's size keeps its own: it goes through in tiles that are blended where they
    overlap. Others are brought to the model's size, as in training.

    Args:
        run: Of a model that reconstructs.
        images: Files, or folders of them.
        out: A directory; files keep their names, as PNG.
        draws: So many draws of q(z|x) for each image instead of the reconstruction from its mean.
        overlap: Least share of a tile's side that it shares with the next, from 0 to below 1.
        resize: Bring larger images to the model's size too.
        seed: Of the draws.
        device: See `choose_device`.

    Raises:
        ModelError: The model cannot reconstruct, or has no posterior to draw from, or that of an image in tiles is
            asked for.
        DataError: An image is missing or broken, or nothing can be written there.
    """
    files = files_of(images)
    places = destinations(files, out, [f"-{k + 1}" for k in range(draws)] or [""])
    model = load(run, device=device)
    capable = able(model, Reconstructs, run, "reconstruct")
    if draws and not isinstance(model, DrawsPosterior):
        raise ModelError(f"the model of '{run}' has no q(z|x) to draw from: leave --draws out, or train a vae.")
    info, spec = model.info, spec_of(model.info, recipe_of(run))
    size = f"{info.size[1]}×{info.size[0]}"
    if draws and not resize and (large := next((path for _, path, _ in files if _own_size(path, spec)), None)):
        raise ModelError(
            f"'{large}' is larger than the model's {size}, and draws for its tiles would not fit together: "
            "add --resize, or leave --draws out."
        )
    here = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    shown: list[Tensor] = []
    skipped: list[str] = []
    at_once, in_tiles = looking(info, 0, here)[0], 0

    def through(pixels: Tensor) -> Tensor:
        return capable.reconstruct(pixels.to(here).float() / 255)

    with evaluating(model):
        for names, pixels in readable(files, spec, skipped, at_once=at_once, resize=resize):
            if pixels.shape[2:] != info.size:
                back = tiled(through, pixels[0], info.size, overlap=overlap, at_once=at_once)[None, None]
                in_tiles += 1
            elif draws and isinstance(model, DrawsPosterior):
                back = model.draws(pixels.to(here).float() / 255, draws, generator=generator)
            else:
                back = through(pixels)[None]
            for place, name in enumerate(names):
                for k in range(len(back)):
                    save(back[k, place], png(places[name], f"-{k + 1}" if draws else ""))
                if len(shown) < 32:
                    shown.append(torch.stack([at_size(each, spec) for each in (pixels[place], *back[:, place])]))
    said = f"; {in_tiles} larger than {size}, in tiles" if in_tiles else ""
    said += left_out(skipped)
    if not shown:
        raise DataError(f"no image in {', '.join(images)} can be used{said}: name others.")
    save_grid(to_uint8(torch.cat(shown)), out / OVERVIEW, columns=len(shown[0]) * (1 if draws else 4))
    what = f"{draws} draws of each" if draws else "reconstructions"
    done = len(files) - len(skipped)
    return f"{done} images, {what} → {out}; the first beside their inputs in {out / OVERVIEW}{said}"


def encode(run: Path, source: str, out: Path, *, device: str = "auto") -> str:
    """Write path, label and code of every image of a source.

    Args:
        run: Of a model that encodes.
        source: Anything that training accepts.
        out: `.parquet` (columns path, label, split, code; the code's shape in the metadata) or `.npz` (the same).
        device: See `choose_device`.

    Raises:
        ModelError: The model cannot encode.
        DataError: Unusable images, another suffix, or a place that cannot be written.
    """
    writable(out, ".parquet", ".npz")
    at = located(run)
    model = load(at, device=device)
    capable = able(model, Encodes, run, "encode")
    recipe, info = recipe_of(at), model.info
    config = source_of(at, source, info)
    prepared, store = open_data(config)
    here = next(model.parameters()).device
    paths: list[str] = []
    labels: list[str | None] = []
    splits: list[str] = []
    codes: list[Tensor] = []
    with evaluating(model):
        for name, part in store.splits():
            feed = Feed(part, config, here, training=False, seed=recipe.train.seed)
            for batch, _ in feed.sequence(*looking(info, recipe.train.seed, here)):
                codes.append(capable.encode(batch.image).float().cpu())
            paths += list(part.names)
            splits += [name] * len(part)
            known = part.labels
            labels += [None] * len(part) if known is None else [store.info.classes[int(k)] for k in known]
    code = torch.cat(codes)
    write_codes(out, paths, labels, splits, code)
    return f"{len(code):,} codes of {'×'.join(map(str, code.shape[1:]))} numbers → {out}{prepared.left_out}"


def decode(run: Path, codes: Path, out: Path, *, device: str = "auto") -> str:
    """Turn a file of codes into images.

    Args:
        run: Of a model that decodes.
        codes: As `encode` writes them; only the column `code` is needed.
        out: A directory.
        device: See `choose_device`.

    Raises:
        ModelError: The model cannot decode.
        DataError: The file holds no codes, or codes of another size, two of one path; or nothing can be written there.
    """
    paths, flat = read_codes(codes)
    places = destinations([(name, codes, True) for name in paths], out, overview=False)
    model = load(run, device=device)
    capable = able(model, Encodes, run, "decode")
    shape = capable.code_shape
    if flat[:1].size != (len(flat) > 0) * int(np.prod(shape)):
        raise DataError(
            f"'{codes}' holds codes of {flat[:1].size} numbers, the model of '{run}' has {int(np.prod(shape))}: "
            "encode with the same run."
        )
    here = next(model.parameters()).device
    with evaluating(model):
        for at in range(0, len(flat), AT_ONCE):
            code = torch.from_numpy(np.ascontiguousarray(flat[at : at + AT_ONCE], np.float32)).to(here)
            for path, image in zip(paths[at:], capable.decode(code.view(-1, *shape)), strict=False):
                save(image, png(places[path]))
    return f"{len(flat):,} images → {out}"


def _inside(name: str) -> Path:
    """A file's name as a path that cannot leave the folder it is put into."""
    parts = [part for part in Path(name).parts if part not in ("/", "..", "")]
    if not parts:
        raise DataError(f"an image whose path is '{name}' has no name to be written under: name each.")
    return Path(*parts)
