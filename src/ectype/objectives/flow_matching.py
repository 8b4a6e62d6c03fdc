"""Flow matching: learn the velocity of straight paths from noise to images."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ectype.config.schema import DataInfo, ObjectiveConfig
from ectype.core.errors import ModelError
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.models.flow import Flow
from ectype.objectives.base import LossTerms, Objective, Turn

__all__ = ["FlowMatching", "FlowMatchingConfig"]


class FlowMatching(Objective):
    """Minimize the mean of (v(x_t, t) − (image − noise))² (Liu et al. 2023, eq. 1).

    The points are x_t = (1 − t) · noise + t · image. Most of this loss is the unpredictable part of the noise, so it
    says little about the quality of samples, by which training is monitored by default. With the same noise at each
    check, the loss on held-out images does tell when a flow starts to memorize.

    Args:
        model: A `Flow`.
        config: Distribution of times, and label dropout.

    Raises:
        ModelError: The model is no flow.
    """

    def __init__(self, model: nn.Module, config: FlowMatchingConfig) -> None:
        super().__init__()
        if not isinstance(model, Flow):
            raise ModelError("objective=flow_matching trains flows: choose model=flow.")
        self.flow, self.config = model, config
        self.players = {"model": model}
        self.turns = [Turn("model", self.score)]

    @property
    def model(self) -> Flow:
        return self.flow

    @property
    def loss_ranks_models(self) -> bool:
        return False

    def score(self, batch: Batch, context: StepContext) -> LossTerms:
        """Compute the loss at one random time for each image."""
        return self._loss(self.flow, batch, context, self._label_with_dropout(batch, context))

    def validate(self, model: nn.Module, batch: Batch, context: StepContext) -> LossTerms:
        assert isinstance(model, Flow)
        return self._loss(model, batch, context, batch.label if model.conditional else None)

    def _loss(self, flow: Flow, batch: Batch, context: StepContext, label: Tensor | None) -> LossTerms:
        image = flow.normalize(batch.image)
        n = len(image)
        noise = context.normal("noise", *image.shape)
        uniform = self.config.time == "uniform"
        time = context.uniform("time", n) if uniform else torch.sigmoid(context.normal("time", n))
        t = time.view(-1, 1, 1, 1)
        velocity = flow.velocity((1 - t) * noise + t * image, time, label)
        return LossTerms({"velocity mse": (1.0, (velocity - (image - noise)).square().mean())})

    def _label_with_dropout(self, batch: Batch, context: StepContext) -> Tensor | None:
        """Return the labels, some of them replaced by the index that stands for no label."""
        if not self.flow.conditional or batch.label is None:
            return None
        dropped = context.uniform("unlabelled", len(batch.label)) < self.config.unlabelled
        return torch.where(dropped, len(self.flow.info.classes), batch.label)


class FlowMatchingConfig(ObjectiveConfig):
    """The velocity of straight paths from noise to images."""

    kind: Literal["flow_matching"] = "flow_matching"
    time: Literal["uniform", "logit_normal"] = "logit_normal"
    """Distribution of the times. logit_normal: more often in the middle, where there is most to learn (Esser et al.
    2024)."""
    unlabelled: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of labels that are dropped, so that classifier-free guidance has an unconditional velocity."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> FlowMatching:
        return FlowMatching(model, self)
