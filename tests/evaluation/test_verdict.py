from __future__ import annotations

import math

import pytest

from ectype.evaluation.monitor import Monitor, Verdict
from ectype.evaluation.sample_monitor import RealReference
from ectype.evaluation.verdict import decide_verdict, verdict_function

REAL = {
    "fd_classifier": 0.2,
    "recall": 0.95,
    "coverage": 0.96,
    "vendi_ratio": 1.0,
    "lost_clusters": 0.0,
    "duplicates": 0.005,
    "coverage_pixels": 0.95,
    "min_group_coverage": 0.9,
    "authenticity": 0.6,
}
REFERENCE = {name: RealReference(value, 0.02) for name, value in REAL.items()}
GOOD = {
    **REAL,
    "fd_classifier": 1.0,
    "coverage": 0.8,
    "authenticity": 0.7,
    "closer_to_training": 0.5,
    "membership_z": 0.3,
}


def look(**changes: float) -> dict[str, float]:
    return {**GOOD, **changes}


def verdict(*before: dict[str, float], **changes: float) -> Verdict:
    return decide_verdict(look(**changes), REFERENCE, before or None)


def test_a_good_generator_is_healthy() -> None:
    assert verdict().name == "healthy"
    assert (
        verdict(
            look(fd_classifier=1.1), look(fd_classifier=1.0), look(fd_classifier=0.99), look(fd_classifier=1.0)
        ).name
        == "healthy"
    )


@pytest.mark.parametrize(
    "changes, name, said",
    [
        ({"coverage": 0.05, "recall": 0.0}, "collapsed", "recall 0.00, real images 0.95; coverage 0.05"),
        ({"lost_clusters": 0.5}, "collapsed", "clusters with 50% of the real images"),
        ({"duplicates": 0.9}, "collapsed", "90% of samples are nearly identical to another"),
        ({"lost_clusters": 0.2}, "losing modes", "clusters with 20%"),
        ({"coverage_pixels": 0.4}, "losing modes", "coverage (pixels) 0.40"),
        ({"min_group_coverage": 0.1}, "losing modes", "lowest coverage of a group 0.10"),
        ({"vendi_ratio": 0.5}, "losing modes", "Vendi ratio 0.50"),
        ({"authenticity": 0.1}, "memorising or shrunken", "authenticity 0.10, real images 0.60"),
        (
            {"authenticity": 0.3, "membership_z": 6.0, "membership_auc": 0.8},
            "memorising",
            "nearer to a sample than held-out images in 80% of pairs, not in half; authenticity 0.30, real images 0.60",
        ),
        ({"fd_classifier": math.nan}, "collapsed", "no finite distance"),
    ],
)
def test_each_sign_has_its_verdict_and_evidence(changes: dict[str, float], name: str, said: str) -> None:
    found = decide_verdict({**GOOD, **changes}, REFERENCE)
    assert found.name == name
    assert said in found.evidence


def test_a_difference_too_small_to_matter_is_no_copying_however_certain() -> None:
    assert decide_verdict({**GOOD, "membership_z": 6.0, "membership_auc": 0.52}, REFERENCE).name == "healthy"
    assert decide_verdict({**GOOD, "membership_z": 2.0, "membership_auc": 0.6}, REFERENCE).name == "healthy"


def test_a_generator_that_still_learns_is_not_blamed() -> None:
    poor = {"coverage": 0.1, "lost_clusters": 0.6, "recall": 0.3}
    before = [look(fd_classifier=value, **poor) for value in (40, 30, 22, 17)]
    assert decide_verdict(look(fd_classifier=12, **poor), REFERENCE, before).name == "learning"
    assert decide_verdict(look(fd_classifier=16.5, **poor), REFERENCE, before[1:]).name == "learning"
    stuck = [look(fd_classifier=17, **poor)] * 4
    assert decide_verdict(look(fd_classifier=17, **poor), REFERENCE, stuck).name == "collapsed"
    assert decide_verdict(look(fd_classifier=40, **poor), REFERENCE, []).name == "learning"
    assert decide_verdict(look(fd_classifier=40, **poor), REFERENCE).name == "collapsed"
    assert "12" in decide_verdict(look(fd_classifier=12, **poor), REFERENCE, before).evidence


