"""Has a generator collapsed? A verdict from several signs, with its evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ectype.measure.watching import Sign
from ectype.training.monitor import Monitor, Verdict

__all__ = ["judge", "judged_by"]

COLLAPSED, LOSING = 0.5, 0.8
"""Share of what real images reach below which a generator has collapsed, or is losing modes."""
GONE, FADING = 0.25, 0.08
"""Share of the real images in clusters that hardly any sample falls into, likewise."""
REPEATED = 0.5
"""Share of samples closer to another one than real images come to each other, beyond which it has collapsed."""
SHRUNKEN = 0.3
"""Share of real images' authenticity below which samples lie too close to training images, or to the middle of them."""
FALLING = 0.9
"""A distance that falls below this share of itself within `PACE` checks belongs to a generator that still learns."""
PACE = 3


def judged_by(reference: Mapping[str, Sign]) -> Callable[[Mapping[str, float], Monitor], Verdict]:
    """A judge for checks whose signs real images show in such measure."""
    return lambda values, monitor: judge(values, reference, [value for _, value in monitor.history])


def judge(values: Mapping[str, float], reference: Mapping[str, Sign], before: Sequence[float] = ()) -> Verdict:
    """The verdict on one set of samples.

    No sign sees everything: recall misses skew, coverage a shrunken mode, both what is lost within a class that their
    features have forgotten. So each is asked, and what is named is what was found.

    Args:
        values: Of the samples; the first is the distance.
        reference: The same of fresh real images against the same held-out ones.
        before: Distances at earlier checks; empty for a verdict on a finished run.
    """
    if not values:
        return Verdict("healthy", "nothing was measured")
    distance = next(iter(values.values()))
    if not math.isfinite(distance):
        return Verdict("collapsed", "the samples have no finite distance")
    gone, fading = [], []
    for name in reference:
        if name.startswith(("coverage", "recall", "Vendi")):
            share = values[name] / max(reference[name].mean, 1e-9)
            said = f"{name} {values[name]:.2f}, real images {reference[name].mean:.2f}"
            _sort(said, share < COLLAPSED, share < LOSING, gone, fading)
        elif name.startswith("lost"):
            more = values[name] - reference[name].mean
            said = f"clusters of {values[name]:.0%} of the real images are all but empty"
            _sort(said, more > GONE, more > FADING, gone, fading)
        elif name.startswith("repeated"):
            more = values[name] - reference[name].mean
            _sort(f"{values[name]:.0%} of samples all but repeat another", more > REPEATED, False, gone, fading)
    copied = values.get("copied, z")
    if copied is not None and copied > 4:
        said = f"{values['closer to training images']:.0%} of samples are closer to a training than to a held-out image"
        if values.get("authenticity", 1) < SHRUNKEN * reference["authenticity"].mean:
            return Verdict("memorising", said)
    if before and _falling([*before, distance]):
        return Verdict("learning", f"the distance still falls: {before[-1]:.4g}, now {distance:.4g}")
    if gone:
        return Verdict("collapsed", "; ".join(gone))
    if fading:
        return Verdict("losing modes", "; ".join(fading))
    if values.get("authenticity", 1) < SHRUNKEN * reference["authenticity"].mean:
        said = f"authenticity {values['authenticity']:.2f}, real images {reference['authenticity'].mean:.2f}"
        return Verdict("memorising or shrunken", said)
    return Verdict("healthy", "as varied as real images")


def _sort(said: str, gone: bool, fading: bool, into_gone: list[str], into_fading: list[str]) -> None:
    if gone:
        into_gone.append(said)
    elif fading:
        into_fading.append(said)


def _falling(distances: Sequence[float]) -> bool:
    recent = distances[-PACE - 1 :]
    return len(distances) <= PACE or recent[-1] < FALLING * recent[0]
