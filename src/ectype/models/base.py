"""What a model can do: callers ask for these, never for a family's name."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.errors import ModelError
from ectype.sections import DataInfo

__all__ = [
    "Draw",
    "DrawsLabels",
    "DrawsLatents",
    "DrawsPosterior",
    "Encodes",
    "Exports",
    "FromLatents",
    "Model",
    "NeedsStart",
    "Reconstructs",
    "Samples",
    "Scores",
    "Solves",
    "StandsOn",
    "StartsFromData",
    "StartsFromWeights",
    "Translates",
    "Weighs",
    "conditional",
    "evaluating",
    "has_own_codes",
    "importance_bound",
    "own_parts",
    "reconstructs_itself",
    "truncated_normal",
]

M = TypeVar("M", bound=nn.Module)


class Model(nn.Module):
    """What is trained and shipped: a module that knows which images it is for."""

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        self.info = info


Image = Float[Tensor, "b c h w"]


@runtime_checkable
class Reconstructs(Protocol):
    """Returns an image for an image."""

    def reconstruct(self, image: Image) -> Image:
        """Images in [0, 1] to images in [0, 1] of the same size."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Has a code for every image and an image for every code."""

    code_shape: tuple[int, ...]

    def encode(self, image: Image) -> Float[Tensor, " b *code"]:
        """Images in [0, 1] to their codes."""
        ...

    def decode(self, code: Float[Tensor, " b *code"]) -> Image:
        """Codes to images in [0, 1]."""
        ...


@runtime_checkable
class Translates(Protocol):
    """Makes of an image another map of its size, whatever that is."""

    def translate(self, image: Image) -> Float[Tensor, "b k h w"]:
        """Images of any size in [0, 1] to numbers in [0, 1]: a picture, or the probability of each class."""
        ...

    def pair(self, batch: Batch, moment: Moment) -> tuple[Image, Tensor]:
        """What the model is shown of a batch, and what it should make of it. Raises `ModelError` without partners."""
        ...

    def picture(self, found: Tensor) -> Float[Tensor, "b 3 h w"]:
        """What was found, or should have been, as it is shown to people: in [0, 1]."""
        ...


@runtime_checkable
class Samples(Protocol):
    """Makes images from nothing but chance."""

    def sample(self, n: int, *, label: Tensor | None = None, generator: torch.Generator | None = None) -> Image:
        """`n` images in [0, 1]."""
        ...


@runtime_checkable
class DrawsLatents(Protocol):
    """Samples by rendering latents that it draws."""

    def latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *latent"]:
        """`n` draws; with a truncation, noise beyond ± it is drawn again."""
        ...

    def render(self, latent: Float[Tensor, " n *latent"], *, label: Tensor | None = None) -> Image:
        """Images in [0, 1]; a conditional model needs the label of each."""
        ...


@runtime_checkable
class Exports(Protocol):
    """Names graphs of its own, such as one step of a sampler that takes many."""

    def exports(self) -> Mapping[str, tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]]:
        """Graphs by name: a module, examples of its inputs by name, and which of their axes may be of any length, each
        with a name. One that is called as a graph that follows from what the model can do stands in for it.
        """
        ...


@runtime_checkable
class DrawsPosterior(Protocol):
    """Has more than one image for an image."""

    def draws(self, image: Image, k: int, *, generator: torch.Generator | None = None) -> Float[Tensor, "k b c h w"]:
        """`k` images in [0, 1] for each."""
        ...


@runtime_checkable
class Solves(Protocol):
    """Samples in steps, of which fewer are faster and more are better."""

    steps: int
    solver: str
    """euler or heun."""
    guidance: float
    """How far beyond the unlabelled velocity the labelled one is followed; 1: just it."""


@runtime_checkable
class Scores(Protocol):
    """Knows, or bounds, the density of an image."""

    def log_likelihood(
        self, image: Image, *, samples: int = 1, generator: torch.Generator | None = None
    ) -> Float[Tensor, " b"]:
        """Nats per image."""
        ...


Draw = Callable[..., Tensor]
"""Called with a use and a shape [*code], gives standard normal numbers [k, b, *code]; k and b are the caller's."""


@runtime_checkable
class Weighs(Protocol):
    """Bounds the density of an image by draws of a code, each with a weight."""

    def log_weights(self, image: Image, draw: Draw) -> Float[Tensor, "k b"]:
        """Log p(x, z) − log q(z|x) in nats of each draw of z, with gradients through z."""
        ...

    def recognition(self) -> nn.Module:
        """The networks of q."""
        ...

    def generation(self) -> nn.Module:
        """The networks of p."""
        ...


AT_ONCE = 2**21
"""Numbers of images that are decoded at once by default: more no longer fit a processor's cache."""


