"""What is done with the images that a user drops: the commands of the same names, with results that a page can show."""

from __future__ import annotations

import csv
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ectype.core.errors import DataError, ModelError
from ectype.core.escape import as_one_line
from ectype.data.codes import write_codes
from ectype.data.image_file import LoadOptions, image_size, load_upright
from ectype.data.loader import evaluation_batches
from ectype.data.preview import save_grid
from ectype.data.raw_image import Rejected
from ectype.inference import anomaly, reconstruct, translate
from ectype.inference import nearest as neighbors
from ectype.inference.explore import Explorer
from ectype.inference.image_io import decode_spec, list_images, read_images
from ectype.models.base import Encodes, evaluating

__all__ = ["MAX_UPLOAD_PIXELS", "TASKS", "run_task"]

MAX_UPLOAD_PIXELS = 40_000_000
"""Pixels of an image that a user drops."""
PREVIEW_PX = 512
"""Longest side of the preview of an input."""
NUM_NEIGHBORS = 8
CODES_SHOWN = 8
"""Values of a code that the page shows; the files have all."""

Values = dict[str, Any]
Task = Callable[[Explorer, Path, Path, Path], Values]


def run_task(explorer: Explorer, task: str, inputs: Path, out: Path) -> Values:
    """Apply a model to a folder of images.

    Args:
        explorer: The model.
        task: A key of `TASKS`.
        inputs: The folder.
        out: An empty folder for the results.

    Returns:
        `summary`, `skipped` lines, `items` with name, input, outputs and values, `table` and `downloads`; files are
        named relative to `out`.

    Raises:
        EctypeError: What the command of this name would refuse.
    """
    if task not in TASKS or task not in explorer.tasks():
        raise ModelError(f"the model of '{explorer.name}' cannot {as_one_line(task[:40])}.")
    skipped = _set_aside_large(inputs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = TASKS[task](explorer, explorer.place, inputs, out)
    skipped += [as_one_line(str(each.message)) for each in caught if issubclass(each.category, UserWarning)]
    # The commands name the folders of this server, which mean nothing to the user.
    found["summary"] = _without_paths(found["summary"], inputs, out)
    for item in found["items"]:
        item["input"] = _preview(inputs / item["name"], out / "inputs" / f"{item['name']}.png", out)
    found["skipped"] = skipped
    found["downloads"] = [*found.get("downloads", []), _zip(out)]
    return found


def _set_aside_large(inputs: Path) -> list[str]:
    """Remove the images that have too many pixels, before any is decoded, and say which."""
    skipped = []
    for file in sorted(inputs.iterdir()):
        size = image_size(str(file))
        if size is not None and size[0] * size[1] > MAX_UPLOAD_PIXELS:
            skipped.append(
                f"{file.name}: {size[1]:,}×{size[0]:,} pixels, at most {MAX_UPLOAD_PIXELS:,} are decoded here"
            )
            file.unlink()
    if skipped and not any(inputs.iterdir()):
        raise DataError(f"no image can be used ({skipped[0]}): choose smaller ones.")
    return skipped


def _files(explorer: Explorer, inputs: Path, results: Path, summary: str) -> Values:
    """Return the results of a command that writes a picture for each image."""
    items = []
    for file in sorted(inputs.iterdir()):
        # A command keeps the suffix of a name where two would be one file.
        found = next((p for p in (results / f"{file.stem}.png", results / f"{file.name}.png") if p.is_file()), None)
        if found is not None:
            items.append({"name": file.name, "outputs": [f"{results.name}/{found.name}"], "values": {}})
    return {"summary": summary, "items": items, "what": explorer.output_name()}


def _with_table(summary: str, items: list[Values], what: str, file: Path) -> Values:
    """Return the results of a command that writes a table."""
    return {"summary": summary, "items": items, "what": what, "table": _table(file), "downloads": [file.name]}


def _reconstruct(explorer: Explorer, run: Path, inputs: Path, out: Path) -> Values:
    found = reconstruct.reconstruct(run, [str(inputs)], out / "results", device="cpu")
    return {**_files(explorer, inputs, out / "results", found.summary), "what": "reconstructions"}


def _translate(explorer: Explorer, run: Path, inputs: Path, out: Path) -> Values:
    found = translate.translate(run, [str(inputs)], out / "results", device="cpu")
    return _files(explorer, inputs, out / "results", found.summary)


def _score(explorer: Explorer, run: Path, inputs: Path, out: Path) -> Values:
    found = anomaly.score(run, [str(inputs)], out / "scores.csv", maps=out / "maps", device="cpu")
    assert found.table is not None
    places = {item["name"]: item for item in _files(explorer, inputs, out / "maps", "")["items"]}
    items = []
    for row in found.table.rows:
        values = {
            "error": row["error"],
            "as odd": f"{min(row['error_share'], row['peak_share']):.1%} of held-out images",
        }
        items.append({**places.get(row["image"], {"outputs": []}), "name": row["image"], "values": values})
    return _with_table(found.summary, items, "where the errors are", out / "scores.csv")


def _nearest(explorer: Explorer, run: Path, inputs: Path, out: Path) -> Values:
    source = str(explorer.recipe.data.source)
    found = neighbors.nearest(run, [str(inputs)], source, out / "neighbors.png", k=NUM_NEIGHBORS, device="cpu")
    assert found.table is not None
    assert found.images is not None
    rows, strips = found.table.rows, found.images.split(NUM_NEIGHBORS + 1)
    items = []
    (out / "rows").mkdir()
    for place, name in enumerate(dict.fromkeys(row["image"] for row in rows)):
        file = out / "rows" / f"{name}.png"
        save_grid((strips[place][1:] * 255).round().to(torch.uint8), file, columns=NUM_NEIGHBORS)
        mine = [row for row in rows if row["image"] == name]
        first = mine[0]
        values = {"nearest": as_one_line(str(first["neighbor"])), "distance": first["distance"]}
        if first["class"] is not None:
            values["classes"] = as_one_line(", ".join(str(row["class"]) for row in mine))
        items.append({"name": name, "outputs": [f"rows/{file.name}"], "values": values, "wide": True})
    return _with_table(found.summary, items, "nearest images of the run", out / "neighbors.csv")


def _encode(explorer: Explorer, run: Path, inputs: Path, out: Path) -> Values:
    model = explorer.model
    assert isinstance(model, Encodes)
    skipped: list[str] = []
    names: list[str] = []
    codes: list[torch.Tensor] = []
    files, size = list_images([str(inputs)]), evaluation_batches(explorer.info, 0, torch.device("cpu"))[0]
    with evaluating(model):
        for some, pixels in read_images(
            files, decode_spec(explorer.info, explorer.recipe), skipped, batch_size=size, resize=True
        ):
            codes.append(model.encode(pixels.float() / 255).float().cpu())
            names += some
    if not names:
        raise DataError(f"no image can be used ({skipped[0] if skipped else 'none was given'}): choose others.")
    code = torch.cat(codes)
    for file in ("codes.csv", "codes.npz", "codes.parquet"):
        write_codes(out / file, names, [None] * len(names), [""] * len(names), code)
    items = []
    for name, row in zip(names, code.flatten(1), strict=True):
        shown = ", ".join(f"{value:.3g}" for value in row[:CODES_SHOWN])
        more = " …" if len(row) > CODES_SHOWN else ""
        items.append({"name": name, "outputs": [], "values": {"code": shown + more}})
    shape = "×".join(map(str, code.shape[1:]))
    note = f"; {len(skipped)} skipped: {', '.join(skipped[:3])}" if skipped else ""
    return {
        "summary": f"{len(names):,} codes of {shape} values{note}",
        "items": items,
        "what": "codes",
        "downloads": ["codes.csv", "codes.npz", "codes.parquet"],
    }


TASKS: dict[str, Task] = {
    "reconstruct": _reconstruct,
    "translate": _translate,
    "restore": _translate,
    "score": _score,
    "nearest": _nearest,
    "encode": _encode,
}


def _table(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return [[as_one_line(cell) for cell in row] for row in csv.reader(opened)]


def _preview(source: Path, target: Path, out: Path) -> str:
    """Write a small upright copy of an input that every browser shows, and return its name; empty if it cannot be."""
    target.parent.mkdir(exist_ok=True)
    try:
        image = load_upright(str(source), LoadOptions(MAX_UPLOAD_PIXELS)).image
        image = image.convert("RGBA" if image.mode in ("RGBA", "LA", "PA") else "L" if image.mode == "L" else "RGB")
        image.thumbnail((PREVIEW_PX, PREVIEW_PX), Image.Resampling.LANCZOS)
        image.save(target)
    except (Rejected, OSError, ValueError):
        return ""
    return str(target.relative_to(out))


def _without_paths(text: str, inputs: Path, out: Path) -> str:
    """Return a summary without the folders of the server."""
    place = rf"{re.escape(str(out))}[^\s;,]*"
    for part in (
        rf"; the first next to their inputs in {place}",
        "; image, reconstruction and errors of the first",
        rf"\s*→\s*{place}(, {place})*",
    ):
        text = re.sub(part, "", text)
    return as_one_line(text.replace(f"{inputs}/", "").replace(str(inputs), "the images"))


def _zip(out: Path) -> str:
    """Write everything but the previews into one archive."""
    target = out / "results.zip"
    with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
        for file in sorted(out.rglob("*")):
            if file.is_file() and file != target and file.parent.name != "inputs" and not file.name.startswith("."):
                archive.write(file, file.relative_to(out))
    return target.name
