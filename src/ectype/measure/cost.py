"""What a model costs: parameters, arithmetic for an image, numbers kept of it, memory of a training step."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ectype.data.batch import Batch
from ectype.errors import EctypeError, ModelError, TrainingError
from ectype.measure.evaluation import number
from ectype.models.base import Encodes, Reconstructs, Samples, Translates, evaluating
from ectype.objectives.base import Objective
from ectype.recipe import Recipe, load_recipe
from ectype.sections import DataInfo, Target
from ectype.training.assemble import assemble
from ectype.training.distributed import choose_device
from ectype.training.environment import numerics
from ectype.training.memory import peak_memory
from ectype.training.position import Position

__all__ = ["Cost", "Memory", "cost", "flop", "gigabytes", "gigaflop", "layers", "step_memory"]

SIDE = 64
"""Pixels of a side where a recipe leaves the size to the images."""
CLASSES = 10
"""Classes that a conditional model is told of."""


class Cost(NamedTuple):
    """What can be told of a recipe without images and without computing."""

    info: DataInfo
    """What it was asked of."""
    assumed: bool
    """Whether the recipe leaves the size or the channels to the images."""
    parameters: int
    """Of the model that is shipped."""
    players: dict[str, int]
    """Parameters of each player of the training; empty where it cannot be built here."""
    use: str
    """What the arithmetic is counted of."""
    flop: int | None
    code_numbers: int | None
    """None where the model has no codes."""

    def lines(self) -> list[str]:
        """In words, a line for each figure."""
        height, width = self.info.size
        channels = "1 channel" if self.info.channels == 1 else f"{self.info.channels} channels"
        left = "; its images decide, and size=… channels=… here" if self.assumed else ""
        said = [f"At {width}×{height} px, {channels}{left}:", f"parameters: {self.parameters:,}"]
        if len(self.players) > 1:
            said.append("players: " + ", ".join(f"{name} {n:,}" for name, n in self.players.items()))
        if self.flop is not None:
            said.append(f"GFLOP per image: {gigaflop(self.flop, self.use)}")
        if self.code_numbers is not None:
            ratio = number(self.info.numbers / self.code_numbers)
            said.append(f"compression: {self.info.numbers:,} numbers in ÷ {self.code_numbers:,} kept = {ratio}")
        return said


def gigaflop(flop: int, use: str) -> str:
    """Floating-point operations for people."""
    return f"{number(flop / 1e9)} ({use}; 2 per multiply-add)"


def gigabytes(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.2f} GB"


def cost(recipe: Recipe) -> Cost:
    """What a recipe's model costs at the recipe's size, without drawing a weight or computing an image.

    Where the recipe leaves them open, images are of 64×64 pixels in three channels; a conditional model is told of ten
    classes, masks have two.

    Raises:
        ModelError: No such model at that size.
    """
    info = _info(recipe)
    with _unreal():
        built = recipe.model.build(info)
        try:
            objective = recipe.objective.build(built, info, images=recipe.train.images)
            assert isinstance(objective, Objective)
            model, players = objective.model, {name: _numbers(one) for name, one in objective.players.items()}
        except EctypeError:  # a loss whose own network is not here: the model is the same without it
            model, players = built, {}
        found = flop(model)
    return Cost(
        info=info,
        assumed=recipe.data.sides is None or recipe.data.channels == "auto",
        parameters=_numbers(model),
        players=players,
        use=found[0] if found is not None else "",
        flop=found[1] if found is not None else None,
        code_numbers=math.prod(model.code_shape) if isinstance(model, Encodes) else None,
    )


def flop(model: nn.Module) -> tuple[str, int] | None:
    """Floating-point operations of a model's main use for one image, two for each multiply-add, and which use that is.

    Counted of convolutions, products of matrices and attention, as PyTorch dispatches them; the rest is little beside
    them.

    Returns:
        None where it neither reconstructs, translates nor samples.
    """
    if (found := _main_use(model)) is None:
        return None
    name, use = found
    # Kernels that fuse attention differ between devices, and not all are known to the counter.
    with evaluating(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        use()
    return name, counter.get_total_flops()


def layers(recipe: Recipe) -> str:
    """A table of the model's layers, by torchinfo: shapes for one image, kernels and parameters.

    Raises:
        ModelError: No such model at that size, or torchinfo is not installed.
    """
    if importlib.util.find_spec("torchinfo") is None:
        raise ModelError("--layers needs torchinfo: pip install 'ectype[layers]'.")
    from torchinfo import summary

    model = recipe.model.build(_info(recipe))  # torchinfo moves it, which what is unreal does not bear
    if (found := _main_use(model)) is None:
        raise ModelError("this model neither reconstructs, translates nor samples: there is no way through its layers.")
    with evaluating(model):
        shown = summary(
            _Callable(model, found[1]),
            input_data=[torch.zeros(1)],
            col_names=("output_size", "kernel_size", "num_params"),
            depth=16,
            device="cpu",
            verbose=0,
        )
    # What follows the table are guesses: torchinfo counts the arithmetic of layers whose names it knows.
    _, heading, rows, *_ = (part.strip("\n") for part in str(shown).split("=" * shown.formatting.get_total_width()))
    return f"{heading}\n{rows}"


class _Callable(nn.Module):
    """A model's main use as a forward pass, whatever is given."""

    def __init__(self, model: nn.Module, use: Callable[[], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.use = use

    def forward(self, _: Tensor) -> Tensor:
        return self.use()


def _main_use(model: nn.Module) -> tuple[str, Callable[[], Tensor]] | None:
    """What a model is shipped for, on one image."""
    if isinstance(model, Reconstructs):
        return "reconstruct", lambda: model.reconstruct(_blank(model))
    if isinstance(model, Translates):
        return "translate", lambda: model.translate(_blank(model))
    if isinstance(model, Samples):
        return "sample", lambda: model.sample(1, generator=torch.Generator().manual_seed(0))
    return None


def _blank(model: nn.Module) -> Tensor:
    """One image of nothing, where the model is."""
    info: DataInfo = model.info  # type: ignore[assignment]  # every model has one
    return torch.zeros(1, *info.shape, device=next(model.parameters()).device)


def _info(recipe: Recipe) -> DataInfo:
    data = recipe.data
    classes = tuple(map(str, range(CLASSES)))
    return DataInfo(
        channels=3 if data.channels == "auto" else data.channels,
        size=data.sides or (SIDE, SIDE),
        classes=classes,
        frequencies=(1 / CLASSES,) * CLASSES,
        binary=data.binarise != "none",
        target=_target(data.pairs),
    )


def _target(pairs: str) -> Target | None:
    """Masks of two classes, or pictures in colour."""
    if pairs == "masks":
        return Target("masks", 1, ("0", "1"), (0.5, 0.5), ((0, 0, 0), (255, 255, 255)))
    return Target("images", 3) if pairs == "images" else None


@contextmanager
def _unreal() -> Iterator[None]:
    """Tensors made here have a shape and a device, no memory, and nothing is computed of them."""
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ── Memory ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Memory(NamedTuple):
    """What training takes, in bytes."""

    peak: int
    """All that the process held; on CUDA what PyTorch had allocated there."""
    before: int
    """The same before there was a model: PyTorch itself."""
    images: int
    """At a time: one, or the fewest that the nets can be trained on."""

    def line(self) -> str:
        """In words."""
        many = "1 image" if self.images == 1 else f"{self.images} images"
        return (
            f"peak memory of a training step with {many} at a time: {gigabytes(self.peak)}, "
            f"{gigabytes(self.before)} of it before there is a model"
        )


def step_memory(recipe: Recipe) -> Memory:
    """Peak memory of a training step, measured in a process of its own: the second of two, every player moving.

    Raises:
        TrainingError: The steps failed.
    """
    command = [sys.executable, "-c", "from ectype.measure.cost import _measure; _measure()"]
    done = subprocess.run(command, input=recipe.yaml(), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]
        raise TrainingError(f"no training step could be measured: {last.removeprefix('ectype.errors.')}")
    return Memory(*map(int, done.stdout.split()[-3:]))


class _Noise:
    """A feed of images that are nothing but noise."""

    def __init__(self, info: DataInfo, device: torch.device) -> None:
        self.info, self.device = info, device

    def __len__(self) -> int:
        return CLASSES

    def __call__(self, index: Int[Tensor, " b"], moment: Position) -> Batch:
        image = moment.uniform("image", len(index), *self.info.shape)
        target = None
        if self.info.target is not None:
            drawn = moment.uniform("target", len(index), self.info.target.channels, *self.info.size)
            target = drawn.round().long()[:, 0] if self.info.target.kind == "masks" else drawn
        return Batch(image.round() if self.info.binary else image, index.to(self.device), target)


def _measure() -> None:
    """In a process of its own: a recipe on standard input, `Memory` on standard output."""
    import yaml

    recipe = load_recipe(yaml.safe_load(sys.stdin.read()))
    info, device, budget = _info(recipe), choose_device(recipe.run.device), recipe.train.images
    before = peak_memory(device) or 0
    with numerics(recipe):
        for images in (1, 2, 4, 8):
            one = recipe.override({"train.batch": images, "run.micro_batch": images})
            trainer = assemble(one, info, _Noise(info, device), budget=budget, device=device)
            trainer.objective.rehearse()
            try:
                for _ in range(2):  # the second beside the state that the optimizers made in the first
                    # At the end of the budget every turn has begun, and at step 0 each is due.
                    trainer.seen, trainer.step_count = budget, 0
                    trainer.step()
            except (EctypeError, ValueError):  # BatchNorm wants more than one image, a packed critic several
                if images == 8:
                    raise
                continue
            print(peak_memory(device) or 0, before, images)
            return
