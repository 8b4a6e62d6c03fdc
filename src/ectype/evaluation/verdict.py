"""Verdict on a generator, with its evidence: whether it has collapsed or memorized, from metrics of its samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ectype.evaluation.figure_names import display_name, is_frechet, metric_of
from ectype.evaluation.monitor import Monitor, Verdict
from ectype.evaluation.sample_monitor import RealReference
from ectype.evaluation.training_progress import FEW_UPDATES, MIN_UPDATES, Shortfall, TrainingProgress

__all__ = ["decide_verdict", "verdict_function"]

DIVERSITY = ("coverage", "recall", "vendi_ratio")
"""Metrics, in any feature space, that are low where samples lack variety."""
COLLAPSED_BELOW, LOSING_BELOW = 0.3, 0.6
"""Fraction of the value for real images below which a metric is a sign of a collapse, or of lost modes."""
COLLAPSED_LOST_FRACTION, LOSING_LOST_FRACTION = 0.4, 0.1
"""Fraction of real images in clusters that hardly any sample falls into, beyond which the same holds."""
COLLAPSED_DUPLICATE_FRACTION = 0.5
"""Fraction of samples closer to another sample than real images are to each other, beyond which it is a sign of a
collapse."""
COLLAPSE_SIGNS = 3
"""Metrics that must be signs of a collapse before samples are called collapsed, one of `ALIKE` among them. Generators
that have collapsed show four or five; all variety of half of the classes shows two at most."""
ALIKE = ("vendi_ratio", "duplicates")
"""Metrics that compare samples with each other alone. The others are low for poor samples as well, however varied."""
CONSTANT_VARIANCE = 1e-3
"""Variance of samples ÷ that of real images below which a generator outputs one image, whatever its input. With its
initial weights the ratio is above 0.01, with saturated units it is 0."""
MIN_MEMBERSHIP_Z, MIN_MEMBERSHIP_EXCESS = 3.0, 0.05
"""Memorization: standard errors by which training images are nearer to samples than held-out images are, beyond what
they are to other real images, and the fraction of pairs beyond that of real images. With many images a difference may
be significant and too small to matter."""
SHRUNKEN_BELOW = 0.8
"""Fraction of real images' authenticity below which samples lie too close to training images, for whatever reason."""
DISTANCE_RISE, DIVERSITY_DROP, GROUP_COVERAGE_DROP, LOST_FRACTION_RISE = 1.2, 0.95, 0.8, 0.05
"""A mode has been lost if a distance is this many times its own minimum, and a diversity metric this fraction of its
value then (the coverage of one group is noisier), or this much more of the real images is in lost clusters. The
distance says that something was lost, the other metrics that it is variety."""
LEARNING_DROP, LEARNING_CHECKS = 0.9, 3
"""A generator still learns while its distance falls below this fraction of itself within this many checks."""


def verdict_function(reference: Mapping[str, RealReference]) -> Callable[[Mapping[str, float], Monitor], Verdict]:
    """Return a function from the values of a check and the monitor of the run to a verdict.

    Args:
        reference: Key → value of the metric for real images.
    """

    def verdict(values: Mapping[str, float], monitor: Monitor) -> Verdict:
        # A run that is resumed from an earlier version has checks with other keys.
        before = [check for check in monitor.values if check.keys() >= values.keys()]
        distances = [*monitor.history, (monitor.seen, next(iter(values.values()), math.nan))]
        so_far = TrainingProgress(monitor.updates, distances, is_distance=True, floor=monitor.floor)
        return decide_verdict(values, reference, before, so_far, ended=monitor.is_last_check)

    return verdict


