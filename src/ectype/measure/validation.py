"""An objective's loss on held-out images: what autoencoders and U-Nets are watched by."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
from torch import nn

from ectype.data.feed import Feed
from ectype.models.base import evaluating
from ectype.objectives.base import Validates
from ectype.sections import DataInfo
from ectype.training.monitor import Monitor, Verdict
from ectype.training.position import looking

__all__ = ["spoiled", "validation"]

SPOILT = 0.5
"""Of its minimum without a critic, by how much the loss may rise when one has joined: a critic trades some error for
sharpness, 1 dB or so."""


def validation(
    objective: Validates, feed: Feed, info: DataInfo, *, images: int, seed: int, device: torch.device
) -> Callable[[nn.Module], dict[str, float]]:
    """A function from a model to its terms on held-out images, their weighted sum first.

    What is drawn (posterior noise, corruption, binarisation) is the same at each call, so that two checks differ by the
    model alone. In nats per image where the objective's terms are.

    Args:
        objective: Scores the model as at the end of training.
        feed: Held-out images.
        info: Their shape.
        images: At most so many, spread evenly.
        seed: Of what is drawn.
        device: Where the model is.
    """
    size, moment = looking(info, seed, device, "validation")

    def measure(model: nn.Module) -> dict[str, float]:
        sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        n = 0
        with evaluating(model):
            for batch, here in feed.sequence(size, moment, most=images):
                scored, b = objective.validate(model, batch, here), len(batch.image)
                n += b
                found = {name: value for name, (_, value) in scored.terms.items()}
                found |= {name: note for name, note in scored.notes.items() if note.ndim == 0}
                for name, value in {scored.title(): scored.total(), **found}.items():
                    sums[name] = sums[name] + value * b
        return {name: float(total) / n for name, total in sums.items()}

    return measure


def spoiled(values: Mapping[str, float], monitor: Monitor) -> Verdict:
    """Whether a critic that has joined wrecks the reconstruction, which users of VQGAN and latent diffusion report."""
    name, value = next(iter(values.items()))
    if monitor.phase != "judged" or not monitor.minimum < math.inf:
        return Verdict("healthy", "no critic's gradient counts yet")
    risen = f"{name} {value:.4g}, before the critic joined {monitor.minimum:.4g}"
    if not value <= monitor.minimum + SPOILT * abs(monitor.minimum):
        return Verdict("spoiled", f"worse since the critic joined: {risen}")
    return Verdict("healthy", risen)