def test_a_run_that_ends_has_the_verdict_of_an_evaluation_of_its_samples() -> None:
    """While it goes on, a generator that lacks something may be learning; at its end it just lacks it."""
    before = [look(fd_classifier=value) for value in (40, 30, 22, 17)]
    for poor in ({"coverage": 0.1, "recall": 0.5}, {"coverage": 0.5}, {"lost_clusters": 0.2}):
        last = look(fd_classifier=12, **poor)
        ended, fresh = decide_verdict(last, REFERENCE, before, ended=True), decide_verdict(last, REFERENCE)
        assert decide_verdict(last, REFERENCE, before).name == "learning"
        assert ended.name == fresh.name != "healthy"
        assert ended.evidence == f"{fresh.evidence}; the distance still falls: 30 → 12 in the last 4 checks"
    level = [look(fd_classifier=12)] * 4
    poor = look(fd_classifier=12, coverage=0.5)
    assert decide_verdict(poor, REFERENCE, level, ended=True) == decide_verdict(poor, REFERENCE)


def test_the_monitor_says_which_check_is_the_last() -> None:
    monitor = Monitor(every=100, patience=None)
    poor = look(fd_classifier=3.0, coverage=0.1)
    verdict = verdict_function(REFERENCE)
    assert verdict(poor, monitor).name == "learning"
    monitor.is_last_check = True
    assert verdict(poor, monitor).name == "collapsed"


def test_what_was_there_and_is_gone_is_seen_however_good_the_rest_is() -> None:
    """Coverage of .6 is fine for one that never had more, and a loss for one that had .8."""
    had = [look(fd_classifier=2.0), look(fd_classifier=1.2), look(fd_classifier=1.0, coverage=0.8)]
    found = decide_verdict(look(fd_classifier=2.0, coverage=0.62), REFERENCE, had)
    assert found.name == "losing modes"
    assert "FD-classifier 1.00 → 2.00, coverage 0.80 → 0.62" in found.evidence
    assert (
        decide_verdict(
            look(fd_classifier=1.0, coverage=0.62), REFERENCE, [look(fd_classifier=1.0, coverage=0.62)] * 5
        ).name
        == "healthy"
    )


def test_any_distance_may_tell_what_is_lost() -> None:
    """Features of a classifier forget what varies within a class."""
    had = [look(fd_pixels=0.6, min_group_coverage=0.5), look(fd_pixels=0.5, min_group_coverage=0.7)]
    found = decide_verdict(look(fd_pixels=0.8, min_group_coverage=0.45), REFERENCE, had)
    assert found.name == "losing modes"
    assert "FD-pixels 0.50 → 0.80, lowest coverage of a group 0.70 → 0.45" in found.evidence
    assert decide_verdict(look(fd_pixels=0.55, min_group_coverage=0.5), REFERENCE, had).name == "healthy"


def test_a_worse_distance_without_less_variety_is_no_loss_of_modes() -> None:
    had = [look(fd_classifier=2.0), look(fd_classifier=1.2), look(fd_classifier=1.0)]
    assert decide_verdict(look(fd_classifier=1.5), REFERENCE, had).name == "healthy"


def test_a_loss_that_takes_most_is_a_collapse() -> None:
    had = [look(fd_classifier=2.0), look(fd_classifier=1.0)]
    found = decide_verdict(look(fd_classifier=30.0, coverage=0.05), REFERENCE, had)
    assert found.name == "collapsed"
    assert "worse than it was" in found.evidence


def test_the_judge_of_a_run_looks_at_its_own_past() -> None:
    monitor = Monitor(every=100, patience=None)
    for seen, value in ((100, 2.0), (200, 1.0)):
        monitor.record(seen, look(fd_classifier=value))
    assert verdict_function(REFERENCE)(look(fd_classifier=3.0, coverage=0.6), monitor).name == "losing modes"
    assert verdict_function({})({}, monitor).name == "healthy"
