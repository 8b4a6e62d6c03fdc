"""What a page shows of one run: everything that must be computed with the model at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.data.feed import Feed
from ectype.measure.evaluation import Evaluation
from ectype.models.base import Encodes, evaluating
from ectype.recipe import Recipe
from ectype.sections import DataInfo
from ectype.training.position import derive, looking
from ectype.training.rundir import RunDir

__all__ = ["Codes", "RunView"]

POINTS = 2000
"""Most codes in a scatter."""


class Codes(NamedTuple):
    """Codes of test images, for looking at their shape."""

    code: Float[Tensor, "n d"]
    """Flattened; posterior means where there is a posterior."""
    places: Int[Tensor, " n"]
    """Of the images in the test split."""
    centre: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    """Standard deviation of each number."""
    directions: Float[Tensor, "k d"]
    """Principal directions, orthonormal, the widest first."""
    scales: Float[Tensor, " k"]
    """Standard deviation along each."""

    @property
    def share(self) -> Float[Tensor, " k"]:
        """Share of the codes' variance along each principal direction."""
        return self.scales**2 / (self.spread**2).sum().clamp(min=1e-30)

    def project(self, k: int) -> Float[Tensor, "n k"]:
        """Coordinates along the first k principal directions."""
        return (self.code - self.centre) @ self.directions[:k].T


@dataclass(frozen=True)
class RunView:
    """A run, its model and the images it is looked at with.

    Attributes:
        run: The directory.
        model: As shipped, in evaluation mode.
        train: Training images, not augmented.
        test: Held-out images.
        evaluation: Of this model on `test`.
    """

    run: RunDir
    model: nn.Module
    train: Feed
    test: Feed
    evaluation: Evaluation

    @cached_property
    def recipe(self) -> Recipe:
        """Of what is shipped."""
        return self.run.shipped.recipe

    @property
    def info(self) -> DataInfo:
        """Of the images the model was built for."""
        return self.model.info  # type: ignore[return-value]  # every model has one

    @cached_property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def looking(self) -> tuple[int, Callable[[int, int], Moment]]:
        """Images per batch, and the draws of each batch."""
        return looking(self.info, self.recipe.train.seed, self.device)

    @property
    def moment(self) -> Moment:
        """Of everything drawn for a handful of images."""
        return self.looking[1](0, 1)

    def generator(self, use: str) -> torch.Generator:
        """Draws for one part of the page, the same in each page of this run."""
        return torch.Generator().manual_seed(derive(self.recipe.train.seed, "report", use))

    def images(self, places: Sequence[int] | Tensor) -> Float[Tensor, "n c h w"]:
        """Test images by their place in the split."""
        return self.test(torch.as_tensor(places, dtype=torch.int64), self.moment).image

    def chosen(self, n: int, use: str) -> list[int]:
        """Places of n test images drawn without looking at them, in order."""
        order = torch.randperm(len(self.test), generator=self.generator(use))
        return sorted(order[:n].tolist())

    def label(self, place: int) -> str | None:
        """The class of a test image in words; None without classes."""
        labels = self.test.images.labels
        if labels is None:
            return None
        index = int(labels[place])
        return self.info.classes[index] if index < len(self.info.classes) else str(index)

    def name(self, place: int) -> str:
        """The name of a test image."""
        return str(self.test.images.names[place])

    @cached_property
    def codes(self) -> Codes | None:
        """Codes of at most `POINTS` test images; None where the model has none or there are fewer than two."""
        model = self.model
        if not isinstance(model, Encodes) or len(self.test) < 2:
            return None
        n = min(POINTS, len(self.test), max(8, 20_000_000 // (self.evaluation.code_numbers or 1)))
        size, moment = self.looking

        def coded(batch: Batch) -> Tensor:
            return model.encode(batch.image).flatten(1).float().cpu()

        with evaluating(self.model):
            code = torch.cat([coded(batch) for batch, _ in self.test.sequence(size, moment, most=n)])
        places = torch.arange(len(code)) * len(self.test) // len(code)
        centre = code.mean(0)
        _, values, directions = _leading(code - centre, 8)
        return Codes(code, places, centre, code.std(0), directions, values / (len(code) - 1) ** 0.5)


def _leading(centred: Float[Tensor, "n d"], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first k singular triplets, signs fixed so that a page looks the same each time."""
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
