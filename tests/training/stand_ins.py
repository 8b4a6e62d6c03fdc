"""Objectives that exercise the rules of turns without being any model of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from ectype.config.recipe import Recipe, load_recipe
from ectype.core.distributed import World
from ectype.core.random import SeededStepContext, StepContext
from ectype.data.batch import Batch
from ectype.objectives.base import LossTerms, Objective, Turn
from ectype.training.trainer import Trainer


class Pixels:
    """A feed of fixed random images; each showing adds a little noise of its moment."""

    def __init__(self, n: int = 50, size: int = 8) -> None:
        self.image = torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.image)

    def __call__(self, index: torch.Tensor, context: SeededStepContext) -> Batch:
        image = self.image[index]
        return Batch((image + 0.01 * context.normal("augment", *image.shape)).clamp(0, 1))


class Game(Objective):
    """Two players: a generator and a critic with a lazy penalty, a buffer, BatchNorm, and critic steps of its own."""

    def __init__(self, *, norm: bool = False, lazy: int = 2, steps: int = 2) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 64), nn.Unflatten(1, (1, 8, 8)))
        layers = [nn.Flatten(), nn.Linear(64, 16), *([nn.BatchNorm1d(16)] if norm else [nn.Identity()]), nn.SiLU()]
        self.critic = nn.Sequential(*layers, nn.Linear(16, 1))
        self.register_buffer("strength", torch.zeros(()))
        self.lazy = lazy
        self.players = {"critic": self.critic, "generator": self.generator}
        self.turns = [
            Turn("critic", self.score_critic, after=self.adapt),
            Turn("generator", self.score_generator, every=steps, starts=16),
        ]

    @property
    def model(self) -> nn.Module:
        return self.generator

    def score_critic(self, batch: Batch, context: StepContext) -> LossTerms:
        with torch.no_grad():
            fake = self.generator(context.normal("z", len(batch.image), 4))
        real = batch.image.requires_grad_()
        given = self.critic(real)
        loss = nn.functional.softplus(self.critic(fake) - given).mean()
        terms = {"adversarial": (1.0, loss)}
        if context.step % self.lazy == 0:
            slope = torch.autograd.grad(given.sum(), real, create_graph=True)[0]
            terms["R1"] = (0.5 * self.lazy, slope.flatten(1).square().sum(1).mean())
        return LossTerms(terms, {"sign": given.detach().sign().mean()})

    def adapt(self, notes: dict[str, torch.Tensor]) -> None:
        self.strength += 0.01 * notes["sign"]

    def score_generator(self, batch: Batch, context: StepContext) -> LossTerms:
        fake = self.generator(context.normal("z", len(batch.image), 4))
        loss = nn.functional.softplus(self.critic(batch.image) - self.critic(fake)).mean()
        return LossTerms({"adversarial": (1.0, loss)})


RECIPE = load_recipe(
    "ae", {"train.batch": 16, "train.ema_images": 64, "lr": 1e-3, "optimizer.clip": 1.0, "train.images": 640}
)


def play(
    objective: Objective, steps: int, recipe: Recipe = RECIPE, world: World | None = None, feed: Pixels | None = None
) -> Trainer:
    """A trainer that has made so many steps."""
    trainer = Trainer(
        objective, feed or Pixels(), recipe, budget=640, device=torch.device("cpu"), world=world or World()
    )
    for _ in range(steps):
        trainer.step()
    return trainer


def game(**keys) -> Game:
    torch.manual_seed(7)
    return Game(**keys)


class _Fails(torch.autograd.Function):
    """Lets a value through and fails on the way back."""

    @staticmethod
    def forward(ctx, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Short(NamedTuple):
    """A turn's score that fails with more than `most` images, once it has done its work; see `scarce`."""

    score: Callable[[Batch, StepContext], LossTerms]
    most: int
    since: int
    where: str
    piece: int

    def __call__(self, batch: Batch, context: SeededStepContext) -> LossTerms:
        found = self.score(batch, context)
        n = len(batch.image)
        if n <= self.most or context.step < self.since or context.start < self.piece * n:
            return found
        if self.where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return LossTerms({name: (weight, _Fails.apply(value)) for name, (weight, value) in found.terms.items()})


def scarce(
    objective: Game, *, most: int, since: int = 0, where: str = "forward", player: str | None = None, piece: int = 0
) -> Game:
    """An objective whose forward or backward pass runs out of memory.

    Args:
        objective: To be changed.
        most: Images that memory suffices for.
        since: Step from which it does.
        where: forward or backward.
        player: In whose turn; in all turns if not given.
        piece: Which piece of a batch fails first.
    """
    objective.turns = [
        turn._replace(score=Short(turn.score, most, since, where, piece)) if player in (None, turn.player) else turn
        for turn in objective.turns
    ]
    return objective


def same(one: Trainer, two: Trainer) -> None:
    """Every tensor of two trainers equal to the last bit."""
    a, b = one.tensors(), two.tensors()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].keys() == b[name].keys()
        for key in a[name]:
            assert torch.equal(a[name][key], b[name][key]), f"{name}: {key}"


def close(one: Trainer, two: Trainer, atol: float) -> None:
    """Weights and buffers of two trainers within so much of each other."""
    for name, group in one.tensors().items():
        if not name.startswith("optimizer"):
            for key, value in group.items():
                torch.testing.assert_close(two.tensors()[name][key], value, atol=atol, rtol=0, msg=f"{name}: {key}")
