"""Any game of images, played with codes of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn

from ectype.data.batch import Batch, Moment
from ectype.models.on_codes import OnCodes
from ectype.objectives.base import LossTerms, Objective, Phase
from ectype.objectives.flow_matching import FlowMatchingConfig
from ectype.sections import DataInfo, ObjectiveConfig

__all__ = ["OnCodesObjective", "OnCodesObjectiveConfig"]

Score = Callable[[Batch, Moment], LossTerms]


class OnCodesObjective(Objective):
    """The inner objective's players and turns; what they are shown are codes, which the frozen coder makes."""

    def __init__(self, model: OnCodes, inner: Objective) -> None:
        super().__init__()
        self.whole_model, self.inner = model, inner
        self.players = inner.players
        # Bound methods in partials, which a copy of the objective copies with it; a closure would stay with this one.
        self.turns = [turn._replace(score=partial(self._on_codes, turn.score)) for turn in inner.turns]

    def _on_codes(self, score: Score, batch: Batch, moment: Moment) -> LossTerms:
        with torch.no_grad():
            code = self.whole_model.codes(batch.image, moment)
        return score(batch._replace(image=code), moment)

    @property
    def model(self) -> OnCodes:
        return self.whole_model

    @property
    def phase(self) -> Phase:
        return self.inner.phase

    @property
    def whole(self) -> str | None:
        return self.inner.whole

    def rehearse(self) -> None:
        self.inner.rehearse()

    def compilable(self) -> list[nn.Module]:
        return self.inner.compilable()


class OnCodesObjectiveConfig(ObjectiveConfig):
    """What is learnt of codes; of images, where the model is set upon no coder."""

    kind: Literal["on_codes"] = "on_codes"
    inner: ObjectiveConfig = FlowMatchingConfig()

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Objective:
        if isinstance(model, OnCodes):
            inner = self.inner.build(model.inner, model.code_info, images=images)
            assert isinstance(inner, Objective)
            return OnCodesObjective(model, inner)
        built = self.inner.build(model, info, images=images)
        assert isinstance(built, Objective)
        return built
