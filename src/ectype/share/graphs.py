"""What a model can be taken apart into: graphs of tensors, found by what it can do, and held against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ectype.errors import ModelError
from ectype.models.base import (
    DrawsLabels,
    DrawsLatents,
    Encodes,
    Exports,
    Model,
    Reconstructs,
    Samples,
    Translates,
    evaluating,
)
from ectype.models.densities import Density
from ectype.training.shipped import DrawsCodes

__all__ = ["LIMIT", "Graph", "Named", "Sampler", "Taken", "batches", "compared", "graphs_of", "sampler_of"]

LIMIT = 1e-3
"""Most that a number of an exported graph may differ from that of the model: a quarter of a grey level."""


class Named(NamedTuple):
    """A graph that a model names itself."""

    module: nn.Module
    """Called with the inputs in their order, gives one tensor."""
    inputs: dict[str, Tensor]
    """Examples by name, of two images or more."""
    axes: dict[str, dict[int, str]]
    """Which axes of an input may be of any length, each with a name; the same name is the same length."""


@dataclass
class Graph:
    """A part of a model, with what it is tried on."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    """Of as many images as there are to try it on."""
    axes: dict[str, dict[int, str]]
    """Of each input, the axes that may be of any length."""
    output: str
    spatial: bool = False
    """Whether its first input is an image or a map whose height and width might be of any length too."""
    step: int = 64
    """Of such an input: what a height or width is raised to a multiple of, to try another."""


@dataclass
class Sampler:
    """How new images come from a graph."""

    graph: str
    latent: tuple[int, ...]
    """Shape of one draw."""
    density: str
    """What it is drawn from by itself: normal, or one of `densities`."""
    densities: dict[str, Density] = field(default_factory=dict)
    """Those that were fitted, for the latents."""
    labels: bool = False
    """Whether the graph is told a class as well."""


class Taken(nn.Module):
    """A method of a model as a module."""

    def __init__(self, model: nn.Module, does: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.does = model, does

    def forward(self, *given: Tensor) -> Tensor:
        """What the method makes of it."""
        return self.does(*given)


def graphs_of(model: Model, images: Float[Tensor, "b c h w"]) -> list[Graph]:
    """All graphs of a model.

    Args:
        model: In evaluation mode, on the CPU.
        images: Held-out ones, in [0, 1], two or more: what the graphs are tried on.

    Raises:
        ModelError: It can do nothing that a graph would be of.
    """
    named = {name: Named(*parts) for name, parts in model.exports().items()} if isinstance(model, Exports) else {}
    found: list[Graph] = []
    with evaluating(model):
        if isinstance(model, Encodes):
            found.append(_image(model, "encode", model.encode, images, "code"))
            code, flat = model.encode(images), len(model.code_shape) < 3
            found.append(
                Graph("decode", Taken(model, model.decode), {"code": code}, _any("code"), "image", not flat, 8)
            )
        if isinstance(model, Reconstructs):
            found.append(_image(model, "reconstruct", model.reconstruct, images, "reconstruction"))
        if isinstance(model, Translates):
            found.append(_image(model, "translate", model.translate, images, "translation"))
        if "sample" not in named and (sampler := sampler_of(model)) and sampler.graph == "sample":
            found.append(_sample(model, sampler, len(images)))
    found = [graph for graph in found if graph.name not in named]
    found += [Graph(name, each.module, each.inputs, each.axes, "output") for name, each in named.items()]
    if not found:
        raise ModelError("this model has nothing to export: it neither makes images nor takes any.")
    return found


def _any(name: str) -> dict[str, dict[int, str]]:
    return {name: {0: "batch"}}


def _image(model: Model, name: str, does: Callable[[Tensor], Tensor], images: Tensor, output: str) -> Graph:
    return Graph(name, Taken(model, does), {"image": images}, _any("image"), output, spatial=True)


def sampler_of(model: Model) -> Sampler | None:
    """How new images come from a model's graphs; None where chance enters otherwise than by one draw."""
    if not isinstance(model, DrawsLatents) or not isinstance(model, Samples):
        return None
    generator = torch.Generator().manual_seed(0)
    latent = model.latents(2, generator=generator)
    labels = isinstance(model, DrawsLabels) and model.conditional
    if not isinstance(model, DrawsCodes):
        return Sampler("sample", tuple(latent.shape[1:]), "normal", labels=labels)
    fitted = {name: density for name, density in model.densities.items() if next(density.buffers(), None) is not None}
    with evaluating(model):
        # A codebook's nearest entries are what makes a difference here.
        decodes = isinstance(model, Encodes) and torch.equal(model.decode(latent), model.render(latent))
    return Sampler("decode" if decodes else "sample", tuple(latent.shape[1:]), model.density, fitted, labels)


def _sample(model: Model, sampler: Sampler, n: int) -> Graph:
    assert isinstance(model, DrawsLatents)
    generator, render = torch.Generator().manual_seed(0), model.render
    inputs, axes = {"latent": model.latents(n, generator=generator)}, _any("latent")
    if not sampler.labels:
        return Graph("sample", Taken(model, render), inputs, axes, "image")
    assert isinstance(model, DrawsLabels)
    inputs["label"] = model.labels(n, generator=generator)
    told = Taken(model, lambda latent, label: render(latent, label=label))
    return Graph("sample", told, inputs, axes | _any("label"), "image")


def batches(graph: Graph) -> Iterator[dict[str, Tensor]]:
    """The inputs of a graph as one image, as three, and as all there are."""
    several = [name for name, axes in graph.axes.items() if 0 in axes]
    whole = min((len(graph.inputs[name]) for name in several), default=0)
    for n in sorted({1, min(3, whole), whole} - {0}):
        yield {name: value[:n] if name in several else value for name, value in graph.inputs.items()}


def compared(graph: Graph, run: Callable[[dict[str, Tensor]], Tensor]) -> float:
    """The largest difference between a graph and what it was exported to, over batches of several sizes.

    Raises:
        ModelError: It is beyond `LIMIT`, or the shapes differ.
    """
    most = 0.0
    for inputs in batches(graph):
        most = max(most, difference(graph, inputs, run))
    if not most <= LIMIT:
        raise ModelError(
            f"the exported graph '{graph.name}' differs from the model by {most:.1e} on held-out images, {LIMIT:g} is "
            "the most: nothing was kept; report it, with the recipe, or export --to safetensors."
        )
    return most


def difference(graph: Graph, inputs: dict[str, Tensor], run: Callable[[dict[str, Tensor]], Tensor]) -> float:
    """The largest difference on given inputs; infinite where shapes differ or a number is none."""
    with evaluating(graph.module):
        wanted = graph.module(*inputs.values())
    found = run(inputs)
    if found.shape != wanted.shape:
        return float("inf")
    gap = (found.double() - wanted.double()).abs().max()
    return float(gap) if gap.isfinite() else float("inf")
