"""From a recipe to a trainer at its beginning."""

from __future__ import annotations

import torch

from ectype.objectives.base import Objective
from ectype.recipe import Recipe
from ectype.sections import DataInfo
from ectype.training.distributed import World
from ectype.training.position import derive
from ectype.training.recompute import recompute
from ectype.training.trainer import Feed, Trainer

__all__ = ["assemble"]


def assemble(
    recipe: Recipe, info: DataInfo, feed: Feed, *, budget: int, device: torch.device, world: World | None = None
) -> Trainer:
    """Everything that a recipe makes, where it is to be trained.

    Args:
        recipe: Complete.
        info: Of the images.
        feed: Where batches come from.
        budget: Images to train on.
        device: Where tensors lie.
        world: The processes that share the work; None for this one alone.

    Raises:
        ModelError: No such model for these images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(recipe.train.seed, "weights"))
        objective = recipe.objective.build(recipe.model.build(info), info, images=budget)
    assert isinstance(objective, Objective)
    objective.to(device)
    wanted = recipe.train.channels_last
    if wanted is True or (wanted == "auto" and device.type == "cuda"):
        objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # documented, not typed
    if recipe.run.checkpoint_activations:
        for player in objective.players.values():
            recompute(player)
    if recipe.train.compile:
        if objective.phase != "whole":
            # A critic's weight asks for gradients twice, for which a compiled graph must keep its buffers.
            torch._functorch.config.donated_buffer = False  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
        for part in objective.compilable():
            part.compile()
    return Trainer(objective, feed, recipe, budget=budget, device=device, world=world or World())
