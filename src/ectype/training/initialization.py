"""Initial weights: from the data, or from another run."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ectype.core.errors import RunError
from ectype.data.dataset import ImageStore
from ectype.data.loader import evenly_spaced
from ectype.evaluation.metrics.image_errors import num_baseline_images
from ectype.nets.diffusers_weights import find_diffusers_folder, load_diffusers_weights
from ectype.objectives.base import HasTrainingProgress
from ectype.runs import checkpoint
from ectype.runs.load import load
from ectype.training.trainer import Trainer

__all__ = ["load_initial_weights", "mean_image", "sample_images"]


def mean_image(store: ImageStore) -> Tensor:
    """Return the mean [c, h, w] in [0, 1] of at most ten thousand training images."""
    images = store.split("train")
    chosen = evenly_spaced(len(images), 10_000)
    sums = sum(images.gather(some).sum(0, dtype=torch.float64) for some in chosen.split(1000))
    return (torch.as_tensor(sums) / (255 * len(chosen))).float()


def sample_images(store: ImageStore) -> Tensor:
    """Return evenly spaced training images [n, c, h, w] in [0, 1], as many as baselines are fitted on."""
    images = store.split("train")
    n = num_baseline_images(len(images), store.info.num_elements)
    return images.gather(evenly_spaced(len(images), n)).float() / 255


def load_initial_weights(trainer: Trainer, start: str | Path) -> str:
    """Load weights into a trainer, and return a sentence on how many.

    Args:
        trainer: A trainer at its start.
        start: A run or a checkpoint, whose weights are taken where names and shapes agree; or a diffusers folder, of
            which all weights are taken.

    Raises:
        RunError: No weight fits.
    """
    if (folder := find_diffusers_folder(start)) is not None:
        count = load_diffusers_weights(trainer.objective.model, folder)
        message = f"loaded {count} tensors from {start}"
    else:
        objective = Path(start) / "objective.safetensors"
        if objective.is_file():
            weights, target = checkpoint.load_tensors(objective), trainer.objective
        else:
            weights, target = (load(Path(start), device="cpu").state_dict(), trainer.objective.model)
        ours = target.state_dict()
        taken = {key: value for key, value in weights.items() if key in ours and ours[key].shape == value.shape}
        if not taken:
            raise RunError(f"no weight of '{start}' fits this model: start from a run of the same kind and size.")
        target.load_state_dict({**ours, **taken})
        message = f"loaded {len(taken)} of {len(ours)} tensors from {start}"
    for part in trainer.objective.modules():
        if isinstance(part, HasTrainingProgress):
            part.reset_progress()
    trainer.restart_ema()
    return message
