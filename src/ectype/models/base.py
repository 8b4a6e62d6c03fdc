"""The base class of models, and their capabilities as protocols.

Code that uses a model asks what it can do, as in `isinstance(model, Samples)`, and never which family it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeGuard, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ectype.config.schema import DataInfo
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.models.input_checks import CHECKED_METHODS, with_input_checks

__all__ = [
    "ClassConditional",
    "DrawNormal",
    "Encodes",
    "HasExportGraphs",
    "HasLogLikelihood",
    "ImportanceWeighted",
    "InitializesFromData",
    "InitializesFromPretrained",
    "LatentSampler",
    "MayRequirePretrained",
    "Model",
    "ODESampler",
    "Reconstructs",
    "Samples",
    "SamplesPosterior",
    "Translates",
    "UsesFrozenCoder",
    "evaluating",
    "is_conditional",
    "is_trained_to_encode",
    "is_trained_to_reconstruct",
    "own_modules",
]

M = TypeVar("M", bound=nn.Module)


class Model(nn.Module):
    """Base class of all models: a module that is trained, saved and loaded, and knows the images it was built for.

    Args:
        info: Shape and classes of the images.

    Attributes:
        checks_inputs: Whether the public methods check their arguments; see `ectype.models.input_checks`.
        accepts_noise: Whether inputs may leave [0, 1], because the model was trained on noisy images.
    """

    checks_inputs: bool = False
    accepts_noise: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in CHECKED_METHODS.keys() & vars(cls).keys():
            setattr(cls, name, with_input_checks(name, vars(cls)[name]))

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        self.info = info


Image = Float[Tensor, "b c h w"]


@runtime_checkable
class Reconstructs(Protocol):
    """A model that returns a reconstruction of an image."""

    def reconstruct(self, image: Image) -> Image:
        """Reconstruct images.

        Args:
            image: Images in [0, 1].

        Returns:
            Images in [0, 1] of the same size.
        """
        ...


@runtime_checkable
class Encodes(Protocol):
    """A model that maps images to codes and codes to images."""

    code_shape: tuple[int, ...]
    """Shape of the code of one image."""

    def encode(self, image: Image) -> Float[Tensor, " b *code"]:
        """Return the codes of images in [0, 1]."""
        ...

    def decode(self, code: Float[Tensor, " b *code"]) -> Image:
        """Return the images of codes, in [0, 1]."""
        ...


@runtime_checkable
class Translates(Protocol):
    """A model that maps an image to another map of the same size, such as a mask or another image."""

    def translate(self, image: Image) -> Float[Tensor, "b k h w"]:
        """Translate images.

        Args:
            image: Images of any size in [0, 1].

        Returns:
            Values in [0, 1]: an image, or the probability of each class.
        """
        ...

    def input_and_target(self, batch: Batch, context: StepContext) -> tuple[Image, Tensor]:
        """Return the input that the model gets for a batch, and the output that it should produce.

        Raises:
            ModelError: The batch has no targets.
        """
        ...

    def to_rgb(self, output: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Return an output or a target as RGB images in [0, 1], for display."""
        ...


@runtime_checkable
class Samples(Protocol):
    """A model that generates images from random noise."""

    def sample(self, n: int, *, label: Tensor | None = None, generator: torch.Generator | None = None) -> Image:
        """Return `n` generated images in [0, 1]."""
        ...


