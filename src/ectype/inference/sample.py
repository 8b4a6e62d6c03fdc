"""Generate images with a trained model, or a film of a walk between them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from ectype.config.schema import DataInfo
from ectype.core.errors import ModelError, did_you_mean
from ectype.core.images import to_uint8
from ectype.core.optional import optional_import
from ectype.data.preview import check_file_writable, contact_sheet, save_grid
from ectype.data.sources.base import same_name_key
from ectype.data.video import VIDEO_SUFFIXES, save_video
from ectype.inference.image_io import MAX_CODES_PER_BATCH, InferenceResult, require_capability
from ectype.models.base import ClassConditional, LatentSampler, ODESampler, Samples, evaluating, is_conditional
from ectype.models.densities import DENSITIES
from ectype.runs.load import density_of, load
from ectype.runs.model_files import FLOW, CodeSampler
from ectype.runs.run_dir import RunDir
from ectype.training.prior import prior_dir
from ectype.training.run import train

__all__ = ["SamplingOptions", "labels_for", "sample", "walk"]

FRAMES_BETWEEN_IMAGES = 24
"""Frames between two images that a walk passes."""
MAX_WALKS = 16
"""Maximum number of walks side by side in one film."""


def labels_for(text: str, info: DataInfo, n: int) -> Int[Tensor, " n"]:
    """Return `n` labels from a text: class names or indices, several separated by commas, or `all`
    that have training images.

    Several classes get equal numbers of labels, one class after the other, or numbers that differ by one.

    Raises:
        ModelError: There is no such class, no training image had it, or there are more classes than labels.
    """
    wanted: list[int] = []
    names = [same_name_key(name) for name in info.classes]
    text = same_name_key(text)
    for word in [text] if text in names else text.split(","):
        word = word.strip()
        if word in names:
            wanted.append(names.index(word))
        elif word == "all":
            wanted += info.trained_classes
        elif word.isdecimal() and int(word) < len(names):
            wanted.append(int(word))
        else:
            raise ModelError(f"no class '{word}'; {did_you_mean(word, info.classes)}")
    if untrained := next((info.classes[i] for i in wanted if i not in info.trained_classes), None):
        raise ModelError(
            f"class '{untrained}' has no training images, so the model cannot generate it: choose another class, or "
            "train on images of it."
        )
    if len(wanted) > n:
        raise ModelError(
            f"{n} images are too few for {len(wanted)} classes (--label {text}): ask for at least one of each, "
            f"-n {len(wanted)}, or for fewer classes."
        )
    return torch.tensor([wanted[i * len(wanted) // n] for i in range(n)], dtype=torch.int64)


class SamplingOptions(NamedTuple):
    """How a model that samples in steps goes from noise to an image. None keeps the model's own setting."""

    steps: int | None = None
    solver: Literal["euler", "heun"] | None = None
    guidance: float | None = None
    """Guidance scale of a conditional model; above 1, samples follow their label more closely."""


AS_TRAINED = SamplingOptions()


def flow_of(run: Path, console: Console | None = None, device: str = "auto") -> Path:
    """Return the run of a flow on the codes of a run's model. It is trained if there is none yet.

    The flow belongs to the selected weights; for other weights, another one is trained.
    """
    trained = RunDir.existing(run)
    load(run, device="cpu")  # of an unfinished run, its newest weights
    place = prior_dir(trained)
    if RunDir(place).training_ended:
        return place
    if RunDir(place).recipe_file.is_file():  # it was interrupted
        return train(RunDir(place).recipe, None, [f"run.device={device}"], out=place, console=console).path
    return train(FLOW, run, [f"run.device={device}"], out=place, console=console).path