def decide_verdict(
    values: Mapping[str, float],
    reference: Mapping[str, RealReference],
    before: Sequence[Mapping[str, float]] | None = None,
    training: TrainingProgress | None = None,
    *,
    below: Shortfall = "below",
    ended: bool = False,
) -> Verdict:
    """Return the verdict on one set of samples.

    No single metric detects every fault: recall misses a skewed distribution, coverage a shrunken mode, and both miss
    what is lost within a class if their features ignore it. So all metrics are used, and the verdict names what was
    found.

    - collapsed: at least three metrics are below 0.3 of their value for real images (or half of the samples are nearly
      identical to another one, or clusters with 40% of the real images are empty), and one of them is the Vendi ratio
      or the share of near-duplicates, which compare samples with each other. Recall, coverage and empty clusters alone
      are not enough: they are as low for samples that are varied and poor. A generator whose distance is not finite has
      collapsed, too.
    - losing modes: a metric is below 0.6 of its value for real images or a tenth of them is in empty clusters; or the
      distance and a metric of variety are worse than at the best check of the run, however good the rest is.
    - learning: the same, of a run that goes on and has made less than 1,000 updates, or whose distance still falls.
    - undertrained: the same, of a run that ended with too little training; see `TrainingProgress.lacks_training`. A
      distance that still falls is then no excuse for a collapse or for variety that was there before, few updates are.

    Learning is no excuse for a generator that no longer changes (`TrainingProgress.is_frozen`) or outputs one image
    after 50 updates or more. At the end of a run the verdict of its monitor follows the same rules as that of an
    evaluation of the same weights.

    Args:
        values: Key → value of the metric for samples; the first one is the distance.
        reference: Key → value for other real images against the same held-out images.
        before: Values at earlier checks of the run; None for a verdict on samples alone.
        training: How the run was trained so far; None for a verdict on samples alone.
        below: How much worse the model is than a simple baseline; see `TrainingProgress.lacks_training`.
        ended: Whether the run ends with these values.
    """
    if not values:
        return Verdict("healthy", "nothing was measured")
    key, distance = next(iter(values.items()))
    if not math.isfinite(distance):
        return Verdict("collapsed", "the samples have no finite distance")
    found = _compare_with_real(values, reference)
    if memorized := _memorization_verdict(values, reference):
        return memorized
    lacks_training = training.lacks_training(below) if training is not None else ""
    name = "collapsed" if found.has_collapsed else "losing modes"
    lost, lacking = _lost_since_best(values, reference, before), found.texts()
    if not lost and not lacking:
        if _is_shrunken(values, reference):
            return Verdict("memorising or shrunken", _authenticity_text(values, reference))
        return Verdict("healthy", "as varied as real images by all of these metrics")
    if training is not None and training.is_frozen:
        return Verdict(name, "; ".join([*lacking, "the samples no longer change from check to check"]))
    if _is_constant(values) and (training is None or training.updates >= MIN_UPDATES):
        return Verdict("collapsed", "; ".join(["all samples are the same image", *lacking]))
    excused = Verdict("undertrained" if ended else "learning", "; ".join([lacks_training, *lacking]))
    if lacks_training and training is not None and training.updates < FEW_UPDATES:
        return excused
    if lost:
        return Verdict(name, "; ".join([lost, *found.severe.values()]))
    if lacks_training and ended and not found.has_collapsed:
        return excused
    progress = _progress(key, [*before, values]) if before is not None and not ended else ""
    return Verdict("learning", progress) if progress else Verdict(name, "; ".join(lacking))


class _Signs(NamedTuple):
    """Evidence of lost variety by the key of the metric."""

    severe: dict[str, str]
    """Signs of a collapse."""
    mild: dict[str, str]
    """Signs of lost modes."""

    def add(self, key: str, text: str, *, severe: bool, mild: bool) -> None:
        if severe:
            self.severe[key] = text
        elif mild:
            self.mild[key] = text

    @property
    def has_collapsed(self) -> bool:
        """Whether enough metrics agree on a collapse. One metric in several feature spaces counts once."""
        metrics = {metric_of(key) for key in self.severe}
        return len(metrics) >= COLLAPSE_SIGNS and not metrics.isdisjoint(ALIKE)

    def texts(self) -> list[str]:
        """Return the evidence, the severe signs first; the mild ones only where there are no others."""
        return list((self.severe or self.mild).values())


def _compare_with_real(values: Mapping[str, float], reference: Mapping[str, RealReference]) -> _Signs:
    found = _Signs({}, {})
    for key, real in reference.items():
        value, metric = values.get(key, math.nan), metric_of(key)
        if metric in (*DIVERSITY, "min_group_coverage"):
            fraction = value / max(real.mean, 1e-9)
            severe, mild = fraction < COLLAPSED_BELOW, fraction < LOSING_BELOW
            if metric == "min_group_coverage":
                # One group that is hardly covered is one lost mode, not a collapse.
                severe, mild = False, severe
            text = f"{display_name(key)} {value:.2f}, real images {real.mean:.2f}"
            found.add(key, text, severe=severe, mild=mild)
        elif metric == "lost_clusters":
            more = value - real.mean
            text = f"clusters with {value:.0%} of the real images have hardly any samples"
            found.add(key, text, severe=more > COLLAPSED_LOST_FRACTION, mild=more > LOSING_LOST_FRACTION)
        elif metric == "duplicates":
            text = f"{value:.0%} of samples are nearly identical to another sample"
            found.add(key, text, severe=value - real.mean > COLLAPSED_DUPLICATE_FRACTION, mild=False)
    return found


