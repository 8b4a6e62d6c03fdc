"""Training on codes that are computed once, instead of encoding each image anew whenever it is shown."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ectype.config.schema import Augment
from ectype.core.random import SeededStepContext
from ectype.data.batch import Batch
from ectype.data.loader import Loader, evaluation_batches
from ectype.models.base import evaluating
from ectype.models.latent_space import LatentSpaceModel

__all__ = ["EncodedLoader", "encode_once"]

MAX_BYTES = 2**30
"""Codes that take more memory are not kept."""


class EncodedLoader:
    """Batches of codes, with the labels of the images.

    Args:
        codes: What `LatentSpaceModel.encode_posterior` returns for each image.
        labels: Class indices; None without classes.
        device: Device of the batches.
    """

    def __init__(self, codes: Float[Tensor, "n s ..."], labels: Int[Tensor, " n"] | None, device: torch.device) -> None:
        self.codes, self.labels, self.device = codes, labels, device

    def __len__(self) -> int:
        return len(self.codes)

    def __call__(self, index: Int[Tensor, " b"], context: SeededStepContext) -> Batch:
        """Return the codes of these images."""
        code = self.codes.index_select(0, index).to(self.device)
        label = None if self.labels is None else self.labels.index_select(0, index).to(self.device)
        return Batch(code.new_empty(len(code), 0), label, code=code)


def encode_once(model: LatentSpaceModel, loader: Loader) -> EncodedLoader | None:
    """Return batches of the codes of a loader's images; None if they change from time to time, or are too large.

    Args:
        model: The model whose coder encodes.
        loader: The training images.
    """
    if loader.augment != Augment() or loader.config.binarise == "dynamic":
        return None
    batch_size, context = evaluation_batches(model.info, 0, loader.device, "encode")
    codes, done = torch.empty(0), 0
    with evaluating(model):
        for batch, _ in loader.batches(batch_size, context):
            code = model.encode_posterior(batch.image).cpu()
            if done == 0:
                if len(loader) * code[0].nbytes > MAX_BYTES:
                    return None
                # Filled in place, because concatenation would need the memory twice.
                codes = code.new_empty(len(loader), *code.shape[1:])
            codes[done : done + len(code)] = code
            done += len(code)
    return EncodedLoader(codes, loader.images.labels, loader.device)
