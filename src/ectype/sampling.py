"""New images of a trained run: a picture of them, of chosen classes, or a film of a walk between them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from ectype.data.preview import contact_sheet, save_grid, writable
from ectype.data.video import FILMS, save_film
from ectype.errors import ModelError, did_you_mean
from ectype.extras import needed
from ectype.loading import density_of, load
from ectype.models.base import DrawsLabels, DrawsLatents, Samples, Solves, conditional, evaluating
from ectype.models.densities import DENSITIES
from ectype.run import train
from ectype.sections import DataInfo
from ectype.training import checkpoint
from ectype.training.rundir import RunDir
from ectype.training.shipped import DrawsCodes
from ectype.training.watch import to_uint8
from ectype.use import AT_ONCE, able

__all__ = ["Way", "labels_for", "sample", "walk"]

STOP = 24
"""Frames between two images that a walk passes."""
WALKS = 16
"""Walks side by side in one film, at most."""


def labels_for(text: str, info: DataInfo, n: int) -> Int[Tensor, " n"]:
    """`n` labels from what a user typed: class names or numbers, several with commas between, or all.

    Several classes get as many each, one after the other.

    Raises:
        ModelError: No such class.
    """
    wanted = []
    for word in [text] if text in info.classes else text.split(","):
        word = word.strip()
        if word in info.classes:
            wanted.append(info.classes.index(word))
        elif word == "all":
            wanted += range(len(info.classes))
        elif word.isdecimal() and int(word) < len(info.classes):
            wanted.append(int(word))
        else:
            raise ModelError(f"no class '{word}'; {did_you_mean(word, info.classes)}")
    return torch.tensor([wanted[i * len(wanted) // n] for i in range(n)], dtype=torch.int64)


class Way(NamedTuple):
    """How a model that samples in steps goes from noise to an image; None leaves what it was trained to be."""

    steps: int | None = None
    solver: Literal["euler", "heun"] | None = None
    guidance: float | None = None
    """How much closer to the label than it was trained to be; of a conditional model."""


AS_TRAINED = Way()
FLOW = "flow"
"""The density that is a run of its own, beside the model whose codes it learns."""


def flow_of(run: Path, console: Console | None = None, device: str = "auto") -> Path:
    """The run of a flow on the codes of a run's model, which is trained where there is none yet, or goes on.

    It belongs to these weights: where others are shipped, it is another.
    """
    trained = RunDir.existing(run)
    load(run, device="cpu")  # of a run that has not ended, its newest weights
    weights = checkpoint.load_json(trained.model / checkpoint.MANIFEST)["model.safetensors"]
    place = trained.path / f"{FLOW}-{weights[:8]}"
    return train(FLOW, run, [f"run.device={device}"], out=place, console=console).path


class _Drawn:
    """A run's model, ready to draw from."""

    def __init__(
        self, run: Path, density: str | None, label: str | None, device: str, way: Way, console: Console | None
    ) -> None:
        if density is not None and density not in (*DENSITIES, FLOW):
            raise ModelError(f"no density '{density}'; {did_you_mean(density, (*DENSITIES, FLOW))}")
        if density == FLOW:
            run, density = flow_of(run, console, device), None
        self.run = run
        self.model = load(run, device=device)
        able(self.model, Samples, run, "sample")
        self.said = ""
        if isinstance(self.model, DrawsCodes):
            name = density or self.model.density
            if name not in self.model.densities:
                density_of(RunDir.existing(run), self.model, name)
            self.model.density = name
            self.said = f", codes drawn from '{name}'"
            if name == "normal" and self.model.prior is None:
                self.said += " (this model was not trained towards it: expect no likeness; --density gmm is fitted)"
        elif density is not None:
            raise ModelError(f"the model of '{run}' draws no codes: leave --density out.")
        if label is not None and not conditional(self.model):
            raise ModelError(
                f"the model of '{run}' knows no classes: leave --label out, or train a conditional one "
                "(`ectype train cgan`)."
            )
        self.label = label
        self._go(way)

    def _go(self, way: Way) -> None:
        asked = {name: value for name, value in way._asdict().items() if value is not None}
        solving = next((part for part in self.model.modules() if isinstance(part, Solves)), None)
        if not asked:
            return
        if solving is None:
            raise ModelError(f"the model of '{self.run}' samples in one step: leave --{next(iter(asked))} out.")
        if "guidance" in asked and not conditional(self.model):
            raise ModelError(f"the model of '{self.run}' knows no classes to be guided to: leave --guidance out.")
        for name, value in asked.items():
            setattr(solving, name, value)
        self.said += "".join(f", {name} {value}" for name, value in asked.items())

    def latents(self, n: int, truncation: float | None, generator: torch.Generator) -> Tensor:
        if not isinstance(self.model, DrawsLatents):
            raise ModelError(f"the model of '{self.run}' shows no latents: leave --truncation and --walk out.")
        return self.model.latents(n, truncation=truncation, generator=generator)

    def labels(self, n: int, generator: torch.Generator) -> Tensor | None:
        if not (isinstance(self.model, DrawsLabels) and self.model.conditional):
            return None
        if self.label is not None:
            return labels_for(self.label, self.model.info, n)
        return self.model.labels(n, generator=generator)

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        assert isinstance(self.model, DrawsLatents)
        with evaluating(self.model):
            parts = zip(
                latents.split(AT_ONCE), [None] * len(latents) if labels is None else labels.split(AT_ONCE), strict=False
            )
            return torch.cat([self.model.render(some, label=label).cpu() for some, label in parts])


