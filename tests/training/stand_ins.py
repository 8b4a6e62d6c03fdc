"""Objectives that exercise the rules of turns without being any model of ours."""

from __future__ import annotations

import torch
from torch import nn

from ectype.data.batch import Batch, Moment
from ectype.objectives.base import LossTerms, Objective, Turn
from ectype.recipe import Recipe, load_recipe
from ectype.training.distributed import World
from ectype.training.position import Position
from ectype.training.trainer import Trainer


class Pixels:
    """A feed of fixed random images; each showing adds a little noise of its moment."""

    def __init__(self, n: int = 50, size: int = 8) -> None:
        self.image = torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.image)

    def __call__(self, index: torch.Tensor, moment: Position) -> Batch:
        image = self.image[index]
        return Batch((image + 0.01 * moment.normal("augment", *image.shape)).clamp(0, 1))


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

    def score_critic(self, batch: Batch, moment: Moment) -> LossTerms:
        with torch.no_grad():
            fake = self.generator(moment.normal("z", len(batch.image), 4))
        real = batch.image.requires_grad_()
        given = self.critic(real)
        loss = nn.functional.softplus(self.critic(fake) - given).mean()
        terms = {"adversarial": (1.0, loss)}
        if moment.step % self.lazy == 0:
            slope = torch.autograd.grad(given.sum(), real, create_graph=True)[0]
            terms["R1"] = (0.5 * self.lazy, slope.flatten(1).square().sum(1).mean())
        return LossTerms(terms, {"sign": given.detach().sign().mean()})

    def adapt(self, notes: dict[str, torch.Tensor]) -> None:
        self.strength += 0.01 * notes["sign"]

    def score_generator(self, batch: Batch, moment: Moment) -> LossTerms:
        fake = self.generator(moment.normal("z", len(batch.image), 4))
        loss = nn.functional.softplus(self.critic(batch.image) - self.critic(fake)).mean()
        return LossTerms({"adversarial": (1.0, loss)})


RECIPE = load_recipe("ae", {"train.batch": 16, "train.ema_images": 64, "lr": 1e-3, "clip": 1.0, "train.images": 640})


def play(
    objective: Objective, steps: int, recipe: Recipe = RECIPE, world: World | None = None, feed: Pixels | None = None
) -> Trainer:
    """A trainer that has made so many steps."""
    trainer = Trainer(
        objective,
        feed or Pixels(),
        recipe,
        budget=640,
        device=torch.device("cpu"),
        world=world or World(),
    )
    for _ in range(steps):
        trainer.step()
    return trainer


def game(**keys) -> Game:
    torch.manual_seed(7)
    return Game(**keys)
