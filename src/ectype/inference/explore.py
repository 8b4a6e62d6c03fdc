"""Exploring a model: its codes and the directions through them, images of codes, and codes of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ectype.core.errors import DataError, ModelError, did_you_mean
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.data.dataset import ImageSplit, ImageStore
from ectype.data.decode import decode as decode_image
from ectype.data.loader import Loader, evaluation_batches, evenly_spaced
from ectype.data.raw_image import Rejected
from ectype.inference.explore_points import Points, points_of_images, points_of_samples
from ectype.inference.image_io import MAX_CODES_PER_BATCH, decode_spec, has_no_run, require_capability
from ectype.models.base import (
    ClassConditional,
    Encodes,
    LatentSampler,
    ODESampler,
    Reconstructs,
    Translates,
    evaluating,
    is_conditional,
)
from ectype.models.translator import Restorer, Segmenter
from ectype.runs.load import load, open_run_images, recipe_of
from ectype.runs.locate import locate_run
from ectype.runs.model_files import CodeSampler
from ectype.runs.run_dir import RunDir

__all__ = ["Examples", "Explorer"]


@runtime_checkable
class _SamplesCodes(Protocol):
    """A model that draws codes, without truncation."""

    def sample_codes(self, n: int, generator: torch.Generator | None) -> Float[Tensor, " n *code"]: ...


class Examples(NamedTuple):
    """Inputs of a model, and its outputs."""

    names: list[str]
    inputs: Float[Tensor, "n c h w"]
    outputs: Float[Tensor, "n c h w"]
    what: str
    """What the outputs are: reconstructions, restored images, masks or outputs."""


class Explorer:
    """A run's model, to explore. It is loaded on the CPU, so that a training keeps its GPU.

    A code is what the model decodes: the code of an autoencoder, or the noise of a GAN or a flow. Codes are passed
    flattened, [n, d].

    Args:
        run: The run.

    Attributes:
        length: Values of a code; 0 for a model that decodes none.
        known: The points, after `points` has been called.

    Raises:
        RunError: There is no such run, or it has no model yet.
        CheckpointError: The model is damaged.
    """

    def __init__(self, run: Path) -> None:
        self.place = locate_run(run)
        self.name = run.name
        self.model = load(self.place, device="cpu")
        self.recipe, self.info = recipe_of(self.place), self.model.info
        self.has_codes = isinstance(self.model, CodeSampler) or (
            isinstance(self.model, Encodes) and not isinstance(self.model, LatentSampler)
        )
        self.shape = self._code_shape()
        self.length = math.prod(self.shape) if self.shape else 0
        self._store: ImageStore | None = None
        self.known: Points | None = None

    def _code_shape(self) -> tuple[int, ...]:
        if self.has_codes and isinstance(self.model, Encodes):
            return tuple(self.model.code_shape)
        if isinstance(self.model, LatentSampler):
            return tuple(self.model.sample_latents(1, generator=torch.Generator().manual_seed(0)).shape[1:])
        return ()

    def describe(self) -> dict[str, Any]:
        """Return what the model is and can do, as plain values."""
        model = self.model
        conditional = is_conditional(model)
        height, width = self.info.size
        return {
            "name": self.name,
            "about": self.recipe.about.name,
            "width": width,
            "height": height,
            "channels": self.info.channels,
            "length": self.length,
            "classes": list(self.info.classes),
            "conditional": conditional,
            "trained_classes": list(self.info.trained_classes) if conditional else [],
            "canEncode": self.has_codes,
            "canSample": isinstance(model, LatentSampler | _SamplesCodes),
            "canTruncate": isinstance(model, LatentSampler),
            "densities": list(model.densities) if isinstance(model, CodeSampler) else [],
            "density": model.density if isinstance(model, CodeSampler) else "",
            "unit": "code" if self.has_codes else "z",
            "steps": next((part.steps for part in model.modules() if isinstance(part, ODESampler)), None),
            "output": self.output_name(),
            "tasks": self.tasks(),
        }

    def tasks(self) -> list[str]:
        """Return what can be done with images of the user's own."""
        model, found = self.model, []
        if isinstance(model, Translates):
            found.append("restore" if isinstance(model, Restorer) else "translate")
        if isinstance(model, Reconstructs):
            found += ["reconstruct", *([] if has_no_run(self.place) else ["score"])]
        if isinstance(model, Encodes):
            found += ["nearest", "encode"]
        return found

    def output_name(self) -> str:
        """Return what the outputs of `apply` are; empty if the model has none."""
        if isinstance(self.model, Translates):
            kinds = {Restorer: "restored images", Segmenter: "masks"}
            return next((name for kind, name in kinds.items() if isinstance(self.model, kind)), "outputs")
        return "reconstructions" if isinstance(self.model, Reconstructs) else ""

    # ── Codes and images ─────────────────────────────────────────────────────────────────────────────────────────────

    def decode(self, codes: Float[Tensor, "n d"], labels: Sequence[int] | None = None) -> Float[Tensor, "n c h w"]:
        """Return the images of codes, in [0, 1].

        Args:
            codes: Flattened codes.
            labels: A class index for each code, for a conditional model.

        Raises:
            ModelError: The model decodes no codes, or these are not codes of it.
        """
        if not self.length:
            raise ModelError(f"the model of '{self.name}' has no codes to decode.")
        if codes.ndim != 2 or codes.shape[1] != self.length:
            raise ModelError(f"a code of '{self.name}' has {self.length} values, not {tuple(codes.shape)[-1]}.")
        if not codes.isfinite().all():
            raise ModelError("not all values of the code are finite.")
        label = self._checked_labels(labels, len(codes))
        parts = []
        with evaluating(self.model):
            for at in range(0, len(codes), MAX_CODES_PER_BATCH):
                code = codes[at : at + MAX_CODES_PER_BATCH].view(-1, *self.shape)
                if isinstance(self.model, LatentSampler):
                    some = None if label is None else label[at : at + MAX_CODES_PER_BATCH]
                    parts.append(self.model.render(code, label=some))
                else:
                    assert isinstance(self.model, Encodes)
                    parts.append(self.model.decode(code))
        return torch.cat(parts).cpu() if parts else torch.zeros(0, *self.info.shape)

    def _checked_labels(self, labels: Sequence[int] | None, n: int) -> Tensor | None:
        if not is_conditional(self.model):
            return None
        if labels is None or len(labels) != n:
            raise ModelError(f"the model of '{self.name}' needs a class for each code.")
        if any(label not in self.info.trained_classes for label in labels):
            raise ModelError(f"the classes of '{self.name}' are {', '.join(self.info.classes)}, by their index.")
        return torch.tensor(list(labels), dtype=torch.int64)

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        truncation: float | None = None,
        label: int | None = None,
        density: str | None = None,
    ) -> tuple[Float[Tensor, "n d"], list[int] | None, Float[Tensor, "n c h w"]]:
        """Draw codes as `ectype sample` does.

        Args:
            n: Number of codes.
            seed: Seed of the draws.
            truncation: Noise beyond ± this value is drawn again.
            label: The class of all; None to draw it, if the model is conditional.
            density: A density of the model.

        Returns:
            Codes, class indices if the model is conditional, and images.

        Raises:
            ModelError: The model cannot sample, or there is no such density or class.
        """
        model, generator = self.model, torch.Generator().manual_seed(seed)
        labels = None
        with evaluating(model):
            if isinstance(model, LatentSampler):
                before = model.density if isinstance(model, CodeSampler) else ""
                if density and isinstance(model, CodeSampler):
                    if density not in model.densities:
                        raise ModelError(f"no density '{density}'; {did_you_mean(density, list(model.densities))}")
                    model.density = density
                try:
                    codes = model.sample_latents(n, truncation=truncation, generator=generator)
                finally:
                    if isinstance(model, CodeSampler):
                        model.density = before
            else:
                codes = require_capability(model, _SamplesCodes, self.place, "sample").sample_codes(n, generator)
            if is_conditional(model):
                capable = require_capability(model, ClassConditional, self.place, "sample a class")
                drawn = capable.sample_labels(n, generator=generator)
                labels = drawn.tolist() if label is None else [label] * n
        codes = codes.float().cpu().flatten(1)
        return codes, labels, self.decode(codes, labels)

    def encode(self, file: bytes) -> tuple[Float[Tensor, " d"], Float[Tensor, "c h w"]]:
        """Return the code of an encoded image, and the image as the model sees it.

        Raises:
            ModelError: The model does not encode.
            DataError: The image cannot be used.
        """
        if not self.has_codes or not isinstance(self.model, Encodes):
            raise ModelError(f"the model of '{self.name}' cannot encode.")
        image = self._decoded(file)
        with evaluating(self.model):
            return self.model.encode(image[None]).float().cpu().flatten(), image

    def apply(self, file: bytes) -> Examples:
        """Return what the model makes of one image at its own size. Raises as `encode` does."""
        image = self._decoded(file)[None]
        return Examples([""], image, self._outputs(image), self.output_name())

    def _decoded(self, file: bytes) -> Float[Tensor, "c h w"]:
        try:
            pixels = decode_image(file, decode_spec(self.info, self.recipe)).pixels
        except Rejected as reason:
            raise DataError(f"the image cannot be used ({reason}): choose another one.") from None
        return torch.from_numpy(pixels.copy()).float() / 255

    def _outputs(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        with evaluating(self.model):
            if isinstance(self.model, Translates):
                return self.model.to_rgb(self.model.translate(images)).cpu()
            if isinstance(self.model, Reconstructs):
                return self.model.reconstruct(images).cpu()
        raise ModelError(f"the model of '{self.name}' makes images from noise, not from images.")

    # ── Points ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def points(self, seconds: float = math.inf) -> Points:
        """Return the points of a map: the codes of the run's images, or of samples for a model without an encoder.

        Args:
            seconds: After this time no more codes are computed; those that there are, are spread evenly.

        Raises:
            ModelError: The model has no codes.
            DataError: The run's images cannot be used.
        """
        if not self.length:
            raise ModelError(f"the model of '{self.name}' has no codes to explore.")
        if self.has_codes:
            model = require_capability(self.model, Encodes, self.place, "encode")
            size = evaluation_batches(self.info, 0, torch.device("cpu"))[0]
            with evaluating(self.model):
                self.known = points_of_images(model, self.store, self._images, self.length, size, seconds)
        else:
            self.known = points_of_samples(lambda n, seed: self.sample(n, seed=seed), seconds)
        return self.known

    @property
    def store(self) -> ImageStore:
        """The run's images.

        Raises:
            DataError: They cannot be used, or there are none because the model was exported.
        """
        if self._store is None:
            if has_no_run(self.place):
                raise DataError(f"'{self.name}' is an exported model without images.")
            self._store = open_run_images(RunDir.existing(self.place))[1]
        return self._store

    def _images(self, where: Sequence[tuple[ImageSplit, int]]) -> Float[Tensor, "n c h w"]:
        """Return images as the model sees them."""
        found: list[Tensor | None] = [None] * len(where)
        for part in {id(part): part for part, _ in where}.values():
            places = [k for k, (other, _) in enumerate(where) if other is part]
            loader = Loader(part, self.recipe.data, torch.device("cpu"), training=False, seed=self.recipe.train.seed)
            context = SeededStepContext(self.recipe.train.seed, 0, 0, "look", 0, len(places))
            batch = loader(torch.tensor([where[k][1] for k in places]), context)
            for k, image in zip(places, batch.image, strict=True):
                found[k] = image
        return torch.stack([image for image in found if image is not None])

    def codes(self, indices: Sequence[int]) -> Float[Tensor, "n d"]:
        """Return the codes of points. Raises `ModelError` if there is no such point, as the other methods do."""
        return self._known(indices).codes[list(indices)]

    def pictures(self, indices: Sequence[int]) -> tuple[Float[Tensor, "n c h w"], list[str]]:
        """Return the images of points, and the names of their files; none for samples."""
        points = self._known(indices)
        if points.where:
            where = [points.where[i] for i in indices]
            return self._images(where), [str(part.names[i]) for part, i in where]
        labels = None if points.labels is None else [points.labels[i] for i in indices]
        return self.decode(points.codes[list(indices)], labels), []

    def nearest(self, code: Float[Tensor, " d"], k: int) -> tuple[list[int], list[float]]:
        """Return the points whose codes are nearest to a code, and their distances."""
        if code.shape != (self.length,) or not code.isfinite().all():
            raise ModelError(f"a code of '{self.name}' has {self.length} finite values.")
        codes = self._known([0]).codes
        found = (codes - code).norm(dim=1).topk(min(k, len(codes)), largest=False)
        return found.indices.tolist(), found.values.tolist()

    def _known(self, indices: Sequence[int]) -> Points:
        points = self.known or self.points()
        if not indices or not all(0 <= i < len(points.codes) for i in indices):
            raise ModelError(f"there are {len(points.codes):,} points, by their index; open the page again.")
        return points

    def examples(self, names: Sequence[str] | None, n: int) -> Examples:
        """Return held-out images and what the model makes of them.

        Args:
            names: Names of images of the run; those that it does not have are left out. None for test images at equal
                distances.
            n: Number of images.

        Raises:
            ModelError: The model makes no images from images.
            DataError: The run's images cannot be used.
        """
        if not self.output_name():
            raise ModelError(f"the model of '{self.name}' makes images from noise, not from images.")
        parts = dict(self.store.splits())
        held_out = next(parts[name] for name in ("test", "val", "train") if name in parts)
        if names is None:
            where = [(held_out, int(i)) for i in evenly_spaced(len(held_out), n)]
        else:
            known = {str(name): (part, i) for part in parts.values() for i, name in enumerate(part.names)}
            where = [known[name] for name in names if name in known][:n]
        if not where:
            raise DataError(f"'{self.name}' was trained on other images: drop images to compare.")
        images = self._images(where)
        if isinstance(self.model, Restorer):
            seed = SeededStepContext(self.recipe.train.seed, 0, 0, "look", 0, len(images))
            images = self.model.input_and_target(Batch(images), seed)[0]
        shown = images.clamp(0, 1)
        return Examples([str(part.names[i]) for part, i in where], shown, self._outputs(images), self.output_name())
