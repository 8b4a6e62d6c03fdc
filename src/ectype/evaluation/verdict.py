"""Verdict on a generator, with its evidence: whether it has collapsed or memorized, from metrics of its samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ectype.evaluation.figure_names import display_name, is_frechet, metric_of
from ectype.evaluation.monitor import Monitor, Verdict
from ectype.evaluation.sample_monitor import RealReference

__all__ = ["decide_verdict", "verdict_function"]

DIVERSITY = ("coverage", "recall", "vendi_ratio")
"""Metrics, in any feature space, that are low where samples lack variety."""
COLLAPSED_BELOW, LOSING_BELOW = 0.3, 0.6
"""Fraction of the value for real images below which a generator has collapsed, or is losing modes."""
COLLAPSED_LOST_FRACTION, LOSING_LOST_FRACTION = 0.4, 0.1
"""Fraction of real images in clusters that hardly any sample falls into, beyond which the same holds."""
COLLAPSED_DUPLICATE_FRACTION = 0.5
"""Fraction of samples closer to another sample than real images are to each other, beyond which it has collapsed."""
MIN_MEMBERSHIP_Z, MIN_MEMBERSHIP_AUC = 3.0, 0.55
"""Memorization: standard errors by which training images are nearer to samples than held-out images, and the fraction
of pairs in which they are. With many images a difference may be significant and too small to matter."""
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
        return decide_verdict(values, reference, before, ended=monitor.is_last_check)

    return verdict


def decide_verdict(
    values: Mapping[str, float],
    reference: Mapping[str, RealReference],
    before: Sequence[Mapping[str, float]] | None = None,
    *,
    ended: bool = False,
) -> Verdict:
    """Return the verdict on one set of samples.

    No single metric detects every fault: recall misses a skewed distribution, coverage a shrunken mode, and both miss
    what is lost within a class if their features ignore it. So all metrics are used, and the verdict names what was
    found. How far a metric may fall short of real images depends on the data and on how good the generator can become,
    but a metric that gets worse than it was does not. So a run is also compared with its own past, and a generator
    whose distance still falls is not faulted for what it has yet to learn: it is learning. At the end of a run there is
    nothing yet to learn, and the verdict is the one that an evaluation of the same weights gives.

    Args:
        values: Key → value of the metric for samples; the first one is the distance.
        reference: Key → value for other real images against the same held-out images.
        before: Values at earlier checks of the run; None for a verdict on samples alone.
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
    if lost := _lost_since_best(values, reference, before):
        return Verdict("collapsed" if found.severe else "losing modes", "; ".join([lost, *found.severe]))
    if lacking := found.severe or found.mild:
        progress = _progress(key, [*before, values]) if before is not None else ""
        if progress and not ended:
            return Verdict("learning", progress)
        return Verdict("collapsed" if found.severe else "losing modes", "; ".join([*lacking, progress]).rstrip("; "))
    if _is_shrunken(values, reference):
        return Verdict("memorising or shrunken", _authenticity_text(values, reference))
    return Verdict("healthy", "as varied as real images by all of these metrics")


class _Signs(NamedTuple):
    """Evidence of lost variety."""

    severe: list[str]
    """Evidence of a collapse."""
    mild: list[str]
    """Evidence of lost modes."""

    def add(self, text: str, *, severe: bool, mild: bool) -> None:
        if severe:
            self.severe.append(text)
        elif mild:
            self.mild.append(text)


def _compare_with_real(values: Mapping[str, float], reference: Mapping[str, RealReference]) -> _Signs:
    found = _Signs([], [])
    for key, real in reference.items():
        value, metric = values.get(key, math.nan), metric_of(key)
        if metric in (*DIVERSITY, "min_group_coverage"):
            fraction = value / max(real.mean, 1e-9)
            severe, mild = fraction < COLLAPSED_BELOW, fraction < LOSING_BELOW
            if metric == "min_group_coverage":
                # One group that is hardly covered is one lost mode, not a collapse.
                severe, mild = False, severe
            text = f"{display_name(key)} {value:.2f}, real images {real.mean:.2f}"
            found.add(text, severe=severe, mild=mild)
        elif metric == "lost_clusters":
            more = value - real.mean
            text = f"clusters with {value:.0%} of the real images have hardly any samples"
            found.add(text, severe=more > COLLAPSED_LOST_FRACTION, mild=more > LOSING_LOST_FRACTION)
        elif metric == "duplicates":
            text = f"{value:.0%} of samples are nearly identical to another sample"
            found.add(text, severe=value - real.mean > COLLAPSED_DUPLICATE_FRACTION, mild=False)
    return found


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
    auc = values.get("membership_auc", 0.5)
    if not (values.get("membership_z", 0.0) > MIN_MEMBERSHIP_Z and auc > MIN_MEMBERSHIP_AUC):
        return None
    evidence = [f"training images are nearer to a sample than held-out images in {auc:.0%} of pairs, not in half"]
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
