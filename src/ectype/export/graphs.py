"""The graphs that a model is exported as, found by what it can do, and their comparison with the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ectype.core.errors import ModelError
from ectype.evaluation.metrics.error_maps import error_maps
from ectype.models.base import (
    ClassConditional,
    Encodes,
    HasExportGraphs,
    LatentSampler,
    Model,
    Reconstructs,
    Samples,
    Translates,
    evaluating,
)
from ectype.models.densities import Density
from ectype.runs.model_files import FLOW, CodeSampler, default_density

__all__ = [
    "MAX_DIFFERENCE",
    "AnomalyScores",
    "Graph",
    "MethodModule",
    "MixtureSampler",
    "NamedGraph",
    "Sampler",
    "check_graph",
    "example_batches",
    "graphs_of",
    "is_gaussian_mixture",
    "max_difference",
    "sampler_of",
]

MAX_DIFFERENCE = 1e-3
"""Maximum difference between an exported graph and the model: a quarter of a gray level."""


class NamedGraph(NamedTuple):
    """A graph that a model defines itself."""

    module: nn.Module
    """Called with the inputs in their order; returns one tensor."""
    inputs: dict[str, Tensor]
    """Example inputs by name, for at least two images."""
    axes: dict[str, dict[int, str]]
    """The dynamic axes of each input, with a name; axes of the same name have the same length."""


@dataclass
class Graph:
    """A part of a model, with example inputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    """Example inputs by name, for all images on which the graph is compared with the model."""
    axes: dict[str, dict[int, str]]
    """The dynamic axes of each input, with a name."""
    output: str
    """Name of the output."""
    spatial: bool = False
    """Whether the first input is an image or a map whose height and width may be dynamic, too."""
    step: int = 64
    """For a spatial graph: other sizes are tried at multiples of this."""


@dataclass
class Sampler:
    """How new images are sampled with a graph."""

    graph: str
    """Name of the graph."""
    latent: tuple[int, ...]
    """Shape of one latent."""
    density: str
    """What latents are drawn from by default: normal, or one of `densities`."""
    densities: dict[str, Density] = field(default_factory=dict)
    """Densities of the latents that were fitted."""
    labels: bool = False
    """Whether the graph has a second input, the class index."""

    @property
    def mixture(self) -> Density | None:
        """The default density if it is a mixture of Gaussians that was fitted."""
        density = self.densities.get(self.density)
        return density if density is not None and is_gaussian_mixture(density) else None


