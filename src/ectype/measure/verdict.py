"""Has a generator collapsed? A verdict from several signs and from the run's own past, with its evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ectype.measure.watching import DISTANCES, LEAST, Sign
from ectype.training.monitor import Monitor, Verdict

__all__ = ["judge", "judged_by"]

VARIETY = ("coverage", "recall", "Vendi")
COLLAPSED, LOSING = 0.3, 0.6
"""Share of what real images reach below which a generator has collapsed, or is losing modes."""
GONE, FADING = 0.4, 0.1
"""Share of the real images in clusters that hardly any sample falls into, likewise."""
REPEATED = 0.5
"""Share of samples closer to another one than real images come to each other, beyond which it has collapsed."""
COPIED, TOLD = 3.0, 0.55
"""Standard errors that training images are nearer to samples than held-out ones, and in which share of pairs they are:
with many images a difference may be certain and too small to matter."""
SHRUNKEN = 0.8
"""Share of real images' authenticity below which samples lie too close to training images, whatever the reason."""
RISEN, FALLEN, LEAST_FALLEN, MORE = 1.2, 0.95, 0.8, 0.05
"""A distance so many times its own minimum, a sign of variety at such a share of what it was then (one kind's coverage
is noisier), and so much more of the real images left out: what was there has been lost. The distance says that
something has been lost, the others that it is variety."""
FALLING, PACE = 0.9, 3
"""A distance that falls below this share of itself within so many checks belongs to a generator that still learns."""


def judged_by(reference: Mapping[str, Sign]) -> Callable[[Mapping[str, float], Monitor], Verdict]:
    """A judge for checks whose signs real images show in such measure."""
    return lambda values, monitor: judge(values, reference, monitor.looks)


def judge(
    values: Mapping[str, float], reference: Mapping[str, Sign], before: Sequence[Mapping[str, float]] | None = None
) -> Verdict:
    """The verdict on one set of samples.

    No sign sees everything: recall misses skew, coverage a shrunken mode, both what is lost within a class that their
    features have forgotten. So each is asked, and what is named is what was found. How far a sign may fall short of
    what real images show depends on the data and on how good the generator can be; that it falls short of what it was
    does not. So a run is also compared with its own past, and a generator whose distance still falls is not blamed for
    what it has yet to learn.

    Args:
        values: Of the samples; the first is the distance.
        reference: The same of fresh real images against the same held-out ones.
        before: Values at earlier checks of a run that goes on; None for a verdict on a finished one.
    """
    if not values:
        return Verdict("healthy", "nothing was measured")
    name, distance = next(iter(values.items()))
    if not math.isfinite(distance):
        return Verdict("collapsed", "the samples have no finite distance")
    found = _Found([], [])
    _against_real(values, reference, found)
    if copied := _copied(values, reference):
        return copied
    if lost := _lost_again(values, reference, before):
        severe = bool(found.gone)
        return Verdict("collapsed" if severe else "losing modes", "; ".join([lost, *found.gone]))
    if (found.gone or found.fading) and before is not None and _falling(name, [*before, values]):
        words = f"the distance still falls: {before[-1][name]:.4g}, now {distance:.4g}" if before else "the first look"
        return Verdict("learning", words)
    if found.gone:
        return Verdict("collapsed", "; ".join(found.gone))
    if found.fading:
        return Verdict("losing modes", "; ".join(found.fading))
    if _shrunken(values, reference):
        return Verdict("memorising or shrunken", _authenticity(values, reference))
    return Verdict("healthy", "as varied as real images, for all that these signs tell")


class _Found(NamedTuple):
    gone: list[str]
    fading: list[str]

    def sort(self, said: str, gone: bool, fading: bool) -> None:
        if gone:
            self.gone.append(said)
        elif fading:
            self.fading.append(said)


def _against_real(values: Mapping[str, float], reference: Mapping[str, Sign], found: _Found) -> None:
    for name, real in reference.items():
        value = values.get(name, math.nan)
        if name.startswith(VARIETY) or name == LEAST:
            share = value / max(real.mean, 1e-9)
            # One kind that is hardly there is a mode lost, never all of them.
            gone, fading = (False, share < COLLAPSED) if name == LEAST else (share < COLLAPSED, share < LOSING)
            found.sort(f"{name} {value:.2f}, real images {real.mean:.2f}", gone, fading)
        elif name.startswith("lost"):
            more = value - real.mean
            found.sort(f"clusters of {value:.0%} of the real images are all but empty", more > GONE, more > FADING)
        elif name.startswith("repeated"):
            found.sort(f"{value:.0%} of samples all but repeat another", value - real.mean > REPEATED, False)


def _lost_again(
    values: Mapping[str, float], reference: Mapping[str, Sign], before: Sequence[Mapping[str, float]] | None
) -> str:
    """What a generator had at its best and has no longer, in words; empty if nothing.

    Every distance is asked: features that tell classes apart do not see what is lost within one.
    """
    if not before:
        return ""
    for name in (key for place, key in enumerate(values) if place == 0 or key.startswith(DISTANCES)):
        then = min(before, key=lambda look: look[name] if math.isfinite(look[name]) else math.inf)
        noise = 4 * reference[name].spread if name in reference else 0.0
        if not values[name] > max(RISEN * then[name], then[name] + noise):
            continue
        fallen = [key for key in values if key.startswith(VARIETY) and values[key] < FALLEN * then[key]]
        fallen += [key for key in values if key == LEAST and values[key] < LEAST_FALLEN * then[key]]
        risen = [key for key in values if key.startswith("lost") and values[key] > then[key] + MORE]
        if fallen or risen:
            said = ", ".join(f"{key} {then[key]:.2f} → {values[key]:.2f}" for key in [name, *fallen, *risen])
            return f"worse than it was: {said}"
    return ""


def _copied(values: Mapping[str, float], reference: Mapping[str, Sign]) -> Verdict | None:
    told = values.get("told from held-out", 0.5)
    if not (values.get("copied, z", 0.0) > COPIED and told > TOLD):
        return None
    said = f"training images are nearer to a sample than held-out ones in {told:.0%} of pairs, not in half"
    return Verdict(
        "memorising", "; ".join([said, *([_authenticity(values, reference)] if "authenticity" in reference else [])])
    )


def _shrunken(values: Mapping[str, float], reference: Mapping[str, Sign]) -> bool:
    real = reference.get("authenticity")
    return real is not None and values.get("authenticity", 1.0) < SHRUNKEN * real.mean


def _authenticity(values: Mapping[str, float], reference: Mapping[str, Sign]) -> str:
    return f"authenticity {values['authenticity']:.2f}, real images {reference['authenticity'].mean:.2f}"


def _falling(name: str, looks: Sequence[Mapping[str, float]]) -> bool:
    recent = [look[name] for look in looks[-PACE - 1 :]]
    return len(looks) <= PACE or recent[-1] < FALLING * recent[0]
