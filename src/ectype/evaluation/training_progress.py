"""Whether a run was trained enough to be judged, from its updates, its checks and how it compares with a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ectype.evaluation.figure_names import is_frechet, metric_of
from ectype.evaluation.figures import Figure
from ectype.evaluation.monitor import FATAL_VERDICTS
from ectype.runs.run_dir import RunDir

__all__ = ["FAR_RATIO", "FEW_UPDATES", "MIN_UPDATES", "Shortfall", "TrainingProgress", "progress_of_run", "shortfall"]

MIN_UPDATES = 50
"""Updates below which a network is little more than its initial weights, so that nothing can be concluded."""
FEW_UPDATES = 1000
"""Updates below which a model that is worse than a simple baseline is undertrained, unless it has levelled off."""
FEW_UPDATES_FAR_BELOW = 5000
"""The same for a model that is far below the baseline."""
FAR_BELOW_DB = 1.0
"""PSNR by which reconstructions are far below those of PCA."""
MIN_CHECKS = 4
"""Checks that are needed to say how a value changed in the second half of a run."""
MAX_FIRST_SHARE = 0.1
"""Share of a run that its first check may come after, if a loss is to be compared with that check: later, what the run
has improved by is hardly known."""
FALLING_SHARE = 0.15
"""Share of a loss's improvement, or of a distance, that the second half of a run must have gained for the run to count
as still improving."""
LEVEL_SHARE = 0.02
"""Share below which a loss has levelled off: the run would not get better by training alone."""
RISEN_SHARE = 0.1
"""Share of a loss's improvement that may be lost again at the end; beyond it, the run has begun to overfit."""
FROZEN_CHANGE = 1e-4
"""Relative change of a distance below which two checks have measured the same samples."""
MIN_FALL_POWER = 0.05
"""Power of the images seen below which a distance does not fall fast enough for a forecast."""
MAX_FORECAST_GROWTH = 1000
"""How many times as long a run may be forecast to take: beyond that, the forecast says nothing."""
FAR_RATIO = 3
"""Distance of samples ÷ distance of other real images above which samples are not close to real images."""


Shortfall = Literal["", "below", "far below"]
"""How a model compares with a simple baseline: not worse, worse, or much worse."""
SHORTFALLS: tuple[Shortfall, ...] = ("", "below", "far below")
CODES_WITHOUT_PCA = ("nearest_training_image", "downscaled")
"""Baselines of reconstructions that count where PCA cannot be fitted."""
BASELINES = {
    "mean_dice": ("one_class",),
    "psnr_restored": ("corrupted_input", "linear_filter"),
    "psnr": ("input", *CODES_WITHOUT_PCA),
}
"""Figure, more of which is better → baselines that a trained model surpasses."""


