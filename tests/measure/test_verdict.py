from __future__ import annotations

import math

import pytest

from ectype.measure.verdict import judge, judged_by
from ectype.measure.watching import LEAST, Sign
from ectype.training.monitor import Monitor, Verdict

REAL = {
    "FD": 0.2,
    "recall": 0.95,
    "coverage": 0.96,
    "Vendi ratio": 1.0,
    "lost": 0.0,
    "repeated": 0.005,
    "coverage (pixels)": 0.95,
    LEAST: 0.9,
    "authenticity": 0.6,
}
REFERENCE = {name: Sign(value, 0.02) for name, value in REAL.items()}
GOOD = {**REAL, "FD": 1.0, "coverage": 0.8, "authenticity": 0.7, "closer to training images": 0.5, "copied, z": 0.3}


def look(**changes: float) -> dict[str, float]:
    return {**GOOD, **{key.replace("_", " "): value for key, value in changes.items()}}


def verdict(*before: dict[str, float], **changes: float) -> Verdict:
    return judge(look(**changes), REFERENCE, before or None)


def test_a_good_generator_is_healthy() -> None:
    assert verdict().name == "healthy"
    assert verdict(look(FD=1.1), look(FD=1.0), look(FD=0.99), look(FD=1.0)).name == "healthy"


@pytest.mark.parametrize(
    "changes, name, said",
    [
        ({"coverage": 0.05, "recall": 0.0}, "collapsed", "recall 0.00, real images 0.95; coverage 0.05"),
        ({"lost": 0.5}, "collapsed", "clusters of 50% of the real images"),
        ({"repeated": 0.9}, "collapsed", "90% of samples all but repeat another"),
        ({"lost": 0.2}, "losing modes", "clusters of 20%"),
        ({"coverage (pixels)": 0.4}, "losing modes", "coverage (pixels) 0.40"),
        ({LEAST: 0.1}, "losing modes", "least coverage of a kind 0.10"),
        ({"Vendi ratio": 0.5}, "losing modes", "Vendi ratio 0.50"),
        ({"authenticity": 0.1}, "memorising or shrunken", "authenticity 0.10, real images 0.60"),
        (
            {"authenticity": 0.3, "copied, z": 6.0, "told from held-out": 0.8},
            "memorising",
            "nearer to a sample than held-out ones in 80% of pairs, not in half; authenticity 0.30, real images 0.60",
        ),
        ({"FD": math.nan}, "collapsed", "no finite distance"),
    ],
)
def test_each_sign_has_its_verdict_and_evidence(changes: dict[str, float], name: str, said: str) -> None:
    found = judge({**GOOD, **changes}, REFERENCE)
    assert found.name == name
    assert said in found.words


def test_a_difference_too_small_to_matter_is_no_copying_however_certain() -> None:
    assert judge({**GOOD, "copied, z": 6.0, "told from held-out": 0.52}, REFERENCE).name == "healthy"
    assert judge({**GOOD, "copied, z": 2.0, "told from held-out": 0.6}, REFERENCE).name == "healthy"


def test_a_generator_that_still_learns_is_not_blamed() -> None:
    poor = {"coverage": 0.1, "lost": 0.6, "recall": 0.3}
    before = [look(FD=value, **poor) for value in (40, 30, 22, 17)]
    assert judge(look(FD=12, **poor), REFERENCE, before).name == "learning"
    assert judge(look(FD=16.5, **poor), REFERENCE, before[1:]).name == "learning"
    stuck = [look(FD=17, **poor)] * 4
    assert judge(look(FD=17, **poor), REFERENCE, stuck).name == "collapsed"
    assert judge(look(FD=40, **poor), REFERENCE, []).name == "learning"
    assert judge(look(FD=40, **poor), REFERENCE).name == "collapsed"
    assert "12" in judge(look(FD=12, **poor), REFERENCE, before).words


def test_what_was_there_and_is_gone_is_seen_however_good_the_rest_is() -> None:
    """Coverage of .6 is fine for one that never had more, and a loss for one that had .8."""
    had = [look(FD=2.0), look(FD=1.2), look(FD=1.0, coverage=0.8)]
    found = judge(look(FD=2.0, coverage=0.62), REFERENCE, had)
    assert found.name == "losing modes"
    assert "FD 1.00 → 2.00, coverage 0.80 → 0.62" in found.words
    assert judge(look(FD=1.0, coverage=0.62), REFERENCE, [look(FD=1.0, coverage=0.62)] * 5).name == "healthy"


def test_any_distance_may_tell_what_is_lost() -> None:
    """Features of a classifier forget what varies within a class."""
    had = [look(**{"FD-pixels": 0.6, LEAST: 0.5}), look(**{"FD-pixels": 0.5, LEAST: 0.7})]
    found = judge(look(**{"FD-pixels": 0.8, LEAST: 0.45}), REFERENCE, had)
    assert found.name == "losing modes"
    assert f"FD-pixels 0.50 → 0.80, {LEAST} 0.70 → 0.45" in found.words
    assert judge(look(**{"FD-pixels": 0.55, LEAST: 0.5}), REFERENCE, had).name == "healthy"


def test_a_worse_distance_without_less_variety_is_no_loss_of_modes() -> None:
    had = [look(FD=2.0), look(FD=1.2), look(FD=1.0)]
    assert judge(look(FD=1.5), REFERENCE, had).name == "healthy"


def test_a_loss_that_takes_most_is_a_collapse() -> None:
    had = [look(FD=2.0), look(FD=1.0)]
    found = judge(look(FD=30.0, coverage=0.05), REFERENCE, had)
    assert found.name == "collapsed"
    assert "worse than it was" in found.words


def test_the_judge_of_a_run_looks_at_its_own_past() -> None:
    monitor = Monitor(every=100, patience=None)
    for seen, value in ((100, 2.0), (200, 1.0)):
        monitor.record(seen, look(FD=value))
    assert judged_by(REFERENCE)(look(FD=3.0, coverage=0.6), monitor).name == "losing modes"
    assert judged_by({})({}, monitor).name == "healthy"
