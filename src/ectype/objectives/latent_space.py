"""Apply any objective for images to the codes of images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn

from ectype.config.schema import DataInfo, ObjectiveConfig
from ectype.core.random import StepContext
from ectype.data.batch import Batch
from ectype.models.latent_space import LatentSpaceModel
from ectype.objectives.base import CriticPhase, LossTerms, Objective, Validates
from ectype.objectives.flow_matching import FlowMatchingConfig

__all__ = ["LatentSpaceObjective", "LatentSpaceObjectiveConfig"]

Score = Callable[[Batch, StepContext], LossTerms]


@torch.no_grad()
def _encoded(model: LatentSpaceModel, batch: Batch, context: StepContext) -> Batch:
    """Return a batch with normalized codes in the place of images."""
    posterior = model.encode_posterior(batch.image) if batch.code is None else batch.code
    return batch._replace(image=model.normalized_codes(posterior, context), code=None)


class LatentSpaceObjective(Objective):
    """The players and turns of an inner objective, whose batches contain codes from a frozen coder instead of images.

    Args:
        model: The model whose coder encodes.
        inner: An objective for `model.inner`.
    """

    def __init__(self, model: LatentSpaceModel, inner: Objective) -> None:
        super().__init__()
        self.whole_model = model  # the name is part of saved state dicts
        self.inner = inner
        self.players = inner.players
        # Partials of bound methods are copied with the objective by deepcopy; closures would still refer to this one.
        self.turns = [turn._replace(score=partial(self._score_codes, turn.score)) for turn in inner.turns]

    def _score_codes(self, score: Score, batch: Batch, context: StepContext) -> LossTerms:
        return score(_encoded(self.whole_model, batch, context), context)

    @property
    def model(self) -> LatentSpaceModel:
        return self.whole_model

    @property
    def loss_ranks_models(self) -> bool:
        return self.inner.loss_ranks_models

    @property
    def critic_phase(self) -> CriticPhase:
        return self.inner.critic_phase

    @property
    def batch_dependent(self) -> str | None:
        return self.inner.batch_dependent

    def activate_all_players(self) -> None:
        self.inner.activate_all_players()

    def compilable_modules(self) -> list[nn.Module]:
        return self.inner.compilable_modules()


class ValidatingLatentSpaceObjective(LatentSpaceObjective):
    """The same for an inner objective whose loss can be measured on held-out images."""

    def validate(self, model: nn.Module, batch: Batch, context: StepContext) -> LossTerms:
        assert isinstance(model, LatentSpaceModel)
        assert isinstance(self.inner, Validates)
        return self.inner.validate(model.inner, _encoded(model, batch, context), context)


class LatentSpaceObjectiveConfig(ObjectiveConfig):
    """An objective for codes; for images, if the model has no coder."""

    kind: Literal["on_codes"] = "on_codes"
    inner: ObjectiveConfig = FlowMatchingConfig()
    """The objective of the inner model."""

    def build(self, model: nn.Module, info: DataInfo, *, images: int) -> Objective:
        if isinstance(model, LatentSpaceModel):
            inner = self.inner.build(model.inner, model.code_info, images=images)
            assert isinstance(inner, Objective)
            kind = ValidatingLatentSpaceObjective if isinstance(inner, Validates) else LatentSpaceObjective
            return kind(model, inner)
        built = self.inner.build(model, info, images=images)
        assert isinstance(built, Objective)
        return built