def _is_constant(values: Mapping[str, float]) -> bool:
    """Return whether all samples are one image, in every feature space."""
    variances = [value for key, value in values.items() if metric_of(key) == "sample_variance"]
    return bool(variances) and max(variances) < CONSTANT_VARIANCE


def _lost_since_best(
    values: Mapping[str, float],
    reference: Mapping[str, RealReference],
    before: Sequence[Mapping[str, float]] | None,
) -> str:
    """Return what a generator had at its best check and has lost since; empty if nothing.

    Every distance is used: features that separate classes do not see what is lost within one.
    """
    if not before:
        return ""
    for distance in (key for place, key in enumerate(values) if place == 0 or is_frechet(key)):
        best = min(before, key=lambda check: check[distance] if math.isfinite(check[distance]) else math.inf)
        noise = 4 * reference[distance].spread if distance in reference else 0.0
        if not values[distance] > max(DISTANCE_RISE * best[distance], best[distance] + noise):
            continue
        worse = [key for key in values if _is_worse(key, values[key], best[key])]
        if worse:
            changes = [f"{display_name(key)} {best[key]:.2f} → {values[key]:.2f}" for key in (distance, *worse)]
            return f"worse than it was: {', '.join(changes)}"
    return ""


def _is_worse(key: str, value: float, best: float) -> bool:
    """Return whether a diversity metric is worse than it was at the best check."""
    match metric_of(key):
        case "min_group_coverage":
            return value < GROUP_COVERAGE_DROP * best
        case "lost_clusters":
            return value > best + LOST_FRACTION_RISE
        case metric:
            return metric in DIVERSITY and value < DIVERSITY_DROP * best


def _memorization_verdict(values: Mapping[str, float], reference: Mapping[str, RealReference]) -> Verdict | None:
    """Return the verdict on a model whose samples are nearer to training images than other real images are.

    Training images are nearer to each other than to held-out images where a split keeps related images together. So
    real images, not only one half, are what samples are compared with.
    """
    auc, z = values.get("membership_auc", 0.5), values.get("membership_z", 0.0)
    real = reference.get("membership_auc", RealReference(0.5, 0.0))
    expected = max(0.5, real.mean)
    # z is the distance from one half in standard errors.
    error = math.hypot((auc - 0.5) / z if z > 0 else 0.0, real.spread)
    if not (z > MIN_MEMBERSHIP_Z and auc - expected > max(MIN_MEMBERSHIP_EXCESS, MIN_MEMBERSHIP_Z * error)):
        return None
    to_real = f"of other real images in {expected:.0%}" if expected >= 0.505 else "not in half"
    evidence = [f"training images are nearer to a sample than held-out images in {auc:.0%} of pairs, {to_real}"]
    if "authenticity" in reference:
        evidence.append(_authenticity_text(values, reference))
    return Verdict("memorising", "; ".join(evidence))


def _is_shrunken(values: Mapping[str, float], reference: Mapping[str, RealReference]) -> bool:
    real = reference.get("authenticity")
    return real is not None and values.get("authenticity", 1.0) < SHRUNKEN_BELOW * real.mean


def _authenticity_text(values: Mapping[str, float], reference: Mapping[str, RealReference]) -> str:
    return f"authenticity {values['authenticity']:.2f}, real images {reference['authenticity'].mean:.2f}"


def _progress(key: str, checks: Sequence[Mapping[str, float]]) -> str:
    """Return why a generator that lacks something may still learn it; empty if its distance has stopped falling."""
    recent = [check[key] for check in checks[-LEARNING_CHECKS - 1 :]]
    if recent[-1] < LEARNING_DROP * recent[0]:
        return f"the distance still falls: {recent[0]:.4g} → {recent[-1]:.4g} in the last {len(recent)} checks"
    if len(checks) > LEARNING_CHECKS:
        return ""
    return "first check" if len(checks) == 1 else f"only {len(checks)} checks so far"
