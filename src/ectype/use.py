"""What is done with a trained run: sample, reconstruct, encode, decode. Each returns the line to print."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ectype.data.decode import Rejected, Spec, colour
from ectype.data.decode import decode as decode_image
from ectype.data.feed import Feed
from ectype.data.preview import save_grid
from ectype.data.sources import judge
from ectype.errors import DataError, ModelError
from ectype.models.base import DrawsPosterior, Encodes, Reconstructs, Samples, evaluating
from ectype.recipe import Recipe
from ectype.results import density_of, load, open_data, other_source
from ectype.sections import DataInfo
from ectype.training.position import looking
from ectype.training.rundir import RunDir
from ectype.training.shipped import DrawsCodes
from ectype.training.watch import to_uint8

__all__ = ["decode", "encode", "reconstruct", "sample"]

AT_ONCE = 256
"""Images that go through a model together."""


C = TypeVar("C")


def _able(model: nn.Module, what: type[C], run: Path, verb: str) -> C:
    if not isinstance(model, what):
        raise ModelError(f"the model of '{run}' cannot {verb}.")
    return model


def _save(image: Tensor, path: Path) -> None:
    """One image [c, h, w] in [0, 1] as PNG."""
    pixels = to_uint8(image[None])[0].permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)


def sample(
    run: Path, out: Path, *, n: int = 64, seed: int = 0, density: str | None = None, device: str = "auto"
) -> str:
    """Draw images and save them as one picture.

    Raises:
        ModelError: The model cannot sample, or has no such density.
    """
    model = load(run, device=device)
    sampler = _able(model, Samples, run, "sample")
    generator = torch.Generator().manual_seed(seed)
    said = ""
    with evaluating(model):
        if isinstance(model, DrawsCodes):
            name = density or model.density
            if name not in model.densities:
                density_of(RunDir.existing(run), model, name)
            model.density = name
            said = f", codes drawn from '{name}'"
            if name == "normal" and model.prior is None:
                said += " (this model was not trained towards it: expect no likeness; --density gmm is fitted)"
        parts = [sampler.sample(min(AT_ONCE, n - at), generator=generator) for at in range(0, n, AT_ONCE)]
    _writable(out)
    save_grid(to_uint8(torch.cat(parts)), out)
    return f"{n} samples{said} → {out}"


def _writable(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write '{out}' ({error.strerror}): give another --out.") from None
    if out.suffix.lower() not in Image.registered_extensions():
        raise DataError(f"'{out}' is no kind of picture: give a name that ends in .png, .jpg or .webp.")


def _files(given: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(name, path) of every image named, folders searched at any depth."""
    for text in given:
        path = Path(text)
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file() and not file.name.startswith(".") and judge(file.name) != "other":
                    yield str(file.relative_to(path)), file
        elif path.is_file():
            yield path.name, path
        else:
            raise DataError(f"no image at '{text}': there is no such file or folder; check the path.")


def _read(path: Path, info: DataInfo, recipe: Recipe) -> Tensor:
    """One file as the model was trained to see it."""
    data = recipe.data
    spec = Spec(info.size, info.channels, data.resize, colour(data.background), 1)
    try:
        pixels = decode_image(str(path), spec).pixels
    except Rejected as reason:
        raise DataError(f"'{path}' cannot be used ({reason}): leave it out.") from None
    return torch.tensor(pixels)


def reconstruct(
    run: Path, images: Sequence[str], out: Path, *, draws: int = 0, seed: int = 0, device: str = "auto"
) -> str:
    """Pass images through the model and save what comes back, and a picture of pairs.

    Args:
        run: Of a model that reconstructs.
        images: Files, or folders of them.
        out: A directory; files keep their names, as PNG.
        draws: So many draws of q(z|x) for each image instead of the reconstruction from its mean.
        seed: Of the draws.
        device: See `choose_device`.

    Raises:
        ModelError: The model cannot reconstruct, or has no posterior to draw from.
        DataError: An image is missing or broken.
    """
    model = load(run, device=device)
    able = _able(model, Reconstructs, run, "reconstruct")
    if draws and not isinstance(model, DrawsPosterior):
        raise ModelError(f"the model of '{run}' has no q(z|x) to draw from: leave --draws out, or train a vae.")
    recipe, info = RunDir.existing(run).recipe, model.info
    files = list(_files(images))
    if not files:
        raise DataError(f"no images in {', '.join(images)}: name files, or folders that hold some.")
    here = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    shown: list[Tensor] = []
    with evaluating(model):
        for at in range(0, len(files), AT_ONCE):
            some = files[at : at + AT_ONCE]
            given = torch.stack([_read(path, info, recipe) for _, path in some]).to(here).float() / 255
            if draws and isinstance(model, DrawsPosterior):
                back = model.draws(given, draws, generator=generator)
            else:
                back = able.reconstruct(given)[None]
            for place, (name, _) in enumerate(some):
                stem = out / Path(name).with_suffix("")
                for k in range(len(back)):
                    suffix = f"-{k + 1}.png" if draws else ".png"
                    _save(back[k, place], stem.with_name(stem.name + suffix))
                if len(shown) < 32:
                    shown.append(torch.cat([given[place][None], back[:, place]]).cpu())
    save_grid(to_uint8(torch.cat(shown)), out / "overview.png", columns=len(shown[0]) * (1 if draws else 4))
    what = f"{draws} draws of each" if draws else "reconstructions"
    return f"{len(files)} images, {what} → {out}; the first beside their inputs in {out / 'overview.png'}"