class TrainingProgress(NamedTuple):
    """How long a run was trained, and how the value that it was monitored by developed."""

    updates: int
    """Updates of the weights."""
    checks: Sequence[tuple[int, float]] = ()
    """Images seen and monitored value, lower being better, of each check."""
    is_distance: bool = False
    """Whether that value is a distance of samples, whose scale begins at 0; else a loss."""
    floor: float | None = None
    """The distance of other real images; None for a loss."""
    state: str = "unfinished"
    """How the run ended, as `RunDir.state` returns it."""

    @property
    def is_frozen(self) -> bool:
        """Whether the generator no longer changes: all checks in the second half of the run gave the same distance.

        Two checks draw their samples with the same seed, so that equal distances mean equal samples.
        """
        if not self.is_distance or self.updates < MIN_UPDATES or len(self.checks) < 2:
            return False
        late = [value for _, value in self.checks[(len(self.checks) - 1) // 2 :]]
        return max(late) - min(late) <= FROZEN_CHANGE * abs(max(late))

    @property
    def late_gain(self) -> float | None:
        """Share of the improvement that was made in the second half of the run; None if there are too few checks.

        Of a loss this is a share of its improvement since the first check, of a distance a share of the distance at
        half of the run, because it starts at 0.
        """
        finite = [(seen, value) for seen, value in self.checks if math.isfinite(value)]
        if len(finite) < MIN_CHECKS:
            return None
        values = [value for _, value in finite]
        half = min(value for seen, value in finite if seen <= finite[-1][0] / 2 or value == values[0])
        if self.is_distance:
            return 1 - values[-1] / half if half > 0 else 0.0
        if finite[0][0] > MAX_FIRST_SHARE * finite[-1][0]:
            return None
        gained = values[0] - min(values)
        return (half - min(half, *values)) / gained if gained > 0 else 0.0

    def images_to_reach(self, distance: float) -> float | None:
        """Forecast the images after which the distance of samples has fallen to a value.

        Distances fall roughly as a power of the images seen, so that a line is fitted to their logarithms, over the
        checks since a quarter of the run. A forecast says how long training takes at its present pace, and not that it
        gets there: a GAN may level off or lose modes before.

        Args:
            distance: The distance to reach.

        Returns:
            Images from the start of the run, at least those seen so far; None if the value is no distance, if there are
            too few checks, or if the distance hardly falls.
        """
        valid = [(seen, value) for seen, value in self.checks if seen > 0 and 0 < value < math.inf]
        if not self.is_distance or distance <= 0 or len(valid) < MIN_CHECKS:
            return None
        last = valid[-1][0]
        late = [each for each in valid if each[0] >= last / 4]
        x, y = np.log(np.array(late if len(late) >= MIN_CHECKS else valid[-MIN_CHECKS:])).T
        slope, offset = np.polyfit(x, y, 1)
        if slope > -MIN_FALL_POWER:
            return None
        log_images = (math.log(distance) - offset) / slope
        if log_images > math.log(last * MAX_FORECAST_GROWTH):
            return None
        return max(last, math.exp(log_images))

    @property
    def has_risen(self) -> bool:
        """Whether a loss has lost much of its improvement again, as it does when a model overfits."""
        values = [value for _, value in self.checks if math.isfinite(value)]
        if self.is_distance or len(values) < MIN_CHECKS:
            return False
        return values[-1] - min(values) > RISEN_SHARE * (values[0] - min(values))

    def lacks_training(self, below: Shortfall) -> str:
        """Return why the run was trained too little to be judged; empty if it was trained enough.

        That is so for fewer than 50 updates; and for a model that is worse than a simple baseline, if it was trained
        for fewer than 1,000 updates (5,000 where it is far worse) and has not levelled off, or if its value still
        improved by much in the second half of the run. A run that was ended by a verdict, whose loss rises, or whose
        generator no longer changes would not get better by training longer.

        Args:
            below: Whether the model is worse than what a trained model of its kind surpasses; see `shortfall`. Of a run
                that is monitored by a distance the last check decides instead.
        """
        if self.state in FATAL_VERDICTS or self.is_frozen:
            return ""
        if self.updates < MIN_UPDATES:
            return f"{self.updates:,} updates are too few to judge a model by"
        if self.is_distance and self.floor is not None and self.checks:
            below = "" if self.checks[-1][1] <= FAR_RATIO * self.floor else "below"
        if not below or self.has_risen:
            return ""
        gain = self.late_gain
        what = "distance of samples" if self.is_distance else "held-out loss"
        if gain is not None and gain > FALLING_SHARE and self.state != "stopped early":
            fell = f"by {gain:.0%}" if self.is_distance else f"with {gain:.0%} of its improvement"
            return f"the {what} still fell at the end, {fell} in the second half of {self.updates:,} updates"
        has_levelled = gain is not None and gain < LEVEL_SHARE and not self.is_distance
        few = FEW_UPDATES_FAR_BELOW if below == "far below" else FEW_UPDATES
        return "" if self.updates >= few or has_levelled else f"there were only {self.updates:,} updates"


def progress_of_run(run: RunDir) -> TrainingProgress:
    """Return how a run was trained, from its own files.

    Args:
        run: The attempt whose weights are judged.
    """
    summary = run.summary()
    key, checks = run.monitored_values()
    return TrainingProgress(
        # A run of an earlier version may not say how many updates it made: it is taken for one that was trained enough.
        updates=summary.get("step", FEW_UPDATES_FAR_BELOW),
        checks=checks,
        is_distance=is_frechet(key),
        floor=summary.get("floor"),
        state=run.state(),
    )


def shortfall(figures: Iterable[Figure]) -> Shortfall:
    """Return how much worse a model is than a simple baseline that a trained model of its kind surpasses.

    Masks are compared with one class for all pixels, translated images with their inputs, restored images with the
    corrupted ones and with these after the best linear filter, and reconstructions of a model that does not restore
    images with PCA of as many dimensions as the code; where PCA cannot be fitted, with the nearest training image and
    with an image of as many values that is scaled up. A model that has none of these is compared by the distance of its
    samples, which may be three times that of other real images.

    Args:
        figures: Figures of the model.
    """
    listed = list(figures)
    found = {figure.key: figure for figure in listed}
    if "psnr_restored" in found:
        found = {key: figure for key, figure in found.items() if key not in ("psnr", "psnr_above_pca")}
    known: list[Shortfall] = []
    if (gap := found.get("psnr_above_pca")) is not None and gap.high is not None:
        known.append("far below" if gap.high < -FAR_BELOW_DB else "below" if gap.high < 0 else "")
    for key, metrics in BASELINES.items():
        for baseline, value in found[key].baselines.items() if key in found else ():
            if metric_of(baseline) in metrics and not (gap is not None and metric_of(baseline) in CODES_WITHOUT_PCA):
                known.append("" if found[key].value > value else "below")
    if not known and (distance := next((each for each in listed if is_frechet(each.key)), None)) is not None:
        floor = distance.baselines.get("real_images", math.inf)
        known.append("" if distance.value <= FAR_RATIO * floor else "below")
    return max(known, key=SHORTFALLS.index) if known else ""
