"""A warning during training when all reconstructions are nearly the same image."""

from __future__ import annotations

import math
from collections.abc import Callable

from ectype.config.schema import DataInfo
from ectype.data.loader import Loader, evaluation_batches
from ectype.evaluation.metrics.output_variance import OutputVariance
from ectype.models.base import evaluating, is_trained_to_reconstruct
from ectype.training.loop import Callback, Check
from ectype.training.trainer import Trainer

__all__ = ["EarlyWarning"]

MAX_IMAGES = 256
MIN_VARIANCE_RATIO = 0.1
"""Variance of outputs divided by that of images, below which outputs count as one image."""
MIN_BUDGET_SHARE = 0.1
"""Fraction of the budget before which no warning is given."""
MIN_CHECKS = 2
"""Consecutive checks that must agree."""
MIN_WARNED_UPDATES = 200
"""Updates before which outputs of any network may be alike."""
MAX_GROWTH = 1.5
"""Variance ratio ÷ that of the check before, above which the outputs are becoming different by themselves."""


class EarlyWarning(Callback):
    """Warns once if reconstructions of different images are nearly identical, with what to change.

    Args:
        held_out: Images that are reconstructed.
        info: Describes the images.
        say: Prints a line.
    """

    def __init__(self, held_out: Loader, info: DataInfo, say: Callable[[str], None]) -> None:
        self.held_out, self.info, self.say, self.agreeing = held_out, info, say, 0
        self.before = math.inf

    def checked(self, trainer: Trainer, check: Check) -> None:
        model = trainer.model
        if (
            self.agreeing >= MIN_CHECKS
            or not is_trained_to_reconstruct(model)
            or check.step < MIN_WARNED_UPDATES
            or check.seen < MIN_BUDGET_SHARE * trainer.budget
        ):
            return
        size, context = evaluation_batches(self.info, 0, self.held_out.device)
        found = OutputVariance()
        with evaluating(trainer.model):
            for batch, _ in self.held_out.batches(size, context, max_images=MAX_IMAGES):
                found.update(model.reconstruct(batch.image), batch.image)
        ratio = found.ratio()
        if ratio is None:
            return
        # The smallest ratios are noise, whose growth means nothing.
        is_growing = ratio.value > MAX_GROWTH * max(self.before, MIN_VARIANCE_RATIO / 10)
        is_low = ratio.value < MIN_VARIANCE_RATIO
        self.agreeing = self.agreeing + 1 if is_low and not is_growing else 0
        self.before = ratio.value
        if self.agreeing == MIN_CHECKS:
            objective = trainer.recipe.objective
            known = {"beta": "a smaller objective.beta", "warmup": "a longer objective.warmup"}
            options = [*(words for key, words in known.items() if hasattr(objective, key)), "a lower optimizer.lr"]
            self.say(
                f"warning: reconstructions of different images are nearly identical (their variance is "
                f"{ratio.value:.0%} of the images'): the code is not used. Try {' or '.join(options)}; "
                "`ectype diagnose` says more at the end."
            )