class MethodModule(nn.Module):
    """A method of a model as a module."""

    def __init__(self, model: nn.Module, method: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the method."""
        return self.method(*inputs)


class AnomalyScores(nn.Module):
    """The two scores of an image that `ectype score` computes: the mean squared error, and the largest local error."""

    def __init__(self, model: Reconstructs) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 2"]:
        """Reconstruct images, and return their errors."""
        found = error_maps(image, self.model.reconstruct(image))
        return torch.stack([found.mean, found.peak], 1)


class MixtureSampler(nn.Module):
    """Images from standard normal noise, by a mixture of Gaussians over latents that was fitted.

    Args:
        model: The model that renders latents.
        density: A density whose state is `weights`, `means`, `factors` and `diagonals`.
        shape: Shape of one latent.
    """

    def __init__(self, model: LatentSampler, density: Density, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.shape = model, shape
        state = density.state_dict()
        self.means, self.factors = (nn.Buffer(state[key].float()) for key in ("means", "factors"))
        self.scales = nn.Buffer(state["diagonals"].float().sqrt())

    @property
    def noise_length(self) -> int:
        """Standard normal numbers for each image: one for each dimension, and the mixture's rank."""
        return self.means.shape[1] + self.factors.shape[2]

    def forward(self, noise: Float[Tensor, "b m"], component: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Return one image for each row of noise, whose latent is from the component of this index."""
        dimensions = self.means.shape[1]
        diagonal, low_rank = noise[:, :dimensions], noise[:, dimensions:]
        latent = self.means[component] + self.scales[component] * diagonal
        latent = latent + (self.factors[component] @ low_rank[:, :, None])[:, :, 0]
        return self.model.render(latent.view(-1, *self.shape))


def is_gaussian_mixture(density: Density) -> bool:
    """Return whether a density is a mixture of Gaussians, which can be sampled without Ectype."""
    return set(density.state_dict()) == {"weights", "means", "factors", "diagonals"}


def graphs_of(model: Model, images: Float[Tensor, "b c h w"], *, scores: bool = False) -> list[Graph]:
    """Return all graphs of a model.

    Args:
        model: The model, in evaluation mode, on the CPU.
        images: At least two held-out images in [0, 1], on which the graphs are compared with the model.
        scores: Whether to include the scores of a model that reconstructs.

    Raises:
        ModelError: The model has no graphs.
    """
    named = (
        {name: NamedGraph(*parts) for name, parts in model.export_graphs().items()}
        if isinstance(model, HasExportGraphs)
        else {}
    )
    result: list[Graph] = []
    with evaluating(model):
        if isinstance(model, Encodes):
            result.append(_image_graph(model, "encode", model.encode, images, "code"))
            code, flat = model.encode(images), len(model.code_shape) < 3
            decode = MethodModule(model, model.decode)
            result.append(Graph("decode", decode, {"code": code}, _batch_axis("code"), "image", not flat, 8))
        if isinstance(model, Reconstructs):
            result.append(_image_graph(model, "reconstruct", model.reconstruct, images, "reconstruction"))
            if scores:
                axes = _batch_axis("image")
                result.append(Graph("score", AnomalyScores(model), {"image": images}, axes, "scores"))
        if isinstance(model, Translates):
            result.append(_image_graph(model, "translate", model.translate, images, "translation"))
        if "sample" not in named and (sampler := sampler_of(model)) is not None:
            if sampler.graph == "sample":
                result.append(_sample_graph(model, sampler, len(images)))
            elif (mixture := sampler.mixture) is not None:
                result.append(_mixture_graph(model, sampler, mixture, len(images)))
    result = [graph for graph in result if graph.name not in named]
    result += [Graph(name, each.module, each.inputs, each.axes, "output") for name, each in named.items()]
    if not result:
        raise ModelError("this model has nothing to export: it has no method that takes or returns images.")
    return result


def _batch_axis(name: str) -> dict[str, dict[int, str]]:
    return {name: {0: "batch"}}


def _image_graph(model: Model, name: str, method: Callable[[Tensor], Tensor], images: Tensor, output: str) -> Graph:
    return Graph(name, MethodModule(model, method), {"image": images}, _batch_axis("image"), output, spatial=True)


def sampler_of(model: Model) -> Sampler | None:
    """Return how new images are sampled with the graphs of a model; None if it does not sample from one latent."""
    if not isinstance(model, LatentSampler) or not isinstance(model, Samples):
        return None
    generator = torch.Generator().manual_seed(0)
    latent = model.sample_latents(2, generator=generator)
    labels = isinstance(model, ClassConditional) and model.conditional
    if not isinstance(model, CodeSampler):
        return Sampler("sample", tuple(latent.shape[1:]), "normal", labels=labels)
    densities = {
        name: density for name, density in model.densities.items() if next(density.buffers(), None) is not None
    }
    with evaluating(model):
        # They differ for a codebook, since `decode` replaces latents by the nearest entries.
        decodes = isinstance(model, Encodes) and torch.equal(model.decode(latent), model.render(latent))
    # A flow is not exported: what the model would sample from without it stands in.
    density = default_density(model, flow=False) if model.density == FLOW else model.density
    return Sampler("decode" if decodes else "sample", tuple(latent.shape[1:]), density, densities, labels)


def _sample_graph(model: Model, sampler: Sampler, n: int) -> Graph:
    assert isinstance(model, LatentSampler)
    generator, render = torch.Generator().manual_seed(0), model.render
    inputs, axes = {"latent": model.sample_latents(n, generator=generator)}, _batch_axis("latent")
    if not sampler.labels:
        return Graph("sample", MethodModule(model, render), inputs, axes, "image")
    assert isinstance(model, ClassConditional)
    inputs["label"] = model.sample_labels(n, generator=generator)
    conditional = MethodModule(model, lambda latent, label: render(latent, label=label))
    return Graph("sample", conditional, inputs, axes | _batch_axis("label"), "image")


def _mixture_graph(model: Model, sampler: Sampler, density: Density, n: int) -> Graph:
    assert isinstance(model, LatentSampler)
    module, generator = MixtureSampler(model, density, sampler.latent), torch.Generator().manual_seed(0)
    noise = torch.randn(n, module.noise_length, generator=generator)
    component = torch.arange(n) % len(module.means)
    axes = _batch_axis("noise") | _batch_axis("component")
    return Graph("sample", module, {"noise": noise, "component": component}, axes, "image")


def example_batches(graph: Graph) -> Iterator[dict[str, Tensor]]:
    """Yield the example inputs of a graph for one image, for three, and for all images."""
    batched = [name for name, axes in graph.axes.items() if 0 in axes]
    total = min((len(graph.inputs[name]) for name in batched), default=0)
    for n in sorted({1, min(3, total), total} - {0}):
        yield {name: value[:n] if name in batched else value for name, value in graph.inputs.items()}


def check_graph(graph: Graph, run: Callable[[dict[str, Tensor]], Tensor]) -> float:
    """Return the largest difference between a graph and its exported form, over batches of several sizes.

    Args:
        graph: The graph.
        run: Calls the exported graph with inputs by name.

    Raises:
        ModelError: The difference is larger than `MAX_DIFFERENCE`, or shapes differ.
    """
    difference = 0.0
    for inputs in example_batches(graph):
        difference = max(difference, max_difference(graph, inputs, run))
    if not difference <= MAX_DIFFERENCE:
        raise ModelError(
            f"the exported graph '{graph.name}' differs from the model by {difference:.1e} on held-out images, at most "
            f"{MAX_DIFFERENCE:g} is allowed: nothing was written; report it with the recipe, or use --to safetensors."
        )
    return difference


def max_difference(graph: Graph, inputs: dict[str, Tensor], run: Callable[[dict[str, Tensor]], Tensor]) -> float:
    """Return the largest difference for these inputs; infinite if shapes differ or a value is not finite."""
    with evaluating(graph.module):
        expected = graph.module(*inputs.values())
    actual = run(inputs)
    if actual.shape != expected.shape:
        return float("inf")
    difference = (actual.double() - expected.double()).abs().max()
    return float(difference) if difference.isfinite() else float("inf")