@runtime_checkable
class LatentSampler(Protocol):
    """A model that generates images in two steps: it draws latents and renders them."""

    def sample_latents(
        self, n: int, *, truncation: float | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n *latent"]:
        """Draw `n` latents; with a truncation, from a normal distribution truncated to ±`truncation`."""
        ...

    def render(self, latent: Float[Tensor, " n *latent"], *, label: Tensor | None = None) -> Image:
        """Return the images of latents, in [0, 1]; a conditional model needs a label for each."""
        ...


@runtime_checkable
class HasExportGraphs(Protocol):
    """A model that defines export graphs of its own, such as one step of a sampler that takes many."""

    def export_graphs(self) -> Mapping[str, tuple[nn.Module, dict[str, Tensor], dict[str, dict[int, str]]]]:
        """Return the graphs by name.

        A graph with the name of a default graph, such as "reconstruct", replaces it.

        Returns:
            For each name: a module, example inputs by name, and the dynamic axes of each input with their names.
        """
        ...


@runtime_checkable
class SamplesPosterior(Protocol):
    """A model that can return several different reconstructions of the same image."""

    def sample_posterior(
        self, image: Image, k: int, *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "k b c h w"]:
        """Return `k` reconstructions in [0, 1] of each image, decoded from draws of its posterior."""
        ...


@runtime_checkable
class ODESampler(Protocol):
    """A model that samples by solving an ODE: more steps take longer and are more accurate."""

    steps: int
    """Steps of the solver."""
    solver: str
    """euler or heun."""
    guidance: float
    """Scale of classifier-free guidance; 1 for none."""


@runtime_checkable
class HasLogLikelihood(Protocol):
    """A model that computes the log-likelihood of an image, or a lower bound of it."""

    def log_likelihood(
        self, image: Image, *, samples: int = 1, generator: torch.Generator | None = None
    ) -> Float[Tensor, " b"]:
        """Return the log-likelihood or its bound, in nats per image."""
        ...


DrawNormal = Callable[..., Tensor]
"""Called with a name of the use and a shape [*code], returns standard normal noise [k, b, *code].

The caller of `ImportanceWeighted.log_weights` supplies it, and decides on k and b.
"""


@runtime_checkable
class ImportanceWeighted(Protocol):
    """A model that bounds the log-likelihood of an image by weighted draws of its code."""

    def log_weights(self, image: Image, draw: DrawNormal) -> Float[Tensor, "k b"]:
        """Return log p(x, z) − log q(z|x) in nats for each draw of z, with gradients through z."""
        ...

    def inference_network(self) -> nn.Module:
        """Return the networks of q(z|x)."""
        ...

    def generative_network(self) -> nn.Module:
        """Return the networks of p(x, z)."""
        ...


@runtime_checkable
class UsesFrozenCoder(Protocol):
    """A model that works on the codes of another, frozen model, and is not responsible for the quality of these."""

    coder: nn.Module


def is_trained_to_encode(model: nn.Module) -> bool:
    """Return whether a model encodes with weights that it trained itself, so that bad codes are its own fault."""
    return isinstance(model, Encodes) and not isinstance(model, UsesFrozenCoder)


def is_trained_to_reconstruct(model: nn.Module) -> TypeGuard[Reconstructs]:
    """Return whether a model reconstructs with weights that it trained itself, so that lost detail is its own fault."""
    return isinstance(model, Reconstructs) and not isinstance(model, UsesFrozenCoder)


def own_modules(module: nn.Module) -> list[nn.Module]:
    """Return a module and its submodules, except those of frozen coders, whose weights come from another run."""
    coders = [part.coder for part in module.modules() if isinstance(part, UsesFrozenCoder)]
    frozen = {part for coder in coders for part in coder.modules()}
    return [part for part in module.modules() if part not in frozen]


@runtime_checkable
class InitializesFromData(Protocol):
    """A model that computes some of its initial weights from the training images."""

    def initialize_from_data(
        self, mean: Float[Tensor, "c h w"], get_images: Callable[[], Float[Tensor, "n c h w"]]
    ) -> None:
        """Set initial weights; called once, before the first step.

        Args:
            mean: Mean training image, in [0, 1].
            get_images: Returns a sample of the training images, in [0, 1].
        """
        ...


@runtime_checkable
class InitializesFromPretrained(Protocol):
    """A model, or a submodule, that starts from pretrained weights.

    Building it does not load them, because a checkpoint of a run replaces them anyway.
    """

    def load_pretrained_weights(self) -> None:
        """Load the weights; called once, before the first step of a run.

        Raises:
            ModelError: The weights are not available.
        """
        ...


@runtime_checkable
class MayRequirePretrained(Protocol):
    """A model, or a submodule, that with some settings is useless unless a run starts from given weights."""

    def check_trainable_from_scratch(self) -> None:
        """Check that training can start from random weights; called before the first step of a run that does.

        Raises:
            ModelError: The settings only make sense with given weights.
        """
        ...


@runtime_checkable
class ClassConditional(Protocol):
    """A model that can be conditioned on the class of an image."""

    conditional: bool
    """Whether this instance is conditional."""

    def sample_labels(self, n: int, *, generator: torch.Generator | None = None) -> Int[Tensor, " n"]:
        """Draw `n` class indices with the class frequencies of the training images."""
        ...


def is_conditional(model: nn.Module) -> bool:
    """Return whether a model is conditioned on class labels."""
    return isinstance(model, ClassConditional) and model.conditional


@contextmanager
def evaluating(model: M) -> Iterator[M]:
    """Put a model into evaluation mode without gradients, and restore the mode of every submodule afterwards.

    Input checks are off meanwhile, because this package passes valid inputs.

    Args:
        model: Any module.

    Yields:
        The same module.
    """
    modes = {module: module.training for module in model.modules()}
    checking = model if isinstance(model, Model) and model.checks_inputs else None
    model.eval()
    try:
        if checking is not None:
            checking.checks_inputs = False
        with torch.no_grad():
            yield model
    finally:
        if checking is not None:
            checking.checks_inputs = True
        for module, mode in modes.items():
            module.training = mode
