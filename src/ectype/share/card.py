"""The page that goes with a model that is handed on: what it is, how good, how to use it, how it was made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from ectype.data.preview import contact_sheet
from ectype.measure.evaluation import Figure, number
from ectype.measure.view import RunView
from ectype.models.base import Encodes, Reconstructs, Samples, Translates, conditional, evaluating
from ectype.recipe import Recipe
from ectype.training.watch import to_uint8

__all__ = ["card", "pictures", "public"]

SHOWN = 16
"""Images in a picture, or pairs of them."""
PLACES = frozenset(["source", "labels", "input", "target", "run", "weights_file"])
"""Keys of a recipe that name files or folders."""
LISTED = 12
"""Figures in the header, at most."""


def public(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, of each path on this machine the last part alone."""

    def shown(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {inner: shown(held, inner) for inner, held in value.items()}
        if isinstance(value, list):
            return [shown(held, key) for held in value]
        if not isinstance(value, str) or value.startswith(("hf:", "torchvision:")):
            return value
        # A relative path is known by its key alone: elsewhere a slash may stand in a sentence or a pattern.
        return Path(value).name if key in PLACES or value.startswith("~") or Path(value).is_absolute() else value

    return shown(recipe.plain(), "")


def pictures(view: RunView) -> dict[str, tuple[Image.Image, str]]:
    """What the model makes, by file name, each with what it shows."""
    model, found = view.model, {}
    with evaluating(model):
        held = view.images(view.chosen(SHOWN, "card"))
        if isinstance(model, Reconstructs):
            both = torch.stack([held, model.reconstruct(held)], 1).flatten(0, 1)
            what = "Held-out images, each with its reconstruction at the right"
            found["reconstructions.png"] = (contact_sheet(to_uint8(both), columns=8), what)
        if isinstance(model, Translates):
            batch = view.test(torch.as_tensor(view.chosen(SHOWN, "card")), view.moment)
            given, _ = model.pair(batch, view.moment)
            made = model.picture(model.translate(given)).to(given)
            both = torch.stack([given.clamp(0, 1).expand(-1, 3, -1, -1), made], 1).flatten(0, 1)
            what = "Held-out inputs, each with what is made of it at the right"
            found["translations.png"] = (contact_sheet(to_uint8(both), columns=8), what)
        if isinstance(model, Samples):
            images = model.sample(4 * SHOWN, generator=view.generator("card"))
            found["samples.png"] = (contact_sheet(to_uint8(images)), "Samples, as they were drawn")
    return found


def _task(view: RunView) -> str:
    """The Hub's word for what the model is for."""
    if isinstance(view.model, Translates):
        masks = view.info.target is not None and view.info.target.kind == "masks"
        return "image-segmentation" if masks else "image-to-image"
    return "unconditional-image-generation" if isinstance(view.model, Samples) else "image-to-image"


def _header(view: RunView, license: str | None) -> str:
    recipe = view.recipe
    words = ["ectype", recipe.about.family, recipe.about.name]
    source = public(recipe)["data"]["source"]
    metrics = [_metric(figure) for figure in _sound(view)][:LISTED]
    result = {
        "task": {"type": _task(view)},
        "dataset": {"name": f"{source}, held-out images", "type": _slug(source)},
        "metrics": metrics,
    }
    plain: dict[str, Any] = {} if license is None else {"license": license}
    plain |= {
        "library_name": "ectype",
        "pipeline_tag": _task(view),
        "tags": list(dict.fromkeys(_slug(word) for word in words if word)),
    }
    if metrics:
        plain["model-index"] = [{"name": view.run.name, "results": [result]}]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _sound(view: RunView) -> Iterator[Figure]:
    """Figures that say how good the model is."""
    for figure in view.evaluation.figures:
        if figure.better is not None and abs(figure.value) < float("inf"):
            yield figure


def _metric(figure: Figure) -> dict[str, Any]:
    return {"type": _slug(figure.name), "name": figure.name, "value": round(figure.value, 6)}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "images"


def _told(view: RunView) -> list[str]:
    """What the images were, in lines."""
    info, recipe, evaluation = view.info, view.recipe, view.evaluation
    height, width = info.size
    colour = "grey" if info.channels == 1 else "colour"
    lines = [
        f"`{public(recipe)['data']['source']}`: {evaluation.train_images:,} training images, brought to "
        f"{width}×{height} pixels, {colour}; {evaluation.test_images:,} others were "
        "held out for the figures.",
    ]
    if info.classes:
        names = ", ".join(info.classes[:20]) + (" …" if len(info.classes) > 20 else "")
        lines.append(f"{len(info.classes):,} classes: {names}.")
    if info.target is not None and info.target.kind == "masks":
        lines.append(f"Masks of {len(info.target.classes)} classes: {', '.join(info.target.classes[:20])}.")
    return lines


def _code(view: RunView, name: str) -> list[str]:
    """How to use it from Python."""
    height, width = view.info.size
    model = view.model
    lines = ["import ectype", "", f'model = ectype.load("{name}")']
    shape = f"[b, {view.info.channels}, {height}, {width}]"
    if isinstance(model, Samples):
        lines.append("images = model.sample(16)  # in [0, 1]")
    if conditional(model):
        lines.append("# classes by number: model.sample(2, label=torch.tensor([0, 1]))")
    if isinstance(model, Encodes):
        lines.append(f"code = model.encode(images)  # of images {shape} in [0, 1]")
        lines.append("images = model.decode(code)")
    elif isinstance(model, Reconstructs):
        lines.append(f"images = model.reconstruct(images)  # {shape} in [0, 1]")
    if isinstance(model, Translates):
        lines.append(f"made = model.translate(images)  # of images [b, {view.info.channels}, h, w] in [0, 1]")
    return lines


def _commands(view: RunView, name: str) -> list[str]:
    model = view.model
    found = ["pip install 'ectype[hub]'" if "/" in name else "pip install ectype"]
    if isinstance(model, Samples):
        found.append(f"ectype sample {name} -n 64 --out samples.png")
    if isinstance(model, Reconstructs):
        found.append(f"ectype reconstruct {name} photos/")
    if isinstance(model, Translates):
        found.append(f"ectype translate {name} photos/")
    return found


def card(view: RunView, name: str, said: Sequence[str], shown: dict[str, str], license: str | None = None) -> str:
    """The text of README.md, with the header that the Hub reads.

    Args:
        view: The run.
        name: What it is loaded by: `user/name`, or a folder.
        said: What the figures say, in sentences.
        shown: Pictures beside the text: file name → what it shows.
        license: The Hub's word for it, such as `apache-2.0`; None where its maker has not said.
    """
    about = view.recipe.about
    parts = [f"---\n{_header(view, license)}---", f"# {name.rsplit('/', 1)[-1]}"]
    what = f"`{about.name}`: {about.summary}" if about.summary else f"`{about.name}`"
    parts.append(f"{what}. {view.evaluation.parameters:,} parameters, trained with Ectype {version('ectype')}.")
    parts += [" ".join(said)] if said else []
    parts += [f"![{what}]({file})\n\n{what}." for file, what in shown.items()]
    parts += ["## Use", _fenced("python", _code(view, name)), _fenced("", _commands(view, name))]
    parts.append("Loading runs no code from this repository: it holds tensors and JSON, which are checked first.")
    parts += ["## Images", "\n".join(f"- {line}" for line in _told(view))]
    parts += ["## Figures", f"On {view.evaluation.test_images:,} held-out images, with 95% intervals over them."]
    rows = ["| | value | 95% interval | beside |", "|---|---|---|---|"]
    for figures in view.evaluation.groups().values():
        for figure in figures:
            beside = " · ".join(f"{key} {number(value)}" for key, value in figure.beside.items())
            rows.append("| " + " | ".join(_cell(c) for c in (figure.name, figure.text, figure.interval, beside)) + " |")
    parts.append("\n".join(rows))
    parts += [f"- {remark}" for remark in view.evaluation.remarks]
    parts += ["## Recipe", "`ectype train recipe.json photos/` trains the same on other images."]
    parts.append(_fenced("yaml", yaml.safe_dump(public(view.recipe), sort_keys=False, allow_unicode=True).splitlines()))
    if license is None:
        parts += ["## Licence", "Its maker has not said under which licence it may be used."]
    return "\n\n".join(parts) + "\n"


def _fenced(language: str, lines: Sequence[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
