"""Build a trainer from a recipe."""

from __future__ import annotations

import torch

from ectype.analysis.cost import format_gigabytes
from ectype.config.recipe import Recipe
from ectype.config.schema import DataInfo
from ectype.core.distributed import World
from ectype.core.errors import ModelError
from ectype.core.memory import free_memory
from ectype.core.random import derive_seed
from ectype.core.safe_loading import bounded_build
from ectype.objectives.base import Objective
from ectype.runs.model_files import CodeSampler
from ectype.training.activation_checkpointing import checkpoint_activations
from ectype.training.tensor_memory import forward_memory
from ectype.training.trainer import BatchLoader, Trainer

__all__ = ["build_trainer", "check_model_fits"]

LARGE_IMAGE_ELEMENTS = 2**20
"""Images with more elements may need more memory than there is, one at a time."""


def check_model_fits(recipe: Recipe, info: DataInfo, device: torch.device) -> None:
    """Check, before memory is allocated, that a model and one image fit into the memory that is free.

    Args:
        recipe: A complete recipe.
        info: Describes the images.
        device: Where to train.

    Raises:
        ModelError: They do not, or the model is larger than a saved model may be.
    """
    with torch.random.fork_rng(devices=[]), bounded_build("this recipe", ModelError):
        model = recipe.model.build(info)
    if recipe.train.prior != "none" and not isinstance(model, CodeSampler):
        raise ModelError(
            f"train.prior={recipe.train.prior} needs an autoencoder, and {recipe.about.name} has no codes: "
            "set prior=none."
        )
    if (free := free_memory(device)) is None:
        return
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # Weights and gradients, one or two averages of gradients, and averaged weights.
    copies = 2 + (1 if recipe.optimizer.name == "sgd" else 2) + bool(recipe.train.ema_images)
    needs = {f"{parameters:,} parameters with gradients and optimizer state": 4 * parameters * copies}
    if info.num_elements > LARGE_IMAGE_ELEMENTS:
        needs[f"one image of {info.size[1]}×{info.size[0]} pixels in the model"] = forward_memory(model)
    for what, needed in needs.items():
        if needed > free:
            raise ModelError(
                f"{what} needs {format_gigabytes(needed)} of memory, and {format_gigabytes(free)} are free: choose a "
                "smaller data.size, or a smaller model."
            )


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
        ModelError: The model cannot be built for these images, or does not fit into memory.
    """
    check_model_fits(recipe, info, device)
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
