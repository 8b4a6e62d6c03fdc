"""An open run: its model, its images and its figures, shared by evaluation, diagnosis and report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ectype.config.recipe import Recipe
from ectype.config.schema import DataInfo
from ectype.core.random import StepContext, derive_seed
from ectype.data.batch import Batch
from ectype.data.loader import Loader, evaluation_batches
from ectype.data.prepare import Prepared
from ectype.evaluation.figures import Evaluation
from ectype.models.base import Encodes, evaluating
from ectype.runs.run_dir import RunDir

__all__ = ["Codes", "RunView"]

T = TypeVar("T")

MAX_CODES = 2000
"""Maximum number of codes in a scatter plot."""


class Codes(NamedTuple):
    """Codes of test images, and the shape of their distribution."""

    code: Float[Tensor, "n d"]
    """Flattened codes; posterior means if the model has a posterior."""
    places: Int[Tensor, " n"]
    """Positions of the images in the test split."""
    centre: Float[Tensor, " d"]
    """Mean code."""
    spread: Float[Tensor, " d"]
    """Standard deviation of each code dimension."""
    directions: Float[Tensor, "k d"]
    """Principal directions, orthonormal, by descending variance."""
    scales: Float[Tensor, " k"]
    """Standard deviation along each."""

    @property
    def share(self) -> Float[Tensor, " k"]:
        """Fraction of the codes' variance along each principal direction."""
        return self.scales**2 / (self.spread**2).sum().clamp(min=1e-30)

    def project(self, k: int) -> Float[Tensor, "n k"]:
        """Project codes onto the first k principal directions."""
        return (self.code - self.centre) @ self.directions[:k].T


@dataclass(frozen=True)
class RunView:
    """A run, its model, and the images that it is analysed with. One view is opened per command and shared.

    Attributes:
        run: The run's directory.
        model: The model with the selected weights, in evaluation mode.
        train: Training images, not augmented.
        test: Held-out images.
        evaluation: Figures of this model on `test`.
        prepared: The run's prepared images; None for a view of images that were not prepared.
        memo: Results that several parts of a command need, computed once; see `once`.
    """

    run: RunDir
    model: nn.Module
    train: Loader
    test: Loader
    evaluation: Evaluation
    prepared: Prepared | None = None
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """Return the result stored under `key`, or compute and store it."""
        if key not in self.memo:
            self.memo[key] = compute()
        return self.memo[key]

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the selected weights were trained with."""
        return self.run.selected_attempt.recipe

    @property
    def info(self) -> DataInfo:
        """The images that the model was built for."""
        return self.model.info  # type: ignore[return-value]  # every model has one

    @cached_property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @cached_property
    def batches(self) -> tuple[int, Callable[[int, int], StepContext]]:
        """Images per batch, and a function that returns the random draws of a batch."""
        return evaluation_batches(self.info, self.recipe.train.seed, self.device)

    @property
    def context(self) -> StepContext:
        """Random draws for a small set of images."""
        return self.batches[1](0, 1)

    def generator(self, use: str) -> torch.Generator:
        """Return a generator for one part of the page, the same each time the page is written."""
        return torch.Generator().manual_seed(derive_seed(self.recipe.train.seed, "report", use))

    def images(self, places: Sequence[int] | Tensor) -> Float[Tensor, "n c h w"]:
        """Return test images by their position in the split."""
        return self.test(torch.as_tensor(places, dtype=torch.int64), self.context).image

    def chosen(self, n: int, use: str) -> list[int]:
        """Return the positions of n randomly chosen test images, in ascending order."""
        order = torch.randperm(len(self.test), generator=self.generator(use))
        return sorted(order[:n].tolist())

    def label(self, place: int) -> str | None:
        """Return the class name of a test image; None if there are no classes."""
        labels = self.test.images.labels
        if labels is None:
            return None
        index = int(labels[place])
        return self.info.classes[index] if index < len(self.info.classes) else str(index)

    def name(self, place: int) -> str:
        """Return the name of a test image."""
        return str(self.test.images.names[place])

    @cached_property
    def codes(self) -> Codes | None:
        """Codes of at most `MAX_CODES` test images; None if the model has none or there are fewer than two images."""
        model = self.model
        if not isinstance(model, Encodes) or len(self.test) < 2:
            return None
        n = min(MAX_CODES, len(self.test), max(8, 20_000_000 // (self.evaluation.code_elements or 1)))
        size, context = self.batches

        def coded(batch: Batch) -> Tensor:
            return model.encode(batch.image).flatten(1).float().cpu()

        with evaluating(self.model):
            code = torch.cat([coded(batch) for batch, _ in self.test.batches(size, context, max_images=n)])
        places = torch.arange(len(code)) * len(self.test) // len(code)
        centre = code.mean(0)
        _, values, directions = _leading(code - centre, 8)
        return Codes(code, places, centre, code.std(0), directions, values / (len(code) - 1) ** 0.5)


def _leading(centred: Float[Tensor, "n d"], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first k singular triplets, with fixed signs so that a page looks the same each time."""
    k = min(k, *centred.shape)
    if centred.shape[1] <= 1024:
        u, values, v = torch.linalg.svd(centred, full_matrices=False)
        directions = v[:k]
    else:
        from sklearn.utils.extmath import randomized_svd

        found = randomized_svd(centred.numpy(), k, random_state=0)
        u, values, directions = (torch.from_numpy(part.copy()) for part in found)
    strongest = directions.abs().argmax(1, keepdim=True)
    directions = directions * directions.gather(1, strongest).sign()
    return u[:, :k], values[:k], directions