class _Sampler:
    """A run's model, with density, class and options set."""

    def __init__(
        self,
        run: Path,
        density: str | None,
        label: str | None,
        device: str,
        way: SamplingOptions,
        console: Console | None,
    ) -> None:
        if density is not None and density not in (*DENSITIES, FLOW):
            raise ModelError(f"no density '{density}'; {did_you_mean(density, (*DENSITIES, FLOW))}")
        if density == FLOW:
            run, density = flow_of(run, console, device), None
        self.run = run
        self.model = load(run, device=device)
        require_capability(self.model, Samples, run, "sample")
        self.notes = ""
        if isinstance(self.model, CodeSampler):
            name = density or self.model.density
            if name not in self.model.densities:
                density_of(RunDir.existing(run), self.model, name)
            self.model.density = name
            self.notes = f", codes drawn from '{name}'"
            if name == "normal" and self.model.prior is None:
                self.notes += (
                    " (this model was not trained for it: expect no realistic images; --density gmm is fitted)"
                )
        elif density is not None:
            raise ModelError(f"the model of '{run}' has no density of codes: leave --density out.")
        if label is not None and not is_conditional(self.model):
            raise ModelError(
                f"the model of '{run}' has no classes: leave --label out, or train a conditional one "
                "(`ectype train cgan`)."
            )
        self.label = label
        self._set_options(way)

    def _set_options(self, way: SamplingOptions) -> None:
        given = {name: value for name, value in way._asdict().items() if value is not None}
        solver = next((part for part in self.model.modules() if isinstance(part, ODESampler)), None)
        if not given:
            return
        if solver is None:
            raise ModelError(f"the model of '{self.run}' samples in one step: leave --{next(iter(given))} out.")
        if "guidance" in given and not is_conditional(self.model):
            raise ModelError(f"the model of '{self.run}' has no classes for guidance: leave --guidance out.")
        for name, value in given.items():
            setattr(solver, name, value)
        self.notes += "".join(f", {name} {value}" for name, value in given.items())

    def latents(self, n: int, truncation: float | None, generator: torch.Generator) -> Tensor:
        if not isinstance(self.model, LatentSampler):
            raise ModelError(f"the model of '{self.run}' has no latents: leave --truncation and --walk out.")
        return self.model.sample_latents(n, truncation=truncation, generator=generator)

    def labels(self, n: int, generator: torch.Generator) -> Tensor | None:
        if not (isinstance(self.model, ClassConditional) and self.model.conditional):
            return None
        if self.label is not None:
            return labels_for(self.label, self.model.info, n)
        return self.model.sample_labels(n, generator=generator)

    def render(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        assert isinstance(self.model, LatentSampler)
        with evaluating(self.model):
            parts = zip(
                latents.split(MAX_CODES_PER_BATCH),
                [None] * len(latents) if labels is None else labels.split(MAX_CODES_PER_BATCH),
                strict=False,
            )
            return torch.cat([self.model.render(some, label=label).cpu() for some, label in parts])


def sample(
    run: Path,
    out: Path | None,
    *,
    n: int = 64,
    seed: int = 0,
    density: str | None = None,
    label: str | None = None,
    truncation: float | None = None,
    way: SamplingOptions = AS_TRAINED,
    device: str = "auto",
    console: Console | None = None,
) -> InferenceResult:
    """Generate images.

    Args:
        run: A run whose model samples.
        out: A picture to write; None writes nothing.
        n: Number of images.
        seed: Seed of the draws.
        density: The density of an autoencoder's codes. `flow` is trained when it is first used.
        label: See `labels_for`. Without it, the labels of a conditional model follow the training images' frequencies.
        truncation: Noise beyond ± this value is drawn again: less variety, fewer failures.
        way: Options of a model that samples in steps.
        device: See `choose_device`.
        console: Where progress is printed if a density must be trained first.

    Returns:
        With the images.

    Raises:
        ModelError: The model cannot sample, or there is no such density or class.
        DataError: The picture cannot be written.
    """
    if out is not None:
        check_file_writable(out)
    sampler = _Sampler(run, density, label, device, way, console)
    run = sampler.run
    generator = torch.Generator().manual_seed(seed)
    columns = None
    if label is None and truncation is None:
        model = require_capability(sampler.model, Samples, run, "sample")
        with evaluating(sampler.model):
            parts = [
                model.sample(min(MAX_CODES_PER_BATCH, n - at), generator=generator).cpu()
                for at in range(0, n, MAX_CODES_PER_BATCH)
            ]
        images = torch.cat(parts)
    else:
        latents = sampler.latents(n, truncation, generator)
        labels = sampler.labels(n, generator)
        images = sampler.render(latents, labels)
        # One row for each class if they have equal numbers of images.
        classes = len(labels.unique()) if labels is not None and label is not None else 1
        columns = n // classes if classes > 1 and n % classes == 0 else None
    if out is not None:
        save_grid(to_uint8(images), out, columns=columns)
    of = f" of {label}" if label is not None else ""
    cut = f", noise cut off at ±{truncation:g}" if truncation is not None else ""
    written = f" → {out}" if out is not None else ""
    return InferenceResult(f"{n} samples{of}{sampler.notes}{cut}{written}", out, images=images)


def walk(
    run: Path,
    out: Path,
    *,
    frames: int,
    n: int = MAX_WALKS,
    seed: int = 0,
    density: str | None = None,
    label: str | None = None,
    truncation: float | None = None,
    way: SamplingOptions = AS_TRAINED,
    device: str = "auto",
    console: Console | None = None,
) -> InferenceResult:
    """Write a film of walks through the latent space, each from image to image and back to its first.

    Between two latents a walk follows the sphere, where latents are drawn: the straight line between two draws of
    N(0, I) passes near 0, where draws are rare.

    Args:
        run: A run whose model has latents.
        out: The film: .mp4, .webp, .gif or .png.
        frames: Number of frames; 24 are a second.
        n: Number of walks side by side.
        seed: See `sample`, also for the arguments below.
        density: The density of an autoencoder's codes.
        label: The class of all images of all walks.
        truncation: Truncation of the latents.
        way: Options of a model that samples in steps.
        device: See `choose_device`.
        console: Where progress is printed if a density must be trained first.

    Raises:
        ModelError: See `sample`; or .mp4 without PyAV.
        DataError: See `save_video`.
    """
    check_file_writable(out, *VIDEO_SUFFIXES)
    if out.suffix.lower() == ".mp4":
        optional_import("av", "video", f"'{out}'")
    sampler = _Sampler(run, density, label, device, way, console)
    n, generator = min(n, MAX_WALKS), torch.Generator().manual_seed(seed)
    stops = max(2, round(frames / FRAMES_BETWEEN_IMAGES))
    passed = sampler.latents(stops * n, truncation, generator).unflatten(0, (stops, n))
    labels = sampler.labels(n, generator)
    sheets = []
    for frame in range(frames):
        at = frame * stops / frames
        before, share = int(at) % stops, at - int(at)
        # Slow down at each image, as a pendulum at its ends, so that it can be looked at.
        between = slerp(passed[before], passed[(before + 1) % stops], (1 - math.cos(math.pi * share)) / 2)
        sheet = contact_sheet(to_uint8(sampler.render(between, labels)))
        sheets.append(np.asarray(sheet.convert("RGB")))
    save_video(np.stack(sheets), out)
    return InferenceResult(f"{n} walks of {frames} frames past {stops} images each{sampler.notes} → {out}", out)


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
