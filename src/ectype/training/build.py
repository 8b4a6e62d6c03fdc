"""Build a trainer from a recipe."""

from __future__ import annotations

import torch

from ectype.config.recipe import Recipe
from ectype.config.schema import DataInfo
from ectype.core.distributed import World
from ectype.core.random import derive_seed
from ectype.objectives.base import Objective
from ectype.training.activation_checkpointing import checkpoint_activations
from ectype.training.trainer import BatchLoader, Trainer

__all__ = ["build_trainer"]


def build_trainer(
    recipe: Recipe,
    info: DataInfo,
    loader: BatchLoader,
    *,
    budget: int,
    device: torch.device,
    world: World | None = None,
) -> Trainer:
    """Build model, objective and trainer, with freshly drawn weights.

    Args:
        recipe: A complete recipe.
        info: Describes the images.
        loader: Returns batches of training images.
        budget: Images to train on.
        device: Where to train.
        world: The processes that share the work; None for this process only.

    Raises:
        ModelError: The model cannot be built for these images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.train.seed, "weights"))
        objective = recipe.objective.build(recipe.model.build(info), info, images=budget)
    assert isinstance(objective, Objective)
    objective.to(device)
    wanted = recipe.train.channels_last
    if wanted is True or (wanted == "auto" and device.type == "cuda"):
        objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # documented, not typed
    if recipe.run.checkpoint_activations:
        for player in objective.players.values():
            checkpoint_activations(player)
    if recipe.train.compile:
        if objective.critic_phase != "whole":
            # The weight of a critic needs two backward passes, so a compiled graph must keep its buffers.
            torch._functorch.config.donated_buffer = False  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
        for part in objective.compilable_modules():
            part.compile()
    return Trainer(objective, loader, recipe, budget=budget, device=device, world=world or World())
