"""The model card (README.md) of a shared model: what it is, its metrics, how to use it, and how it was trained."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from ectype.analysis.run_view import RunView
from ectype.config.recipe import Recipe
from ectype.core.escape import as_one_line, code_block, code_span, for_json, for_markdown
from ectype.core.images import to_uint8
from ectype.data.preview import contact_sheet
from ectype.evaluation.figures import Figure, format_number
from ectype.export.preprocessing import describe_preprocessing, preprocessing_of
from ectype.models.base import Encodes, Reconstructs, Samples, Translates, evaluating, is_conditional

__all__ = ["model_card", "pictures", "without_local_paths"]

NUM_CARD_IMAGES = 16
"""Number of images, or pairs of images, in a picture."""
PATH_KEYS = frozenset(["source", "labels", "input", "target", "run", "weights_file"])
"""Keys of a recipe whose values are files or folders."""
MAX_HEADER_METRICS = 12


def without_local_paths(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain values, in which paths on this machine are replaced by their last part."""

    def shorten(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {inner_key: shorten(inner, inner_key) for inner_key, inner in value.items()}
        if isinstance(value, list):
            return [shorten(inner, key) for inner in value]
        if not isinstance(value, str) or value.startswith(("hf:", "torchvision:")):
            return value
        # A relative path is recognized by its key only: other values with a slash may be sentences or patterns.
        return Path(value).name if key in PATH_KEYS or value.startswith("~") or Path(value).is_absolute() else value

    return shorten(recipe.plain(), "")


def pictures(view: RunView) -> dict[str, tuple[Image.Image, str]]:
    """Return pictures of what the model computes: file name → (picture, caption)."""
    model, result = view.model, {}
    with evaluating(model):
        images = view.images(view.chosen(NUM_CARD_IMAGES, "card"))
        if isinstance(model, Reconstructs):
            pairs = torch.stack([images, model.reconstruct(images)], 1).flatten(0, 1)
            caption = "Held-out images, each with its reconstruction to the right"
            result["reconstructions.png"] = (contact_sheet(to_uint8(pairs), columns=8), caption)
        if isinstance(model, Translates):
            batch = view.test(torch.as_tensor(view.chosen(NUM_CARD_IMAGES, "card")), view.context)
            inputs, _ = model.input_and_target(batch, view.context)
            outputs = model.to_rgb(model.translate(inputs)).to(inputs)
            pairs = torch.stack([inputs.clamp(0, 1).expand(-1, 3, -1, -1), outputs], 1).flatten(0, 1)
            caption = "Held-out inputs, each with the output of the model to the right"
            result["translations.png"] = (contact_sheet(to_uint8(pairs), columns=8), caption)
        if isinstance(model, Samples):
            samples = model.sample(4 * NUM_CARD_IMAGES, generator=view.generator("card"))
            result["samples.png"] = (contact_sheet(to_uint8(samples)), "Samples, not selected")
    return result


def _task(view: RunView) -> str:
    """Return the task of the model in the Hub's terms."""
    if isinstance(view.model, Translates):
        masks = view.info.target is not None and view.info.target.kind == "masks"
        return "image-segmentation" if masks else "image-to-image"
    return "unconditional-image-generation" if isinstance(view.model, Samples) else "image-to-image"


def _header(view: RunView, license: str | None) -> str:
    recipe = view.recipe
    words = ["ectype", recipe.about.family, recipe.about.name]
    source = without_local_paths(recipe)["data"]["source"]
    metrics = [_metric(figure) for figure in _quality_figures(view)][:MAX_HEADER_METRICS]
    result = {
        "task": {"type": _task(view)},
        "dataset": {"name": as_one_line(f"{source}, held-out images"), "type": _slug(source)},
        "metrics": metrics,
    }
    plain: dict[str, Any] = {} if license is None else {"license": license}
    plain |= {
        "library_name": "ectype",
        "pipeline_tag": _task(view),
        "tags": list(dict.fromkeys(_slug(word) for word in words if word)),
    }
    if metrics:
        plain["model-index"] = [{"name": as_one_line(view.run.name), "results": [result]}]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _quality_figures(view: RunView) -> Iterator[Figure]:
    """Yield the finite metrics for which lower or higher is better."""
    for figure in view.evaluation.figures:
        if figure.better is not None and abs(figure.value) < float("inf"):
            yield figure


def _metric(figure: Figure) -> dict[str, Any]:
    return {"type": figure.key, "name": as_one_line(figure.name), "value": round(figure.value, 6)}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "images"


def _data_lines(view: RunView) -> list[str]:
    """Return lines about the images that the model was trained on."""
    info, recipe, evaluation = view.info, view.recipe, view.evaluation
    height, width = info.size
    color = "gray" if info.channels == 1 else "color"
    source = code_span(without_local_paths(recipe)["data"]["source"])
    lines = [
        f"{source}: {evaluation.train_images:,} training images, resized to {width}×{height} pixels, {color}; "
        f"{evaluation.test_images:,} others were held out for the metrics."
    ]
    if info.classes:
        names = for_markdown(", ".join(info.classes[:20])) + (" …" if len(info.classes) > 20 else "")
        lines.append(f"{len(info.classes):,} classes: {names}.")
    if info.target is not None and info.target.kind == "masks":
        names = for_markdown(", ".join(info.target.classes[:20]))
        lines.append(f"Masks of {len(info.target.classes)} classes: {names}.")
    lines.append(describe_preprocessing(preprocessing_of(info, recipe.data)))
    return lines


def _code(view: RunView, name: str) -> list[str]:
    """Return lines of Python code that use the model."""
    height, width = view.info.size
    model = view.model
    lines = ["import ectype", "", f"model = ectype.load({for_json(json.dumps(name, ensure_ascii=False))})"]
    shape = f"[b, {view.info.channels}, {height}, {width}]"
    if isinstance(model, Samples):
        lines.append("images = model.sample(16)  # in [0, 1]")
    if is_conditional(model):
        lines.append("# by class index: model.sample(2, label=torch.tensor([0, 1]))")
    if isinstance(model, Encodes):
        lines.append(f"code = model.encode(images)  # images: {shape} in [0, 1]")
        lines.append("images = model.decode(code)")
    elif isinstance(model, Reconstructs):
        lines.append(f"images = model.reconstruct(images)  # {shape} in [0, 1]")
    if isinstance(model, Translates):
        lines.append(f"output = model.translate(images)  # images: [b, {view.info.channels}, h, w] in [0, 1]")
    return lines


def _commands(view: RunView, name: str) -> list[str]:
    """Return command lines that use the model."""
    model = view.model
    lines = ["pip install 'ectype[hub]'" if "/" in name else "pip install ectype"]
    name = shlex.quote(as_one_line(name))
    if isinstance(model, Samples):
        lines.append(f"ectype sample {name} -n 64 --out samples.png")
    if isinstance(model, Reconstructs):
        lines.append(f"ectype reconstruct {name} photos/")
    if isinstance(model, Translates):
        lines.append(f"ectype translate {name} photos/")
    return lines


def model_card(
    view: RunView, name: str, summary: Sequence[str], captions: dict[str, str], license: str | None = None
) -> str:
    """Return the text of README.md, with the header that the Hub reads.

    Args:
        view: The run.
        name: What the model is loaded by: `user/name`, or a folder.
        summary: What the metrics say, in sentences.
        captions: Captions of the pictures in the folder, by file name.
        license: The Hub's identifier of a license, such as `apache-2.0`; None if it is not known.
    """
    about = view.recipe.about
    parts = [f"---\n{_header(view, license)}---", f"# {for_markdown(name.rsplit('/', 1)[-1])}"]
    title = code_span(about.name) + (f": {for_markdown(about.summary)}" if about.summary else "")
    parts.append(f"{title}. {view.evaluation.parameters:,} parameters, trained with Ectype {version('ectype')}.")
    parts += [for_markdown(" ".join(summary))] if summary else []
    parts += [f"![{caption}]({file})\n\n{caption}." for file, caption in captions.items()]
    parts += ["## Use", code_block("python", _code(view, name)), code_block("", _commands(view, name))]
    parts.append(
        "Loading the model executes no code of this repository: it contains tensors and JSON, which are checked."
    )
    parts += ["## Images", "\n".join(f"- {line}" for line in _data_lines(view))]
    parts += ["## Figures", f"On {view.evaluation.test_images:,} held-out images, with 95% confidence intervals."]
    rows = ["| | value | 95% interval | baselines |", "|---|---|---|---|"]
    for figures in view.evaluation.groups().values():
        for figure in figures:
            baselines = " · ".join(f"{key} {format_number(value)}" for key, value in figure.named_baselines.items())
            rows.append(
                "| "
                + " | ".join(for_markdown(c) for c in (figure.name, figure.text, figure.interval, baselines))
                + " |"
            )
    parts.append("\n".join(rows))
    parts += [f"- {for_markdown(remark)}" for remark in view.evaluation.remarks]
    parts += ["## Recipe", "`ectype train recipe.json photos/` trains the same model on other images."]
    parts.append(
        code_block(
            "yaml", yaml.safe_dump(without_local_paths(view.recipe), sort_keys=False, allow_unicode=True).splitlines()
        )
    )
    if license is None:
        parts += ["## License", "No license is given: ask the author before you use the model."]
    return "\n\n".join(parts) + "\n"