def importance_bound(
    model: Weighs, image: Image, *, samples: int, generator: torch.Generator | None, chunk: int = AT_ONCE
) -> Float[Tensor, " b"]:
    """Log 1/k Σ w of k draws in nats (Burda et al. 2016, eq. 8): with one it is an unbiased estimate of the ELBO.

    Args:
        model: It weighs draws.
        image: In [0, 1].
        samples: Draws for each image, k.
        generator: Of the draws, made one by one: what torch draws at once depends on how much is asked for.
        chunk: Numbers of images decoded at once.
    """
    most, found = max(1, chunk // image.numel()), []
    for start in range(0, samples, most):
        k = min(most, samples - start)

        def draw(use: str, *shape: int, k: int = k) -> Tensor:
            drawn = [torch.randn(len(image), *shape, generator=generator) for _ in range(k)]
            return torch.stack(drawn).to(image.device)

        found.append(model.log_weights(image, draw))
    return torch.logsumexp(torch.cat(found), dim=0) - math.log(samples)


@runtime_checkable
class StandsOn(Protocol):
    """Makes codes of another model, which stays as it is: what that one can and cannot do is not this one's doing."""

    coder: nn.Module


def has_own_codes(model: nn.Module) -> bool:
    """Whether a model was trained to encode, and so can be at fault for its codes."""
    return isinstance(model, Encodes) and not isinstance(model, StandsOn)


def reconstructs_itself(model: nn.Module) -> TypeGuard[Reconstructs]:
    """Whether a model was trained to reconstruct, and so can be at fault for what it loses."""
    return isinstance(model, Reconstructs) and not isinstance(model, StandsOn)


def own_parts(whole: nn.Module) -> list[nn.Module]:
    """A module and all its parts but those of a coder that another run trained, which come with its weights."""
    coders = [part.coder for part in whole.modules() if isinstance(part, StandsOn)]
    borrowed = {part for coder in coders for part in coder.modules()}
    return [part for part in whole.modules() if part not in borrowed]


@runtime_checkable
class StartsFromData(Protocol):
    """Sets some of its first weights from the training images."""

    def start_from(self, mean: Float[Tensor, "c h w"], some: Callable[[], Float[Tensor, "n c h w"]]) -> None:
        """Called once, before the first step, with the mean training image and what gives some of them, in [0, 1]."""
        ...


@runtime_checkable
class StartsFromWeights(Protocol):
    """A model, or a part of one, that begins with weights that others trained.

    Building it does not ask for them: a run's own checkpoints hold them afterwards.
    """

    def start_from_weights(self) -> None:
        """Called once, before the first step. Raises `ModelError` where they cannot be had."""
        ...


@runtime_checkable
class NeedsStart(Protocol):
    """A model, or a part of one, that may be of no use unless a run starts from weights that there are."""

    def needs_start(self) -> None:
        """Called before the first step of a run that starts from nothing. Raises `ModelError` where it is of no use."""
        ...


@runtime_checkable
class DrawsLabels(Protocol):
    """Can be told the class of an image, and draws one where nobody says which."""

    conditional: bool
    """Whether this one is told."""

    def labels(self, n: int, *, generator: torch.Generator | None = None) -> Int[Tensor, " n"]:
        """`n` class indices, as frequent as among the training images."""
        ...


def conditional(model: nn.Module) -> bool:
    """Whether a model is told the class of an image."""
    return isinstance(model, DrawsLabels) and model.conditional


class FromLatents(Model):
    """Samples by rendering the latents that it draws, each with a label where it is told one.

    Attributes:
        conditional: Whether it is.
    """

    conditional: bool

    @abstractmethod
    def latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *latent"]:
        """See `DrawsLatents`."""

    @abstractmethod
    def render(self, latent: Float[Tensor, " n *latent"], *, label: Int[Tensor, " n"] | None = None) -> Image:
        """See `DrawsLatents`."""

    def labels(self, n: int, *, generator: torch.Generator | None = None) -> Int[Tensor, " n"]:
        """`n` labels, each as often as it is among the training images."""
        shares = torch.tensor(self.info.frequencies or [1.0] * len(self.info.classes))
        return torch.multinomial(shares, n, replacement=True, generator=generator)

    def sample(self, n: int, *, label: Tensor | None = None, generator: torch.Generator | None = None) -> Image:
        """`n` new images.

        Args:
            n: How many.
            label: [n] class indices; drawn by the training images' frequencies if a conditional model is given none.
            generator: Of the draws; a given one repeats them.
        """
        latent = self.latents(n, generator=generator)
        if label is None and self.conditional:
            label = self.labels(n, generator=generator)
        return self.render(latent, label=label)


def truncated_normal(
    shape: tuple[int, ...], truncation: float | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normal numbers; those beyond ±`truncation`, if given, drawn again (Brock et al. 2019).

    Drawn through the inverse of the distribution function, which is exact and needs no second try.
    """
    if truncation is None:
        return torch.randn(shape, generator=generator)
    if truncation <= 0:
        raise ModelError(f"truncation={truncation:g} must be above 0; 0.5 to 1 is usual.")
    edge = torch.special.ndtr(torch.tensor(-truncation, dtype=torch.float64))
    share = torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.special.ndtri(edge + share * (1 - 2 * edge)).float().clamp(-truncation, truncation)


@contextmanager
def evaluating(model: M) -> Iterator[M]:
    """A model in evaluation mode and without gradients, each of its parts put back afterwards as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode
