"""What can be seen before a run has ended, and is worth stopping it for: outputs that are all one image."""

from __future__ import annotations

from collections.abc import Callable

from ectype.data.feed import Feed
from ectype.measure.variety import Variance
from ectype.models.base import evaluating, reconstructs_itself
from ectype.sections import DataInfo
from ectype.training.loop import Callback, Check
from ectype.training.position import looking
from ectype.training.trainer import Trainer

__all__ = ["EarlyWarning"]

IMAGES = 256
ALIKE = 0.1
"""Share of the variance of images below which outputs are one image, whatever the size of the code."""
BEGUN, CERTAIN = 0.1, 2
"""Share of the budget before which nothing is said, and checks in a row that must agree."""


class EarlyWarning(Callback):
    """Says once that reconstructions are alike, with what to do.

    Args:
        held_out: Images that it looks at.
        info: Of them.
        say: Where it speaks.
    """

    def __init__(self, held_out: Feed, info: DataInfo, say: Callable[[str], None]) -> None:
        self.held_out, self.info, self.say, self.seen = held_out, info, say, 0

    def checked(self, trainer: Trainer, check: Check) -> None:
        model = trainer.model
        if self.seen >= CERTAIN or not reconstructs_itself(model) or check.seen < BEGUN * trainer.budget:
            return
        size, moment = looking(self.info, 0, self.held_out.device)
        found = Variance()
        with evaluating(trainer.model):
            for batch, _ in self.held_out.sequence(size, moment, most=IMAGES):
                found.see(model.reconstruct(batch.image), batch.image)
        figure = found.figure()
        self.seen = self.seen + 1 if figure is not None and figure.value < ALIKE else 0
        if self.seen == CERTAIN and figure is not None:
            objective = trainer.recipe.objective
            known = {"beta": "a smaller objective.beta", "warmup": "a longer objective.warmup"}
            helps = [*(words for key, words in known.items() if hasattr(objective, key)), "a lower optimizer.lr"]
            self.say(
                f"warning: reconstructions of different images are alike (they vary {figure.value:.0%} as much): the "
                f"code is not used. What helps: {' or '.join(helps)}; at the end `ectype diagnose` says more."
            )