def sample(
    run: Path,
    out: Path,
    *,
    n: int = 64,
    seed: int = 0,
    density: str | None = None,
    label: str | None = None,
    truncation: float | None = None,
    way: Way = AS_TRAINED,
    device: str = "auto",
    console: Console | None = None,
) -> str:
    """Draw images and save them as one picture.

    Args:
        run: Of a model that samples.
        out: The picture.
        n: How many.
        seed: Repeats the same draws.
        density: Of an autoencoder's codes. `flow` is trained at the first time, beside the run.
        label: See `labels_for`; of a conditional model, whose labels otherwise follow the training images' frequencies.
        truncation: Noise beyond ± this is drawn again: less variety, fewer failures.
        way: Of a model that samples in steps.
        device: See `choose_device`.
        console: Where a density that must first be trained says so.

    Raises:
        ModelError: The model cannot sample, or has no such density or class.
        DataError: The picture cannot be written.
    """
    writable(out)
    drawn = _Drawn(run, density, label, device, way, console)
    run = drawn.run
    generator = torch.Generator().manual_seed(seed)
    columns = None
    if label is None and truncation is None:
        sampler = able(drawn.model, Samples, run, "sample")
        with evaluating(drawn.model):
            parts = [sampler.sample(min(AT_ONCE, n - at), generator=generator).cpu() for at in range(0, n, AT_ONCE)]
        images = torch.cat(parts)
    else:
        latents = drawn.latents(n, truncation, generator)
        labels = drawn.labels(n, generator)
        images = drawn.render(latents, labels)
        # One row for each class, where that comes out even.
        kinds = len(labels.unique()) if labels is not None and label is not None else 1
        columns = n // kinds if kinds > 1 and n % kinds == 0 else None
    save_grid(to_uint8(images), out, columns=columns)
    of = f" of {label}" if label is not None else ""
    cut = f", noise cut off at ±{truncation:g}" if truncation is not None else ""
    return f"{n} samples{of}{drawn.said}{cut} → {out}"


def walk(
    run: Path,
    out: Path,
    *,
    frames: int,
    n: int = WALKS,
    seed: int = 0,
    density: str | None = None,
    label: str | None = None,
    truncation: float | None = None,
    way: Way = AS_TRAINED,
    device: str = "auto",
    console: Console | None = None,
) -> str:
    """A film of walks through the latent space, each from image to image and back to its first.

    Between two latents the way leads over the sphere, so that it stays where latents are drawn: the straight line
    between two draws of N(0, I) passes near 0, where hardly any is.

    Args:
        run: Of a model that draws latents.
        out: The film: .mp4, .webp, .gif or .png.
        frames: Its length; 24 are a second.
        n: Walks side by side.
        seed: See `sample`, as for what follows.
        density: Of an autoencoder's codes.
        label: Of all images of all walks.
        truncation: Of the latents.
        way: Of a model that samples in steps.
        device: See `choose_device`.
        console: Where a density that must first be trained says so.

    Raises:
        ModelError: See `sample`; or .mp4 without PyAV.
        DataError: See `save_film`.
    """
    writable(out, *FILMS)
    if out.suffix.lower() == ".mp4":
        needed("av", "video", f"'{out}'")
    drawn = _Drawn(run, density, label, device, way, console)
    n, generator = min(n, WALKS), torch.Generator().manual_seed(seed)
    stops = max(2, round(frames / STOP))
    passed = drawn.latents(stops * n, truncation, generator).unflatten(0, (stops, n))
    labels = drawn.labels(n, generator)
    sheets = []
    for frame in range(frames):
        at = frame * stops / frames
        before, share = int(at) % stops, at - int(at)
        # As slow at each image as a pendulum at its ends, so that it can be looked at.
        between = slerp(passed[before], passed[(before + 1) % stops], (1 - math.cos(math.pi * share)) / 2)
        sheet = contact_sheet(to_uint8(drawn.render(between, labels)))
        sheets.append(np.asarray(sheet.convert("RGB")))
    save_film(np.stack(sheets), out)
    return f"{n} walks of {frames} frames past {stops} images each{drawn.said} → {out}"


def slerp(one: Float[Tensor, " n *d"], two: Float[Tensor, " n *d"], share: float) -> Float[Tensor, " n *d"]:
    """A point on the way from each latent to another along the sphere, lengths changing evenly (Shoemake 1985)."""
    a, b = one.flatten(1), two.flatten(1)
    lengths = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    u, v = a / lengths[0].clamp(min=1e-9), b / lengths[1].clamp(min=1e-9)
    angle = torch.acos((u * v).sum(1, keepdim=True).clamp(-1, 1))
    sine = torch.sin(angle)
    weights = torch.sin((1 - share) * angle) / sine, torch.sin(share * angle) / sine
    way = torch.where(sine > 1e-4, weights[0] * u + weights[1] * v, (1 - share) * u + share * v)
    return (way * ((1 - share) * lengths[0] + share * lengths[1])).view_as(one)
