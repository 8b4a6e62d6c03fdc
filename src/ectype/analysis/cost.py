"""The cost of a model: parameters, operations per image and compression, computed without images or weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ectype.config.recipe import Recipe
from ectype.config.schema import DataInfo, Target
from ectype.core.errors import EctypeError, ModelError
from ectype.core.optional import optional_import
from ectype.evaluation.figures import format_number
from ectype.models.base import Encodes, evaluating
from ectype.models.flop import count_flops, main_operation
from ectype.objectives.base import Objective

__all__ = ["Cost", "assumed_info", "cost", "format_gflop", "format_gigabytes", "layers"]

ASSUMED_SIDE_PX = 64
"""Side of images if a recipe takes the size from the images."""
ASSUMED_CLASSES = 10
"""Number of classes of a conditional model."""


class Cost(NamedTuple):
    """The cost of a recipe's model.

    Attributes:
        info: The images that the cost is computed for.
        assumed: Whether the recipe takes the size or the channels from the images, so that they are assumed here.
        parameters: Parameters of the model that is saved.
        players: Parameters of each player in training; empty if the objective cannot be built here.
        operation: The operation that `flop` counts, such as "reconstruct"; empty if there is none.
        flop: Floating-point operations for one image, two per multiply-add; None if the model has no such operation.
        code_elements: Dimensions of the code; None if the model has no codes.
    """

    info: DataInfo
    assumed: bool
    parameters: int
    players: dict[str, int]
    operation: str
    flop: int | None
    code_elements: int | None

    def lines(self) -> list[str]:
        """Return the cost as text, one line for each figure."""
        height, width = self.info.size
        channels = "1 channel" if self.info.channels == 1 else f"{self.info.channels} channels"
        assumed = " (assumed; in training the images decide, here size=… and channels=…)" if self.assumed else ""
        lines = [f"At {width}×{height} px, {channels}{assumed}:", f"parameters: {self.parameters:,}"]
        if len(self.players) > 1:
            lines.append("players: " + ", ".join(f"{name} {n:,}" for name, n in self.players.items()))
        if self.flop is not None:
            lines.append(f"GFLOP per image: {format_gflop(self.flop, self.operation)}")
        if self.code_elements is not None:
            ratio = format_number(self.info.num_elements / self.code_elements)
            sizes = f"{self.info.num_elements:,} image values ÷ {self.code_elements:,} code dimensions"
            lines.append(f"compression: {sizes} = {ratio}")
        return lines


def format_gflop(flop: int, operation: str) -> str:
    """Format floating-point operations in billions, with the operation that they are counted for."""
    return f"{format_number(flop / 1e9)} ({operation}; 2 per multiply-add)"


def format_gigabytes(size: int) -> str:
    """Format a number of bytes in gigabytes.

    >>> format_gigabytes(1_234_567_890)
    '1.23 GB'
    """
    return f"{size / 1e9:.2f} GB"


def cost(recipe: Recipe) -> Cost:
    """Compute what a recipe's model costs, without allocating weights or computing an image.

    Args:
        recipe: If it takes size and channels from the images, 64×64 pixels and three channels are assumed. A
            conditional model gets ten classes, and masks have two.

    Returns:
        The cost; see `Cost.lines` for its text.

    Raises:
        ModelError: The model cannot be built at this size.

    Example:
        >>> from ectype.config.recipe import load_recipe
        >>> found = cost(load_recipe("ae-linear", {"size": 28, "channels": 1}))
        >>> found.parameters, found.code_elements
        (32164, 20)
        >>> print(found.lines()[-1])
        compression: 784 image values ÷ 20 code dimensions = 39.20
    """
    info = assumed_info(recipe)
    with _fake_tensors():
        built = recipe.model.build(info)
        try:
            objective = recipe.objective.build(built, info, images=recipe.train.images)
            assert isinstance(objective, Objective)
            model = objective.model
            players = {name: _num_parameters(player) for name, player in objective.players.items()}
        except EctypeError:  # a loss needs weights that are not installed; the model is the same without it
            model, players = built, {}
        counted = count_flops(model)
    return Cost(
        info=info,
        assumed=recipe.data.fixed_size is None or recipe.data.channels == "auto",
        parameters=_num_parameters(model),
        players=players,
        operation=counted[0] if counted is not None else "",
        flop=counted[1] if counted is not None else None,
        code_elements=math.prod(model.code_shape) if isinstance(model, Encodes) else None,
    )


def layers(recipe: Recipe) -> str:
    """Return torchinfo's table of a model's layers: output shapes for one image, kernels and parameters.

    Raises:
        ModelError: The model cannot be built at this size, or torchinfo is not installed.
    """
    summary = optional_import("torchinfo", "layers", "--layers").summary
    model = recipe.model.build(assumed_info(recipe))  # torchinfo moves the model, which fake tensors do not allow
    if (found := main_operation(model)) is None:
        raise ModelError("this model neither reconstructs, translates nor samples, so its layers cannot be traced.")
    with evaluating(model):
        shown = summary(
            _Callable(model, found[1]),
            input_data=[torch.zeros(1)],
            col_names=("output_size", "kernel_size", "num_params"),
            depth=16,
            device="cpu",
            verbose=0,
        )
    # The totals below the table are left out: torchinfo counts operations only of layers whose names it knows.
    _, heading, rows, *_ = (part.strip("\n") for part in str(shown).split("=" * shown.formatting.get_total_width()))
    return f"{heading}\n{rows}"


class _Callable(nn.Module):
    """A model's main operation as a forward pass that ignores its input."""

    def __init__(self, model: nn.Module, operation: Callable[[], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.operation = operation

    def forward(self, _: Tensor) -> Tensor:
        return self.operation()


def assumed_info(recipe: Recipe) -> DataInfo:
    """Return the images that a recipe is built for if there are none to look at; see `cost`."""
    data = recipe.data
    return DataInfo(
        channels=3 if data.channels == "auto" else data.channels,
        size=data.fixed_size or (ASSUMED_SIDE_PX, ASSUMED_SIDE_PX),
        classes=tuple(map(str, range(ASSUMED_CLASSES))),
        frequencies=(1 / ASSUMED_CLASSES,) * ASSUMED_CLASSES,
        binary=data.binarise != "none",
        target=_assumed_target(data.pairs),
    )


def _assumed_target(pairs: str) -> Target | None:
    """Return masks of two classes, or color images."""
    if pairs in ("masks", "alpha"):
        return Target("masks", 1, ("0", "1"), (0.5, 0.5), ((0, 0, 0), (255, 255, 255)))
    return Target("images", 3) if pairs == "images" else None


@contextmanager
def _fake_tensors() -> Iterator[None]:
    """Create tensors that have a shape and a device, but no memory, and compute nothing."""
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
