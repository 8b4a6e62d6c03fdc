"""Learn the velocity of straight ways from noise to images."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ectype.data.batch import Batch, Moment
from ectype.errors import ModelError
from ectype.models.flow import Flow
from ectype.objectives.base import LossTerms, Objective, Turn
from ectype.sections import DataInfo, ObjectiveConfig

__all__ = ["FlowMatching", "FlowMatchingConfig"]


class FlowMatching(Objective):
    """E ‖v(x_t, t) − (image − noise)‖² per number, x_t = (1 − t) · noise + t · image (Liu et al. 2023, eq. 1).

    Its value says little of the samples: most of it is what cannot be known of the noise. They are watched instead.
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

    def score(self, batch: Batch, moment: Moment) -> LossTerms:
        """The one turn: a time and noise for each image."""
        image = self.flow.standard(batch.image)
        n = len(image)
        noise = moment.normal("noise", *image.shape)
        uniform = self.config.time == "uniform"
        time = moment.uniform("time", n) if uniform else torch.sigmoid(moment.normal("time", n))
        t = time.view(-1, 1, 1, 1)
        label = self._told(batch, moment)
        found = self.flow.velocity((1 - t) * noise + t * image, time, label)
        return LossTerms({"velocity mse": (1.0, (found - (image - noise)).square().mean())})

    def _told(self, batch: Batch, moment: Moment) -> Tensor | None:
        if not self.flow.conditional or batch.label is None:
            return None
        unsaid = moment.uniform("unlabelled", len(batch.label)) < self.config.unlabelled
        return torch.where(unsaid, len(self.flow.info.classes), batch.label)


class FlowMatchingConfig(ObjectiveConfig):
    """Velocities of straight ways."""

    kind: Literal["flow_matching"] = "flow_matching"
    time: Literal["uniform", "logit_normal"] = "logit_normal"
    """How often each time is asked for. logit_normal: the middle more often, where most is to be learnt (Esser et al.
    2024)."""
    unlabelled: float = Field(default=0.1, ge=0, lt=1)
    """Share of labels that are left out, so that guidance has something to compare with."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> FlowMatching:
        return FlowMatching(model, self)