def encode(run: Path, source: str, out: Path, *, device: str = "auto") -> str:
    """Write path, label and code of every image of a source.

    Args:
        run: Of a model that encodes.
        source: Anything that training accepts.
        out: `.parquet` (columns path, label, split, code; the code's shape in the metadata) or `.npz` (the same).
        device: See `choose_device`.

    Raises:
        ModelError: The model cannot encode.
        DataError: Unusable images, or another suffix.
    """
    if out.suffix not in (".parquet", ".npz"):
        raise DataError(f"--out {out} should end in .parquet or .npz.")
    model = load(run, device=device)
    able = _able(model, Encodes, run, "encode")
    recipe, info = RunDir.existing(run).recipe, model.info
    config = other_source(recipe.data, source, info)
    _, store = open_data(config)
    here = next(model.parameters()).device
    paths: list[str] = []
    labels: list[str | None] = []
    splits: list[str] = []
    codes: list[Tensor] = []
    with evaluating(model):
        for name, part in store.splits():
            feed = Feed(part, config, here, training=False, seed=recipe.train.seed)
            for batch, _ in feed.sequence(*looking(info, recipe.train.seed, here)):
                codes.append(able.encode(batch.image).float().cpu())
            paths += list(part.names)
            splits += [name] * len(part)
            known = part.labels
            labels += [None] * len(part) if known is None else [store.info.classes[int(k)] for k in known]
    code = torch.cat(codes)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".npz":
        named = np.array([label or "" for label in labels])
        np.savez_compressed(out, path=np.array(paths), label=named, split=np.array(splits), code=code.numpy())
    else:
        _write_parquet(out, paths, labels, splits, code)
    return f"{len(code):,} codes of {'×'.join(map(str, code.shape[1:]))} numbers → {out}"


def _write_parquet(out: Path, paths: list[str], labels: list[str | None], splits: list[str], code: Tensor) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = code.flatten(1).numpy()
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    names = pa.array(labels, type=pa.string())
    table = pa.table({"path": paths, "label": names, "split": splits, "code": column})
    shape = ",".join(map(str, code.shape[1:]))
    pq.write_table(table.replace_schema_metadata({"ectype.code_shape": shape}), out)


def _read_codes(file: Path) -> tuple[list[str], np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as held:
                code = held["code"]
                paths = [str(p) for p in held["path"]] if "path" in held else [str(i) for i in range(len(code))]
                return paths, code
        table = pq.read_table(file)
        column = table.column("code").combine_chunks()
        code = np.stack(column.to_numpy(zero_copy_only=False)) if len(column) else np.zeros((0, 0))
        names = table.column("path").to_pylist() if "path" in table.column_names else range(len(code))
        return [str(name) for name in names], code
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"'{file}' holds no codes ({reason}): give a file that `ectype encode` wrote.") from None


def decode(run: Path, codes: Path, out: Path, *, device: str = "auto") -> str:
    """Turn a file of codes into images.

    Args:
        run: Of a model that decodes.
        codes: As `encode` writes them; only the column `code` is needed.
        out: A directory.
        device: See `choose_device`.

    Raises:
        ModelError: The model cannot decode.
        DataError: The file holds no codes, or codes of another size.
    """
    model = load(run, device=device)
    able = _able(model, Encodes, run, "decode")
    paths, flat = _read_codes(codes)
    shape = able.code_shape
    if flat.ndim < 2 or flat[:1].size != (len(flat) > 0) * int(np.prod(shape)):
        raise DataError(
            f"'{codes}' holds codes of {flat[:1].size} numbers, the model of '{run}' has {int(np.prod(shape))}: "
            "encode with the same run."
        )
    here = next(model.parameters()).device
    with evaluating(model):
        for at in range(0, len(flat), AT_ONCE):
            code = torch.from_numpy(np.ascontiguousarray(flat[at : at + AT_ONCE])).float().to(here)
            for path, image in zip(paths[at:], able.decode(code.view(-1, *shape)), strict=False):
                _save(image, out / _inside(path))
    return f"{len(flat):,} images → {out}"


def _inside(name: str) -> Path:
    """A file's name as a path that cannot leave the folder it is put into."""
    parts = [part for part in Path(name).with_suffix(".png").parts if part not in ("/", "..", "")]
    return Path(*parts)
