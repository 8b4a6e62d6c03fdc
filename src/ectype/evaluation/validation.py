"""Loss of an objective on held-out images, by which autoencoders and U-Nets are monitored."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import nn

from ectype.config.schema import DataInfo
from ectype.data.loader import Loader, evaluation_batches
from ectype.evaluation.monitor import Monitor, Verdict
from ectype.models.base import evaluating
from ectype.objectives.base import Validates

__all__ = ["critic_damage_verdict", "validation_function"]

MAX_RELATIVE_LOSS_RISE = 0.5
"""How far the loss may rise above its minimum without a critic, as a fraction of it, when a critic has joined: a critic
trades about 1 dB of error for sharpness."""


def validation_function(
    objective: Validates, held_out: Loader, info: DataInfo, *, images: int, seed: int, device: torch.device
) -> Callable[[nn.Module], dict[str, float]]:
    """Return a function from a model to its loss terms on held-out images, their weighted sum first.

    All random draws (posterior noise, corruption, binarization) are the same at each call, so that two checks differ
    by the model alone. Terms are in nats per image where the objective's are.

    Args:
        objective: The objective; it scores the model as at the end of training.
        held_out: Held-out images.
        info: Shape of the images.
        images: Maximum number of images, spread evenly.
        seed: Seed of the random draws.
        device: Where the model is.
    """
    batch_size, context = evaluation_batches(info, seed, device, "validation")

    def measure(model: nn.Module) -> dict[str, float]:
        sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        n = 0
        with evaluating(model):
            for batch, here in held_out.batches(batch_size, context, max_images=images):
                loss, b = objective.validate(model, batch, here), len(batch.image)
                n += b
                terms = {name: value for name, (_, value) in loss.terms.items()}
                terms |= {name: note for name, note in loss.notes.items() if note.ndim == 0}
                for name, value in {loss.title(): loss.total(), **terms}.items():
                    sums[name] = sums[name] + value * b
        return {name: float(total) / n for name, total in sums.items()}

    return measure


def critic_damage_verdict(values: Mapping[str, float], monitor: Monitor) -> Verdict:
    """Return whether a critic that has joined damages reconstructions, as users of VQGAN and latent diffusion report.

    Args:
        values: Loss terms of a check, their weighted sum first.
        monitor: The monitor of the run, which has the minimum from before the critic joined.
    """
    name, value = next(iter(values.items()))
    if monitor.phase != "judged" or not monitor.minimum < math.inf:
        return Verdict("healthy", "no critic's gradient counts yet")
    change = f"{name} {value:.4g}, before the critic joined {monitor.minimum:.4g}"
    if not value <= monitor.minimum + MAX_RELATIVE_LOSS_RISE * abs(monitor.minimum):
        return Verdict("spoiled", f"worse since the critic joined: {change}")
    return Verdict("healthy", change)
